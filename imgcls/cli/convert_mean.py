"""Convert a Caffe mean image to MXNet's: convert_mean.py. (--mean-image reads Caffe's as it is.)"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._run import run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import positional
from imgcls.errors import tell
from imgcls.formats import caffe, params
from imgcls.storage.atomic import check_outputs

NAME = "imgcls-convert-mean"
EXAMPLES = """examples:
  imgcls convert-mean ilsvrc12/imagenet_mean.binaryproto mean.nd     for MXNet's mean_img
"""


# The docstrings of such classes are the titles of their flags in --help.
@dataclass(frozen=True)
class ConvertMeanConfig:
    """Convert"""

    mean: str = positional("the .binaryproto file", metavar="MEAN")
    out: str = positional("the MXNet file to write; its one array is called mean_image", metavar="OUT")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; print the shape and the mean of each channel, which is what --rgb-mean takes."""
    return run_main(_start, argv, NAME, ConvertMeanConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, ConvertMeanConfig, prog=NAME, usage="MEAN.binaryproto OUT.nd", examples=EXAMPLES)
    check_outputs([args.out], [args.mean])
    # where a mean image is, other files of Caffe's are: one given by mistake is named as what it is
    caffe.refuse_model("MEAN", args.mean)
    image = caffe.load_mean(args.mean)
    params.save(args.out, {"mean_image": image})  # the name under which MXNet's convert_mean.py saves it
    # --rgb-mean with the means of the channels needs no file
    tell(f"{args.out}: {'x'.join(map(str, image.shape))}, --rgb-mean "
         f"{','.join(f'{mean:.3f}' for mean in image.mean((1, 2), dtype=float))}", sys.stdout)
    return 0
