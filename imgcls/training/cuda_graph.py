"""`cuda_graphs`: the forward and backward pass of a step as two CUDA graphs, for small networks.

A step of a small network is hundreds of kernels of a few microseconds each, and a GPU waits for Python to
launch them. A CUDA graph is launched as one. `GradientSharing` calls a `GraphedForward` in place of the
network; the trainer's loop, loss, optimizer and metrics stay as they are (torch.cuda.make_graphed_callables).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from imgcls.config.resolve import Config
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError

#: torch's advice: on the first passes cuDNN chooses its algorithms, which cannot be recorded
NUM_WARM_UP = 11


def check_cuda_graphs(config: Config, worker: Worker) -> None:
    """Raise UsageError where `cuda_graphs` is set and does not go with another setting or the device."""
    if not config.device.cuda_graphs:
        return
    # What is recorded is one pass on one device; a user who wants the speed is told why there is none.
    obstacles = {
        "`compile`, which records its own graphs": config.device.compile,
        "`monitor`, which reads tensors inside the network": config.train.monitor > 0,
        "several processes": worker.world_size > 1,
        # the second micro-batch would overwrite the gradients of the first
        "`accumulate` above 1": config.optimizer.accumulate > 1,
        "`macrobatch_size` of lbsgd": config.optimizer.macrobatch_size > 0,
        "`micro_batches` above 1": config.distributed.micro_batches > 1,
        "`model_parallel` above 1": config.network.model_parallel > 1,
        "the CPU; name a GPU with `gpus`": worker.device.type != "cuda",
    }
    for obstacle, is_there in obstacles.items():
        if is_there:
            raise UsageError(f"`cuda_graphs`: does not go with {obstacle}")


class GraphedForward:
    """The training pass of `model`, recorded with the first batch and replayed for each of the same shape.

    Other shapes, such as a smaller last batch, go through the network itself. The weights must be changed in
    place. Logits are overwritten by the next call, gradients by the next backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._replay: nn.Module | None = None
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits, (n, classes), of images (n, C, H, W); record the pass if this is the first."""
        if self._replay is None:
            self._replay = self._record(images)
            self._shape = images.shape
        logits: Tensor = self._replay(images) if images.shape == self._shape else self._model(images)
        return logits

    def _record(self, images: Tensor) -> nn.Module:
        """Return the recorded pass; running statistics and random numbers stay as they were."""
        # A module around the network: torch replaces the `forward` of what it is given, and an evaluation has
        # to run the network itself.
        around = nn.Sequential(self._model)
        before = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        # a cached cast would hold the first step's weights in every later step
        is_autocast = torch.is_autocast_enabled(images.device.type)
        autocast = torch.autocast(images.device.type, torch.get_autocast_dtype(images.device.type),
                                  enabled=is_autocast, cache_enabled=False)
        gpus = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), autocast:
            recorded = torch.cuda.make_graphed_callables(
                around, (images.detach().clone(),), num_warmup_iters=NUM_WARM_UP,
                allow_unused_input=True)  # layers that are frozen
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        return cast(nn.Module, recorded)
