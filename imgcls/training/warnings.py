"""Warnings of settings and data that are allowed but rarely meant, before the first step. Called by `run`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

import numpy as np

from imgcls.config.effects import unused_settings
from imgcls.config.flags import show
from imgcls.config.resolve import FIELDS, Config
from imgcls.data.file_source import FolderSource
from imgcls.data.packed.source import PackedSource
from imgcls.data.sources import Splits
from imgcls.distributed import rank_info
from imgcls.distributed.process_group import Worker
from imgcls.errors import verbatim
from imgcls.networks import takes_depth
from imgcls.training import checkpoint
from imgcls.training.checkpoint import Position, Saved
from imgcls.training.reporter import Reporter

#: the settings by which `imgcls-train` starts processes, where nothing else has started them
_FOR_STARTING = ("nnodes", "rdzv_endpoint", "rdzv_id", "max_restarts", "workers_per_host")


def warn_unused_settings(config: Config, reporter: Reporter, env: Mapping[str, str] = os.environ) -> None:
    """Warn of the settings that do nothing in this combination, before anything is read."""
    unused = list(unused_settings(config))
    if _is_started_by_others(env):
        given = [f"`{name}` {verbatim(show(config.values()[name]))}" for name in _FOR_STARTING
                 if config.is_explicit(name) and config.values()[name] != FIELDS[name].default]
        unused = [warning for warning in unused if "`nnodes`" not in warning]
        if given:
            unused.append(f"{', '.join(given)}: no effect here, since a launcher (torchrun, mpirun, srun, "
                          "imgcls-launch) has started this process; set them with the launcher's flags")
    for warning in unused:
        reporter.warn(warning)


def _is_started_by_others(env: Mapping[str, str]) -> bool:
    """Return whether this is one of several processes that something else than a training command started."""
    if rank_info.detect(env) is None:
        return False
    return rank_info.AGENT_VARIABLE not in env or rank_info.LAUNCHER_VARIABLE in env


def warn_suspicious_settings(config: Config, splits: Splits, position: Position, saved: Saved | None,
                             worker: Worker, reporter: Reporter) -> None:
    """Warn of what may do harm in data, network, sharing and files; never refuses anything."""
    warnings = itertools.chain(_about_data(config, splits), _about_sharing(config, worker),
                               _about_length(config, splits, position), _about_files(config, saved),
                               _about_going_back(config, position, saved))
    for warning in warnings:
        reporter.warn(warning)


def _about_data(config: Config, splits: Splits) -> Iterator[str]:
    if config.network.num_layers is not None and not takes_depth(config.network.network):
        yield f"`num_layers` {config.network.num_layers}: {config.network.network} comes in one depth only"
    if config.data.benchmark:  # noise has no order, and no classes
        return
    labels = np.asarray(splits.train.labels)
    num_classes = config.network.num_classes
    # sorted labels change once a class; a little disorder makes such a file no better for MXNet
    class_changes = np.count_nonzero(np.diff(labels))
    is_sorted = len(labels) > 2 * num_classes > class_changes
    # folders are always sorted, and what MXNet does not read needs no warning
    if is_sorted and not isinstance(splits.train, (FolderSource, PackedSource)):
        yield ("the training data is sorted by class; every epoch is fully shuffled here, but MXNet, which "
               "shuffles in chunks, learns nothing from such a file")
    # names of classes would have set their number: here it is a default, and the data needs far fewer
    last = int(labels.max(initial=-1))
    if not config.is_explicit("num_classes") and 0 <= last < num_classes // 2:
        yield (f"the number of classes is not given: the training labels go from {labels.min()} to "
               f"{last}, and the network has {num_classes}; give `num_classes` {max(last + 1, 2)} if these "
               "are all")


def _about_sharing(config: Config, worker: Worker) -> Iterator[str]:
    if worker.world_size == 1 and (unused := settings_for_several_processes(config)):
        yield f"{', '.join(unused)}: one process trains alone, so that there is nothing to share"
    if worker.is_async:
        from imgcls.distributed.parameter_server.client import momentum_advice

        momentum = config.optimizer.mom if config.optimizer.optimizer.lower() in ("sgd", "nag") else 0
        if warning := momentum_advice(momentum, config.schedule.lr, worker.world_size):
            yield warning


def _about_length(config: Config, splits: Splits, position: Position) -> Iterator[str]:
    if config.schedule.lr == 0 and config.optimizer.name != "adadelta" and not config.schedule.lr_regime:
        yield "`lr` 0: nothing will be learned"
    num_examples = config.data.num_examples
    if num_examples and num_examples != len(splits.train) and not config.data.benchmark:
        yield f"`num_examples` {num_examples}: there are {len(splits.train)}, which the schedule uses"
    period = config.train.val_period
    # a single epoch is reported before the data are read, by `effects.py`
    is_given = config.is_explicit("val_period") and period != 1
    if is_given and splits.val is None and config.train.num_epochs > 1:
        yield (f"`val_period` {period}: has no effect here, it is for runs with validation data (`data_val`, "
               "`val_ratio`)")
    if position.epoch >= config.train.num_epochs:
        yield (f"nothing to train: {position.epoch} epochs are done and `num_epochs` is "
               f"{config.train.num_epochs}, the total; raise it to continue")


def _about_files(config: Config, saved: Saved | None) -> Iterator[str]:
    prefix = config.checkpoint.save_prefix
    if not prefix or saved:
        return
    # A listing of one folder: on a store that is one request, and nothing is read.
    newest = checkpoint.newest_epoch(prefix)
    found = [] if newest is None else [f"{verbatim(prefix)}-{newest:04d}.params and those before it"]
    if position := checkpoint.find_position(prefix):
        found.append(verbatim(position))
    if found:
        yield (f"{' and '.join(found)} are from an earlier run and will be overwritten; `load_epoch` auto "
               "would resume that run")


def _about_going_back(config: Config, position: Position, saved: Saved | None) -> Iterator[str]:
    """Yield one warning: what is missing of the epoch that training resumes from, and what it overwrites."""
    if saved is None or position.epoch >= config.train.num_epochs:
        return
    prefix = config.checkpoint.save_prefix
    optimizer = config.optimizer.optimizer
    parts = []
    # plain sgd remembers nothing that could be missing
    if saved.is_without_state and (optimizer.lower() != "sgd" or config.optimizer.mom):
        states = verbatim(f"{saved.path.removesuffix('.params')}.states")
        parts.append(f"there is no {states} beside the weights, so {optimizer} starts afresh, without "
                     "momentum and the like")
    if found := _left_behind(prefix, position, config) if prefix else []:
        parts.append(f"{' and '.join(found)} of the run that came further will be overwritten as training "
                     "gets there, and `load_epoch` auto resumes this run from now on; "
                     "`save_model_prefix` with another prefix keeps both")
    if parts:
        yield f"going back to {verbatim(saved.path)}: {'; '.join(parts)}"


def _left_behind(prefix: str, position: Position, config: Config) -> list[str]:
    """Return what the run under the prefix has saved after the epoch that training goes back to."""
    found = []
    if later := checkpoint.later_epochs(prefix, position.epoch):
        last = f" to {later[-1]:04d}" if len(later) > 1 else ""
        found.append(f"{verbatim(prefix)}-{later[0]:04d}.params{last}")
    # auto takes the position itself where that is further on
    is_chosen = not checkpoint.is_auto(config.checkpoint.load_epoch or "auto")
    if is_chosen and (inside := checkpoint.find_position(prefix)):
        found.append(verbatim(inside))
    return found


def settings_for_several_processes(config: Config) -> list[str]:
    """Return the settings, as given, that have an effect with several processes only."""
    distributed = config.distributed
    named = [f"`kv_store` {distributed.kv_store}"] if distributed.kv_store.lower().startswith("dist") else []
    if distributed.sync_bn:
        named.append("`sync_bn`")
    if distributed.gc_type != "none":
        named.append(f"`gc_type` {distributed.gc_type}")
    if config.is_explicit("dist_timeout"):
        named.append(f"`dist_timeout` {distributed.dist_timeout:g}")
    return named
