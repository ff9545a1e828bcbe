"""One data set, one file: `--dataset mnist` is `mnist.py`, whose `load(config)` returns its sources.

`load_splits` finds the file and calls it. Files that start with `_` are helpers.
"""

from __future__ import annotations

import numpy as np

from imgcls.config.resolve import Config, dataset_module
from imgcls.data.sources import ArraySource, Splits

#: number of samples of an epoch under `benchmark` where a data set does not say its own
_NUM_EXAMPLES = 10_000


def load_splits(config: Config) -> Splits:
    """Return the training and validation sources of `dataset`; under `benchmark` as many empty samples.

    UsageError where no data are named or there are none, DataError for damaged files.
    """
    module = dataset_module(config)
    if not config.data.benchmark:
        return module.load(config.data)
    # noise takes their place in the loader: nothing is read, and nothing is downloaded
    count = config.data.num_examples or getattr(module, "NUM_EXAMPLES", _NUM_EXAMPLES)
    labels = np.broadcast_to(np.int64(0), (count,))  # takes no memory, however many
    return Splits(ArraySource(np.broadcast_to(np.uint8(0), (count, 0)), labels, description="noise"))
