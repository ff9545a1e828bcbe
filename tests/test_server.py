"""dist_async with real processes: what a server computes, who waits for whom, what a lost process ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, run_workers
from safetensors.torch import save
from torch import Tensor, nn

from imgcls.distributed.parameter_server.client import ParameterServerClient, momentum_advice
from imgcls.distributed.parameter_server.connections import ServerConnections
from imgcls.distributed.parameter_server.flat_parameters import FlatParameters, view_like
from imgcls.distributed.parameter_server.protocol import Request, gloo_reason, make_header, to_tensor
from imgcls.distributed.parameter_server.server import Server, optimizer_class
from imgcls.distributed.process_group import LostContact
from imgcls.errors import RunError, UsageError
from imgcls.formats import idx
from imgcls.optim import optimizers
from imgcls.training import checkpoint

STEPS = 12
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, fused=True),
    "adam": lambda groups: torch.optim.Adam(groups, fused=True),
}


# ---- one worker


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    run_workers(__file__, 1, folder, "alone")
    return torch.load(folder / "0.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_server_takes_the_steps_of_torch(alone: dict[str, Any], name: str) -> None:
    results = alone[name]
    for there, here in zip(results["weights"], results["torch"], strict=True):
        assert torch.equal(there, here)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_resumes_from_saved_state(alone: dict[str, Any], name: str) -> None:
    """Half the steps, everything fetched and given to other servers, and the other half."""
    results = alone[name]
    for resumed, uninterrupted in zip(results["resumed"], results["weights"], strict=True):
        assert torch.equal(resumed, uninterrupted)
    assert results["state"].keys() == results["torch state"].keys()
    for key, value in results["torch state"].items():
        assert torch.equal(results["state"][key], value), key


@pytest.mark.slow
def test_a_server_that_ends_is_noticed(alone: dict[str, Any]) -> None:
    assert "kv_store dist_async: a server does not answer, or has ended" in alone["killed"]


# ---- two workers


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("both")
    run_workers(__file__, 2, folder, "both")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
def test_all_begin_with_the_weights_of_worker_0(both: list[dict[str, Any]]) -> None:
    for first, second in zip(both[0]["start"], both[1]["start"], strict=True):
        assert torch.equal(first, second)


@pytest.mark.slow
def test_gradients_are_late_with_two_workers(both: list[dict[str, Any]]) -> None:
    pushes, mean, largest = both[0]["even"]
    assert pushes == [30, 30]
    assert 0 < mean <= largest


@pytest.mark.slow
def test_a_slow_worker_delays_nobody(both: list[dict[str, Any]]) -> None:
    fast, slow = both[0]["uneven"]
    assert fast == 60
    assert slow < fast / 3


@pytest.mark.slow
def test_a_fetch_has_the_newest_weights_and_all_states(both: list[dict[str, Any]]) -> None:
    assert both[0]["fetched"]


@pytest.mark.slow
def test_a_lost_worker_ends_the_others(both: list[dict[str, Any]]) -> None:
    assert "has ended because it lost a worker" in both[0]["lost"]
    assert both[0]["seconds"] < 10


# ---- the command


@pytest.mark.slow
def test_sigterm_to_one_worker_stops_all_and_saves_the_position(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for name, count in (("train", 320), ("t10k", 64)):
        idx.write_images(tmp_path / f"{name}-images-idx3-ubyte",
                         chance.integers(0, 255, (count, 28, 28), np.uint8))
        idx.write_labels(tmp_path / f"{name}-labels-idx1-ubyte",
                         chance.integers(0, 10, count).astype(np.uint8))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "imgcls", "train", "--data-dir", tmp_path, "--model-prefix",
               tmp_path / "m",
               "--kv-store", "dist_async", "--batch-size", "16", "--num-epochs", "100000",
               "--disp-batches", "4"]
    workers = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
               for rank in range(2)]
    try:
        assert workers[0].stdout
        before = ""
        while "Epoch[2] Batch" not in before:
            line = workers[0].stdout.readline()
            assert line, before
            before += line
        workers[1].send_signal(signal.SIGTERM)
        outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers] == [143, 143], outputs
    assert re.search(r"Epoch\[0\] dist_async: \d+ pushes \(worker 0 10, worker 1 \d+\), staleness [\d.]+ on",
                     before)
    assert "--mom 0 is safer" in before
    assert "the position was saved" in outputs[0]
    saved = checkpoint.load(str(tmp_path / "m"), "auto")
    assert saved is not None
    assert saved.optimizer is not None
    assert saved.optimizer["fc1_weight/momentum_buffer"].count_nonzero() > 0
    assert saved.position.batch > 0 or saved.position.epoch > 1


# ---- without processes


def test_parameters_are_shared_evenly_by_bytes() -> None:
    flat = FlatParameters(list(network().parameters()), num_servers=3)
    slices = [flat.pieces(server) for server in range(3)]
    sizes = [sum(end - begin for _index, begin, end in server_slices) for server_slices in slices]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == flat.size
    assert [index for server_slices in slices for index, _begin, _end in server_slices] == [0, 1, 2,
                                                                                            2, 2, 3, 4, 5]


class Wire:
    """The server's end of a group of two, with everything the worker has to say."""

    def __init__(self, *messages: Tensor) -> None:
        self.said, self.heard = list(messages), list[list[float]]()

    def recv(self, tensors: list[Tensor], _source: int, _tag: int) -> Wire:
        tensors[0].copy_(self.said.pop(0))
        return self

    def send(self, tensors: list[Tensor], _target: int, _tag: int) -> Wire:
        self.heard.append(tensors[0].tolist())
        return self

    def wait(self) -> None:
        pass


def make_server(num_workers: int, lr_mult: float = 1.0) -> Server:
    return Server(optimizer="SGD", groups=[{"lr": 0.1, "lr_mult": lr_mult}], pieces=[(0, 4)],
                  num_workers=num_workers)


def test_a_stop_request_reaches_the_other_workers() -> None:
    server = make_server(num_workers=3)
    ping, goodbye = make_header(Request.PING), make_header(Request.GOODBYE)
    for stop_request, expected in ((0.0, 0.0), (3.0, 3.0), (2.0, 3.0)):
        server.serve(Wire(make_header(Request.GOODBYE, stop_request)), 0, 1)
        wire = Wire(ping, goodbye)
        server.serve(wire, 1, 1)
        assert wire.heard == [[0.0, expected, 0.0, 0.0]]


def test_a_busy_worker_sends_heartbeats() -> None:
    wire = Wire(*[make_header(7)] * 1000)
    connections = ServerConnections([wire], rank=0)
    connections.start_pings(0.02)
    while len(wire.heard) < 3:
        time.sleep(0.01)
    connections.say_goodbye(0)
    assert wire.heard[0] == [Request.PING, 0, 0, 0]


def test_messages_of_gloo_are_shortened() -> None:
    error = RuntimeError("[/a/b/gloo/pair.cc:561] Connection closed by peer [127.0.0.1]:37. This is "
                         "typically ...")
    assert gloo_reason(error) == "Connection closed by peer [127.0.0.1]:37"


def test_staleness_is_counted_by_update() -> None:
    server = make_server(num_workers=2, lr_mult=2.0)
    content = save({"weights": torch.ones(4)})
    push = [make_header(Request.PUSH, 0.5, 0), torch.ones(4)]  # both of the first weights
    server.serve(Wire(make_header(Request.RESTORE, len(content)), to_tensor(content), *push,
                      make_header(Request.GOODBYE)), 0, 1)
    wire = Wire(*push, make_header(Request.STATISTICS), make_header(Request.GOODBYE))
    server.serve(wire, 1, 1)
    assert wire.heard[:2] == [[2.0, 0.0, 0.0, 0.0], [-1.0, -1.0, -1.0, -1.0]]
    assert bytes(map(int, wire.heard[3])) == b'{"pushes": [1, 1], "staleness": {"0": 1, "1": 1}}'


def test_momentum_is_warned_of() -> None:
    assert "`lr` 0.0125" in momentum_advice(0.9, 0.05, 4)
    assert momentum_advice(0, 0.05, 4) == momentum_advice(0.9, 0.05, 1) == ""


def test_no_server_is_refused() -> None:
    with pytest.raises(UsageError, match="--num-servers 0"):
        ParameterServerClient(OPTIMIZERS["sgd"](groups(network())), rank=0, world_size=1, num_servers=0)


def test_only_optimizers_are_made_by_name() -> None:
    with pytest.raises(RunError, match="no optimizer lr_scheduler"):
        optimizer_class("lr_scheduler")


def test_a_view_has_the_memory_order_of_its_parameter() -> None:
    weight = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    flat = torch.zeros(weight.numel())
    view = view_like(flat, weight)
    assert view.stride() == weight.stride()
    view.copy_(weight.detach())
    assert torch.equal(view, weight)
    assert torch.equal(flat, weight.detach().permute(0, 2, 3, 1).flatten())


# ---- the other side


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 50), nn.ReLU(),
                          nn.Linear(50, 10))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": weights, "weight_decay": 0.01, "lr_mult": 1.0, "lr": 0.0},
            {"params": biases, "weight_decay": 0.0, "lr_mult": 2.0, "lr": 0.0}]


def backward(model: nn.Module, step: int) -> None:
    chance = torch.Generator().manual_seed(step)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(torch.randn(16, 3, 8, 8, generator=chance)), torch.arange(16) % 10).backward()


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {f"{index}/{kind}": torch.as_tensor(value).clone() for index, p in enumerate(model.parameters())
            for kind, value in optimizer.state[p].items()}


def learn_alone(name: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    model = network()
    optimizer = OPTIMIZERS[name](groups(model))
    for step in range(STEPS):
        backward(model, step)
        optimizers.set_lr(optimizer, 0.05 / (step + 1))
        optimizer.step()
    results["torch"], results["torch state"] = weights(model), state(model, optimizer)
    model = network()
    optimizer = OPTIMIZERS[name](groups(model))
    with ParameterServerClient(optimizer, rank=0, world_size=1, timeout_s=30) as side:
        for step in range(STEPS):
            if step == STEPS // 2:
                side.fetch()
                middle, half = weights(model), optimizer.state_dict()
            backward(model, step)
            side.push_pull(0.05 / (step + 1))
        results["weights"] = weights(model)
        # from the middle again: what was fetched, in a fresh model and optimizer, given to the servers
        with torch.no_grad():
            for p, value in zip(model.parameters(), middle, strict=True):
                p.copy_(value)
        optimizer.load_state_dict(half)
        side.restore()
        for step in range(STEPS // 2, STEPS):
            backward(model, step)
            side.push_pull(0.05 / (step + 1))
        results["resumed"] = weights(model)
        side.fetch()
        results["state"] = state(model, optimizer)
        side.children[0].kill()
        side.children[0].wait()
        results["killed"] = said_when_lost(side)
    return results


def run_alone() -> dict[str, Any]:
    results: dict[str, Any] = {name: learn_alone(name) for name in OPTIMIZERS}
    return results | {"killed": results["adam"]["killed"]}


def run_both(rank: int, store: Any, folder: Path) -> dict[str, Any]:
    import torch.distributed as dist

    model = network(seed=rank)
    optimizer = OPTIMIZERS["sgd"](groups(model))
    results: dict[str, Any] = {}
    with ParameterServerClient(optimizer, rank=rank, world_size=2, num_servers=2, timeout_s=30) as side:
        results["start"] = weights(model)
        dist.barrier()
        for step in range(30):
            backward(model, step)
            side.push_pull(0.001)
        dist.barrier()
        if rank == 1:  # the slow one
            while not store.check(["fast is done"]):
                time.sleep(0.05)
                backward(model, 0)
                side.push_pull(0.001)
            torch.save(results, folder / "1.pt")
            dist.barrier()
            dist.barrier()
            os._exit(0)  # as if killed: no good-bye
        statistics = side.statistics()
        results["even"] = statistics.pushes, statistics.mean, statistics.largest
        for step in range(60):
            backward(model, step)
            side.push_pull(0.001)
        store.set("fast is done", "1")
        results["uneven"] = side.statistics().pushes
        dist.barrier()
        side.pull()
        newest = weights(model)
        side.fetch()
        results["fetched"] = (all(map(torch.equal, newest, weights(model)))
                              and all(p in optimizer.state for p in model.parameters()))
        dist.barrier()
        begun = time.monotonic()
        results |= {"lost": said_when_lost(side), "seconds": time.monotonic() - begun}
    return results


def said_when_lost(side: ParameterServerClient) -> str:
    """Talk until there is nobody to talk to."""
    with contextlib.suppress(LostContact):
        for _ in range(1000):
            time.sleep(0.01)
            side.pull()
        raise AssertionError("nobody was missed")
    try:
        side.pull()
    except LostContact as error:
        side.abort()
        return str(error)
    raise AssertionError("it went on")


def worker(rank: int, folder: Path, what: str) -> None:
    import torch.distributed as dist

    world = 1 if what == "alone" else 2
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    results = run_alone() if what == "alone" else run_both(rank, store, folder)
    torch.save(results, folder / f"{rank}.pt")
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    os._exit(0)  # threads of gloo may outlive the interpreter, which then aborts
