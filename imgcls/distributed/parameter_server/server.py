"""dist_async: servers hold the weights and the optimizer, and every worker trains at its own pace.

A worker sends the gradient of its batch, the server applies it at once and returns the weights as they are then: with
the updates that other workers have made meanwhile. Nobody waits for anybody; the price is that a gradient is of weights
some updates old (its staleness), and that no two runs are alike.

A server is `python -m imgcls.distributed.parameter_server.server`, started by a worker
(`client.ParameterServerClient`) on its machine and told in
one line of JSON on its standard input what it is to hold; it says "ready" when it does. It ends when all workers have
said good-bye, when one is lost, and with its parent. So whatever starts the workers (torchrun, mpirun, srun, by hand)
starts all there is.

Each worker has a connection of its own to each server, a gloo group of two, and a thread there, so that a slow one
keeps nobody waiting. On the wire there is a header of `HEADER` float64 (what is wanted, learning rate, ...), then
float32 gradients or weights, or a safetensors or JSON text; nothing is pickled.

Running statistics of batch normalisation stay with each worker; those of worker 0 are saved, as in MXNet.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from imgcls.distributed.rank_info import host_name
from imgcls.errors import RunError
from imgcls.optim import optimizers

#: float64 numbers that every message begins with
HEADER = 4
#: what a worker wants; the header goes on as written there
PUSH = 1        # learning rate, version of the weights; gradients follow -> weights
PULL = 2        # -> weights
PING = 3        # -> nothing more than a header
FETCH = 4       # -> bytes: weights and state of the optimizer, safetensors
RESTORE = 5     # size; as many bytes follow, the same the other way. There is no answer
STATISTICS = 6  # -> bytes: JSON of the pushes since it was last asked
GOODBYE = 7     # why this worker leaves, 0 for having done its work; the others then hear it. There is no answer
# The header of an answer: version of the weights, why a worker has left (the largest), size in bytes of a text
WORKER, SERVER = 0, 1  # ranks in a group of two
#: staleness above this is counted as this
LARGEST = 9999


class Server:
    """Weights and optimizer of one part of the parameters. Each worker has a thread in `serve`."""

    def __init__(self, specification: Mapping[str, Any]) -> None:
        """Build the optimizer: it has to be there before anybody waits for it."""
        self._sizes = [int(size) for _group, size in specification["pieces"]]
        self._weights = torch.zeros(sum(self._sizes))
        self._parameters = [nn.Parameter(piece) for piece in self._weights.split(self._sizes)]
        groups = [{**options, "params": []} for options in specification["groups"]]
        for p, (group, _size) in zip(self._parameters, specification["pieces"], strict=True):
            groups[group]["params"].append(p)
        optimizers.avoid_dynamo()
        self._optimizer = _optimizer_class(specification["optimizer"])([g for g in groups if g["params"]])
        self._step = optimizers.stepper(self._optimizer)
        self._lock, self._ready = threading.Lock(), threading.Event()
        self._version, self._stop_request = 0, 0.0
        self._pushes = [0] * int(specification["workers"])
        self._staleness: dict[int, int] = {}

    def serve(self, group: Any, worker: int, timeout: float) -> None:
        """Answer one worker until it says good-bye; RuntimeError, torch's, when it is gone."""
        request = torch.zeros(HEADER, dtype=torch.float64)
        gradients, weights = torch.zeros_like(self._weights), torch.zeros_like(self._weights)
        pieces = gradients.split(self._sizes)
        while True:
            group.recv([request], WORKER, 0).wait()
            wanted, first, version, _ = request.tolist()
            if wanted == GOODBYE:
                self._stop_request = max(self._stop_request, first)
                return
            if wanted == RESTORE:
                self._restore(receive(group, int(first), WORKER))
                continue
            if wanted != PING and not self._ready.wait(timeout):
                raise RuntimeError("worker 0 did not bring the weights in time")
            if wanted == PUSH:
                group.recv([gradients], WORKER, 0).wait()
                version = self._apply(worker, pieces, first, int(version), weights)
            elif wanted == PULL:
                with self._lock:
                    version = self._copy(weights)
            content = b""
            if wanted == FETCH:
                version, content = self._pack()
            elif wanted == STATISTICS:
                content = self._report()
            group.send([header(version, self._stop_request, len(content))], WORKER, 0).wait()
            if wanted in (PUSH, PULL):
                group.send([weights], WORKER, 0).wait()
            elif content:
                group.send([as_bytes(content)], WORKER, 0).wait()

    def _apply(self, worker: int, gradients: Sequence[Tensor], lr: float, based_on: int, weights: Tensor) -> int:
        """A step with one worker's gradients, at once; leaves the new weights in `weights`. Returns their version."""
        with self._lock, torch.no_grad():
            for p, gradient in zip(self._parameters, gradients, strict=True):
                p.grad = gradient
            optimizers.set_lr(self._optimizer, lr)
            self._step()
            staleness = min(self._version - based_on, LARGEST)
            self._staleness[staleness] = self._staleness.get(staleness, 0) + 1
            self._pushes[worker] += 1
            self._version += 1
            return self._copy(weights)

    def _copy(self, weights: Tensor) -> int:
        weights.copy_(self._weights)
        return self._version

    def _pack(self) -> tuple[int, bytes]:
        """The version, and "weights" and "PIECE/KIND" -> state of the optimizer."""
        with self._lock:
            content = {"weights": self._weights}
            for number, p in enumerate(self._parameters):
                content |= {f"{number}/{kind}": value for kind, value in self._optimizer.state[p].items()
                            if isinstance(value, Tensor)}
            return self._version, save_safetensors(content)

    def _restore(self, content: bytes) -> None:
        with self._lock:
            tensors = load_safetensors(content)
            self._weights.copy_(tensors.pop("weights"))
            for name, tensor in tensors.items():
                number, _, kind = name.partition("/")
                self._optimizer.state[self._parameters[int(number)]][kind] = tensor
            self._ready.set()

    def _report(self) -> bytes:
        """The statistics since the last report, as JSON."""
        with self._lock:
            content = json.dumps({"pushes": self._pushes, "staleness": self._staleness}).encode()
            self._pushes, self._staleness = [0] * len(self._pushes), {}
            return content


def main() -> int:
    """A server process: serve until all workers have said good-bye (status 0) or one is lost (1)."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the workers, who still have to save
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    specification = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    server, index, timeout = Server(specification), specification["server"], specification["timeout"]
    base, token, lost = _open_store(specification["store"], timeout), specification["token"], threading.Event()

    def serve(worker: int) -> None:
        try:
            server.serve(connect(base, token, index, worker, SERVER, timeout), worker, timeout)
        except RuntimeError as error:
            if not lost.is_set():  # the others only notice that this process ends
                lost.set()
                print(f"imgcls server {index} on {host_name()}: worker {worker} is gone or does not answer "
                      f"({brief(error)})", file=sys.stderr, flush=True)
                os._exit(1)
        except BaseException:  # a mistake of ours: nobody is to wait for this thread
            traceback.print_exc()
            os._exit(1)

    print("ready", flush=True)
    in_parallel(serve, specification["workers"])
    sys.stderr.flush()
    os._exit(0)  # no more to do, and torch's own ending may wait for connections


def _open_store(address: Mapping[str, Any], timeout: float) -> Any:
    if "file" in address:
        return dist.FileStore(address["file"], -1)
    return dist.TCPStore(address["host"], address["port"], None, is_master=False, timeout=timedelta(seconds=timeout),
                         wait_for_workers=False)


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; `_watch_parent` does it everywhere else."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _watch_parent() -> None:
    """The parent keeps our standard input open for as long as it lives, and writes no more to it."""
    while sys.stdin.readline():
        pass
    os._exit(1)


def _optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    found = getattr(torch.optim, name, None)
    if not inspect.isclass(found) or not issubclass(found, torch.optim.Optimizer):
        raise RunError(f"torch.optim has no optimizer {name}")
    return found


def header(wanted: float, first: float = 0.0, second: float = 0.0) -> Tensor:
    """What a message begins with."""
    return torch.tensor([wanted, first, second, 0.0], dtype=torch.float64)


def as_bytes(content: bytes) -> Tensor:
    """A text to send."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def receive(group: Any, size: int, source: int) -> bytes:
    """A text of that size in bytes."""
    content = torch.empty(size, dtype=torch.uint8)
    group.recv([content], source, 0).wait()
    return content.numpy().tobytes()


def brief(error: RuntimeError) -> str:
    """What gloo says, without the place in its sources and the advice."""
    return re.sub(r"^(\[[^]]*\.cc:\d+\] *)", "", str(error).splitlines()[0]).split(". ")[0]


def connect(base: Any, token: str, server: int, worker: int, rank: int, timeout: float) -> Any:
    """The gloo group of one worker (rank 0) and one server (rank 1); waits for the other one."""
    store = dist.PrefixStore(f"{token}/{server}/{worker}", base)
    return dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=timeout))


def in_parallel(work: Callable[[int], Any], count: int) -> list[Any]:
    """work(0) .. work(count - 1), each in a thread of its own; the first error is raised here."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(work, range(count)))


if __name__ == "__main__":
    sys.exit(main())
