"""Gradients in fewer bits: `gc_type` 2bit, fp16, bf16 and powersgd.

`data_parallel` makes one Compression for a network; DDP calls its `reduce` for each bucket of gradients. What
compression leaves out of a step is kept and added to the next gradient (error feedback). These residuals
differ by process and are never saved: a resumed run begins without them.

2bit is MXNet's (src/kvstore/gradient_compression-inl.h): a value of at least the threshold t is sent as +t,
one of at most -t as -t, everything else as 0. 16 values make a 32-bit word: value i is in byte i % 16 // 4,
two bits each from the top; 11 = +t, 10 = -t, 00 = 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from imgcls.errors import UsageError

#: values of 2 bits in one 32-bit word
VALUES_PER_WORD = 16
#: above this many processes a gather of 2-bit codes moves more bytes than a sum of fp16 gradients does
MAX_GATHER_PROCESSES = 16
#: powersgd sends whole gradients for so many steps, while they change much, then matrices of this rank
POWERSGD_START, POWERSGD_RANK = 10, 2


class Compression:
    """Sends gradients as they are (`gc_type` none); the base of the ways to send less."""

    name = "none"

    def __init__(self) -> None:
        #: bytes that this process has sent, without the transport's own overhead
        self.sent_bytes = 0

    # A future: DDP continues with the backward pass while the bucket is under way.
    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to sum the gradients of a bucket over all processes; return a future of the flat sum."""
        self.sent_bytes += bucket.buffer().nbytes
        return _all_reduce(bucket.buffer())


class HalfPrecision(Compression):
    """Sends fp16 or bf16 and keeps what rounding lost."""

    # torch has hooks of its own for this. They keep nothing of what was lost, and their bf16 refuses gloo.

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._dtype = torch.float16 if name == "fp16" else torch.bfloat16
        self._residuals = ResidualBuffer()

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to sum; the sum itself is made in the smaller type."""
        buffer = bucket.buffer()
        residual = self._residuals.for_bucket(bucket).add_(buffer)
        sent = residual.to(self._dtype)
        residual.sub_(sent)
        self.sent_bytes += sent.nbytes
        return _all_reduce(sent).then(lambda future: buffer.copy_(future.value()))


class TwoBit(Compression):
    """Sends one of +t, -t and 0 for each value, and keeps the difference. `threshold` is t."""

    name = "2bit"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self._residuals = ResidualBuffer()

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to gather the codes of all processes; each adds them up itself, in whole numbers."""
        # Codes cannot be summed on their way, as an all-reduce does: a sum does not fit into two bits.
        buffer = bucket.buffer()
        # the threshold is taken from residual and gradient together, as MXNet does
        words = pack(take_signs(self._residuals.for_bucket(bucket).add_(buffer), self.threshold))
        self.sent_bytes += words.nbytes
        world_size = dist.get_world_size()
        gathered = words.new_empty(world_size * len(words))
        work = dist.all_gather_into_tensor(gathered, words, async_op=True)
        assert work is not None

        def add_up(_future: Any) -> Tensor:
            if gathered.is_cuda:  # this runs on another stream than the one it was allocated on
                gathered.record_stream(torch.cuda.current_stream())
            # int32: int8 would overflow from 128 processes on
            counts = unpack(gathered.view(world_size, -1), buffer.numel()).sum(0, dtype=torch.int32)
            return buffer.copy_(counts).mul_(self.threshold)

        return work.get_future().then(add_up)


class PowerSGD(Compression):
    """torch's own: two narrow matrices in place of a gradient (Vogels, Karimireddy and Jaggi 2019)."""

    name = "powersgd"

    def __init__(self) -> None:
        super().__init__()
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook  # seldom needed

        self._hook = powerSGD_hook.powerSGD_hook
        self._state = powerSGD_hook.PowerSGDState(
            dist.group.WORLD, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START,
            compression_stats_logging_frequency=2 ** 62)  # it would log statistics of its own

    def reduce(self, bucket: dist.GradBucket) -> Any:
        """Begin to sum: torch's hook gives the mean, which is multiplied by the number of processes."""
        sends_all = self._state.iter < POWERSGD_START
        before = self._state.total_numel_after_compression
        future = self._hook(self._state, _InMemoryOrder(bucket))  # type: ignore[arg-type]
        buffer = bucket.buffer()
        numel = buffer.numel() if sends_all else self._state.total_numel_after_compression - before
        self.sent_bytes += int(numel) * buffer.element_size()
        world_size = dist.get_world_size()
        if not buffer.is_cuda:
            # Its second and third collectives begin where the first ends. With gloo that is in a thread of
            # its own, and two buckets at once could begin theirs in different orders in two processes.
            future.wait()
        return future.then(lambda future: future.value().mul_(world_size))


def make_compression(gc_type: str, threshold: float) -> Compression:
    """Return the Compression of that name; `threshold` is for 2bit."""
    if gc_type == "2bit":
        # the only one with a setting of its own
        return TwoBit(threshold)
    if gc_type == "powersgd":
        return PowerSGD()
    return Compression() if gc_type == "none" else HalfPrecision(gc_type)


def check_compression(gc_type: str, gc_threshold: float, dtype: str = "auto") -> None:
    """Raise UsageError for a compression that could not work. Needs no process group."""
    # written so that NaN is refused, too
    if gc_type == "2bit" and not 0 < gc_threshold < float("inf"):
        raise UsageError(f"`gc_threshold` {gc_threshold:g}: must be above 0; 0.5 is MXNet's")
    if gc_type != "none" and dtype == "float16":
        raise UsageError(f"`gc_type` {gc_type} with `dtype` float16: gradients are scaled there, and some "
                         "steps overflow, which would stay in the residuals for ever; take `dtype` bfloat16")


def compression_notes(gc_type: str, world_size: int) -> tuple[str, ...]:
    """Return what a user should know about a compression at the start."""
    if gc_type == "none":
        return ()
    notes = [f"`gc_type` {gc_type}: each process keeps what was not sent for the next step; it is not "
             "saved, so a resumed run starts without it"]
    if gc_type == "2bit" and world_size > MAX_GATHER_PROCESSES:
        notes.append(f"`gc_type` 2bit: each of {world_size} processes receives the codes of all others, "
                     f"which is more than fp16 moves from {MAX_GATHER_PROCESSES} processes on; "
                     "`gc_type` fp16 may be faster")
    return tuple(notes)


# ---- 2bit


def take_signs(residual: Tensor, threshold: float) -> Tensor:
    """Return int8, the shape of `residual`: 1 from `threshold` on, -1 up to minus that, else 0.

    What is taken is subtracted from `residual`.
    """
    # both ends inclusive, as recorded from MXNet 1.9.1
    signs = (residual >= threshold).to(torch.int8) - (residual <= -threshold).to(torch.int8)
    residual.sub_(signs, alpha=threshold)
    return signs


def pack(signs: Tensor) -> Tensor:
    """Return the bytes of MXNet's words: int8 (n,) of -1, 0, 1 -> uint8 (4 * ceil(n / 16),)."""
    padded_size = -(-len(signs) // VALUES_PER_WORD) * VALUES_PER_WORD
    codes = signs.new_zeros(padded_size, dtype=torch.uint8)
    codes[:len(signs)] = (signs != 0).to(torch.uint8) * 2 + (signs > 0)
    by_byte = codes.view(-1, 4)
    return by_byte[:, 0] << 6 | by_byte[:, 1] << 4 | by_byte[:, 2] << 2 | by_byte[:, 3]


def unpack(words: Tensor, count: int) -> Tensor:
    """Return what `pack` was given: uint8 (..., bytes) -> int8 (..., count)."""
    codes = torch.stack([words >> shift & 3 for shift in (6, 4, 2, 0)], -1).flatten(-2)[..., :count]
    return (codes == 3).to(torch.int8) - (codes == 2).to(torch.int8)


# ---- error feedback


class ResidualBuffer:
    """What was not sent, by parameter, in the dtype of the gradients."""

    def __init__(self) -> None:
        # parameters of a bucket -> their residuals, one after the other
        self._buckets: dict[tuple[Tensor, ...], Tensor] = {}

    def for_bucket(self, bucket: dist.GradBucket) -> Tensor:
        """Return the residuals of a bucket as one vector, laid out as its buffer; zeros at first."""
        parameters = tuple(bucket.parameters())
        if parameters not in self._buckets:
            self._regroup(parameters, bucket.buffer())
        return self._buckets[parameters]

    def _regroup(self, parameters: tuple[Tensor, ...], buffer: Tensor) -> None:
        """Make a vector for a new bucket: torch may regroup parameters after the first step."""
        # the old vectors are cut up: what a parameter has not sent yet goes with it
        residual_of = {p: piece for group, flat in self._buckets.items()
                       for p, piece in zip(group, flat.split([p.numel() for p in group]), strict=True)}
        flat = torch.cat([residual_of[p] if p in residual_of else buffer.new_zeros(p.numel())
                          for p in parameters])
        assert len(flat) == buffer.numel()
        moved = set(parameters)
        for group in [group for group in self._buckets if moved & set(group)]:
            for p in set(group) - moved:  # its new bucket has not been reduced yet
                self._buckets[(p,)] = residual_of[p].clone()
            del self._buckets[group]
        self._buckets[parameters] = flat


class _InMemoryOrder:
    """A bucket with gradients as they lie in memory: torch's powersgd takes no channels_last ones."""

    # Each keeps its first dimension and has its others in another order, which makes no difference to a
    # matrix of low rank.

    def __init__(self, bucket: dist.GradBucket) -> None:
        self.buffer = bucket.buffer
        self.index = bucket.index
        self.is_last = bucket.is_last
        self._bucket = bucket

    def gradients(self) -> list[Tensor]:
        return [g if g.is_contiguous() else g.permute(0, 2, 3, 1) for g in self._bucket.gradients()]


def _all_reduce(tensor: Tensor) -> Any:
    """Return a future of the sum of `tensor` over all processes, made in place."""
    work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])
