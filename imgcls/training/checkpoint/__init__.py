"""prefix + epoch <-> files, so that a resumed run is the same as one that was never stopped.

    PREFIX-symbol.json     the network, MXNet's format
    PREFIX-0001.params     weights after epoch 1, MXNet's format
    PREFIX-0001.states     optimizer, loss scale and position (safetensors), of the last epochs
    PREFIX-position.states the same and the weights, from inside an epoch; newer than any epoch, or not there
    PREFIX-network.json    in place of the symbol, for what MXNet cannot express (torchvision's, timm's)
    PREFIX-mean.bin        the mean image, where the run has one (MXNet's format)
    PREFIX-best.json       which epoch was best, where it was asked for
    PREFIX-meta.json       class names, preprocessing, the resolved configuration, versions

Every file is written aside and renamed. `.states` goes before `.params`, so weights that are there can be
resumed from. Under a URL the position has a new name each time, and PREFIX-latest.json tells which of them
counts (`latest.py`). MXNet's own checkpoints are read too: what has no `.states` starts with a fresh
optimizer.

`writer.py` writes and `reader.py` reads; `history.py` tells the run's own files from those of an earlier one;
`states.py` is the content of a `.states` file, `files.py` the names under a prefix, `members.py` the checks
of the JSON files, `optimizer_state.py` the optimizer's state by MXNet's names and `mxnet_states.py` MXNet's
own.
"""

from imgcls.training.checkpoint.files import (
    check_prefix,
    find_position,
    is_auto,
    mean_image_path,
    newest_epoch,
    parse_epoch,
    prefix_of,
    read_meta,
)
from imgcls.training.checkpoint.history import later_epochs
from imgcls.training.checkpoint.position import Position, Saved
from imgcls.training.checkpoint.reader import load
from imgcls.training.checkpoint.writer import Checkpoint

__all__ = ["Checkpoint", "Position", "Saved", "check_prefix", "find_position", "is_auto", "later_epochs",
           "load", "mean_image_path", "newest_epoch", "parse_epoch", "prefix_of", "read_meta"]
