"""A worker's side of dist_async: gradients to the servers, weights back (`server` tells how all of it works).

The trainer calls `push_pull` in place of the optimizer's step. The local optimizer takes no steps: it is what the
servers are started from and what `fetch` brings their state back into, for a checkpoint.

The parameters stand one after the other in one vector, which the servers share evenly, to the element: every optimizer
that is offered works element by element. (MXNet cuts only keys of over a million elements.)
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from imgcls.distributed.parameter_server.server import (
    FETCH,
    GOODBYE,
    HEADER,
    PING,
    PULL,
    PUSH,
    RESTORE,
    SERVER,
    STATISTICS,
    WORKER,
    as_bytes,
    brief,
    connect,
    header,
    in_parallel,
    receive,
)
from imgcls.distributed.process_group import LostContact
from imgcls.distributed.rank_info import host_name
from imgcls.errors import RunError, Stopped, UsageError


@dataclass(frozen=True)
class Statistics:
    """What one server saw since it was last asked."""

    #: by worker
    pushes: list[int]
    #: updates by others between the weights a gradient is of and those it was applied to
    mean: float
    p99: int
    largest: int

    def __str__(self) -> str:
        by_worker = ", ".join(f"worker {rank} {count}" for rank, count in enumerate(self.pushes[:16]))
        return (f"{sum(self.pushes)} pushes ({by_worker}{', ...' if len(self.pushes) > 16 else ''}), staleness "
                f"{self.mean:.2f} on average, 99 % up to {self.p99}, at most {self.largest}")


class ParameterServerClient:
    """The worker's side: a context, left in good order or by `Stopped` with a good-bye, else by ending its servers.

    Every method may raise LostContact: a server, or a worker that the server missed, is gone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, rank: int, world_size: int, num_servers: int = 1,
                 timeout_s: float = 300.0) -> None:
        """Start this worker's servers, meet all of them, and take up the weights of worker 0.

        The weights and the state of the optimizer that worker 0 has are those that training begins with. All workers
        of the default process group must come here. Of `num_servers` in all, server i runs beside worker i modulo
        `world_size`.
        """
        if num_servers < 1:
            raise UsageError(f"--num-servers {num_servers}: dist_async needs at least one")
        self.rank, self.world_size, self.num_servers = rank, world_size, num_servers
        #: the stop request of workers that have left (0: none), and the one that this worker leaves with
        self.peer_request = 0
        self.stop_request = 0
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._buffers(sum(p.numel() for p in self._parameters))
        self._versions = [0.0] * num_servers
        self._lock, self._done, self._talked = threading.Lock(), threading.Event(), time.monotonic()
        self._problem: LostContact | None = None
        self._groups: list[Any] = []
        token, base = _shared_token(), _base_store()
        self._children = [_start(self._specification(index, token, base, timeout_s))
                          for index in range(num_servers) if index % world_size == rank]
        try:
            for child in self._children:
                if child.stdout and not child.stdout.readline():
                    raise RunError(f"`kv_store` dist_async: the server here ended at its start, status {child.wait()}")
            with self._telling():
                self._groups = in_parallel(lambda index: connect(base, token, index, rank, WORKER, timeout_s),
                                           num_servers)
            if rank == 0:
                self.restore()
            self.pull()
        except BaseException:
            self.abort()
            raise
        self._pinger = threading.Thread(target=self._ping, args=(timeout_s / 3,), daemon=True)
        self._pinger.start()

    def push_pull(self, lr: float) -> None:
        """Give the gradients of all parameters to the servers, who take a step with them at the learning rate `lr`,
        and take the newest weights."""
        torch._foreach_copy_(self._gradient_views, [_gradient(p) for p in self._parameters])
        if self._gradients is not self._sent:
            self._sent.copy_(self._gradients)  # waits for the device
        self._exchange(PUSH, lr, self._slices(self._sent))
        self._take_weights()

    def pull(self) -> None:
        """Take the newest weights."""
        self._exchange(PULL)
        self._take_weights()

    def fetch(self) -> None:
        """Take the weights and the optimizer's state, which belong together, into the model and the local optimizer:
        what a checkpoint needs. Each server's part is of one moment; with several servers the moments differ."""
        parts = [load_safetensors(content) for content in self._ask(FETCH, range(self.num_servers))]
        for part, target in zip(parts, self._slices(self._received), strict=True):
            target.copy_(part.pop("weights"))
        self._take_weights()
        self._take_state(parts)

    def restore(self) -> None:
        """Give the servers the weights and the optimizer's state of this worker."""
        with torch.no_grad():
            torch._foreach_copy_(self._weight_views, self._parameters)
        if self._weights is not self._received:
            self._received.copy_(self._weights)
        for index, weights in enumerate(self._slices(self._received)):
            content = {"weights": weights}
            for number, (which, begin, end) in enumerate(self._pieces(index)):
                p = self._parameters[which]
                content |= {f"{number}/{kind}": _flat(value, p)[begin:end] if value.ndim else value.cpu()
                            for kind, value in self._optimizer.state.get(p, {}).items() if isinstance(value, Tensor)}
            self._tell(index, RESTORE, save_safetensors(content))

    def statistics(self) -> Statistics:
        """What the first server saw since this was last asked (by one worker, or each hears a part)."""
        found = json.loads(self._ask(STATISTICS, [0])[0])
        counts = found["staleness"]
        number = max(sum(counts.values()), 1)
        p99, seen = 0, 0
        for staleness in sorted(map(int, counts)):
            if seen < 0.99 * number:
                p99 = staleness
            seen += counts[str(staleness)]
        return Statistics(found["pushes"], sum(int(s) * c for s, c in counts.items()) / number, p99,
                          max(map(int, counts), default=0))

    def close(self) -> None:
        """Say good-bye, with `stop_request`, and wait for the other workers if a server of theirs is here."""
        if self._done.is_set():
            return
        self._done.set()
        with self._lock, self._telling():
            for group in self._groups:
                group.send([header(GOODBYE, self.stop_request)], SERVER, 0).wait()
        self._pinger.join()
        for child in self._children:
            if child.wait():
                raise LostContact(f"rank {self.rank} ({host_name()}): the server here lost a worker")
        self.abort()

    def abort(self) -> None:
        """End the servers that this worker has started, at once."""
        self._done.set()
        for child in self._children:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._groups = []  # their threads end here, not somewhere in the end of the interpreter

    def __enter__(self) -> ParameterServerClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 _trace: TracebackType | None) -> None:
        if error is None or isinstance(error, Stopped):
            self.close()
        else:
            self.abort()

    # ---- talking

    def _exchange(self, wanted: int, lr: float = 0.0, payload: Sequence[Tensor] = ()) -> None:
        """The same request to all servers at once; their weights come into `_received`."""
        with self._lock, self._telling():
            works, answers = [], []
            for index, (group, weights) in enumerate(zip(self._groups, self._slices(self._received), strict=True)):
                works.append(group.send([header(wanted, lr, self._versions[index])], SERVER, 0))
                works += [group.send([payload[index]], SERVER, 0)] if payload else []
                answers.append(torch.zeros(HEADER, dtype=torch.float64))
                works += [group.recv([answers[-1]], SERVER, 0), group.recv([weights], SERVER, 0)]
            for work in works:
                work.wait()
            for index, answer in enumerate(answers):
                self._heard(answer)
                self._versions[index] = float(answer[0])

    def _ask(self, wanted: int, servers: Sequence[int]) -> list[bytes]:
        """The texts with which servers answer."""
        found = []
        with self._lock, self._telling():
            for index in servers:
                self._groups[index].send([header(wanted)], SERVER, 0).wait()
                answer = torch.zeros(HEADER, dtype=torch.float64)
                self._groups[index].recv([answer], SERVER, 0).wait()
                if wanted == FETCH:
                    self._versions[index] = float(answer[0])
                found.append(receive(self._groups[index], int(answer[2]), SERVER))
        return found

    def _tell(self, server: int, wanted: int, content: bytes) -> None:
        with self._lock, self._telling():
            self._groups[server].send([header(wanted, len(content))], SERVER, 0).wait()
            self._groups[server].send([as_bytes(content)], SERVER, 0).wait()

    def _heard(self, answer: Tensor) -> None:
        self.peer_request = max(self.peer_request, int(answer[1]))
        self._talked = time.monotonic()

    def _ping(self, seconds: float) -> None:
        """Say a word when nothing was said for a while (evaluation, the first batch), so that a server knows a worker
        that is busy from one that is gone."""
        while not self._done.wait(max(self._talked + seconds - time.monotonic(), 0.01)):
            if time.monotonic() - self._talked < seconds:
                continue
            try:
                with self._lock, self._telling():
                    for group in self._groups:
                        answer = torch.zeros(HEADER, dtype=torch.float64)
                        group.send([header(PING)], SERVER, 0).wait()
                        group.recv([answer], SERVER, 0).wait()
                        self._heard(answer)
            except LostContact as error:
                self._problem = error
                return

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """What gloo says, in words that name the server."""
        if self._problem:
            raise self._problem
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RunError):
                raise
            raise LostContact(f"rank {self.rank} ({host_name()}): `kv_store` dist_async: a server does not answer, "
                              f"or has ended because it lost a worker ({brief(error)})") from error

    # ---- one vector of all parameters

    def _buffers(self, size: int) -> None:
        """Gradients and weights as one vector each, on the device and, where that is a GPU, as they are sent."""
        device = self._parameters[0].device
        self._gradients, self._weights = torch.zeros(size, device=device), torch.zeros(size, device=device)
        self._sent, self._received = self._gradients, self._weights
        if device.type != "cpu":
            self._sent, self._received = (torch.zeros(size, pin_memory=True) for _ in range(2))
        self._gradient_views, self._weight_views = self._views(self._gradients), self._views(self._weights)

    def _views(self, flat: Tensor) -> list[Tensor]:
        """The parameters in that vector, each in the memory order it has itself."""
        pieces = flat.split([p.numel() for p in self._parameters])
        return [_like(piece, p) for piece, p in zip(pieces, self._parameters, strict=True)]

    def _slices(self, flat: Tensor) -> list[Tensor]:
        """The part of the vector that each server has."""
        return [flat[begin:end] for begin, end in map(self._range, range(self.num_servers))]

    def _range(self, server: int) -> tuple[int, int]:
        size = self._weights.numel()
        return size * server // self.num_servers, size * (server + 1) // self.num_servers

    def _pieces(self, server: int) -> list[tuple[int, int, int]]:
        """(number of the parameter, begin, end within it) of what a server has."""
        first, last = self._range(server)
        found, start = [], 0
        for number, p in enumerate(self._parameters):
            begin, end = max(first - start, 0), min(last - start, p.numel())
            if begin < end:
                found.append((number, begin, end))
            start += p.numel()
        return found

    def _take_weights(self) -> None:
        if self._weights is not self._received:
            self._weights.copy_(self._received)
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self._weight_views)

    def _take_state(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """The servers' parts of the optimizer's state into the local optimizer."""
        found: dict[tuple[int, str], list[Tensor]] = {}
        for index, part in enumerate(parts):
            owners = [which for which, _begin, _end in self._pieces(index)]
            for name, tensor in part.items():
                number, _, kind = name.partition("/")
                found.setdefault((owners[int(number)], kind), []).append(tensor)
        for (which, kind), pieces in found.items():
            p = self._parameters[which]
            if pieces[0].ndim:
                flat = torch.cat(pieces)
                value = torch.empty_like(p, dtype=flat.dtype, requires_grad=False).copy_(_like(flat, p))
            else:
                value = max(pieces, key=float)  # of a parameter that two servers share, the one that is further on
            self._optimizer.state[p][kind] = value

    def _specification(self, index: int, token: str, base: Any, timeout: float) -> dict[str, Any]:
        """What a server is told at its start."""
        groups = self._optimizer.param_groups
        group_of = [number for number, group in enumerate(groups) for _p in group["params"]]
        return {"store": _address(base), "token": token, "server": index, "workers": self.world_size,
                "timeout": timeout,
                "optimizer": type(self._optimizer).__name__,
                "groups": [{k: v for k, v in group.items() if k != "params"} for group in groups],
                "pieces": [(group_of[which], end - begin) for which, begin, end in self._pieces(index)]}


def advice(momentum: float, lr: float, workers: int) -> str:
    """What to say about --mom with several workers, "" for nothing."""
    if momentum <= 0 or workers < 2:
        return ""
    return (f"`kv_store` dist_async with `mom` {momentum:g}: gradients come late, and momentum adds up what is late; "
            f"the loss may grow without bounds where dist_sync learns. `lr` {lr / workers:g} (that of now / {workers} "
            "workers) or `mom` 0 is safer")


def _shared_token() -> str:
    """A name that the workers of this attempt have in common and no other attempt has."""
    token = torch.frombuffer(bytearray(uuid.uuid4().bytes), dtype=torch.uint8)
    dist.broadcast(token, 0)
    return f"imgcls-async-{bytes(token.tolist()).hex()}"


def _base_store() -> Any:
    """The store where the workers met, without the prefixes that torch has put before its keys."""
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store


def _address(store: Any) -> dict[str, Any]:
    """Where another process finds that store."""
    if isinstance(store, dist.FileStore):
        return {"file": store.path}  # type: ignore[attr-defined]
    return {"host": store.host, "port": store.port}


def _start(specification: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """A server beside this process, which ends with it."""
    paths = [os.fspath(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, "-m", "imgcls.distributed.parameter_server.server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""})
    assert child.stdin
    child.stdin.write(json.dumps(specification).encode() + b"\n")
    child.stdin.flush()
    return child


def _gradient(p: Tensor) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _flat(value: Tensor, p: Tensor) -> Tensor:
    """`value`, shaped as `p`, as a vector on the CPU in the memory order of `p`."""
    flat = torch.empty(p.numel(), dtype=value.dtype)
    _like(flat, p).copy_(value)
    return flat


def _like(flat: Tensor, p: Tensor) -> Tensor:
    """A vector of as many elements as `p`, seen in the shape of `p` and, where `p` fills its memory, in its order."""
    dense = torch.empty_like(p, device="meta").stride() == p.stride()
    return flat.as_strided(p.shape, p.stride()) if dense else flat.view(p.shape)
