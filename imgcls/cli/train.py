"""Train a network from scratch or from a checkpoint: train_mnist.py, train_cifar10.py and others."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from imgcls.cli._run import run_main
from imgcls.cli._training import start_processes, train
from imgcls.cli._typed import typed_command
from imgcls.config import resolve as configuration

EXAMPLES = """examples:
  {prog} --dataset digits                                    lenet on drawn digits, nothing to download
  {prog} --network lenet --gpus 0 --model-prefix model/mnist  MNIST on a GPU, a checkpoint after each epoch
  {prog} --network lenet --model-prefix model/mnist --load-epoch auto   resume where that run stopped
"""
#: the settings that -h shows
COMMON = ("data_train", "data_val", "dataset", "network", "image_shape", "num_epochs", "batch_size",
          "lr", "gpus", "dtype", "model_prefix", "load_epoch", "recipe", "time_budget")


def main(argv: Sequence[str] | None = None, *, dataset: str = "mnist", prog: str = "imgcls-train") -> int:
    """Run the command and return its exit status. `dataset` is the default of --dataset: train_cifar10.py has
    its own.

    `training/run.py` shows what a run does, in order.
    """
    return run_main(lambda args: _start(args, dataset, prog), argv, prog)


def _start(argv: Sequence[str], dataset: str, prog: str) -> int:
    config = configuration.parse(argv, prog=prog, examples=EXAMPLES.format(prog=prog), dataset=dataset,
                                 recipes_of="imgcls-train", common=COMMON)
    # users of a script with MXNet's name expect MXNet's defaults, whatever the data are
    config = dataclasses.replace(config, may_choose=prog == "imgcls-train")
    # the data set is named: a process of train_cifar10.py may be started as `train`, with another default
    status = start_processes(config, argv, ["train", "--dataset", config.data.dataset, *argv], prog)
    # None: this process is one that trains, and not one that only started others
    if status is None:
        # the command as it was typed: messages show how to continue with the run
        train(config, shlex.join(typed_command(argv, prog)))
    return status or 0
