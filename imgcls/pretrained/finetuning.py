"""Fine-tuning as a run: which weights it begins with, and the network that it trains.

`imgcls-finetune` calls it. `find_run` decides whether to begin or to resume; `prepare` reads the weights and
returns a `FinetunedNetwork`, which the run calls to make the network. `transfer` makes the new head, and
`freezing` marks the weights that do not learn.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

import imgcls.pretrained.checkpoint_files as checkpoint_files
import imgcls.pretrained.freezing as freezing
import imgcls.pretrained.local_weights as local_weights
import imgcls.pretrained.transfer as transfer
from imgcls import graph
from imgcls.config.resolve import Config
from imgcls.config.sections import CheckpointConfig, FinetuneConfig
from imgcls.errors import UsageError, verbatim
from imgcls.pretrained.locating import locate
from imgcls.pretrained.lr_scale import lr_scale
from imgcls.pretrained.preprocessing import describe_preprocessing, with_preprocessing
from imgcls.pretrained.reading import build, read
from imgcls.pretrained.reference import Pretrained, PretrainedRef
from imgcls.storage.paths import to_path
from imgcls.training import checkpoint
from imgcls.training.checkpoint import Saved
from imgcls.training.network_size import count_classes, count_parameters, short
from imgcls.training.reporter import Reporter

#: the settings that choose a network and its form; a pretrained one has both
SHAPING = ("network", "num_layers", "add_stn", "batch_norm", "num_group", "multiplier", "variant")


def prepare(config: Config, own: FinetuneConfig, prefix: str) -> tuple[Config, FinetunedNetwork]:
    """Return the configuration of the run, and the callable that makes its network.

    `prefix` is that of a run to resume, or "". Without `pretrained_model` the weights are those that
    `local_weights` finds. They are downloaded and read here, so that a failed download or damage shows before
    anything begins. UsageError if none are named and none are on this machine.
    """
    # `load_epoch` names an epoch of the pretrained network; a resumed run takes its own newest.
    epoch = "auto" if prefix else own.load_epoch or "auto"
    found = None if prefix or own.pretrained_model else local_weights.find(config)
    if found:
        own = dataclasses.replace(own, pretrained_model=found.name)
        config = dataclasses.replace(config, own=own,
                                     chosen={**config.chosen, "pretrained_model": found.name})
    elif not prefix and not own.pretrained_model:
        raise local_weights.no_local_weights()
    ref = locate(prefix or own.pretrained_model, epoch, setting="pretrained_model")
    pretrained = None if prefix else read(ref)
    config = with_preprocessing(config, ref)
    if pretrained and own.freeze != "body":  # the norms of frozen filters do not matter
        config = dataclasses.replace(config, lr_scale=lr_scale(pretrained.arrays))
    # The network is the pretrained one, whatever the command line says: this goes into the checkpoint's
    # meta.json.
    config = dataclasses.replace(
        config, network=dataclasses.replace(config.network, network=ref.network, num_layers=None),
        checkpoint=dataclasses.replace(config.checkpoint, load_epoch="auto" if prefix else ""))
    return config, FinetunedNetwork(own, ref, pretrained, local_weights.describe(found) if found else "")


def find_run(config: CheckpointConfig, own: FinetuneConfig) -> str:
    """Return the prefix of the run to resume; "" if there is none, or resuming was not requested."""
    if not (own.resume or own.load_epoch.lower() == "auto"):
        return ""
    # Without a network there is no run to resume: there may be only a log, or weights of another machine.
    for prefix in (config.save_model_prefix, config.model_prefix):
        if prefix and _has_network(prefix) and checkpoint.load(prefix, "auto"):
            return prefix
    return ""


@dataclass(frozen=True)
class FinetunedNetwork:
    """Makes the network of a fine-tuning run, when `training.run` calls it."""

    own: FinetuneConfig
    ref: PretrainedRef
    #: what `ref` holds, None where it was not read yet
    pretrained: Pretrained | None
    #: which weights were chosen where the user named none, and why; "" where the user named them
    choice: str = ""

    def __call__(self, config: Config, saved: Saved | None, reporter: Reporter) -> nn.Module:
        """Return the pretrained network under a new head, or the one of this run with its saved weights.

        Its layers are frozen and marked with learning rate multipliers as the settings say. It is on the CPU,
        in channels_last memory.
        """
        own = self.own
        if self.choice:
            reporter.info(self.choice)
        source = f"as {verbatim(self.ref.origin)} has it" if self.ref.preprocessing else (
            f"the data set's: the preprocessing of {verbatim(self.ref.name)} is not known")
        reporter.info(describe_preprocessing(config, self.ref, source))
        for name in SHAPING:
            if config.is_explicit(name):
                reporter.warn(f"`{name}`: has no meaning here; the network is that of "
                              f"{verbatim(own.pretrained_model)}")
        prefix = checkpoint.prefix_of(saved.path) if saved else ""
        if saved and own.load_epoch.lower() not in ("", "auto"):
            reporter.warn(f"`load_epoch` {own.load_epoch}: has no effect here, it is an epoch of the "
                          f"pretrained network; the run resumes from {verbatim(saved.path)}, its newest")
        if saved and _has_network(prefix):
            model = _read_back(config, saved, prefix)
            reporter.log(f"Loaded {saved.path}")
        else:
            model = self._with_new_head(config, reporter)
            if saved:  # read on another machine, which has the files of the network
                graph.load_arrays(model, saved.arrays, path=saved.path)
        # No file contains the multipliers, so a resumed run sets them again.
        head = transfer.head_of(model, config.network)
        freezing.set_lr_multipliers(model, head, body_mult=own.body_lr_mult, head_mult=own.head_lr_mult)
        num_frozen = freezing.freeze(model, own.freeze, head)
        if num_frozen:
            reporter.info(f"frozen: {short(num_frozen)} parameters, {short(count_parameters(model))} learn "
                          f"(`freeze` {own.freeze})")
        if (own.head_lr_mult, own.body_lr_mult) != (1, 1):
            lr = config.schedule.lr
            reporter.info(f"learning rate: {lr * own.head_lr_mult:g} for the head, {lr * own.body_lr_mult:g} "
                          "for the rest")
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _with_new_head(self, config: Config, reporter: Reporter) -> nn.Module:
        """Return the pretrained network under a new head, and log what became of its weights."""
        pretrained = self.pretrained or read(self.ref)
        model, loaded = transfer.new_head(pretrained, config.network, layer=self.own.layer_before_fullc,
                                          seed=config.train.seed)
        reporter.log(f"Loaded pretrained model {pretrained.path}")
        behind = f", behind {loaded.layer}" if loaded.layer else ""
        reporter.info(f"new head: {config.network.num_classes} classes{behind}")
        for line in loaded.lines():
            reporter.info(line)
        if loaded.note:
            reporter.warn(loaded.note)
        return model


def _read_back(config: Config, saved: Saved, prefix: str) -> nn.Module:
    """Return the network that this run has saved, with its weights, in training mode."""
    pretrained = checkpoint_files.read_network(prefix, dict(saved.arrays), saved.path)
    model = build(pretrained).train()  # build returns it in evaluation mode
    num_classes = count_classes(model, config.network.image_shape)
    if num_classes != config.network.num_classes:
        raise UsageError(f"`num_classes` {config.network.num_classes}: the run at {prefix} has {num_classes} "
                         "classes; another `model_prefix` begins a new one")
    return model


def _has_network(prefix: str) -> bool:
    return any(to_path(f"{prefix}-{end}.json").exists() for end in ("symbol", "network"))
