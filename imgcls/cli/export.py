"""Write a trained network as a file that other programs run: ONNX, torch.export and more.

It is compared with the checkpoint before it is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._run import ending_in_order, loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag
from imgcls.config.sections import PREPROCESSING, InferenceConfig
from imgcls.errors import UsageError, spell_settings, tell

NAME = "imgcls-export"
EXAMPLES = """examples:
  imgcls-export --model model/mnist --format onnx --output mnist.onnx      preprocessing inside
  imgcls-export --model model/pets --format onnx --output pets.onnx --images photos/
                                                          compared with the checkpoint on your photographs
  imgcls-export --model torchvision:resnet50 --format onnx --output resnet50.onnx
  imgcls-export --model model/pets --format onnx --int8 --output small.onnx --images photos/
                                                          a quarter of the size; the loss is measured
  imgcls-export --model model/pets --format onnx --no-preprocessing --output bare.onnx
                                                          float32 (N, C, H, W) that the caller preprocesses
"""
#: the formats of `inference.export.run`, repeated here so that --help needs no torch
FORMATS = ("onnx", "pt2", "aot", "pte", "safetensors", "mxnet")
#: the settings that -h shows
COMMON = ("model", "load_epoch", "format", "output", "images", "int8", "preprocessing")
_MAX_IMAGES = 100_000


@dataclass(frozen=True)
class ExportConfig(InferenceConfig):
    __doc__ = InferenceConfig.__doc__

    format: str = flag("", "onnx: for ONNX Runtime, on servers, phones and in C++; pt2: for torch; aot: the "
                       "same compiled for this CPU (minutes); pte: ExecuTorch, for phones; safetensors: "
                       "weights, network, names; mxnet: a checkpoint as MXNet and imgcls read it (these two "
                       "without preprocessing)", choices=FORMATS)
    output: str = flag("", "the file to write, or the prefix (mxnet); it is kept only if it names images "
                       "as the checkpoint does",
                       metavar="FILE")
    images: str = flag("", "pictures that it is compared on: a picture, a folder of any depth, a .rec or a "
                       ".lst (if not given: made images)", metavar="PATH")
    num_images: int = flag(500, "compare on at most N of them, evenly spaced", metavar="N",
                           minimum=1, maximum=_MAX_IMAGES)
    int8: bool = flag(False, "onnx, pte: the network in whole numbers of 8 bits, a quarter of the size; "
                      "needs --images, and is kept if it loses no more than --max-drop", takes="none")
    num_calibration: int = flag(100, "with --int8: number of the --images that calibrate its ranges and are "
                                "not compared on", metavar="N", minimum=1, maximum=_MAX_IMAGES)
    max_drop: float = flag(0.05, "with --int8: the top-1 accuracy that it may lose, as a fraction (where "
                           "the images have no labels: the fraction whose label may change)",
                           metavar="PART", minimum=0, maximum=1)
    preprocessing: bool = flag(True, "0 or --no-preprocessing: the bare network, which takes float32 "
                               "(N, C, H, W), resized, cropped and normalised by the caller",
                               negation="--no-preprocessing")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    What was compared goes to stderr; stdout gets one line for each file that was written.
    """
    return run_main(_start, argv, NAME, ExportConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog=NAME, examples=EXAMPLES, own=ExportConfig, used=("dataset",),
                                 common=COMMON)
    own: ExportConfig = config.own
    missing = [f"--{name}" for name in ("model", "format", "output") if not getattr(own, name)]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}")
    for name in ("num_calibration", "max_drop"):
        if not own.int8 and config.is_explicit(name):
            raise UsageError(f"`{name}`: is for `int8`")
    # after the flags: --help and a mistake in a flag answer without torch
    with loading_torch():
        from imgcls.inference.export.run import Request, export

    given = {name: config.values()[name] for name in (*PREPROCESSING, "dataset") if config.is_explicit(name)}
    request = Request(own.model, own.load_epoch, own.synset, own.format, own.output, own.images,
                      own.num_images, own.preprocessing, own.int8, own.num_calibration, own.max_drop)
    # compiling takes minutes, and a signal must not leave temporary files as large as the network
    with ending_in_order():
        result = export(request, given, lambda line: tell(spell_settings(line, config.spelling)))
    for path in result.files:
        tell(path, sys.stdout)
    return 0
