"""Train a network that was trained before on other classes: fine-tune.py.

The network and its weights come from MXNet's zoo, a prefix, a URL or torchvision; its last layer is replaced by a new
one for the classes of the data, and then everything is as in imgcls-train.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgcls.cli import train
from imgcls.cli._run import loading_torch, run_main
from imgcls.cli.score import count_classes, preprocessing_line, with_preprocessing
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag
from imgcls.config.resolve import Config
from imgcls.distributed.topology import check_gpus, gpu_numbers
from imgcls.errors import UsageError
from imgcls.storage.paths import to_path

if TYPE_CHECKING:
    from torch import nn

    from imgcls.pretrained import Pretrained
    from imgcls.training.checkpoint import Saved
    from imgcls.training.reporter import Reporter

EXAMPLES = """examples:
  {prog} --pretrained-model torchvision:resnet50 --data-dir photos/ --model-prefix model/pets
                                                   photos/ holds train/ and val/ with a folder of images per class
  {prog} --pretrained-model old/resnet-50 --load-epoch 0000 --data-train a.rec --data-val b.rec --num-classes 10
  {prog} --pretrained-model model/cifar --data-dir photos/ --freeze body --lr 0.1      only the new head learns
  {prog} ... --model-prefix model/pets --resume    go on where that run stopped; begin, where there is nothing yet
"""

#: MXNet's fine-tune.py, but for the augmentation, that had no crop of random area: images of any size can be given here
DEFAULTS: dict[str, Any] = {
    "batch_size": 128, "num_epochs": 30, "disp_batches": 20, "lr": 0.01, "lr_factor": 0.1, "lr_step_epochs": "20",
    "mom": 0.0, "wd": 0.0, "min_random_area": 0.25,
}

#: the flags that choose a network and its form; a pretrained one has both
SHAPING = ("network", "num_layers", "add_stn", "batch_norm", "num_group", "multiplier", "variant")


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning"""

    pretrained_model: str = flag(
        "", "the network to begin with: the prefix of a checkpoint, a network of MXNet's zoo (resnext-101, "
        "imagenet11k-resnet-152, ...), the URL of a prefix, or torchvision:NAME[:WEIGHTS]", since="g2", metavar="NAME")
    load_epoch: str = flag(
        "", "epoch of the pretrained weights (0126 or 126; the newest if not given); training begins at epoch 0 "
        "whatever it is. auto: as --resume", since="g2", metavar="EPOCH")
    layer_before_fullc: str = flag(
        "", "the layer whose output goes into the new head (if not given: the one before the last fully connected "
        "layer)", since="g2", metavar="LAYER")
    freeze: str = flag(
        "nothing", "what does not learn: nothing, body (all but the new head), or a layer: everything up to and "
        "including it. Frozen normalisations keep their statistics", metavar="WHAT")
    head_lr_mult: float = flag(1.0, "multiplies --lr for the new head", minimum=0)
    body_lr_mult: float = flag(1.0, "multiplies --lr for everything else that learns", minimum=0)
    resume: bool = flag(False, "go on with the run at --model-prefix from its newest state, inside an epoch too; "
                        "begin, where there is none")


def main(argv: Sequence[str] | None = None, *, prog: str = "imgcls-finetune") -> int:
    """The command."""
    return run_main(lambda words: _start(words, prog), argv, prog, FinetuneConfig)


def _start(argv: Sequence[str], prog: str) -> int:
    config = configuration.parse(argv, prog=prog, examples=EXAMPLES.format(prog=prog), dataset="imagenet",
                                 own=FinetuneConfig, defaults=DEFAULTS)
    own: FinetuneConfig = config.own
    _check(config, own)
    status = train.start_others(config, argv, [sys.executable, "-m", "imgcls", "finetune", *argv], prog)
    if status is not None:
        return status
    with loading_torch():
        from imgcls.pretrained import locate, read
    gpus = gpu_numbers(config.device.gpus)
    if gpus:  # before anything is downloaded
        check_gpus(config.device.gpus, tuple(gpus))
    prefix = _to_resume(config, own)
    if not prefix and not own.pretrained_model:
        raise _missing()
    epoch = "auto" if prefix else own.load_epoch or "auto"
    found = locate(prefix or own.pretrained_model, epoch, setting="pretrained_model")
    pretrained = None if prefix else read(found)  # a download that fails, or damage, shows before anything begins
    config = with_preprocessing(config, found)
    config = dataclasses.replace(
        config, network=dataclasses.replace(config.network, network=found.network, num_layers=None),
        checkpoint=dataclasses.replace(config.checkpoint, load_epoch="auto" if prefix else ""))

    def network(config: Config, saved: Saved | None, reporter: Reporter) -> nn.Module:
        reporter.say(preprocessing_line(config, found))
        return make_network(config, own, lambda: pretrained or read(found), saved, reporter)

    train.run(config, command=shlex.join([prog, *argv]), network=network)
    return 0


def make_network(config: Config, own: FinetuneConfig, read: Callable[[], Pretrained], saved: Saved | None,
                 reporter: Reporter) -> nn.Module:
    """The pretrained network, as `read` gives it, under a new head; or the one of this run, with the weights that were
    saved. Frozen and marked with learning rates as the flags say, on the CPU, in channels_last memory."""
    import torch

    from imgcls import graph
    from imgcls.pretrained import freezing, transfer
    from imgcls.training import summary

    for name in SHAPING:
        if config.is_explicit(name):
            reporter.warn(f"`{name}`: has no meaning here; the network is that of "
                          f"{own.pretrained_model}")
    prefix = re.sub(r"-(\d{4,}\.params|position\.states)$", "", saved.path) if saved else ""
    if saved and _has_network(prefix):
        model = _resumed(config, saved, prefix)
        reporter.line(f"Loaded {saved.path}")
    else:
        model = _begun(config, own, read(), reporter)
        if saved:  # of another machine, which has the files of the network
            graph.load_arrays(model, saved.arrays, path=saved.path)
    head = transfer.head_of(model, config.network)
    freezing.set_lr_multipliers(model, head, body_mult=own.body_lr_mult, head_mult=own.head_lr_mult)
    frozen = freezing.freeze(model, own.freeze, head)
    if frozen:
        reporter.say(f"frozen: {summary.short(frozen)} parameters, {summary.short(summary.parameters(model))} learn "
                     f"(--freeze {own.freeze})")
    if (own.head_lr_mult, own.body_lr_mult) != (1, 1):
        lr = config.schedule.lr
        reporter.say(f"learning rate: {lr * own.head_lr_mult:g} for the head, {lr * own.body_lr_mult:g} for the rest")
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _begun(config: Config, own: FinetuneConfig, pretrained: Pretrained, reporter: Reporter) -> nn.Module:
    """The pretrained network under a new head, and a line for what became of its weights."""
    from imgcls.pretrained import transfer

    model, report = transfer.new_head(pretrained, config.network, layer=own.layer_before_fullc, seed=config.train.seed)
    reporter.line(f"Loaded pretrained model {pretrained.path}")
    where = f", behind {report.layer}" if report.layer else ""
    reporter.say(f"new head: {config.network.num_classes} classes{where}")
    for line in report.lines():
        reporter.say(line)
    if report.note:
        reporter.warn(report.note)
    return model


def _resumed(config: Config, saved: Saved, prefix: str) -> nn.Module:
    """The network that this run has written beside its weights."""
    from imgcls.pretrained import build, checkpoint_files

    pretrained = checkpoint_files.read_network(prefix, dict(saved.arrays), saved.path)
    model = build(pretrained).train()
    classes = count_classes(model, config)
    if classes != config.network.num_classes:
        raise UsageError(f"--num-classes {config.network.num_classes}: the run at {prefix} has {classes} classes; "
                         "another --model-prefix begins a new one")
    return model


def _check(config: Config, own: FinetuneConfig) -> None:
    """What can be told before torch is loaded and anything is downloaded."""
    checkpoints = config.checkpoint
    resuming = own.resume or own.load_epoch.lower() == "auto"
    if resuming and not (checkpoints.model_prefix or checkpoints.save_model_prefix):
        raise UsageError(f"{'--resume' if own.resume else '--load-epoch auto'}: needs the --model-prefix of the run to "
                         "go on with")
    if not own.pretrained_model and not resuming:
        raise _missing()
    for name in ("head_lr_mult", "body_lr_mult"):
        if not getattr(own, name):
            raise UsageError(f"`{name}` 0: must be above 0; --freeze body is for a body that does "
                             "not learn")
    data = config.data
    if data.dataset == "imagenet" and not (data.data_train or data.data_dir):
        configuration.dataset_module(config).load(data)  # says what is missing


def _missing() -> UsageError:
    return UsageError("--pretrained-model is missing: give a prefix, a network of MXNet's zoo such as resnext-101, a "
                      "URL or torchvision:NAME")


def _to_resume(config: Config, own: FinetuneConfig) -> str:
    """The prefix of the run to go on with; "" where there is nothing to go on with, or nobody asked."""
    from imgcls.training import checkpoint

    if not (own.resume or own.load_epoch.lower() == "auto"):
        return ""
    for prefix in (config.checkpoint.save_model_prefix, config.checkpoint.model_prefix):
        if prefix and _has_network(prefix) and checkpoint.load(prefix, "auto"):
            return prefix
    return ""


def _has_network(prefix: str) -> bool:
    return any(to_path(f"{prefix}-{end}.json").exists() for end in ("symbol", "network"))
