"""Several processes are one: the same samples, the same bits, the same counts, one decision to stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, run_workers

from imgcls import distributed
from imgcls.data import order
from imgcls.distributed import environment
from imgcls.errors import UsageError
from imgcls.sections import DeviceConfig, DistributedConfig

SCRIPT = str(Path(__file__).with_name("distributed_run.py"))
COUNT = 501


def free_ports(count: int) -> Iterator[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return iter(numbers)


#: the runs of each number of processes; they follow one another in the same processes
ONE: list[dict[str, Any]] = [
    {"name": "micro", "micro_batches": 2}, {"name": "micro3", "micro_batches": 3},
    {"name": "stopped1", "stop_at": 5, "num_epochs": 2}]
TWO: list[dict[str, Any]] = [
    {"name": "two"}, {"name": "workers", "kv_store": "dist_sync"},
    {"name": "stopped2", "stop_at": 7, "stopper": 1, "num_epochs": 2},
    {"name": "resumed1", "prefix": "stopped1", "load_epoch": "auto", "num_epochs": 2}]
AFTER: list[dict[str, Any]] = [{"name": "resumed2", "prefix": "stopped2", "load_epoch": "auto", "num_epochs": 2}]
THREE: list[dict[str, Any]] = [{"name": "three"}]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, done: a folder of what each process saw and how it ended."""
    folder = tmp_path_factory.mktemp("runs")
    ports = free_ports(20)
    for world, jobs in ((1, ONE), (2, TWO), (1, AFTER), (3, THREE)):
        (folder / f"jobs-{world}.json").write_text(json.dumps([job | {"port": next(ports)} for job in jobs]))
        run_workers(SCRIPT, world, world, folder)
    return folder


def ended(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def samples(folder: Path, names: list[str], epoch: int) -> list[int]:
    """What the named processes together trained on in an epoch."""
    return [number for name in names for first, *numbers in json.loads((folder / f"{name}.json").read_text())["seen"]
            if first == epoch for number in numbers]


# ---- the same numbers


@pytest.mark.parametrize(("one", "several"), [("micro", "two"), ("micro3", "three")])
def test_processes_give_the_bits_of_as_many_micro_batches(runs: Path, one: str, several: str) -> None:
    expected, found = np.load(runs / f"{one}.npz"), np.load(runs / f"{several}.npz")
    exact = several == "two"  # the sum of two numbers does not depend on their order, that of three does
    for name in expected.files:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=0 if exact else 1e-6, err_msg=name)
    assert not np.array_equal(expected["bn.moving_mean"], np.zeros(4))  # the running statistics were shared, too


def test_evaluation_counts_every_sample_once(runs: Path) -> None:
    one, two, three = (ended(runs, name)["result"]["accuracy"] for name in ("micro", "two", "three"))
    assert one == two
    assert three * 101 == pytest.approx(round(three * 101), abs=1e-9)
    assert ended(runs, "two", 1)["result"] == ended(runs, "two", 0)["result"]


def test_every_sample_of_an_epoch_comes_once(runs: Path) -> None:
    for name, ranks in (("two", 2), ("three", 3), ("workers", 2)):
        seen = samples(runs, [f"{name}-{rank}" for rank in range(ranks)], 0)
        assert sorted(seen) == list(range(COUNT)), name


def test_a_distributed_store_gives_every_worker_its_own_batch(runs: Path) -> None:
    assert len(ended(runs, "two")["seen"]) == -(-COUNT // 32)
    assert len(ended(runs, "workers")["seen"]) == -(-COUNT // 64)
    assert len(ended(runs, "workers")["seen"][0]) == 1 + 32


def test_batch_normalisation_over_all_processes_is_that_of_the_whole_batch() -> None:
    run_workers(str(Path(__file__).with_name("sync_bn_run.py")), 2, next(free_ports(1)))


# ---- stopping, and going on with another number of processes


def test_all_processes_stop_at_one_step_with_143(runs: Path) -> None:
    first, second = (ended(runs, "stopped2", rank) for rank in (0, 1))
    assert (first["status"], second["status"]) == (143, 143)
    assert len(first["seen"]) == len(second["seen"]) >= 7
    assert "the position was saved" in first["error"]


@pytest.mark.parametrize(("before", "after"), [
    (["stopped2-0", "stopped2-1"], ["resumed2-0"]), (["stopped1-0"], ["resumed1-0", "resumed1-1"])])
def test_the_number_of_processes_may_change_inside_an_epoch(runs: Path, before: list[str], after: list[str]) -> None:
    then = samples(runs, before, 0)
    assert 0 < len(then) < COUNT
    assert sorted(then + samples(runs, after, 0)) == list(range(COUNT))
    assert sorted(samples(runs, after, 1)) == list(range(COUNT))


def test_a_lost_process_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(
        "import os, sys\nfrom imgcls import trainer\nfrom imgcls.cli import train\n"
        "step = trainer.Trainer.train_step\n"
        "def fail(self, batch, update):\n"
        "    if os.environ['RANK'] == '1' and update == 3:\n        os._exit(9)\n"
        "    step(self, batch, update)\n"
        "trainer.Trainer.train_step = fail\n"
        "sys.exit(train.main(['--dataset', 'digits', '--network', 'mlp', '--num-epochs', '1']))\n")
    port = next(free_ports(1))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, str(script)], env=env | {"RANK": str(rank)}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in (0, 1)]
    said = [one.communicate(timeout=120)[1] for one in started]
    assert [one.returncode for one in started] == [1, 9]
    assert "Traceback" not in said[0]
    assert "lost contact with another process" in said[0].splitlines()[-1]


# ---- the order


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_the_batch_in_its_order(world: int) -> None:
    numbers = np.arange(20)
    for size in (1, 2, 6, 20):
        batch = [order.own(numbers, 0, size, order.Share(rank, world)) for rank in range(world)]
        assert np.concatenate([own.samples[:own.valid] for own in batch]).tolist() == list(range(size))
        assert {own.whole for own in batch} == {size}
        assert min(len(own.samples) for own in batch) >= 1


def test_shares_apart_deal_the_epoch_out() -> None:
    numbers = np.arange(20)
    dealt = [order.Share(rank, 3, apart=True).of_epoch(numbers) for rank in range(3)]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(20))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


# ---- who else is there


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
            "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "j1", "TORCHELASTIC_RESTART_COUNT": "2"}


def test_torchrun_is_joined() -> None:
    place = environment.detect(TORCHRUN)
    assert place == environment.Place(1, 4, 1, 2, "a", 29500, job="j1", restarts=2)


def test_mpirun_on_one_host_is_joined() -> None:
    place = environment.detect({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
                                "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                                "PMIX_NAMESPACE": "prterun-host-77@1"})
    assert place
    assert (place.rank, place.world, place.local_rank, place.local_world) == (1, 2, 1, 2)
    assert "prterun-host-77-1" in place.file


def test_srun_is_joined() -> None:
    place = environment.detect({"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
                                "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "node[03-04]",
                                "SLURM_JOB_ID": "12"})
    assert place
    assert (place.rank, place.world, place.local_world) == (3, 4, 2)
    assert (place.address, place.port) == ("node03", 20012)


def test_mxnets_variables_are_honoured() -> None:
    place = environment.detect({"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "10.0.0.1", "DMLC_PS_ROOT_PORT": "9091",
                                "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"})
    assert place == environment.Place(-1, 2, address="10.0.0.1", port=9091, kept=True, workers=2, servers=1)


@pytest.mark.parametrize(("env", "part"), [
    ({"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "must be below WORLD_SIZE"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"), ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x"),
    ({"DMLC_ROLE": "boss", "DMLC_PS_ROOT_URI": "a"}, "worker, server or scheduler"),
    ({"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "a", "DMLC_NUM_WORKER": "1"}, "DMLC_PS_ROOT_PORT"),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "MASTER_ADDR")])
def test_an_environment_that_makes_no_sense_is_said(env: dict[str, str], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        environment.detect(env)


@pytest.mark.parametrize(("nodes", "first"), [
    ("node7", "node7"), ("a,b", "a"), ("node[03-07,9],x", "node03"), ("rack[1-2]-gpu", "rack1-gpu"), ("a,b[1-2]", "a")])
def test_the_first_host_of_slurms_short_form(nodes: str, first: str) -> None:
    assert environment.first_host(nodes) == first


@pytest.mark.parametrize(("flags", "to_start"), [
    ({}, 0), ({"workers_per_host": 2}, 2), ({"max_restarts": 1}, 1), ({"nnodes": "2"}, 1)])
def test_how_many_processes_a_command_means(monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any],
                                            to_start: int) -> None:
    for name in ("RANK", "DMLC_ROLE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.gather_team(DeviceConfig(), DistributedConfig(**flags)).to_start == to_start
    assert distributed.gather_team(DeviceConfig(gpus="0,1,3"), DistributedConfig()).to_start == 3


def test_processes_that_were_started_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    team = distributed.gather_team(DeviceConfig(gpus="0,1"), DistributedConfig(kv_store="dist_sync"))
    assert (team.to_start, team.devices) == (0, 2)
    with pytest.raises(UsageError, match="2 processes run on this machine"):
        distributed.gather_team(DeviceConfig(gpus="0"), DistributedConfig())
