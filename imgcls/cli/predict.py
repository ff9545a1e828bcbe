"""Name what is in pictures, with a checkpoint's own class names and preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._run import loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag, positional
from imgcls.config.resolve import Config
from imgcls.config.sections import PREPROCESSING, InferenceConfig
from imgcls.errors import DataError, UsageError, spell_settings, tell

NAME = "imgcls-predict"
EXAMPLES = """examples:
  imgcls-predict --model model/mnist seven.png            the five likeliest classes
  imgcls-predict --model model/mnist --top 1 *.png        one line a picture
  imgcls-predict --model model/mnist --load-epoch 8 a.jpg  an older epoch
  imgcls-predict --model torchvision:resnet50 cat.jpg     a network of torchvision's, ImageNet's names
  imgcls-predict --model old/resnet --rgb-mean 123.68,116.779,103.939 --synset synset.txt cat.jpg
                                                          an MXNet checkpoint, which says nothing of these
"""


@dataclass(frozen=True)
class PredictConfig(InferenceConfig):
    __doc__ = InferenceConfig.__doc__

    images: tuple[str, ...] = positional("picture files", metavar="IMAGE", default=(), takes="several")
    top: int = flag(5, "classes to show", metavar="K", minimum=1, maximum=10**7)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    It prints one line a class, `name (score = 0.98765)`, as people know it from classify_image.py; what was
    done to the pictures goes to stderr.
    """
    return run_main(_start, argv, NAME, PredictConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog=NAME, examples=EXAMPLES, own=PredictConfig, used=("dataset",))
    own: PredictConfig = config.own
    missing = [name for name, value in (("--model", own.model), ("IMAGE", own.images)) if not value]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}")
    # after the flags: --help and a mistake in a flag answer without torch
    with loading_torch():
        from imgcls.inference.predictor import Predictor

    # Once for all pictures: loading the network takes far longer than one of them.
    given = {name: config.values()[name] for name in (*PREPROCESSING, "dataset") if config.is_explicit(name)}
    predict = Predictor(own.model, own.load_epoch, top=own.top, synset=own.synset, **given)
    num_told = _tell(predict.notes, config)
    several = len(own.images) > 1
    num_failed = 0
    for path in own.images:
        try:
            ranking = predict(path)
        except DataError as error:
            # A bad picture among many must not cost the others; the status tells of it at the end.
            num_failed += 1
            tell(f"{NAME}: error: {error}")
            continue
        num_told += _tell(predict.notes[num_told:], config)
        # one class a picture: the path stands before it on its line, otherwise on a line above
        if several and own.top > 1:
            tell(f"{path}:", sys.stdout)
        before = f"{path}: " if several and own.top == 1 else ""
        for name, probability in ranking:
            tell(f"{before}{name} (score = {probability:.5f})", sys.stdout)
    # 1 as for data that cannot be read, even where most pictures were named
    return 1 if num_failed else 0


def _tell(notes: Sequence[str], config: Config) -> int:
    """Print notes on stderr with settings as flags; return how many."""
    for note in notes:
        tell(spell_settings(note, config.spelling))
    return len(notes)
