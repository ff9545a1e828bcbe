"""Fine-tune a pretrained network on other classes: fine-tune.py.

The network and its weights come from MXNet's zoo, a prefix, a URL or torchvision; where none is named,
weights that are on this machine already are used. The last layer is replaced by a new one for the classes of
the data, and then everything is as in imgcls-train.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from imgcls.cli._run import loading_torch, run_main
from imgcls.cli._training import start_processes, train
from imgcls.cli._typed import typed_command
from imgcls.config import resolve as configuration
from imgcls.config.resolve import Config
from imgcls.config.sections import FinetuneConfig
from imgcls.distributed.topology import check_gpus, gpu_numbers
from imgcls.errors import UsageError

EXAMPLES = """examples:
  {prog} --data-train photos/ --model-prefix model/pets
                                                   a folder for each class; the weights found here
  {prog} --pretrained-model torchvision:resnet50 --data-dir photos/ --model-prefix model/pets
                                                   photos/ holds train/ and val/, with a folder for each class
  {prog} --pretrained-model old/resnet --load-epoch 0000 --data-train a.rec --data-val b.rec --num-classes 10
  {prog} --pretrained-model model/cifar --data-dir photos/ --freeze body --lr 0.1     only the new head learns
  {prog} ... --model-prefix model/pets --resume    resume that run, or begin
"""
#: the settings that -h shows
COMMON = ("pretrained_model", "data_train", "data_val", "freeze", "num_epochs", "batch_size", "lr",
          "gpus", "dtype", "model_prefix", "resume", "time_budget")

#: the defaults of MXNet's fine-tune.py, but for `min_random_area`: it had no crop of random area, and here
#: images may have any size
DEFAULTS: dict[str, Any] = {
    "batch_size": 128, "num_epochs": 30, "disp_batches": 20,
    "lr": 0.01, "lr_factor": 0.1, "lr_step_epochs": "20",
    "mom": 0.0, "wd": 0.0, "min_random_area": 0.25,
}


def main(argv: Sequence[str] | None = None, *, prog: str = "imgcls-finetune") -> int:
    """Run the command and return its exit status."""
    return run_main(lambda args: _start(args, prog), argv, prog, FinetuneConfig)


def _start(argv: Sequence[str], prog: str) -> int:
    # The data of fine-tuning is what train_imagenet.py takes: folders of photographs, lists or records.
    config = configuration.parse(argv, prog=prog, examples=EXAMPLES.format(prog=prog), dataset="imagenet",
                                 own=FinetuneConfig, defaults=DEFAULTS, recipes_of="imgcls-finetune",
                                 common=COMMON)
    # under the name fine-tune.py MXNet's settings are kept, whatever the data are
    config = dataclasses.replace(config, may_choose=prog == "imgcls-finetune")
    own: FinetuneConfig = config.own
    _check(config, own)
    # Before the pretrained network is looked for: a process that only starts others does not need it.
    status = start_processes(config, argv, ["finetune", *argv], prog)
    if status is not None:
        return status
    with loading_torch():
        from imgcls.pretrained import finetuning
    gpus = gpu_numbers(config.device.gpus)
    if gpus:  # before anything is downloaded
        check_gpus(config.device.gpus, tuple(gpus))
    prefix = finetuning.find_run(config.checkpoint, own)
    config, make_network = finetuning.prepare(config, own, prefix)
    train(config, shlex.join(typed_command(argv, prog)), make_network)
    return 0


def _check(config: Config, own: FinetuneConfig) -> None:
    """Raise UsageError for mistakes that show before torch is loaded and anything is downloaded."""
    # Only a run of ours can be resumed; a number in `load_epoch` is an epoch of the pretrained network.
    is_resuming = own.resume or own.load_epoch.lower() == "auto"
    if is_resuming and not config.checkpoint.save_prefix:
        setting = "`resume`" if own.resume else "`load_epoch` auto"
        raise UsageError(f"{setting}: needs the `model_prefix` of the run to resume")
    # At a rate of 0 a layer would still cost its gradients, and its running statistics would move.
    for name in ("head_lr_mult", "body_lr_mult"):
        if not getattr(own, name):
            raise UsageError(f"`{name}` 0: must be above 0; `freeze` body is for a body that does not learn")
    data = config.data
    if data.dataset == "imagenet" and not (data.data_train or data.data_dir or data.benchmark):
        configuration.dataset_module(config).load(data)  # raises the UsageError that says what is missing

