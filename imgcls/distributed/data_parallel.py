"""The gradients of all processes, summed; with --gc-type in fewer bits (2bit, fp16, bf16, powersgd).

`imgcls-train` wraps the network in `data_parallel`. Gradients are added up and never divided: each process divides its
loss by the samples of all of them, so two processes give the bits of one that adds up two micro-batches.

What compression leaves out of a step is kept and added to the next gradient (error feedback). These rests differ by
process and are not saved: a resumed run begins without them, `DataParallel.notes` says so.

2bit is MXNet's: a value of at least the threshold t is sent as +t, one of at most -t as -t, everything else as 0. 16
values make a 32-bit word: value i stands in byte i % 16 // 4, two bits each from the top; 11 = +t, 10 = -t, 00 = 0.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imgcls.errors import UsageError

#: values of 2 bits in one 32-bit word
PER_WORD = 16
#: above this many processes a gather of 2-bit codes moves more bytes than a sum of fp16 gradients does
GATHER_LIMIT = 16
#: powersgd sends whole gradients for so many steps, while they still change much, and matrices of this rank after
POWERSGD_START, POWERSGD_RANK = 10, 2


class DataParallel(DistributedDataParallel):
    """The wrapped network; `compression` counts what it sends, `notes` are for the user to read at the start."""

    compression: Compression
    notes: tuple[str, ...] = ()


class Compression:
    """Sends gradients as they are (--gc-type none); the base of the ways to send less."""

    name = "none"

    def __init__(self) -> None:
        #: what this process handed to the network, without the transport's own overhead
        self.sent_bytes = 0

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to sum the gradients of a bucket; a future of the flat sum."""
        self.sent_bytes += bucket.buffer().nbytes
        return _all_reduce(bucket.buffer())


class HalfPrecision(Compression):
    """Sends fp16 or bf16 and keeps what rounding lost. torch's own hooks keep nothing, and bf16 refuses gloo."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self._dtype = name, torch.float16 if name == "fp16" else torch.bfloat16
        self._rests = ResidualBuffer()

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to sum; the sum itself is made in the smaller type."""
        buffer = bucket.buffer()
        rest = self._rests.of(bucket).add_(buffer)
        sent = rest.to(self._dtype)
        rest.sub_(sent)
        self.sent_bytes += sent.nbytes
        return _all_reduce(sent).then(lambda future: buffer.copy_(future.value()))


class TwoBit(Compression):
    """Sends one of +t, -t and 0 for each value, and keeps the rest. `threshold` is t."""

    name = "2bit"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self._rests = ResidualBuffer()

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to gather everybody's codes; each process adds them up itself, in whole numbers."""
        buffer = bucket.buffer()
        words = pack(take_signs(self._rests.of(bucket).add_(buffer), self.threshold))
        self.sent_bytes += words.nbytes
        world = dist.get_world_size()
        gathered = words.new_empty(world * len(words))
        work = dist.all_gather_into_tensor(gathered, words, async_op=True)
        assert work is not None

        def add_up(_future: Any) -> Tensor:
            if gathered.is_cuda:  # this runs on another stream than the one it was allocated on
                gathered.record_stream(torch.cuda.current_stream())
            counts = unpack(gathered.view(world, -1), buffer.numel()).sum(0, dtype=torch.int32)
            return buffer.copy_(counts).mul_(self.threshold)

        return work.get_future().then(add_up)


class PowerSGD(Compression):
    """torch's own: two narrow matrices in place of a gradient (Vogels, Karimireddy and Jaggi 2019)."""

    name = "powersgd"

    def __init__(self) -> None:
        super().__init__()
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

        self._hook = powerSGD_hook.powerSGD_hook
        self._state = powerSGD_hook.PowerSGDState(
            dist.group.WORLD, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START,
            compression_stats_logging_frequency=2 ** 62)  # it would log statistics of its own

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to sum: torch gives the mean."""
        whole, before = self._state.iter < POWERSGD_START, self._state.total_numel_after_compression
        future = self._hook(self._state, _InMemoryOrder(bucket))  # type: ignore[arg-type]
        numel = bucket.buffer().numel() if whole else self._state.total_numel_after_compression - before
        self.sent_bytes += int(numel) * bucket.buffer().element_size()
        world = dist.get_world_size()
        if not bucket.buffer().is_cuda:
            # Its second and third collectives begin where the first ends. With gloo that is in a thread of its own,
            # and two buckets at once could begin theirs in another order here than in another process.
            future.wait()
        return future.then(lambda future: future.value().mul_(world))


def data_parallel(model: nn.Module, *, device: torch.device, gc_type: str, gc_threshold: float,
                  batch_per_device: int) -> DataParallel:
    """`model`, already on `device`, that sums its gradients over all processes in the backward pass.

    The weights become those of rank 0. MXNet's threshold is meant for a gradient summed over a device's batch. Here
    gradients come divided by the samples of all processes, so `gc_threshold` is divided by them too:
    `batch_per_device` times the number of processes. Raises UsageError as `check` does.
    """
    check(gc_type, gc_threshold)
    world = dist.get_world_size()
    # a network that is spread over devices (--model-parallel) moves its own data between them
    alone = device.type == "cuda" and len({parameter.device for parameter in model.parameters()}) == 1
    wrapped = _wrap(model, device_ids=[device.index] if alone else None, gradient_as_bucket_view=True,
                    **_no_shared_buffers())
    compression = _compression(gc_type, gc_threshold / (batch_per_device * world))
    wrapped.compression, wrapped.notes = compression, _notes(gc_type, world)
    wrapped.register_comm_hook(compression, _reduce)
    return wrapped


def check(gc_type: str, gc_threshold: float, dtype: str = "auto") -> None:
    """UsageError for a compression that could not work. Touches no process group."""
    if gc_type == "2bit" and not 0 < gc_threshold < float("inf"):
        raise UsageError(f"`gc_threshold` {gc_threshold:g}: must be above 0; 0.5 is MXNet's")
    if gc_type != "none" and dtype == "float16":
        raise UsageError(f"`gc_type` {gc_type} with `dtype` float16: gradients are scaled there, and some steps "
                         "overflow, which would stay in the rests for ever; take `dtype` bfloat16")


def take_signs(rest: Tensor, threshold: float) -> Tensor:
    """int8, the shape of `rest`: 1 where it is at least `threshold`, -1 where at most minus that, else 0.

    What is taken is subtracted from `rest`.
    """
    signs = (rest >= threshold).to(torch.int8) - (rest <= -threshold).to(torch.int8)
    rest.sub_(signs, alpha=threshold)
    return signs


def pack(signs: Tensor) -> Tensor:
    """int8 (n,) of -1, 0 and 1 -> uint8 (4 * ceil(n / 16),): the bytes of MXNet's 32-bit words, zeros at the end."""
    codes = signs.new_zeros(-(-len(signs) // PER_WORD) * PER_WORD, dtype=torch.uint8)
    codes[:len(signs)] = (signs != 0).to(torch.uint8) * 2 + (signs > 0)
    four = codes.view(-1, 4)
    return four[:, 0] << 6 | four[:, 1] << 4 | four[:, 2] << 2 | four[:, 3]


def unpack(words: Tensor, count: int) -> Tensor:
    """The way back: uint8 (..., bytes) -> int8 (..., count)."""
    codes = torch.stack([words >> shift & 3 for shift in (6, 4, 2, 0)], -1).flatten(-2)[..., :count]
    return (codes == 3).to(torch.int8) - (codes == 2).to(torch.int8)


class ResidualBuffer:
    """What was not sent, float32, by parameter: torch may put parameters into other buckets after the first step."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[Tensor, ...], Tensor] = {}

    def of(self, bucket: dist.GradBucket) -> Tensor:
        """The rests of the parameters of a bucket as one vector, laid out as its buffer; zeros at first."""
        parameters = tuple(bucket.parameters())
        if parameters not in self._buckets:
            known = {p: part for group, flat in self._buckets.items()
                     for p, part in zip(group, flat.split([p.numel() for p in group]), strict=True)}
            buffer = bucket.buffer()
            fresh = torch.cat([known[p] if p in known else buffer.new_zeros(p.numel()) for p in parameters])
            assert len(fresh) == buffer.numel()
            taken = set(parameters)
            for group in [group for group in self._buckets if taken & set(group)]:
                for p in set(group) - taken:  # its new bucket has not come by yet
                    self._buckets[(p,)] = known[p].clone()
                del self._buckets[group]
            self._buckets[parameters] = fresh
        return self._buckets[parameters]


class _InMemoryOrder:
    """A bucket whose gradients are seen as they lie in memory: torch's powersgd takes no channels_last ones.

    Each keeps its first dimension and has its others in another order, which makes no difference to a matrix of low
    rank.
    """

    def __init__(self, bucket: dist.GradBucket) -> None:
        self.buffer, self.index, self.is_last = bucket.buffer, bucket.index, bucket.is_last
        self._bucket = bucket

    def gradients(self) -> list[Tensor]:
        return [g if g.is_contiguous() else g.permute(0, 2, 3, 1) for g in self._bucket.gradients()]


def _reduce(state: Compression, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    return state.reduce(bucket)


# torch looks at a hook's annotations, which `from __future__ import annotations` has made into text
_reduce.__annotations__ = {"state": Compression, "bucket": dist.GradBucket,
                           "return": torch.futures.Future[torch.Tensor]}


def _all_reduce(tensor: Tensor) -> Any:
    """A future of the sum of `tensor` over all processes, made in place."""
    work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


def _compression(gc_type: str, threshold: float) -> Compression:
    if gc_type == "2bit":
        return TwoBit(threshold)
    if gc_type == "powersgd":
        return PowerSGD()
    return Compression() if gc_type == "none" else HalfPrecision(gc_type)


def _notes(gc_type: str, world: int) -> tuple[str, ...]:
    if gc_type == "none":
        return ()
    notes = [f"`gc_type` {gc_type}: what is not sent is kept for the next step, in each process for itself; it is not "
             "saved, a resumed run begins without"]
    if gc_type == "2bit" and world > GATHER_LIMIT:
        notes.append(f"`gc_type` 2bit: each of {world} processes receives the codes of all others, which is more than "
                     f"fp16 moves from {GATHER_LIMIT} processes on; `gc_type` fp16 may be faster")
    return tuple(notes)


def _no_shared_buffers() -> dict[str, Any]:
    """The option that keeps torch from copying rank 0's running statistics at every step, by its name of the day."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _wrap(model: nn.Module, **options: Any) -> DataParallel:
    """Make the wrapper without importing torch._dynamo, more than a second of start-up, where it can be done.

    It asks the compiler for one setting, and gets its default. Where the compiler is loaded already (--compile), or a
    later torch asks for more, it is made as usual.
    """
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
