"""Measure a network (a checkpoint, one of MXNet's zoo or torchvision's) on labelled data: score.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._run import loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.effects import unused_settings
from imgcls.config.flags import flag
from imgcls.config.sections import InferenceConfig
from imgcls.config.sections.bounds import MAX_SIDE
from imgcls.errors import UsageError, spell_settings, tell
from imgcls.storage.atomic import check_writable

EXAMPLES = """examples:
  {prog} --model model/mnist --dataset mnist                 the newest epoch on the test set
  {prog} --model model/mnist --load-epoch 8 --top-k 5        epoch 8, top-5 accuracy as well
  {prog} --model old/mnist --load-epoch 35 --dataset mnist   an MXNet checkpoint, as train_mnist.py made it
  {prog} --model old/resnet --data-val val.rec --rgb-mean 123.68,116.779,103.939       and as score.py read it
  {prog} --model model/pets --data-val photos/      of the folder of its training, what was held out
  {prog} --model torchvision:resnet50 --data-val val/        torchvision's weights, a folder for each class
  {prog} --model model/mnist --report about/                 a page: classes, confusions, worst mistakes
  {prog} --model imagenet1k-resnet-50 --data-val val.rec     a network of MXNet's zoo, on records
"""

#: the flags of training that make sense here, beside those of `InferenceConfig`
USED = ("data_dir", "data_val", "data_val_idx", "val_dataset", "data_root", "outside_root",
        "on_bad", "cache_gb", "batch_size", "data_nthreads", "top_k", "loss", "gpus", "dtype", "num_threads")
#: the settings that -h shows
COMMON = ("model", "load_epoch", "data_val", "dataset", "batch_size", "top_k", "flip", "report",
          "rgb_mean", "gpus", "dtype")


@dataclass(frozen=True)
class ScoreConfig(InferenceConfig):
    __doc__ = InferenceConfig.__doc__

    val_ratio: float | None = flag(None, "score only the images that training with this --val-ratio holds "
                                   "out; 0: all (if not given: as in its training, where the data are those "
                                   "that it was trained on)", metavar="PART", minimum=0, maximum=0.9)
    flip: bool = flag(False, "take the mean of each image and its mirror image", takes="none")
    shift: int = flag(0, "also average views shifted by N pixels up left and down right, with half the "
                      "weight; with --flip and 1: the six views of airbench's paper", metavar="PIXELS",
                      minimum=0, maximum=MAX_SIDE)
    report: str = flag("", "folder for a page about the result (classes, confusions, calibration, most "
                       "confident mistakes), with its figures as CSV and PNG", metavar="DIR")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    The metrics go to stdout, one `name=value` a line, and in MXNet's words to stderr.
    """
    return run_main(_start, argv, "imgcls-score", ScoreConfig)


def _start(argv: Sequence[str]) -> int:
    # The flags of imgcls-train have the same names here: users know them from training.
    config = configuration.parse(argv, prog="imgcls-score", examples=EXAMPLES.format(prog="imgcls-score"),
                                 own=ScoreConfig, used=USED, common=COMMON)
    own: ScoreConfig = config.own
    if not own.model:
        raise UsageError("--model is missing: give the prefix of a checkpoint, such as --model model/mnist")
    for warning in unused_settings(config):
        tell(f"warning: {spell_settings(warning, config.spelling)}")
    if own.report:  # before the network runs, which may take hours: its result would be lost
        check_writable(os.path.join(own.report, "report.html"), "`report`")
    # after the flags: --help and a mistake in a flag answer without torch
    with loading_torch():
        from imgcls.inference.evaluation import evaluate_checkpoint

    score = evaluate_checkpoint(own.model, config, epoch=own.load_epoch, synset=own.synset,
                                val_ratio=own.val_ratio, report=own.report, flip=own.flip, shift=own.shift)
    # stderr is MXNet's log, for scripts that look for its lines; stdout is ours, easy to cut at the `=`
    tell(f"INFO:root:Finished with {score.images_per_s:f} images per second")
    for name, value in score.metrics.items():
        # MXNet's score.py logs the pair as Python shows it
        tell(f"INFO:root:{(name, value)}")
        print(f"{name}={value:f}")
    print(f"images/sec={score.images_per_s:f}")
    if score.page:
        tell(f"report: {score.page}", sys.stdout)
    return 0
