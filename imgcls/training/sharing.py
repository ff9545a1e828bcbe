"""What processes that train together share: gradients, running statistics, and requests to stop.

`run` calls `share_gradients`. The trainer calls a `GradientSharing` at every step, in the same way for one
process alone, for all-reduce in the backward pass (with or without synchronised batch normalisation) and for
a parameter server (dist_async). The messages themselves are in `distributed/`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from imgcls.config.resolve import Config
from imgcls.distributed import data_parallel, sync_batch_norm
from imgcls.distributed.compression import check_compression
from imgcls.distributed.data_parallel import DataParallel
from imgcls.distributed.process_group import Worker
from imgcls.distributed.sync_batch_norm import SyncBNState
from imgcls.errors import UsageError
from imgcls.layers import BatchNorm
from imgcls.training.cuda_graph import GraphedForward, check_cuda_graphs
from imgcls.training.running_statistics import MicroBatchStatistics, running_statistics

if TYPE_CHECKING:
    from imgcls.distributed.parameter_server.client import ParameterServerClient


class GradientSharing:
    """The network as one process trains it, and what it shares with the others at every step.

    `wrapped` is the network that sums its gradients over all processes while they are computed; `sync_state`
    tells its synchronised batch normalisations about each batch. With a `server` (dist_async) the optimizer's
    steps are taken there. A batch may be computed in `num_micro_batches`, one after the other.
    """

    def __init__(self, worker: Worker, model: nn.Module, *, compile: bool = False, cuda_graphs: bool = False,
                 num_micro_batches: int = 1, wrapped: DataParallel | None = None,
                 sync_state: SyncBNState | None = None, server: ParameterServerClient | None = None) -> None:
        self.worker = worker
        self.num_micro_batches = num_micro_batches
        self.server = server
        #: for the user: what is special about the way gradients are sent
        self.notes = wrapped.notes if wrapped is not None else ()
        self._wrapped = wrapped
        self._sync_state = sync_state
        network = model if wrapped is None else wrapped
        #: images (n, C, H, W) -> logits (n, classes), as it is called while training
        self.forward: Callable[[Tensor], Tensor] = network
        if compile:
            self.forward = torch.compile(network)
        elif cuda_graphs:
            self.forward = GraphedForward(model)
        self._statistics: list[Tensor] = []

    def begin_epoch(self, model: nn.Module) -> None:
        """Find the running statistics to average; the model must be in training mode already.

        Only frozen layers are in evaluation mode then, and their statistics do not change.
        """
        # Synchronised normalisations compute the statistics of the whole batch: there is nothing to average.
        if (self.worker.is_synchronous or self.num_micro_batches > 1) and not self._sync_state:
            self._statistics = running_statistics(model)

    def begin_micro_batch(self, num_valid: int) -> None:
        """Tell synchronised batch normalisations how many rows of the coming forward pass are not padding."""
        if self._sync_state:
            self._sync_state.num_valid = num_valid

    def average_statistics(self, weight: float) -> None:
        """After a step, average the running statistics over processes; this one's count with `weight`."""
        if self._statistics:
            self.worker.average(self._statistics, weight)

    @contextlib.contextmanager
    def averaged_micro_batches(self) -> Iterator[MicroBatchStatistics]:
        """Around the micro-batches of a step: at its end the running statistics are their mean, and that of
        all processes."""
        statistics = MicroBatchStatistics(self._statistics)
        yield statistics
        statistics.finish()
        # the parts have been weighted already, so this is a sum
        if self._statistics and self.worker.is_synchronous:
            self.worker.average(self._statistics, 1.0)

    def no_sync(self, *, is_last: bool) -> AbstractContextManager[object]:
        """Around a micro-batch: gradients add up here, and are exchanged once, with those of the last one."""
        if self._wrapped is None or is_last:
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def fetch(self) -> None:
        """Bring weights and optimizer state here from the servers that hold them, for a checkpoint."""
        if self.server:
            self.server.fetch()

    def agree_on_request(self, request: int) -> int:
        """Return the largest stop request of all processes, the same for all of them, one call late."""
        agreed = self.worker.all_reduce_max(request)
        # Workers of dist_async agree on nothing; one that leaves tells the servers why, and they the others.
        return max(agreed, self.server.peer_request) if self.server else agreed

    def leave(self, request: int) -> None:
        """Before this process ends: wait for those that still save, and tell the servers the request."""
        self.worker.barrier()  # a process that is gone would look like a failure to one that still saves
        if self.server:
            self.server.stop_request = request

    def describe_epoch(self) -> str:
        """Return what the servers counted in the epoch, on worker 0 of dist_async; else ""."""
        # reading resets the count: one worker reads it, or each would see a part
        if not self.server or self.worker.rank:
            return ""
        return f"dist_async: {self.server.statistics()}"


@contextlib.contextmanager
def share_gradients(config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, worker: Worker,
                    batch_size: int) -> Iterator[GradientSharing]:
    """Give the sharing that the settings name, for a model that is on its device; its servers end with the
    block.

    With several processes all weights become those of rank 0. `batch_size` is that over all processes.
    """
    wrapped, sync_state = wrap_data_parallel(config, model, worker, batch_size)
    with contextlib.ExitStack() as stack:
        server = None
        if worker.is_async:
            server = stack.enter_context(_connect_to_servers(config, optimizer, worker))
        yield GradientSharing(worker, model, compile=config.device.compile,
                              cuda_graphs=config.device.cuda_graphs, wrapped=wrapped,
                              sync_state=sync_state, num_micro_batches=config.distributed.micro_batches,
                              server=server)


def wrap_data_parallel(config: Config, model: nn.Module, worker: Worker,
                       batch_size: int) -> tuple[DataParallel | None, SyncBNState | None]:
    """Return the network that sums its gradients over all processes, and the state of its synchronised batch
    normalisations (None where it has none); None and None for a process that takes its steps alone."""
    if not worker.is_synchronous:
        return None, None
    distributed = config.distributed
    sync_state = None
    if distributed.sync_bn:
        # ours, and torch's in networks that are not ours
        sync_state = sync_batch_norm.convert_sync_batch_norm(model, (BatchNorm, _BatchNorm))
    wrapped = data_parallel.data_parallel(model, device=worker.device, gc_type=distributed.gc_type,
                                          gc_threshold=distributed.gc_threshold,
                                          batch_per_device=max(batch_size // worker.world_size, 1))
    return wrapped, sync_state


def check_sharing(config: Config, worker: Worker) -> None:
    """Raise UsageError for settings that do not go with the way gradients are shared."""
    check_cuda_graphs(config, worker)
    if config.device.compile and config.train.monitor:
        # it calls no hooks that were set after it was compiled: lines of outputs would be missing
        raise UsageError("`compile`: does not go with `monitor`, which reads tensors inside the network")
    distributed = config.distributed
    dtype = config.device.dtype
    if worker.is_async:
        # Refused, not ignored: a user who sets one of these relies on what it does.
        refused = {f"`gc_type` {distributed.gc_type}": distributed.gc_type != "none",
                   "`sync_bn`": distributed.sync_bn, "`dtype` float16": dtype == "float16"}
        for setting, is_set in refused.items():
            if is_set:
                other_dtype = " or `dtype` bfloat16" if dtype == "float16" else ""
                raise UsageError(f"{setting}: does not go with `kv_store` {distributed.kv_store}, where "
                                 "every worker is by itself and its gradients go to a server as float32; "
                                 f"take dist_sync{other_dtype}")
    check_compression(distributed.gc_type, distributed.gc_threshold, dtype)


def _connect_to_servers(config: Config, optimizer: torch.optim.Optimizer,
                        worker: Worker) -> ParameterServerClient:
    """Start this worker's servers of dist_async; the weights of worker 0 go to all servers and workers."""
    # loaded where it is needed: other runs have no use for the wire protocol of dist_async
    from imgcls.distributed.parameter_server.client import ParameterServerClient

    num_servers = worker.rank_info.num_servers if worker.rank_info else 0
    return ParameterServerClient(optimizer, rank=worker.rank, world_size=worker.world_size,
                                 num_servers=num_servers or 1, timeout_s=config.distributed.dist_timeout)
