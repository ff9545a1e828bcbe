"""Name what is in pictures, with a checkpoint's own class names and preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from imgcls.cli._run import loading_torch, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.errors import DataError, tell

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
    top: int = flag(5, "classes to show", metavar="K", minimum=1, maximum=10**7)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    It prints one line a class, `name (score = 0.98765)`, as people know it from classify_image.py.
    """
    return run_main(_start, argv, NAME, PredictConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, PredictConfig, prog=NAME, usage="--model PREFIX IMAGE [IMAGE ...]",
                    examples=EXAMPLES)
    # after the flags: --help and a mistake in a flag answer without torch
    with loading_torch():
        from imgcls.inference.predictor import Predictor

    # Once for all pictures: loading the network takes far longer than one of them.
    predict = Predictor(args.model, args.load_epoch, top=args.top)
    several = len(args.images) > 1
    num_failed = 0
    for path in args.images:
        try:
            ranking = predict(path)
        except DataError as error:
            # A bad picture among many must not cost the others; the status tells of it at the end.
            num_failed += 1
            tell(f"{NAME}: error: {error}")
            continue
        # one class a picture: the path stands before it on its line, otherwise on a line above
        if several and args.top > 1:
            tell(f"{path}:", sys.stdout)
        before = f"{path}: " if several and args.top == 1 else ""
        for name, probability in ranking:
            tell(f"{before}{name} (score = {probability:.5f})", sys.stdout)
    # 1 as for data that cannot be read, even where most pictures were named
    return 1 if num_failed else 0
