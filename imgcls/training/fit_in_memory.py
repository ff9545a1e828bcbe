"""Train in micro-batches where memory runs out in the first step. Called by `run` in place of `Trainer.fit`.

A batch in N micro-batches needs about an N-th of the memory of activations, and has the bits of N devices:
a run that needed it is not that of a larger machine to the last digit, and it says which flag repeats it.
"""

from __future__ import annotations

import gc

import torch

from imgcls.config.resolve import Config
from imgcls.storage.tracebacks import is_out_of_memory
from imgcls.training.checkpoint import Position
from imgcls.training.reporter import Reporter
from imgcls.training.trainer import Trainer


def fit(trainer: Trainer, position: Position, config: Config, reporter: Reporter) -> dict[str, float]:
    """Train from `position` to the end as `Trainer.fit` does; with twice the micro-batches, again and again,
    while not even a first step fits.

    The error stays where `micro_batches` was given, in a job of several processes, which would have to agree,
    and once a step was taken: then the weights are others already.
    """
    sharing = trainer.sharing
    may_split = (sharing.worker.world_size == 1 and not config.is_explicit("micro_batches")
                 and not config.device.cuda_graphs)
    buffers = list(trainer.model.buffers())
    # a first step that fails has moved running statistics
    before = [buffer.clone() for buffer in buffers] if may_split else []
    while True:
        try:
            return trainer.fit(position)
        except (RuntimeError, MemoryError) as error:
            count = next_count(sharing.num_micro_batches, trainer.loader.batch_size)
            is_first = trainer.position.update == position.update
            if not (may_split and is_first and count and is_out_of_memory(error)):
                raise
        # here and not above: the error's traceback holds the tensors of the step
        with torch.no_grad():
            torch._foreach_copy_(buffers, before)
        for parameter in trainer.model.parameters():
            parameter.grad = None
        gc.collect()
        if sharing.worker.device.type == "cuda":
            torch.cuda.empty_cache()
        sharing.num_micro_batches = count
        reporter.warn(f"memory ran out: each batch is computed in {count} micro-batches from here on, with "
                      f"the bits of {count} devices; `micro_batches` {count} does so at once, and "
                      "`recompute_activations` takes less memory with the same bits")


def next_count(count: int, batch_size: int) -> int:
    """Return how many micro-batches to try after `count`: twice as many; 0 where each has one sample."""
    return min(2 * count, batch_size) if count < batch_size else 0
