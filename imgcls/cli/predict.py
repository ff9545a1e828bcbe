"""Name what is in pictures, with a checkpoint's own class names and preprocessing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from imgcls.cli._argparse import Parser
from imgcls.cli._run import loading_torch, run_main
from imgcls.errors import DataError, UsageError

EXAMPLES = """examples:
  imgcls-predict --model model/mnist seven.png            the five likeliest classes
  imgcls-predict --model model/mnist --top 1 *.png        one line a picture
  imgcls-predict --model model/mnist --load-epoch 8 a.jpg  an older epoch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command: one line a class, `name (score = 0.98765)`, as people know it from classify_image.py."""
    return run_main(_start, argv, "imgcls-predict")


def _start(argv: Sequence[str]) -> int:
    words = _parse(argv)
    with loading_torch():
        from imgcls.api import Predictor

    predict = Predictor(words.model, words.load_epoch, top=words.top)
    failed = 0
    for path in words.images:
        try:
            found = predict(path)
        except DataError as error:
            failed += 1
            import sys

            print(f"imgcls-predict: error: {error}", file=sys.stderr)
            continue
        if len(words.images) > 1 and words.top > 1:
            print(f"{path}:")
        for name, score in found:
            print(f"{path}: " * (words.top == 1 and len(words.images) > 1) + f"{name} (score = {score:.5f})")
    return 1 if failed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="imgcls-predict", usage="imgcls-predict --model PREFIX IMAGE [IMAGE ...]",
                    description=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="PREFIX", help="prefix of the checkpoint")
    parser.add_argument("--load-epoch", default="auto", metavar="EPOCH", help="8, 0008 or auto: the newest (auto)")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to show (5)")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    words = parser.parse_args(argv)
    if words.top < 1:
        raise UsageError(f"--top {words.top}: must be at least 1")
    return words
