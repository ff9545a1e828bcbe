"""The program of a dist_async server: `python -m imgcls.distributed.parameter_server.server`.

A worker starts it on its machine (`server_process`) and sends one line of JSON to its standard input: which
part of the parameters it is to hold. Once it does it prints "ready". It ends when all workers have said
good-bye, when one is lost, and with its parent; so however the workers are started (torchrun, mpirun, srun,
by hand), the servers need no start of their own.

Running statistics of batch normalisation stay with each worker; those of worker 0 are saved, as in MXNet.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from imgcls.distributed.parameter_server.protocol import (
    SERVER_RANK,
    TAG,
    WORKER_RANK,
    Meeting,
    Request,
    connect,
    empty_header,
    gloo_reason,
    in_parallel,
    make_header,
    receive_bytes,
    to_tensor,
)
from imgcls.distributed.rank_info import host_name
from imgcls.distributed.stores import open_tcp_store
from imgcls.errors import RunError, first_line
from imgcls.optim import optimizers
from imgcls.storage.tracebacks import as_told

#: larger staleness is counted as this: so the histogram stays small
MAX_STALENESS = 9999


class Server:
    """Weights and optimizer of one part of the parameters. Each worker has a thread in `serve`."""

    def __init__(self, *, optimizer: str, groups: Sequence[Mapping[str, Any]],
                 pieces: Sequence[tuple[int, int]], num_workers: int) -> None:
        """Build the class `optimizer`; pieces are (index in `groups`, number of elements)."""
        self._sizes = [int(size) for _group, size in pieces]
        self._weights = torch.zeros(sum(self._sizes))
        # views of one vector, which goes to workers whole
        self._parameters = [nn.Parameter(piece) for piece in self._weights.split(self._sizes)]
        param_groups = [{**options, "params": []} for options in groups]
        for p, (group, _size) in zip(self._parameters, pieces, strict=True):
            param_groups[group]["params"].append(p)
        # here, before the optimizer is made: else torch._dynamo would be loaded while workers wait
        optimizers.avoid_dynamo()
        self._optimizer = optimizer_class(optimizer)([group for group in param_groups if group["params"]])
        self._step = optimizers.stepper(self._optimizer)
        self._lock = threading.Lock()
        #: set once the weights are those of worker 0
        self._has_weights = threading.Event()
        self._version = 0
        self._stop_request = 0.0
        self._num_pushes = [0] * num_workers
        self._staleness: dict[int, int] = {}

    def serve(self, group: Any, worker: int, timeout_s: float) -> None:
        """Answer one worker until it says good-bye; RuntimeError, torch's, when it is gone."""
        header = empty_header()
        # buffers of this thread alone: a slow worker keeps no other waiting
        gradients = torch.zeros_like(self._weights)
        weights = torch.zeros_like(self._weights)
        pieces = gradients.split(self._sizes)
        while True:
            group.recv([header], WORKER_RANK, TAG).wait()
            request, argument, version, _ = numbers = header.tolist()
            if not all(map(math.isfinite, numbers)):
                raise RuntimeError("a message that no worker sends")
            # the other workers get the stop request with their next answer
            if request == Request.GOODBYE:
                self._stop_request = max(self._stop_request, argument)
                return
            if request == Request.RESTORE:
                self._restore(receive_bytes(group, argument, WORKER_RANK))
                continue
            # a ping is answered even before there are weights: else the server would count as lost
            if request != Request.PING and not self._has_weights.wait(timeout_s):
                raise RuntimeError("worker 0 did not send the weights in time")
            text = b""
            if request == Request.PUSH:
                # received outside the lock: the step of another worker continues meanwhile
                group.recv([gradients], WORKER_RANK, TAG).wait()
                version = self._apply(worker, pieces, argument, int(version), weights)
            elif request == Request.PULL:
                with self._lock:
                    version = self._copy_weights(weights)
            elif request == Request.FETCH:
                version, text = self._pack()
            elif request == Request.STATISTICS:
                text = self._take_statistics()
            group.send([make_header(version, self._stop_request, len(text))], WORKER_RANK, TAG).wait()
            if request in (Request.PUSH, Request.PULL):
                group.send([weights], WORKER_RANK, TAG).wait()
            elif text:
                group.send([to_tensor(text)], WORKER_RANK, TAG).wait()

    def _apply(self, worker: int, gradients: Sequence[Tensor], lr: float, based_on: int,
               weights: Tensor) -> int:
        """Take a step with one worker's gradients; copy the new weights and return their version.

        `based_on` is the version of the weights that the gradients were computed from.
        """
        with self._lock, torch.no_grad():
            for p, gradient in zip(self._parameters, gradients, strict=True):
                # a view of the receiving buffer: no copy
                p.grad = gradient
            optimizers.set_lr(self._optimizer, lr)
            self._step()
            staleness = min(self._version - based_on, MAX_STALENESS)
            self._staleness[staleness] = self._staleness.get(staleness, 0) + 1
            self._num_pushes[worker] += 1
            self._version += 1
            return self._copy_weights(weights)

    def _copy_weights(self, weights: Tensor) -> int:
        weights.copy_(self._weights)
        return self._version

    def _pack(self) -> tuple[int, bytes]:
        """Return the version, and as safetensors "weights" and the optimizer's state "PIECE/KIND"."""
        with self._lock:
            tensors = {"weights": self._weights}
            for index, p in enumerate(self._parameters):
                tensors |= {f"{index}/{kind}": value for kind, value in self._optimizer.state[p].items()
                            if isinstance(value, Tensor)}
            return self._version, save_safetensors(tensors)

    def _restore(self, content: bytes) -> None:
        """Take weights and state in the form that `_pack` gives them; RuntimeError for others."""
        with self._lock:
            try:
                tensors = load_safetensors(content)
                # into the same memory, of which the parameters are views
                self._weights.copy_(tensors.pop("weights"))
                for name, tensor in tensors.items():
                    index, _, kind = name.partition("/")
                    self._optimizer.state[self._parameters[int(index)]][kind] = tensor
            except (SafetensorError, ValueError, LookupError) as error:
                raise RuntimeError(f"a state that does not belong here ({first_line(error)})") from error
            self._has_weights.set()

    def _take_statistics(self) -> bytes:
        """Return the statistics since the last call, as JSON."""
        with self._lock:
            content = json.dumps({"pushes": self._num_pushes, "staleness": self._staleness}).encode()
            self._num_pushes = [0] * len(self._num_pushes)
            self._staleness = {}
            return content


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return torch's or our class of optimizer of that name; RunError where there is none."""
    member = optimizers.find_class(name)
    if member is None:
        raise RunError(f"there is no optimizer {name}")
    return member


def main() -> int:
    """Run a server process: serve until all workers have said good-bye (status 0) or one is lost (1)."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the workers, who still have to save
        signal.signal(number, signal.SIG_IGN)
    # before anything else: a parent killed meanwhile would leave us behind
    _end_with_parent()
    config = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # a step is short, and the cores are the workers'
    num_workers = config["num_workers"]
    server = Server(optimizer=config["optimizer"], groups=config["groups"], pieces=config["pieces"],
                    num_workers=num_workers)
    serve = _make_serve(server, config)
    print("ready", flush=True)
    in_parallel(serve, num_workers)
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do, and torch's own shutdown may wait for connections


def _make_serve(server: Server, config: Mapping[str, Any]) -> Callable[[int], None]:
    """Return the function that serves one worker and ends this process if that one is lost."""
    index = config["server"]
    timeout_s = config["timeout_s"]
    meeting = Meeting(_open_store(config["store"], timeout_s), config["token"],
                      bytes.fromhex(config["secret"]), timeout_s)
    lost = threading.Event()

    def serve(worker: int) -> None:
        try:
            group = connect(meeting, index, worker, SERVER_RANK)
            server.serve(group, worker, timeout_s)
        except RuntimeError as error:
            if not lost.is_set():  # the others only notice that this process ends
                lost.set()
                print(f"imgcls server {index} on {host_name()}: worker {worker} is gone or does not answer "
                      f"({gloo_reason(error)})", file=sys.stderr, flush=True)
                os._exit(1)
        except BaseException as error:  # a mistake of ours: nothing may wait for this thread
            print(f"imgcls server {index} on {host_name()}: error: {as_told(error)}", file=sys.stderr,
                  flush=True)
            os._exit(1)

    return serve


def _open_store(address: Mapping[str, Any], timeout_s: float) -> Any:
    if "file" in address:
        return dist.FileStore(address["file"], -1)
    return open_tcp_store(address["host"], address["port"], timeout_s)


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; `_watch_parent` does it everywhere else."""
    pr_set_pdeathsig = 1  # of <linux/prctl.h>
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _watch_parent() -> None:
    """End this process at the end of its stdin, which the parent keeps open as long as it runs."""
    while sys.stdin.readline():
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
