"""Train in micro-batches where memory runs out in the first step. Called by `run` in place of `Trainer.fit`.

A batch in N micro-batches needs about an N-th of the memory for activations, and gives the bits of N devices.
So the run differs in the last digits from that of a larger machine; a warning says which flag repeats it.
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
    """Train from `position` to the end as `Trainer.fit` does; where memory runs out in the first step, begin
    again with twice as many micro-batches, until it fits.

    The error is raised where `micro_batches` or `cuda_graphs` is given, in a job of several processes, which
    would have to agree, and after the first step, which has changed the weights.
    """
    sharing = trainer.sharing
    may_split = (sharing.worker.world_size == 1 and not config.is_explicit("micro_batches")
                 and not config.device.cuda_graphs)
    buffers = list(trainer.model.buffers())
    # a first step that fails may have changed running statistics
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
