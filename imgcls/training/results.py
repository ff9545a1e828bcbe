"""The last lines of a run, on stdout: how good the network is, where it is, and what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping

from imgcls.config.command_line import without
from imgcls.config.resolve import Config
from imgcls.distributed.rank_info import LAUNCHER_VARIABLE
from imgcls.errors import tell


def print_result(metrics: Mapping[str, float], split: str, config: Config, command: str) -> None:
    """Print the metrics, each behind `split` (Train or Validation), and the commands that come next."""
    for name, value in metrics.items():
        print(f"{split}-{name}={value:f}")
    prefix = config.checkpoint.save_prefix
    if not prefix:
        print(f"nothing was saved: give {config.spelling('model_prefix')} PREFIX to keep the weights")
        return
    tell(f"checkpoint: {prefix}-{config.train.num_epochs:04d}.params", sys.stdout)
    tell(f"predict:    imgcls-predict --model {shlex.quote(prefix)} IMAGE", sys.stdout)
    tell(f"resume:     {_resume_command(command, config)}", sys.stdout)


def _resume_command(command: str, config: Config) -> str:
    """Return the command of this run with twice the epochs, going on from its checkpoint."""
    kept = without(shlex.split(command) or ["imgcls-train"], ("num_epochs", "load_epoch"), config.fields)
    # under imgcls-launch the whole line is what has to be typed again
    launcher = shlex.split(os.environ.get(LAUNCHER_VARIABLE, ""))
    # `num_epochs` counts from the start of the training: the same number again would train nothing
    num_epochs = 2 * config.train.num_epochs
    return shlex.join([*launcher, *kept, "--load-epoch", "auto", "--num-epochs", str(num_epochs)])
