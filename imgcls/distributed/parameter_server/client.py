"""A worker's side of dist_async: gradients to the servers, weights back.

The trainer calls `push_pull` in place of the optimizer's step. The local optimizer takes no steps: the
servers are started from it, and `fetch` brings their state back into it, for a checkpoint.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from imgcls.distributed.parameter_server.connections import ServerConnections, connect_to_servers
from imgcls.distributed.parameter_server.flat_parameters import FlatParameters, flatten_like, view_like
from imgcls.distributed.parameter_server.protocol import Meeting, Request
from imgcls.distributed.parameter_server.server_process import (
    base_store,
    kill_server,
    start_server,
    store_address,
    wait_until_ready,
)
from imgcls.distributed.process_group import LostContact
from imgcls.distributed.rank_info import host_name
from imgcls.errors import Stopped, UsageError

#: workers that are named in a line of statistics
MAX_SHOWN_WORKERS = 16


@dataclass(frozen=True)
class Statistics:
    """What one server has counted since the last request for it."""

    #: by worker
    pushes: list[int]
    # Staleness: updates by others between the weights a gradient is of and those it was applied to.
    mean: float
    p99: int
    largest: int

    def __str__(self) -> str:
        shown = self.pushes[:MAX_SHOWN_WORKERS]
        by_worker = ", ".join(f"worker {rank} {count}" for rank, count in enumerate(shown))
        more = ", ..." if len(self.pushes) > MAX_SHOWN_WORKERS else ""
        return (f"{sum(self.pushes)} pushes ({by_worker}{more}), staleness "
                f"{self.mean:.2f} on average, 99 % up to {self.p99}, at most {self.largest}")


class ParameterServerClient:
    """The worker's side, a context manager: at its end it says good-bye, after an error it ends its servers.

    Every method may raise LostContact: a server is gone, or ended because it lost a worker.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, rank: int, world_size: int, num_servers: int = 1,
                 timeout_s: float = 300.0) -> None:
        """Start this worker's servers, meet all of them, and take the weights of worker 0.

        Training begins with the weights and the optimizer's state that worker 0 has. All workers of the
        default process group must make one at the same time. Of `num_servers` in all, server i runs beside
        worker i modulo `world_size`. UsageError for less than one server.
        """
        if num_servers < 1:
            raise UsageError(f"--num-servers {num_servers}: dist_async needs at least one")
        self._rank = rank
        #: the stop request that this worker leaves with, 0: none
        self.stop_request = 0
        self._optimizer = optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._flat = FlatParameters(parameters, num_servers)
        self._connections: ServerConnections | None = None
        self._is_closed = False
        # after a restart the store still has the keys of the attempt before
        shared = _shared_random_bytes()
        token, secret = f"imgcls-async-{shared[:16].hex()}", shared[16:]
        store = base_store()
        #: the servers that this worker started
        self.children = [
            start_server(self._server_config(index) | {
                "store": store_address(store), "token": token, "secret": secret.hex(),
                "num_workers": world_size, "timeout_s": timeout_s})
            for index in range(num_servers) if index % world_size == rank]
        try:
            # before meeting them: a server that cannot start is noticed by its status, not by a time-out
            for child in self.children:
                wait_until_ready(child)
            self._connections = connect_to_servers(
                Meeting(store, token, secret, timeout_s), num_servers, rank)
            # the others' pull waits at the servers until worker 0 has brought the weights
            if rank == 0:
                self.restore()
            self.pull()
        except BaseException:
            self.abort()
            raise
        # three times before a server would give this worker up
        self._connections.start_pings(timeout_s / 3)

    @property
    def peer_request(self) -> int:
        """The largest stop request of workers that have left, 0: none."""
        return self._servers.peer_request

    def push_pull(self, lr: float) -> None:
        """Send the gradients of all parameters to the servers, and receive the weights after their step.

        The servers take the step at the learning rate `lr`; the weights are copied into the parameters.
        """
        # in place of optimizer.step(): the servers hold weights and state
        self._flat.gather_gradients()
        self._servers.request_weights(Request.PUSH, self._flat.slices(self._flat.received), lr,
                                      self._flat.slices(self._flat.sent))
        self._flat.scatter_weights()

    def pull(self) -> None:
        """Copy the servers' newest weights into the parameters."""
        self._servers.request_weights(Request.PULL, self._flat.slices(self._flat.received))
        self._flat.scatter_weights()

    def fetch(self) -> None:
        """Copy the servers' weights and state into the model and the local optimizer, for a checkpoint.

        Each server's part is of one moment; with several servers the moments differ.
        """
        # weights and state of a server in one answer, so that they belong together
        parts = [load_safetensors(self._servers.request_text(Request.FETCH, index))
                 for index in range(self._flat.num_servers)]
        for part, target in zip(parts, self._flat.slices(self._flat.received), strict=True):
            target.copy_(part.pop("weights"))
        self._flat.scatter_weights()
        self._take_state(parts)

    def restore(self) -> None:
        """Send the weights and the optimizer's state of this worker to the servers."""
        self._flat.gather_weights()
        for server, weights in enumerate(self._flat.slices(self._flat.received)):
            tensors = {"weights": weights}
            for number, (index, begin, end) in enumerate(self._flat.pieces(server)):
                p = self._flat.parameters[index]
                for kind, value in self._optimizer.state.get(p, {}).items():
                    if isinstance(value, Tensor):  # one number, such as a count of steps, is not cut
                        piece = flatten_like(value, p)[begin:end] if value.ndim else value.cpu()
                        tensors[f"{number}/{kind}"] = piece
            self._servers.send_text(Request.RESTORE, server, save_safetensors(tensors))

    def statistics(self) -> Statistics:
        """Return what the first server has counted since any worker last called this."""
        content = json.loads(self._servers.request_text(Request.STATISTICS, 0))
        counts = {int(staleness): count for staleness, count in content["staleness"].items()}
        total = max(sum(counts.values()), 1)
        p99 = 0
        num_below = 0
        for staleness in sorted(counts):
            if num_below < 0.99 * total:
                p99 = staleness
            num_below += counts[staleness]
        mean = sum(staleness * count for staleness, count in counts.items()) / total
        return Statistics(content["pushes"], mean, p99, max(counts, default=0))

    def close(self) -> None:
        """Say good-bye, with `stop_request`; where a server runs here, wait until all workers have."""
        if self._is_closed:
            return
        self._is_closed = True
        self._servers.say_goodbye(self.stop_request)
        for child in self.children:
            if child.wait():
                raise LostContact(f"rank {self._rank} ({host_name()}): the server here lost a worker")
        self.abort()

    def abort(self) -> None:
        """End the servers that this worker has started, at once."""
        self._is_closed = True
        for child in self.children:
            kill_server(child)
        if self._connections is not None:
            self._connections.close()

    def __enter__(self) -> ParameterServerClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 _trace: TracebackType | None) -> None:
        # a run that was asked to stop has done its work; after any other error the servers must end
        if error is None or isinstance(error, Stopped):
            self.close()
        else:
            self.abort()

    @property
    def _servers(self) -> ServerConnections:
        assert self._connections is not None
        return self._connections

    def _take_state(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Put the servers' parts of the optimizer's state into the local optimizer."""
        # (index of the parameter, kind of state) -> its pieces, in order
        pieces_of: dict[tuple[int, str], list[Tensor]] = {}
        for server, part in enumerate(parts):
            owners = [index for index, _begin, _end in self._flat.pieces(server)]
            for name, tensor in part.items():
                number, _, kind = name.partition("/")
                pieces_of.setdefault((owners[int(number)], kind), []).append(tensor)
        for (index, kind), pieces in pieces_of.items():
            p = self._flat.parameters[index]
            if pieces[0].ndim:
                flat = torch.cat(pieces)
                value = torch.empty_like(p, dtype=flat.dtype, requires_grad=False).copy_(view_like(flat, p))
            else:
                # of a parameter that two servers share, the count of the one that has taken more steps
                value = max(pieces, key=float)
            self._optimizer.state[p][kind] = value

    def _server_config(self, server: int) -> dict[str, Any]:
        """Return what a server holds, as `server.main` reads it."""
        # the options of a group are numbers and booleans, which JSON holds
        groups = self._optimizer.param_groups
        group_of = [number for number, group in enumerate(groups) for _p in group["params"]]
        return {"server": server, "optimizer": type(self._optimizer).__name__,
                "groups": [{k: v for k, v in group.items() if k != "params"} for group in groups],
                "pieces": [(group_of[index], end - begin) for index, begin, end in self._flat.pieces(server)]}


def momentum_advice(momentum: float, lr: float, num_workers: int) -> str:
    """Return a warning about `mom` with several workers, "" where there is nothing to warn of."""
    if momentum <= 0 or num_workers < 2:
        return ""
    return (f"`kv_store` dist_async with `mom` {momentum:g}: gradients come late, and momentum adds up "
            "what is late; the loss may grow without bounds where dist_sync learns. "
            f"`lr` {lr / num_workers:g} (that of now / {num_workers} workers) or `mom` 0 is safer")


def _shared_random_bytes() -> bytes:
    """Return 48 bytes that all workers of this attempt know, and no other process."""
    # worker 0's, over the workers' own connections: others can read what is in the store
    content = torch.frombuffer(bytearray(secrets.token_bytes(48)), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return content.numpy().tobytes()
