"""Convert a Caffe mean image to MXNet's: convert_mean.py. (--mean-image reads Caffe's as it is.)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from imgcls.cli._argparse import Parser
from imgcls.cli._run import run_main
from imgcls.formats import caffe, params

EXAMPLES = """examples:
  imgcls convert-mean ilsvrc12/imagenet_mean.binaryproto mean.nd     for MXNet's mean_img
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; says the shape and the mean of each channel, which is what --rgb-mean wants."""
    return run_main(_start, argv, "imgcls-convert-mean")


def _start(argv: Sequence[str]) -> int:
    flags = _parse(argv)
    caffe.refuse_model("MEAN", flags.mean)
    image = caffe.load_mean(flags.mean)
    params.save(flags.out, {"mean_image": image})  # the name under which MXNet's convert_mean.py saves it
    print(f"{flags.out}: {'x'.join(map(str, image.shape))}, --rgb-mean "
          f"{','.join(f'{mean:.3f}' for mean in image.mean((1, 2), dtype=float))}")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="imgcls-convert-mean", usage="imgcls convert-mean MEAN.binaryproto OUT.nd",
                    description=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mean", metavar="MEAN", help="the .binaryproto file")
    parser.add_argument("out", metavar="OUT", help="the MXNet file to write; its one array is called mean_image")
    return parser.parse_args(argv)
