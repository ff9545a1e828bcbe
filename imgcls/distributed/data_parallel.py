"""A network that sums its gradients over all processes: torch's DDP, without its average.

Each process divides its loss by the samples of all of them, so gradients are added up and never divided: two
processes give the bits of one that adds up two micro-batches. A run wraps its network here once;
`compression` decides how many bits are sent. Nothing here steps an optimizer.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from imgcls.distributed.compression import Compression, check_compression, compression_notes, make_compression


class DataParallel(DistributedDataParallel):
    """The wrapped network; `compression` counts what it sends, `notes` are for the user at the start."""

    # set by `data_parallel`: DDP's own constructor does not take them
    compression: Compression
    notes: tuple[str, ...] = ()


def data_parallel(model: nn.Module, *, device: torch.device, gc_type: str, gc_threshold: float,
                  batch_per_device: int) -> DataParallel:
    """Return `model`, already on `device`, so wrapped that it sums its gradients over all processes.

    The weights become those of rank 0. Raises UsageError as `check_compression` does.
    """
    check_compression(gc_type, gc_threshold)
    world_size = dist.get_world_size()
    # a network that is spread over devices (`model_parallel`) moves its own data between them
    on_one_gpu = device.type == "cuda" and len({parameter.device for parameter in model.parameters()}) == 1
    # gradients as views of the buckets: no copy before and after every sum
    wrapped = _wrap(model, device_ids=[device.index] if on_one_gpu else None, gradient_as_bucket_view=True,
                    **_no_buffer_broadcast())
    # MXNet's threshold is meant for a gradient summed over a device's batch. Here gradients come divided by
    # the samples of all processes, so the threshold is divided by them too.
    wrapped.compression = make_compression(gc_type, gc_threshold / (batch_per_device * world_size))
    wrapped.notes = compression_notes(gc_type, world_size)
    # the hook replaces DDP's all-reduce, and with it DDP's division by the number of processes
    wrapped.register_comm_hook(wrapped.compression, _reduce)
    return wrapped


def _reduce(state: Compression, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    return state.reduce(bucket)


# torch looks at a hook's annotations, which `from __future__ import annotations` has made into text
_reduce.__annotations__ = {"state": Compression, "bucket": dist.GradBucket,
                           "return": torch.futures.Future[torch.Tensor]}


def _no_buffer_broadcast() -> dict[str, Any]:
    """Return the option that keeps torch from copying rank 0's running statistics at every step."""
    # the trainer averages them over all processes; newer versions of torch have another name for the option
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers": False}


def _wrap(model: nn.Module, **options: Any) -> DataParallel:
    """Make the wrapper, where possible without torch._dynamo, more than a second of start-up."""
    # DDP reads one setting of the compiler; here it is given the setting's default. Where the compiler is
    # loaded already (`compile`), or a later torch reads more, the wrapper is made as usual.
    if "torch._dynamo" not in sys.modules:
        module: Any = torch
        module._dynamo = types.SimpleNamespace(utils=types.SimpleNamespace(
            get_optimize_ddp_mode=lambda: "ddp_optimizer"))
        try:
            return DataParallel(model, **options)
        except AttributeError:
            pass
        finally:
            del module._dynamo
    return DataParallel(model, **options)
