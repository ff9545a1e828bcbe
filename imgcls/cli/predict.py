"""Name what is in pictures, with a checkpoint's own class names and preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from imgcls.cli._run import loading_torch, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.errors import DataError

NAME = "imgcls-predict"
EXAMPLES = """examples:
  imgcls-predict --model model/mnist seven.png            the five likeliest classes
  imgcls-predict --model model/mnist --top 1 *.png        one line a picture
  imgcls-predict --model model/mnist --load-epoch 8 a.jpg  an older epoch
"""


@dataclass(frozen=True)
class PredictConfig:
    """Predict"""

    model: str = flag(MISSING, "prefix of the checkpoint", metavar="PREFIX")
    images: tuple[str, ...] = positional("picture files", metavar="IMAGE", takes="several")
    load_epoch: str = flag("auto", "8, 0008 or auto: the newest", metavar="EPOCH")
    top: int = flag(5, "classes to show", metavar="K", minimum=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: one line a class, `name (score = 0.98765)`, as people know it from
    classify_image.py."""
    return run_main(_start, argv, NAME, PredictConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, PredictConfig, prog=NAME, usage="--model PREFIX IMAGE [IMAGE ...]",
                    examples=EXAMPLES)
    with loading_torch():
        from imgcls.api import Predictor

    predict = Predictor(args.model, args.load_epoch, top=args.top)
    failed = 0
    for path in args.images:
        try:
            found = predict(path)
        except DataError as error:
            failed += 1
            print(f"{NAME}: error: {error}", file=sys.stderr)
            continue
        if len(args.images) > 1 and args.top > 1:
            print(f"{path}:")
        for name, score in found:
            print(f"{path}: " * (args.top == 1 and len(args.images) > 1) + f"{name} (score = {score:.5f})")
    return 1 if failed else 0
