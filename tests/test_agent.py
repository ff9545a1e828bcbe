"""The processes of one host: what they are given, restarts, ends, and the one line about a failure."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from imgcls.errors import UsageError
from imgcls.launch import agent
from imgcls.launch.failures import Cause, WorkerFailure, decode_failure, read_failure, root_cause
from imgcls.launch.launch_spec import STOP_S
from imgcls.launch.log_streams import is_noise
from imgcls.launch.worker_processes import parent_death_command

STEPS = ROOT / "tests" / "fixtures" / "steps.py"
#: prints what a worker finds, as one line of JSON
SHOW = ("import json, os, sys; print(json.dumps([{k: v for k, v in os.environ.items() if k in ('RANK', "
        "'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', "
        "'TORCHELASTIC_RUN_ID', 'OMP_NUM_THREADS', 'IMGCLS_AGENT')}, sys.argv[1:]]))")


def start(flags: Sequence[str], command: Sequence[object]) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "imgcls.launch.agent", "--name", "imgcls-train", *flags, "--",
            *map(str, command)]
    env = {name: value for name, value in os.environ.items()
           if name not in ("OMP_NUM_THREADS", "PYTHONUNBUFFERED")}
    return subprocess.Popen(argv, env={**env, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), err.splitlines()


def until(process: subprocess.Popen[str], path: Path, lines: int) -> None:
    """Wait until a file has so many lines."""
    deadline = time.monotonic() + 60
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_every_worker_gets_its_rank_in_the_environment() -> None:
    status, out, err = finish(start(["--processes", "2"],
                                    [sys.executable, "-c", SHOW, "$x", "${local_rank} $$"]))
    assert (status, err) == (0, [])
    workers = [json.loads(line) for line in out]
    assert sorted(env["RANK"] for env, _ in workers) == ["0", "1"]
    for env, arguments in workers:
        assert env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"] == "2"
        assert env["LOCAL_RANK"] == env["RANK"]
        assert env["MASTER_ADDR"] == "127.0.0.1"
        assert env["MASTER_PORT"].isdigit()
        assert len(env["TORCHELASTIC_RUN_ID"]) >= 8
        assert env["IMGCLS_AGENT"] == "1"
        assert "OMP_NUM_THREADS" not in env
        assert arguments == ["$x", "${local_rank} $$"]  # torch's macro is none of the user's


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_all_restart_from_the_position(tmp_path: Path) -> None:
    status, out, err = finish(start(["--processes", "2", "--max-restarts", "2"],
                                    [sys.executable, STEPS, tmp_path, 12, "kill", 1, 5]))
    assert status == 0, err
    assert len(err) == 1, err
    assert err[0].startswith("imgcls-train: rank 1 (")
    assert err[0].endswith(") was killed by SIGKILL (out of memory?); "
                           "restarting 1/2 from the last position saved")
    assert {"rank 0 of 2 from 5", "rank 1 of 2 from 5"} <= set(out)
    assert [line.split()[0] for line in (tmp_path / "trace").read_text().splitlines()] == [str(i)
                                                                                           for i in range(12)]


@pytest.mark.slow
def test_wrong_usage_is_one_line_and_not_tried_again(tmp_path: Path) -> None:
    process = start(["--processes", "2", "--max-restarts", "3"],
                    [sys.executable, STEPS, tmp_path, 400, "wrong", 1, 2])
    assert finish(process)[::2] == (2, ["imgcls-train: error: --lr x: must be a number"])


@pytest.mark.slow
def test_workers_save_when_the_agent_gets_sigterm(tmp_path: Path) -> None:
    process = start(["--processes", "2"], [sys.executable, STEPS, tmp_path, 4000])
    until(process, tmp_path / "trace", 3)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    status, _out, err = finish(process)
    assert status == 143
    assert time.monotonic() - begun < STOP_S / 2  # they were not killed for being deaf
    step = int((tmp_path / "position").read_text()) - 1
    assert err == [f"imgcls-train: error: stopped by SIGTERM in step {step}, position saved"]


@pytest.mark.slow
def test_a_second_signal_ends_workers_that_do_not_listen(tmp_path: Path) -> None:
    # it hears SIGTERM, and goes on
    deaf = (f"import signal, time; say = lambda *_: open({str(tmp_path / 'up')!r}, 'a').write('x\\n'); "
            "signal.signal(15, say); say(); end = time.monotonic() + 100\n"
            "while time.monotonic() < end: time.sleep(1)")
    process = start([], [sys.executable, "-c", deaf])
    until(process, tmp_path / "up", 1)
    process.send_signal(signal.SIGINT)
    # only now: two signals that come soon after one another are one
    until(process, tmp_path / "up", 2)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert finish(process)[::2] == (130, ["imgcls-train: error: stopped by SIGINT"])
    assert time.monotonic() - begun < STOP_S / 2


@pytest.mark.slow
def test_workers_end_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    if not parent_death_command():
        pytest.skip("no setpriv --pdeathsig here")
    process = start([], [sys.executable, "-c", f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write("
                         "f'{os.getpid()}\\n'); time.sleep(100)"])
    until(process, tmp_path / "pid", 1)
    process.kill()
    process.communicate()
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)
        pytest.fail("the worker is still there")


@pytest.mark.slow
def test_a_host_may_join_later(tmp_path: Path) -> None:
    flags = ["--nnodes", "1:2", "--endpoint", f"127.0.0.1:{_free_port()}", "--timeout", "12"]
    command = [sys.executable, STEPS, tmp_path, 4000, "grow"]
    first = start([*flags, "--is-host", "1"], command)
    until(first, tmp_path / "trace", 2)
    second = start([*flags, "--is-host", "0"], command)
    for process in (second, first):
        status, _out, err = finish(process)
        assert status == 0, err
    steps = [tuple(map(int, line.split())) for line in (tmp_path / "trace").read_text().splitlines()]
    assert [step for step, _ in steps] == list(range(len(steps)))  # each once, in order
    assert [workers for _, workers in steps[-6:]] == [2] * 6
    assert steps[0][1] == 1
    assert len(set((tmp_path / "jobs").read_text().split())) == 1  # one name for all, though none was given


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_wrong_call_starts_nothing() -> None:
    with pytest.raises(UsageError, match="no such program"):
        agent.make_spec(["no-such-program"], processes=1)
    with pytest.raises(UsageError, match="rdzv_endpoint"):
        agent.make_spec(["true"], processes=1, nnodes="2")
    with pytest.raises(UsageError, match="at least 1"):
        agent.make_spec(["true"], processes=0)


def _failure(rank: int, cause: Cause, when: float, **changes: Any) -> WorkerFailure:
    fields: dict[str, Any] = {"rank": rank, "host": "a", "status": 1, "message": "l", "time": when,
                              "cause": cause}
    return WorkerFailure(**fields | changes)


def test_the_root_cause_is_the_first_failure_with_a_reason_of_its_own() -> None:
    peer_lost = _failure(0, Cause.PEER_LOST, 1.0)
    error = _failure(1, Cause.ERROR, 2.0)
    later = _failure(2, Cause.ERROR, 3.0)
    stopped = _failure(3, Cause.STOPPED, 0.0)
    killed = _failure(4, Cause.KILLED, 0.0)
    assert root_cause([peer_lost, later, error, stopped, killed]) is error
    assert root_cause([killed, peer_lost, stopped]) is stopped
    assert root_cause([killed, peer_lost]) is peer_lost


def _error_file(tmp_path: Path, message: str) -> str:
    path = tmp_path / "error.json"
    path.write_text(json.dumps({"message": {"message": message, "extraInfo": {"timestamp": "1"}}}))
    return str(path)


@pytest.mark.parametrize(("status", "message", "ended_by_agent", "cause"), [
    (1, "data/a.rec at byte 7: not a record", False, Cause.ERROR),
    (1, "rank 0 (a): lost contact with another process (gloo: Connection closed by peer)", False,
     Cause.PEER_LOST),
    (1, "[pair.cc:545] Read error [10.0.0.2]:24962: Connection reset by peer", True, Cause.PEER_LOST),
    (-9, "", False, Cause.ERROR),
    (-9, "", True, Cause.KILLED),
    (143, "stopped by SIGTERM in epoch 1", False, Cause.STOPPED),
    (143, "stopped by SIGTERM in epoch 1", True, Cause.KILLED),
    (3, "", False, Cause.ERROR),
])
def test_the_cause_of_a_failure(tmp_path: Path, status: int, message: str, ended_by_agent: bool,
                                cause: Cause) -> None:
    path = _error_file(tmp_path, message) if message else str(tmp_path / "none")
    failure = read_failure(1, "a", status, path, ended_by_agent=ended_by_agent)
    assert (failure.cause, failure.message) == (cause, message)
    assert decode_failure(failure.encode()) == failure


@pytest.mark.parametrize("message", [
    # gloo
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3",
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms "
    "for recv operation to complete",
    "RuntimeError: Timed out waiting 5000ms for send operation to complete",
    "Got the following error when running the callback: RuntimeError: Application timeout caused pair closure",
    "writev: No route to host", "Connection reset by peer", "RuntimeError: Broken pipe",
    "RuntimeError: [Rank 0]: Ranks 1 failed to pass monitoredBarrier in 30000 ms",
    "RuntimeError: Rank 1 successfully reached monitoredBarrier, but received errors while waiting for send/recv",
    "RuntimeError: Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error",
    # NCCL
    "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1970, "
    "remote process exited or there was a network error, NCCL version 2.18.1; ncclRemoteError: A call failed "
    "possibly due to a network error or a remote process exiting prematurely.",
    "RuntimeError: NCCL communicator was aborted on rank 0. Original reason for failure was: [Rank 0] Watchdog "
    "caught collective operation timeout: WorkNCCL(SeqNum=8, OpType=ALLREDUCE)",
    "DistBackendError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value "
    "store by key '0', but store->get('0') got error: Socket Timeout",
    # TCPStore
    "DistNetworkError: The client socket has timed out after 60000ms while trying to connect to (127.0.0.1, 29500).",
    "The client socket has failed to connect to any network address of (hostb, 29500).",
    "sendBytes failed on SocketImpl(fd=3, addr=[localhost]:1, remote=[localhost]:2): Broken pipe",
    "DistStoreError: wait timeout after 300000ms, keys: /default_pg/0//worker/1",
    "DistStoreError: Timed out after 301 seconds waiting for clients. 1/2 clients joined.",
    # imgcls
    "rank 0 (a): lost contact with another process (Timed out waiting 5000ms for recv operation to complete)",
    "the 2 processes of the job did not meet at hosta:1234 within 60 s (timed out)",
    "rank 1 (b): `kv_store` dist_async: a server does not answer, or has ended because it lost a worker (x)",
    "rank 1 (b): the server here lost a worker",
])
def test_what_torchs_back_ends_say_of_a_lost_peer(tmp_path: Path, message: str) -> None:
    assert read_failure(0, "a", 1, _error_file(tmp_path, message), ended_by_agent=False).cause == Cause.PEER_LOST


@pytest.mark.parametrize("message", [
    "/data/sockets/a.rec at byte 7: not a record", "/mnt/gloo/nccl/b.rec: no such file",
    "s3://bucket/a.rec: the request timed out", "http://h/a.rec: cannot be read: connection reset by peer",
    "TimeoutError: [Errno 110] Connection timed out", "RuntimeError: DataLoader timed out after 5 seconds",
    "ConnectionRefusedError: [Errno 111] Connection refused", "BrokenPipeError: [Errno 32] Broken pipe",
    "http://h/a.rec does not answer", "ValueError: socket is no class name",
])
def test_a_workers_own_error_is_no_lost_peer(tmp_path: Path, message: str) -> None:
    assert read_failure(0, "a", 1, _error_file(tmp_path, message), ended_by_agent=False).cause == Cause.ERROR


@pytest.mark.parametrize("content", ["", "{", "[]", '{"message": 3}', '{"message": null}', '"x"'])
def test_an_error_file_that_is_cut_off_does_no_harm(tmp_path: Path, content: str) -> None:
    path = tmp_path / "error.json"
    path.write_text(content)
    assert read_failure(0, "a", 1, str(path), ended_by_agent=False).exit_status == 1


def test_a_failure_in_words() -> None:
    error = Cause.ERROR
    assert _failure(1, error, 0, status=-9, host="hostb").describe(True) == (
        "rank 1 (hostb) was killed by SIGKILL (out of memory?)")
    assert _failure(1, error, 0, status=-11).describe(False) == "rank 1 (a) was killed by SIGSEGV"
    assert _failure(1, error, 0, message="").describe(False) == "rank 1 (a) exited with status 1"
    assert _failure(1, error, 0).describe(True) == "rank 1 (a): l"
    assert _failure(1, error, 0).describe(False) == "l"
    assert _failure(1, error, 0).describe(False, is_restarted=True) == "rank 1 (a) died: l"


@pytest.mark.parametrize(("line", "noise"), [
    (b"[W1120 21:40:35.517403122 socket.cpp:207] [c10d] The hostname of the client socket cannot be "
     b"retrieved.", True),
    (b"[rank1]:[E1120 21:40:35.517 ProcessGroupNCCL.cpp:616] Watchdog caught collective operation timeout",
     True),
    (b"frame #1: c10::Error::Error(...)", True),
    (b"Traceback (most recent call last):", False),
    (b"INFO:root:Epoch[0] Batch [0-20]", False),
    (b"[WARN] my own line about socket.cpp:207", False),
])
def test_noise_of_torch_is_not_output(line: bytes, noise: bool) -> None:
    assert is_noise(line) == noise


@pytest.mark.slow
def test_job_scripts_of_an_earlier_version_still_start_the_agent() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imgcls.distributed.agent", "--", sys.executable, "-c", "print('here')"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
