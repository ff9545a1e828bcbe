"""Scale the learning rate of fine-tuning by the norm of the pretrained filters. `finetuning` calls it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: the squared norm of a filter of any size as He et al., 2015 initialise it; rates were tuned on such filters
_SQUARED_NORM = 2.0
#: the smallest scale: weights with a smaller one are damaged in some other way
_LEAST = 0.01
#: how the names of arrays end that only batch normalisation has, in MXNet and in torch
_RUNNING_MEANS = ("moving_mean", "running_mean")


def lr_scale(arrays: Mapping[str, np.ndarray]) -> float:
    """Return the factor for a learning rate of fine-tuning: 1, or down to 0.01 where norms are small.

    `arrays` are the weights by name, of any float type. 1 for a network without batch normalisation.
    """
    # With a normalisation behind them the filters' norm only decides how far a step turns them: by the rate
    # over the squared norm (van Laarhoven, 2017, arXiv 1706.05350). Weight decay leaves it small.
    if not any(name.endswith(_RUNNING_MEANS) for name in arrays):
        return 1.0
    # the mean squared norm of a convolution's filters, for each convolution
    squares = [float(np.square(array, dtype=np.float32).sum() / len(array))
               for array in arrays.values() if array.ndim == 4 and array.size]
    # the median of the layers: a first layer that whitens, or a dead one, says nothing about the others
    scale = float(np.median(squares)) / _SQUARED_NORM if squares else 1.0
    return min(max(scale, _LEAST), 1.0) if np.isfinite(scale) else 1.0
