"""Several processes act as one: the same samples, bits and counts, and one decision to stop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, run_workers

from imgcls.config.sections import DeviceConfig, DistributedConfig
from imgcls.data import order
from imgcls.distributed import rank_info
from imgcls.distributed.topology import resolve_topology
from imgcls.errors import UsageError

SCRIPT = str(Path(__file__).with_name("distributed_run.py"))
COUNT = 501


def free_ports(count: int) -> Iterator[int]:
    """Return ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    numbers = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return iter(numbers)


#: the runs of each number of processes; they follow one another in the same processes
ONE: list[dict[str, Any]] = [
    {"name": "micro", "micro_batches": 2}, {"name": "micro3", "micro_batches": 3},
    {"name": "stopped1", "stop_at": 5, "num_epochs": 2}]
TWO: list[dict[str, Any]] = [
    {"name": "two"}, {"name": "workers", "kv_store": "dist_sync"},
    {"name": "stopped2", "stop_at": 7, "stopper": 1, "num_epochs": 2},
    {"name": "resumed1", "prefix": "stopped1", "load_epoch": "auto", "num_epochs": 2}]
AFTER: list[dict[str, Any]] = [{"name": "resumed2", "prefix": "stopped2", "load_epoch": "auto",
                                "num_epochs": 2}]
THREE: list[dict[str, Any]] = [{"name": "three"}]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run them all; return the folder with what each process saw and how it ended."""
    folder = tmp_path_factory.mktemp("runs")
    for world, jobs in ((1, ONE), (2, TWO), (1, AFTER), (3, THREE)):
        (folder / f"jobs-{world}.json").write_text(json.dumps(jobs))
        run_workers(SCRIPT, world, world, folder)
    return folder


def ended(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def samples(folder: Path, names: list[str], epoch: int) -> list[int]:
    """Return what the named processes trained on in an epoch, taken together."""
    return [number for name in names
            for first, *numbers in json.loads((folder / f"{name}.json").read_text())["seen"]
            if first == epoch for number in numbers]


# ---- the same numbers


@pytest.mark.slow
@pytest.mark.parametrize(("single", "distributed"), [("micro", "two"), ("micro3", "three")])
def test_processes_give_the_bits_of_as_many_micro_batches(runs: Path, single: str, distributed: str) -> None:
    expected, actual = np.load(runs / f"{single}.npz"), np.load(runs / f"{distributed}.npz")
    exact = distributed == "two"  # the sum of two numbers does not depend on their order, that of three does
    for name in expected.files:
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=0 if exact else 1e-6,
                                   err_msg=name)
    # the running statistics were shared, too
    assert not np.array_equal(expected["bn.moving_mean"], np.zeros(4))


@pytest.mark.slow
def test_evaluation_counts_every_sample_once(runs: Path) -> None:
    single, two, three = (ended(runs, name)["result"]["accuracy"] for name in ("micro", "two", "three"))
    assert single == two
    assert three * 101 == pytest.approx(round(three * 101), abs=1e-9)
    assert ended(runs, "two", 1)["result"] == ended(runs, "two", 0)["result"]


@pytest.mark.slow
def test_every_sample_of_an_epoch_comes_once(runs: Path) -> None:
    for name, ranks in (("two", 2), ("three", 3), ("workers", 2)):
        seen = samples(runs, [f"{name}-{rank}" for rank in range(ranks)], 0)
        assert sorted(seen) == list(range(COUNT)), name


@pytest.mark.slow
def test_a_distributed_store_gives_every_worker_its_own_batch(runs: Path) -> None:
    assert len(ended(runs, "two")["seen"]) == -(-COUNT // 32)
    assert len(ended(runs, "workers")["seen"]) == -(-COUNT // 64)
    assert len(ended(runs, "workers")["seen"][0]) == 1 + 32


@pytest.mark.slow
def test_batch_normalisation_over_all_processes_is_that_of_the_global_batch() -> None:
    run_workers(str(Path(__file__).with_name("sync_bn_run.py")), 2, next(free_ports(1)))


# ---- stopping, and going on with another number of processes


@pytest.mark.slow
def test_all_processes_stop_at_one_step_with_143(runs: Path) -> None:
    first, second = (ended(runs, "stopped2", rank) for rank in (0, 1))
    assert (first["status"], second["status"]) == (143, 143)
    assert len(first["seen"]) == len(second["seen"]) >= 7
    assert "the position was saved" in first["error"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [
    (["stopped2-0", "stopped2-1"], ["resumed2-0"]), (["stopped1-0"], ["resumed1-0", "resumed1-1"])])
def test_the_number_of_processes_may_change_inside_an_epoch(runs: Path, before: list[str],
                                                            after: list[str]) -> None:
    then = samples(runs, before, 0)
    assert 0 < len(then) < COUNT
    assert sorted(then + samples(runs, after, 0)) == list(range(COUNT))
    assert sorted(samples(runs, after, 1)) == list(range(COUNT))


@pytest.mark.slow
def test_a_lost_process_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(
        "import os, sys\nfrom imgcls.training import trainer\nfrom imgcls.cli import train\n"
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
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [1, 9]
    assert "Traceback" not in errors[0]
    assert "lost contact with another process" in errors[0].splitlines()[-1]


def command(*flags: object) -> list[str]:
    return [sys.executable, "-m", "imgcls", "train", "--dataset", "digits", "--network", "mlp",
            "--num-epochs", "2",
            "--batch-size", "128", *map(str, flags)]


ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def workers_of(prefix: Path) -> list[int]:
    """Return the process ids of the workers that train for `prefix`, by rank."""
    pids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(prefix) in (folder / "cmdline").read_bytes():
                for variable in (folder / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(b"LOCAL_RANK="):
                        pids[int(variable.partition(b"=")[2])] = int(folder.name)
    return [pids[rank] for rank in sorted(pids)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers under /proc")
def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    """Killed at three moments, a run restarts from its last position and writes the same bytes."""
    flags = ["--workers-per-host", 2, "--max-restarts", 3, "--num-epochs", 2, "--save-every", 0.004]
    subprocess.run(command(*flags, "--model-prefix", tmp_path / "peace"), env=ENV, check=True,
                   capture_output=True,
                   timeout=200)
    expected = (tmp_path / "peace-0002.params").read_bytes()
    killed = 0
    for turn in range(3):
        prefix = tmp_path / f"killed{turn}"
        run = subprocess.Popen(command(*flags, "--model-prefix", prefix), env=ENV,
                               stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)
        saved = Path(f"{prefix}-position.states")
        while run.poll() is None and not saved.exists():
            time.sleep(0.02)
        # right after the first save, and further into the run
        time.sleep(0.2 * turn)
        victims = workers_of(prefix)
        if run.poll() is None and len(victims) == 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[turn % 2], signal.SIGKILL)
                killed += 1
        errors = run.communicate(timeout=200)[1]
        assert run.returncode == 0, errors
        assert Path(f"{prefix}-0002.params").read_bytes() == expected
    assert killed >= 2
    assert "restarting" in errors or killed < 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_saves_and_ends_with_143(tmp_path: Path) -> None:
    prefix = tmp_path / "told"
    run = subprocess.Popen(command("--workers-per-host", 2, "--num-epochs", 500, "--model-prefix", prefix),
                           env=ENV,
                           stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
    while run.poll() is None and not Path(f"{prefix}-0001.params").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=100)[1]
    assert run.returncode == 143, errors
    assert "the position was saved" in errors.splitlines()[-1]
    assert Path(f"{prefix}-position.states").exists()
    assert not workers_of(prefix)


@pytest.mark.slow
def test_test_io_prints_once_and_an_uneven_split_is_shown(tmp_path: Path) -> None:
    done = subprocess.run(command("--workers-per-host", 2, "--test-io", 1), env=ENV,
                          capture_output=True, text=True,
                          timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    done = subprocess.run(command("--workers-per-host", 3, "--batch-size", 128, "--num-epochs", 1), env=ENV,
                          capture_output=True, text=True, timeout=100, check=False)
    assert "batch 128 (42 or 43 on each of 3 devices)" in done.stderr


@pytest.mark.slow
def test_workers_started_by_hand_with_mxnets_variables(tmp_path: Path) -> None:
    env = ENV | {"DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(next(free_ports(1))),
                 "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"}
    argv = command("--kv-store", "dist_sync", "--num-epochs", 1, "--model-prefix", tmp_path / "hand")
    started = [subprocess.Popen(argv, env=env | {"DMLC_ROLE": role}, stderr=subprocess.PIPE, text=True,
                                stdout=subprocess.DEVNULL)
               for role in ("scheduler", "server", "worker", "worker")]
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0, 0], errors
    assert "256 (128 for each of 2 workers, 128 on each of 2 devices)" in "".join(errors)
    assert (tmp_path / "hand-0001.params").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun")
def test_mpirun_starts_workers(tmp_path: Path) -> None:
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    done = subprocess.run(["mpirun", *root, "--oversubscribe", "-n", "2", *command(
        "--num-epochs", 1, "--model-prefix", tmp_path / "mpi")], env=ENV, capture_output=True, text=True,
                          timeout=100,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "128 (64 on each of 2 devices)" in done.stderr
    assert (tmp_path / "mpi-0001.params").exists()


# ---- the order


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_are_the_batch_in_its_order(world: int) -> None:
    numbers = np.arange(20)
    for size in (1, 2, 6, 20):
        batch = [order.local_batch(numbers, 0, size, order.Shard(rank, world)) for rank in range(world)]
        assert np.concatenate([local.indices[:local.num_valid]
                               for local in batch]).tolist() == list(range(size))
        assert {local.global_size for local in batch} == {size}
        assert min(len(local.indices) for local in batch) >= 1


def test_independent_shards_split_the_epoch() -> None:
    numbers = np.arange(20)
    dealt = [order.Shard(rank, 3, is_independent=True).of_epoch(numbers) for rank in range(3)]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(20))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


# ---- who else is there


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
            "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "j1", "TORCHELASTIC_RESTART_COUNT": "2"}


def test_torchrun_is_joined() -> None:
    info = rank_info.detect(TORCHRUN)
    assert info == rank_info.RankInfo(1, 4, 1, 2, "a", 29500, job="j1", num_restarts=2)


def test_mpirun_on_one_host_is_joined() -> None:
    info = rank_info.detect({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
                             "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                             "PMIX_NAMESPACE": "prterun-host-77@1"})
    assert info
    assert (info.rank, info.world_size, info.local_rank, info.local_world_size) == (1, 2, 1, 2)
    assert "prterun-host-77-1" in info.file


def test_srun_is_joined() -> None:
    info = rank_info.detect({"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4",
                             "SLURM_LOCALID": "1",
                             "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "node[03-04]",
                             "SLURM_JOB_ID": "12"})
    assert info
    assert (info.rank, info.world_size, info.local_world_size) == (3, 4, 2)
    assert (info.address, info.port) == ("node03", 20012)


@pytest.mark.parametrize(("tasks", "count"), [("2(x2)", 2), ("2,1", 2), ("1,3", 3), ("1(x3),12,9", 12), ("", 16)])
def test_srun_with_hosts_of_different_numbers_of_tasks(tasks: str, count: int) -> None:
    info = rank_info.detect({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
                             "SLURM_STEP_TASKS_PER_NODE": tasks, "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    assert info
    assert (info.local_rank, info.local_world_size) == (1, count)


def test_mxnets_variables_are_honoured() -> None:
    info = rank_info.detect({"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "10.0.0.1",
                             "DMLC_PS_ROOT_PORT": "9091",
                             "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"})
    assert info == rank_info.RankInfo(-1, 2, address="10.0.0.1", port=9091, is_store_served=True,
                                      num_workers=2, num_servers=1)


@pytest.mark.parametrize(("env", "message"), [
    ({"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "must be below WORLD_SIZE"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"), ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x"),
    ({"DMLC_ROLE": "boss", "DMLC_PS_ROOT_URI": "a"}, "worker, server or scheduler"),
    ({"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "a", "DMLC_NUM_WORKER": "1"}, "DMLC_PS_ROOT_PORT"),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
     "MASTER_ADDR")])
def test_a_wrong_environment_is_an_error(env: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rank_info.detect(env)


@pytest.mark.parametrize(("nodes", "first"), [
    ("node7", "node7"), ("a,b", "a"), ("node[03-07,9],x", "node03"), ("rack[1-2]-gpu", "rack1-gpu"),
    ("a,b[1-2]", "a")])
def test_the_first_host_of_slurms_short_form(nodes: str, first: str) -> None:
    assert rank_info.first_host(nodes) == first


@pytest.mark.parametrize(("flags", "to_start"), [
    ({}, 0), ({"workers_per_host": 2}, 2), ({"max_restarts": 1}, 1), ({"nnodes": "2"}, 1)])
def test_how_many_processes_a_command_means(monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any],
                                            to_start: int) -> None:
    for name in ("RANK", "DMLC_ROLE"):
        monkeypatch.delenv(name, raising=False)
    assert resolve_topology(DeviceConfig(), DistributedConfig(**flags)).num_to_start == to_start
    assert resolve_topology(DeviceConfig(gpus="0,1,3"), DistributedConfig()).num_to_start == 3


def test_processes_that_were_started_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    topology = resolve_topology(DeviceConfig(gpus="0,1"), DistributedConfig(kv_store="dist_sync"))
    assert (topology.num_to_start, topology.num_devices) == (0, 2)
    with pytest.raises(UsageError, match="2 processes run on this machine"):
        resolve_topology(DeviceConfig(gpus="0"), DistributedConfig())
