"""Whatever a launcher, a scheduler or a user puts into the environment or on the launcher's command line: one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_cli

from imgcls.cli import launch
from imgcls.config.sections import DeviceConfig, DistributedConfig
from imgcls.distributed import rank_info
from imgcls.distributed.rank_info import RankInfo
from imgcls.distributed.topology import resolve_topology
from imgcls.errors import UsageError
from imgcls.launch import agent, scratch
from imgcls.launch.command import count_devices, count_gpus
from imgcls.launch.launch_spec import AgentState
from imgcls.launch.worker_processes import WorkerProcesses

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999", "TORCHELASTIC_RESTART_COUNT": "0"}
OMPI = {f"OMPI_COMM_WORLD_{name}": value
        for name, value in (("RANK", "0"), ("SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_SIZE", "2"))}
PMI = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0",
         "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": "3"}
DMLC = {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": "9999",
        "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"}
HOSTILE = ["", " ", "-1", "-0", "x", "1" + "0" * 30, "²", "٣", "1.5", "1e3", "nan", "0x1", "9" * 5000, "\x1b[31m",
           "a b", "n[", "n[1-", "1(x", "(", ",", "a\nb", "/", "x" * 300]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("described", [TORCHRUN, OMPI, PMI, SLURM, DMLC], ids=lambda env: next(iter(env)))
def test_a_hostile_environment_is_understood_or_one_line(described: dict[str, str]) -> None:
    assert rank_info.detect(described)
    for name in described:
        for text in HOSTILE:
            info = told(rank_info.detect, {**described, name: text})
            if info is not None:
                assert info.rank < info.world_size
                assert info.local_rank < info.local_world_size
                assert len(Path(info.file).name) < 200


def told(function: Callable[[dict[str, str]], RankInfo | None], env: dict[str, str]) -> RankInfo | None:
    """Return what the function returns, or None after a UsageError that can be shown."""
    message = ""
    info = None
    try:
        info = function(env)
    except UsageError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 500
    return info


@pytest.mark.parametrize(("change", "message"), [
    ({"RANK": "2"}, "must be below WORLD_SIZE=2"), ({"LOCAL_RANK": "2"}, "LOCAL_RANK below LOCAL_WORLD_SIZE"),
    ({"LOCAL_WORLD_SIZE": "3"}, "must be at most WORLD_SIZE"), ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536"),
    ({"MASTER_PORT": "0"}, "MASTER_PORT=0"), ({"MASTER_ADDR": ""}, "MASTER_ADDR="),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0"), ({"RANK": ""}, "RANK=")])
def test_an_environment_that_contradicts_itself(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rank_info.detect({**TORCHRUN, **change})


def test_a_local_rank_alone_is_enough() -> None:
    by_hand = {name: text for name, text in TORCHRUN.items() if not name.startswith("LOCAL")}
    info = rank_info.detect({**by_hand, "RANK": "1", "LOCAL_RANK": "1"})
    assert info
    assert (info.local_rank, info.local_world_size) == (1, 2)


def test_a_meeting_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"imgcls-{os.getuid()}"
    (tmp_path / "other").mkdir()
    folder.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="is another user's or not a folder"):
        rank_info.detect(OMPI)
    folder.unlink()
    folder.write_text("")
    with pytest.raises(UsageError, match="file exists"):
        rank_info.detect(OMPI)


def test_words_of_another_launcher_are_no_error() -> None:
    assert rank_info.launcher_words({"IMGCLS_LAUNCHER": "imgcls-launch -n 2"}) == ["imgcls-launch", "-n", "2"]
    assert rank_info.launcher_words({"IMGCLS_LAUNCHER": 'it\'s "'}) == []


# ---- commands


@pytest.mark.parametrize("env", [{"IMGCLS_AGENT": "1"}, {"RANK": "x", "WORLD_SIZE": "2"},
                                 {"RANK": "5", "WORLD_SIZE": "2"}, {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0",
                                  "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "x"},
                                 {"IMGCLS_AGENT": "1", "TORCHELASTIC_ERROR_FILE": "/none/x"}])
def test_an_error_is_told_whoever_claims_to_tell_it(env: dict[str, str]) -> None:
    wrong = ["--lr", "x"] if "IMGCLS_AGENT" in env else []
    done = run_cli("train", "--dataset", "digits", "--network", "mlp", *wrong, env=env)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imgcls-train: error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [
    "-n 100000000000 ls", "-n 100000 ls", "-n ² ls", "-n 1e3 ls", "-n 1 -s 99999999999999999999999 ls",
    "-n 2 --max-restarts 10000000000 ls", "-n 2 --timeout 1e300 ls", "-n 2 --timeout nan ls",
    "-n 2 --nnodes 99999999999999 --launcher slurm ls", "-n 2 --nnodes ² --launcher slurm ls",
    "-n 1024 true --workers-per-host 1024", "-n 1 --python /none true", "-n 1 --python /tmp true"])
def test_numbers_of_the_launcher(arguments: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.main(arguments.split()) in (1, 2)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("imgcls-launch: error: ")
    assert "traceback" not in lines[0]


@pytest.mark.parametrize("text", ["²", "-1", "1e9", "9" * 5000, "0,²", "", "1000000"])
def test_numbers_in_the_command_of_the_launcher(text: str) -> None:
    assert count_devices(["train", "--workers-per-host", text]) == 1
    assert count_devices(["train", "--gpus", text]) == 1
    assert count_gpus(["train", "--gpus", text]) in (0, 1)


@pytest.mark.parametrize("arguments", [
    "", "--foo -- true", "--processes x true", "--processes 0 true", "--processes 1e9 true", "--timeout nan true",
    "--timeout 1e300 true", "--is-host 3 true", "--endpoint h:99999 --nnodes 2 true", "--nnodes ² true",
    "--nnodes 2 true", "--max-restarts -1 true", "-- no-such-program"])
def test_a_wrong_call_of_an_agent_is_one_line(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(arguments.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("imgcls-launch: error: ")


def test_an_endpoint_is_checked_even_where_one_machine_needs_none() -> None:
    with pytest.raises(UsageError, match="rdzv_endpoint h:99999"):
        resolve_topology(DeviceConfig(), DistributedConfig(rdzv_endpoint="h:99999"))


# ---- the end


@pytest.mark.parametrize("content", [{"message": ""}, {"message": {"message": "\n"}}, {}])
def test_a_stopped_job_never_says_nothing(content: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that was stopped and left an error without words."""
    state = AgentState(agent.make_spec([sys.executable], processes=1), WorkerProcesses(), "job",
                       stop_signal=signal.SIGTERM)
    with scratch.locked_folder() as state.folder:
        attempt = Path(state.folder, "000001")
        attempt.mkdir()
        (attempt / "0.json").write_text(json.dumps(content))
        assert agent._report_stop(state) == 1
    assert capsys.readouterr().err.endswith("ended with an error that it could not report\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the worker under /proc")
def test_a_worker_that_hangs_is_one_line(tmp_path: Path) -> None:
    """SIGSTOP: it neither answers nor ends; the others give it up after --timeout."""
    prefix = tmp_path / "net"
    command = [sys.executable, "-m", "imgcls", "launch", "-n", "2", "--timeout", "3", sys.executable, "-m", "imgcls",
               "train", "--dataset", "digits", "--network", "mlp", "--num-epochs", "5000", "--kv-store", "dist_sync",
               "--model-prefix", str(prefix), "--save-period", "5000"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:  # until they train
        if "Epoch[0]" in line:
            break
    victim = next(int(folder.name) for folder in Path("/proc").glob("[0-9]*")
                  if b"LOCAL_RANK=1\0" in _read(folder / "environ")
                  and os.fsencode(prefix) in _read(folder / "cmdline"))
    os.kill(victim, signal.SIGSTOP)
    begun = time.monotonic()
    _out, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert time.monotonic() - begun < 60
    told = [line for line in err.splitlines() if not line.startswith("[0] INFO")]
    assert len(told) == 1, told
    # gloo's words depend on which of its timers is first
    assert re.search(r"lost contact with another process \((Timed out waiting .* complete|Application timeout)\)$",
                     told[0])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("env", [{**TORCHRUN, "RANK": "1", "LOCAL_RANK": "1"}, {**TORCHRUN, "RANK": "-1"},
                                 {**OMPI, "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
                                 {"RANK": "-1", "WORLD_SIZE": "2"}])
def test_a_mistake_is_told_whatever_the_rank(env: dict[str, str]) -> None:
    done = run_cli("train", "--lr", "x", env=env)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--lr x: must be a number" in done.stderr
