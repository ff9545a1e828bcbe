"""Turn the weights of theano_alexnet (W_0_65.npy, ...) into a checkpoint, or a checkpoint into them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.cli._run import loading_torch, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.config.version import __version__
from imgcls.errors import DataError, UsageError, tell, verbatim
from imgcls.formats import npy, params, symbol, theano
from imgcls.storage.atomic import check_writable, write_bytes

NAME = "imgcls-convert-theano"
EXAMPLES = """examples:
  imgcls-convert-theano models/ model/theano --load-epoch 65 --mean-image img_mean.npy
                                              models/W_0_65.npy and the others become model/theano-0065.params
  imgcls-convert-theano model/theano models/  the newest epoch as models/W_0_60.npy, ..., and val_record.npy
"""
#: what the network is given, and the size of the images that its crops are cut from
_SIDE, _STORED_SIDE = 227, 256
#: mean colour of ImageNet's photographs, used where no mean image is given
_RGB_MEAN = [123.68, 116.779, 103.939]
#: 3 x 1024 x 1024 in double precision
_MAX_MEAN_BYTES = 1 << 25


@dataclass(frozen=True)
class ConvertTheanoConfig:
    """Convert"""

    source: str = positional("a folder of weights, or the prefix of a checkpoint", metavar="IN")
    target: str = positional("the prefix of the checkpoint to write, or the folder of weights", metavar="OUT")
    load_epoch: int | None = flag(None, "the epoch to convert (if not given: the newest)", metavar="N",
                                  minimum=0, maximum=999_999_999)
    lib_conv: str = flag(theano.LIBRARIES[0], "what the convolutions of theano_alexnet run on, as in its "
                         "config.yaml: cudnn flips kernels", choices=theano.LIBRARIES)
    mean_image: str = flag("", "img_mean.npy of its preprocessing, to be kept with the checkpoint",
                           metavar="FILE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: something failed, 2: wrong usage."""
    return run_main(_start, argv, NAME, ConvertTheanoConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, ConvertTheanoConfig, prog=NAME, usage="[flags] IN OUT", examples=EXAMPLES)
    # a folder is never a prefix here: the files of a prefix are beside it and not in it
    if os.path.isdir(args.source):
        _to_checkpoint(args)
    else:
        _to_weights(args)
    return 0


def _to_checkpoint(args: ConvertTheanoConfig) -> None:
    """Write PREFIX-symbol.json, PREFIX-0065.params and PREFIX-meta.json of a folder of weights."""
    check_writable(args.target, "OUT")
    epoch = theano.newest_epoch(args.source) if args.load_epoch is None else args.load_epoch
    arrays, notes = theano.load_weights(args.source, epoch, args.lib_conv)
    mean_image = _mean_image(args.mean_image) if args.mean_image else b""
    with loading_torch():
        from imgcls import graph
        from imgcls.config.sections import NetworkConfig
        from imgcls.networks import build_network
    model = build_network(NetworkConfig(
        network="alexnet-towers", variant="theano", image_shape=(3, _SIDE, _SIDE),
        num_classes=max(2, len(arrays["fc8_bias"])), initializer="zero"), seed=0)
    graph.load_arrays(model, arrays, path=args.source)
    path = f"{args.target}-{epoch:04d}.params"
    write_bytes(f"{args.target}-symbol.json", symbol.dumps(graph.to_symbol(model)).encode())
    if mean_image:
        write_bytes(f"{args.target}-mean.bin", mean_image)
    write_bytes(f"{args.target}-meta.json", json.dumps(_meta(mean_image), indent=1).encode())
    params.save(path, graph.arrays(model))  # last: weights that are there can be used
    for note in notes:
        tell(f"{NAME}: note: {note}")
    if not mean_image:
        tell(f"{NAME}: note: no --mean-image: the checkpoint records the mean colour of ImageNet, "
             f"{','.join(map(str, _RGB_MEAN))}")
    tell(f"{path}: {len(arrays)} arrays, {sum(array.size for array in arrays.values()):,} values", sys.stdout)


def _mean_image(path: str) -> bytes:
    """Return an MXNet file with the centre of img_mean.npy: the part that belongs to the centre crop."""
    image = npy.load(path, _MAX_MEAN_BYTES)
    if image.ndim != 3 or len(image) != 3 or min(image.shape[1:]) < _SIDE:
        raise DataError(path, f"is of shape {image.shape}, and not a mean image such as 3x{_STORED_SIDE}x"
                              f"{_STORED_SIDE}")
    top, left = ((side - _SIDE) // 2 for side in image.shape[1:])
    # exact for the central crop, which validation takes; training subtracts it before it cuts
    crop = np.ascontiguousarray(image[:, top:top + _SIDE, left:left + _SIDE], np.float32)
    if not np.isfinite(crop).all():
        raise DataError(path, "holds values that are not numbers")
    return b"".join(bytes(piece) for piece in params.serialize(["mean_img"], [crop], path))


def _meta(mean_image: bytes) -> dict[str, Any]:
    """Return the meta data of a network that was trained as theano_alexnet trains."""
    return {"imgcls": __version__, "network": "alexnet-towers", "class_names": [], "preprocessing": {
        "image_shape": [3, _SIDE, _SIDE], "mean": [0.0] if mean_image else _RGB_MEAN, "std": [1.0],
        "mean_image": {"sha256": hashlib.sha256(mean_image).hexdigest()} if mean_image else None,
        "val_resize": _STORED_SIDE, "interpolation": "bilinear", "channels": "RGB", "range": "0-255"}}


def _to_weights(args: ConvertTheanoConfig) -> None:
    """Write the weights of a checkpoint as theano_alexnet's, and its validation record."""
    if args.mean_image:
        raise UsageError("`mean_image` is for weights that become a checkpoint")
    with loading_torch():
        from imgcls.graph import without_prefix
        from imgcls.training import checkpoint
    epoch = checkpoint.newest_epoch(args.source) if args.load_epoch is None else args.load_epoch
    if epoch is None:
        raise UsageError(f"IN {verbatim(args.source)}: neither a folder of weights nor a checkpoint's prefix")
    # the arrays of another network lack a layer, which the error names
    arrays = params.load(f"{args.source}-{epoch:04d}.params")
    Path(args.target).mkdir(parents=True, exist_ok=True)
    written = theano.save_weights(args.target, epoch, {without_prefix(name): array
                                                       for name, array in arrays.items()}, args.lib_conv)
    record = _val_record(f"{args.source}-metrics.jsonl", epoch)
    if record:
        written.append(theano.save_val_record(args.target, record))
    tell(f"{args.target}: {len(written)} files of epoch {epoch}, {len(record)} epochs in the validation "
         "record", sys.stdout)


def _val_record(path: str, last_epoch: int) -> list[tuple[float, float]]:
    """Return (error, loss) in validation of each epoch below `last_epoch` in a run's metrics.

    The loss is nan where the run did not measure it (`loss` ce).
    """
    from imgcls.report.metrics_file import read_metrics

    if not os.path.exists(path):
        return []
    with open(path, "rb") as lines:
        run = read_metrics(path, lines)
    record = []
    for epoch in run.in_order():
        accuracy = epoch.validation.get("accuracy")
        if accuracy is not None and epoch.index < last_epoch:
            record.append((1 - accuracy, epoch.validation.get("cross-entropy", float("nan"))))
    return record
