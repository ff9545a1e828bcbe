"""The last lines of a run, on stdout: how good the network is, where it is, and what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping

from imgcls.config.command_line import without
from imgcls.config.flags import flags_of
from imgcls.config.resolve import Config, FileFlags
from imgcls.distributed.rank_info import launcher_words
from imgcls.errors import tell
from imgcls.training.best_epoch import BestEpoch
from imgcls.training.output import lasting_output


@lasting_output()
def print_result(metrics: Mapping[str, float], split: str, config: Config, command: str,
                 predict_command: str, page: str, num_epochs: int, best: BestEpoch | None) -> None:
    """Print the metrics, each behind `split` (Train or Validation), and the commands that come next.

    `command` and `predict_command` are lines for a shell: the one that began the run, and how imgcls-predict
    is called; without the latter, in a run from Python, no commands are printed. `page` is where the run's
    page is, "" for nowhere, `num_epochs` how many were trained, `best` the record of validations, if any.
    """
    for name, value in metrics.items():
        print(f"{split}-{name}={value:f}")
    prefix = config.checkpoint.save_prefix
    if best:
        print(f"best:       {best.describe()}")
    if not prefix:
        print(f"nothing was saved: give {config.spelling('model_prefix')} PREFIX to keep the weights")
        return
    tell(f"checkpoint: {prefix}-{num_epochs:04d}.params", sys.stdout)
    if page:
        tell(f"report:     {page}", sys.stdout)
    if not predict_command:
        return
    # a value that begins with a dash must not be taken for a flag
    model = [f"--model={prefix}"] if prefix.startswith("-") else ["--model", prefix]
    tell(f"predict:    {predict_command} {shlex.join(model)} IMAGE", sys.stdout)
    tell(f"resume:     {_resume_command(command, config)}", sys.stdout)


def _resume_command(command: str, config: Config) -> str:
    """Return the command of this run with twice the epochs, resuming from its checkpoint."""
    # Both are given anew below, whatever spelling or short form the line has for them.
    kept = without(shlex.split(command), ("num_epochs", "load_epoch", "time_budget"),
                   config.fields | flags_of(FileFlags))
    # a budget contradicts `num_epochs`; a file or the environment may set one, too
    no_budget = ["--time-budget", "0"] if config.find.time_budget else []
    # under imgcls-launch the whole line is what has to be typed again
    launcher = launcher_words()
    # Settings of the environment may have been set for that one command. What a launcher's own flag sets is
    # in its words already.
    names = [f"IMGCLS_{name.upper()}" for name, source in config.explicit.items()
             if source == "the environment" and not (launcher and name == "dist_timeout")]
    variables = [f"{name}={os.environ.get(name, '')}" for name in names]
    # `num_epochs` counts from the start of the training: the same number again would train nothing
    num_epochs = max(2 * config.train.num_epochs, 1)
    return shlex.join([*(["env", *variables] if variables else []), *launcher, *kept,
                       *no_budget, "--load-epoch", "auto", "--num-epochs", str(num_epochs)])
