"""Where a run begins: the checkpoint to resume from, the same for all processes, and its position in this
run's terms.

Called by `run`. A position is two numbers (epochs done, batches done of the next), since order and
augmentation are functions of seed, epoch and sample.
"""

from __future__ import annotations

import dataclasses

from imgcls.config.resolve import Config
from imgcls.config.sections import CheckpointConfig
from imgcls.data.loaders.batch import Loader
from imgcls.distributed.process_group import Worker
from imgcls.distributed.rank_info import RankInfo
from imgcls.errors import ImgclsError, UsageError, tell
from imgcls.optim.schedules import Schedule
from imgcls.training import checkpoint
from imgcls.training.accumulation import Accumulation, num_accumulated
from imgcls.training.checkpoint import Position, Saved, states
from imgcls.training.reporter import Reporter

#: progress of a process that has no checkpoint, and of one whose checkpoint cannot be read
_NOTHING_SAVED, _UNREADABLE = -1.0, -2.0


def load_agreed(config: Config, worker: Worker) -> Saved | None:
    """Return what `load_epoch` names, or after a restart of the job what it saved last; the same for all
    processes.

    Every machine reads from its own disk, and what the one that is furthest on has read is sent to the
    others.
    """
    worker = dataclasses.replace(worker, is_async=False)  # dist_async, too: all begin at one position
    saved: Saved | None = None
    error: ImgclsError | None = None
    # one process of each machine: they share its disk
    if not worker.local_rank or not worker.is_synchronous:
        try:
            saved = find(config.checkpoint, worker.rank_info)
        except ImgclsError as problem:
            error = problem
    if not worker.is_synchronous:
        if error:
            raise error
        return saved
    progress = _UNREADABLE if error else _progress(saved)
    everybody = worker.gather(progress)
    furthest = max(everybody)
    load_epoch = config.checkpoint.load_epoch
    # auto without a checkpoint starts from scratch
    if furthest <= _UNREADABLE or (furthest < 0 and error and not checkpoint.is_auto(load_epoch)):
        raise error or UsageError(f"`load_epoch` {load_epoch}: no machine of the job has it")
    if furthest < 0:
        return None
    # Of several that are equally far the first: the same in all processes, which have the same list.
    owner = everybody.index(furthest)
    if saved and saved.mxnet_states is not None and worker.rank == owner:
        # they were read from a pickle, under an allow-list, and there is no format to send them in
        tell("warning: MXNet's optimizer states are not passed on to other processes; the optimizer starts "
             "afresh")
    content = states.pack(saved) if worker.rank == owner and saved else None
    return states.unpack(worker.broadcast(content, owner))


def find(config: CheckpointConfig, rank_info: RankInfo | None = None) -> Saved | None:
    """Return what `load_epoch` names on this machine; None to start from scratch.

    auto starts from scratch where nothing was saved yet. Processes of a job that were started again continue
    with what the job saved last, whatever `load_epoch` says.
    """
    prefix = config.save_prefix
    if prefix and rank_info and _is_restart(prefix, rank_info):
        newest = checkpoint.load(prefix, "auto")
        if newest:
            return newest
    if not config.load_epoch:
        return None
    if not prefix:
        raise UsageError(f"`load_epoch` {config.load_epoch}: needs the `model_prefix` to load from")
    # once this run has saved something of its own, auto continues with that
    if checkpoint.is_auto(config.load_epoch) and config.save_model_prefix:
        newest = checkpoint.load(config.save_model_prefix, "auto")
        if newest or not config.model_prefix:
            return newest
    return checkpoint.load(config.model_prefix or config.save_model_prefix, config.load_epoch)


def global_batch_size(config: Config, saved: Saved | None, worker: Worker, reporter: Reporter) -> int:
    """Return the samples of a batch over all processes: `batch_size` of every worker.

    Where only the number of processes has changed since the checkpoint, it is that of the checkpoint, so that
    its position and learning rates keep their meaning.
    """
    batch_size = config.data.batch_size * (1 if worker.is_async else worker.num_workers)
    if saved is None or worker.is_async:
        return batch_size
    before = saved.position
    # another batch size with as many processes is what the user wants; 0: it was not written down
    if before.batch_size not in (0, batch_size) and before.world not in (0, worker.world_size):
        reporter.info(f"note: the batch of {before.batch_size} samples is kept, which {before.world} "
                      f"processes shared before and {worker.world_size} do now")
        return before.batch_size
    return batch_size


def resume_position(config: Config, saved: Saved | None, loader: Loader, lr_schedule: Schedule,
                    reporter: Reporter) -> Position:
    """Return where training begins: the saved position, its update counted in this run's batches.

    UsageError for a position inside an epoch whose batches have changed since, or inside a step of this run.
    """
    if saved is None:
        return Position()
    position = saved.position
    per_epoch = loader.batches_per_epoch
    # MXNet's checkpoints know no updates, and after a whole epoch the batch size may be another
    update = position.epoch * per_epoch + position.batch
    if position.batch and (position.update != update or position.batch > per_epoch):
        raise UsageError(f"`load_epoch` {config.checkpoint.load_epoch}: {saved.path} was saved inside an "
                         f"epoch with other data or another `batch_size` (an epoch has {per_epoch} batches "
                         "now); resume with those of then, or from a whole epoch")
    # a position is saved between two steps: inside of one, the gradients of its first batches are lost
    count = num_accumulated(config.optimizer, lr_schedule)
    if position.batch and not Accumulation(count, loader).window(update).is_last:
        setting = "macrobatch_size" if lr_schedule.macrobatch else "accumulate"
        raise UsageError(f"`load_epoch` {config.checkpoint.load_epoch}: {saved.path} was saved after "
                         f"batch {position.batch} of an epoch with another `{setting}`: a step is of {count} "
                         "batches now; resume with that of then, or from a whole epoch")
    position = dataclasses.replace(position, update=update)
    lr = lr_schedule.lr_at(position.update + 1)
    if lr != config.schedule.lr:
        # MXNet's line, from common/fit.py of its example
        reporter.log(f"Adjust learning rate to {lr:e} for epoch {position.epoch}")
    return position


def _is_restart(prefix: str, rank_info: RankInfo) -> bool:
    """Whether this process continues a job: its agent says so, or the job saved what is at the prefix."""
    if rank_info.num_restarts:
        return True
    return bool(rank_info.job) and checkpoint.read_meta(prefix).get("job") == rank_info.job


def _progress(saved: Saved | None) -> float:
    """Return a number that is larger the further a checkpoint is; a float64, as processes exchange it."""
    return _NOTHING_SAVED if saved is None else saved.position.epoch * 1e9 + saved.position.batch
