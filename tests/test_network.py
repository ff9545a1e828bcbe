"""What strangers on the network can do to a job: sockets on loopback, no pickles, no wait without a limit."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from conftest import ROOT
from torch.distributed.elastic.rendezvous.api import RendezvousStateError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

from imgcls.distributed import addresses, process_group, stores
from imgcls.distributed.parameter_server import protocol
from imgcls.distributed.rank_info import RankInfo
from imgcls.errors import RunError, UsageError
from imgcls.launch import rendezvous, scratch
from imgcls.launch.failures import decode_failure
from imgcls.launch.peers import Peers

ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TRAIN = [sys.executable, "-m", "imgcls", "train", "--dataset", "digits", "--network", "mlp", "--num-epochs",
         "1", "--num-examples", "512"]
LAUNCH = [sys.executable, "-m", "imgcls", "launch", "-n", "2", *TRAIN]
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the sockets from /proc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from descendants(int(child))


def listening(pid: int) -> set[str]:
    """Return the addresses, in the kernel's hexadecimal, that a process and its descendants listen on."""
    inodes = set()
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{one}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for name in ("tcp", "tcp6") if (table := Path(f"/proc/net/{name}")).exists()
             for line in table.read_text().splitlines()[1:]]
    return {words[1].rpartition(":")[0] for words in lines if words[3] == "0A" and words[9] in inodes}


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1


def watch(*commands: list[str]) -> set[str]:
    """Run the commands at once; return all addresses that one of their processes ever listened on."""
    started = [subprocess.Popen(command, env=ENV, text=True, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE) for command in commands]
    seen: set[str] = set()
    while any(process.poll() is None for process in started):
        for process in started:
            seen |= listening(process.pid)
        time.sleep(0.02)
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), errors
    return seen


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("command", [
    [*TRAIN, "--workers-per-host", "2"], [*LAUNCH, "--kv-store", "dist_sync"],
    [*LAUNCH, "--kv-store", "dist_async", "--lr", "0.01"]], ids=["workers-per-host", "launch", "dist_async"])
def test_processes_of_one_machine_listen_on_loopback_only(command: list[str]) -> None:
    seen = watch(command)
    assert seen, "nothing was seen that listens: is this test still able to see it?"
    assert seen <= LOOPBACK


@needs_proc
@pytest.mark.slow
def test_a_program_that_is_not_ours_meets_in_the_agents_store(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text("import time, torch.distributed as dist\ndist.init_process_group('gloo')\ntime.sleep(0.5)\n"
                      "dist.barrier()\n")
    seen = watch([sys.executable, "-m", "imgcls", "launch", "-n", "2", sys.executable, str(script)])
    assert seen
    assert seen <= LOOPBACK


def agent(port: int, is_host: int, *command: str, timeout: float = 20) -> list[str]:
    return [sys.executable, "-m", "imgcls.launch.agent", "--nnodes", "2", "--endpoint", f"127.0.0.1:{port}",
            "--is-host", str(is_host), "--job", "job", "--timeout", str(timeout), "--", *command]


@needs_proc
@pytest.mark.slow
def test_agents_listen_on_the_address_that_was_given() -> None:
    port = free_port()
    seen = watch(*(agent(port, is_host, *TRAIN) for is_host in (1, 0)))
    assert seen
    assert seen <= LOOPBACK


# ---- what is in the store


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "is_read"), [("torch.rendezvous.job", False), ("imgcls/rendezvous/job", True)])
def test_a_pickle_in_the_store_runs_nothing(tmp_path: Path, key: str, is_read: bool) -> None:
    """It lies there before the agent comes, under torch's key and under ours, as torch would have written it."""
    store = stores.open_tcp_store("127.0.0.1", 0, 30, serves=True)
    store.set(key, base64.b64encode(pickle.dumps(_Malicious(tmp_path / "ran"))).decode())
    command = agent(store.port, 0, sys.executable, "-c", "", timeout=6)
    command[command.index("--nnodes") + 1] = "1:2"
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=100, check=False)
    assert not (tmp_path / "ran").exists()
    assert done.returncode == int(is_read), done.stderr
    expected = r"imgcls-launch: error: \S+: 127.0.0.1:\d+, where the hosts meet: the state .* is damaged, .*\n"
    assert re.fullmatch(expected if is_read else "", done.stderr)


def _state() -> _RendezvousState:
    state = _RendezvousState()
    now = datetime.now(timezone.utc)
    state.round, state.complete, state.deadline = 3, True, now
    state.participants = {_NodeDesc("a", 1, 0): 0, _NodeDesc("b", 2, 1): 1}
    state.wait_list, state.redundancy_list = {_NodeDesc("c", 3, 0)}, {_NodeDesc("d", 4, 0)}
    state.last_heartbeats = {_NodeDesc("a", 1, 0): now}
    return state


def test_the_state_of_the_rendezvous_survives_its_text() -> None:
    text = rendezvous.encode_state(_state())
    assert vars(rendezvous.decode_state(text)) == vars(_state()) | {
        "deadline": rendezvous.decode_state(text).deadline,
        "last_heartbeats": rendezvous.decode_state(text).last_heartbeats}
    assert rendezvous.encode_state(rendezvous.decode_state(text)) == text
    assert vars(pickle.loads(rendezvous.to_pickle(text)))["round"] == 3


@pytest.mark.parametrize(("field", "value"), [
    ("round", -1), ("round", 10**30), ("round", True), ("round", "1"), ("complete", 1), ("deadline", "x"),
    ("deadline", "2026-01-01"), ("deadline", "0001-01-01T00:00:00+23:59"), ("closed", None),
    ("participants", [["a", 1, 0]]), ("participants", [["a", 1, 0, 1.5]]), ("participants", 3),
    ("participants", [["a" * 300, 1, 0, 0]]), ("participants", [["\x1b[31m", 1, 0, 0]]),
    ("wait_list", [[[], 1, 0]]), ("wait_list", {"a": 1}), ("redundancy_list", [["a", 1, 0, 0, 0]]),
    ("last_heartbeats", [["a", 1, 0, None]]), ("last_heartbeats", None)])
def test_a_damaged_state_is_refused(field: str, value: object) -> None:
    fields = json.loads(rendezvous.encode_state(_state()))
    with pytest.raises(RendezvousStateError):
        rendezvous.decode_state(json.dumps(fields | {field: value}))


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, "null", '{"round": NaN}', "gASVKAAAAAA=", "1" * 10_000])
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(RendezvousStateError):
        rendezvous.decode_state(text)


@pytest.mark.parametrize("change", [
    {"cause": 9}, {"cause": "ERROR"}, {"rank": 10**30}, {"rank": True}, {"status": None}, {"time": "x"},
    {"time": float("nan")}, {"host": 3}, {"message": ["x"]}, {"is_final": 1}])
def test_a_damaged_account_of_another_host_is_one_error(change: dict[str, Any]) -> None:
    fields = {"rank": 0, "host": "a", "status": 1, "message": "m", "time": 1.0, "cause": 0, "is_final": True}
    assert decode_failure(json.dumps(fields)).message == "m"
    with pytest.raises(RunError):
        decode_failure(json.dumps(fields | change))


# ---- addresses


def test_a_store_listens_on_its_address_only() -> None:
    store = stores.open_tcp_store("127.0.0.1", 0, 5, serves=True)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", store.port), timeout=1):
        pass
    assert stores.open_tcp_store("localhost", store.port, 5).add("n", 1) == 1


@pytest.mark.parametrize(("host", "is_one_machine", "address"), [
    ("127.0.0.1", False, "127.0.0.1"), ("localhost", False, "127.0.0.1"), ("127.0.1.1", True, "127.0.1.1"),
    ("node.example", False, "::"), ("node.example", True, "127.0.1.1")])
def test_where_a_name_listens(monkeypatch: pytest.MonkeyPatch, host: str, is_one_machine: bool,
                              address: str) -> None:
    """Debian gives the machine's own name the address 127.0.1.1, which other machines cannot reach."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest, **more: real(
        "127.0.1.1" if name == "node.example" else name, *rest, **more))
    with addresses.listen(host, 0, is_one_machine=is_one_machine) as listener:
        assert listener.getsockname()[0] in (address, "0.0.0.0" if address == "::" else address)


@pytest.mark.parametrize(("text", "expected"), [
    ("node1:29500", ("node1", 29500)), ("node1", ("node1", 29400)), ("10.0.0.1:1", ("10.0.0.1", 1)),
    ("[::1]:29400", ("::1", 29400)), ("[fe80::1%eth0]:7", ("fe80::1%eth0", 7))])
def test_endpoints(text: str, expected: tuple[str, int]) -> None:
    assert addresses.split_endpoint(text) == expected


@pytest.mark.parametrize("text", ["", ":29400", "h:", "h:0", "h:99999", "h:x", "h:²", "h:1:2", "::1:29400", "a b:1",
                                  "h:-1", "-x:1", "h\n:1", "h/x:1", "x" * 300 + ":1", "[h]:1", "h:1e3"])
def test_endpoints_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="rdzv_endpoint"):
        addresses.split_endpoint(text)


# ---- silence


@pytest.fixture
def silent() -> Iterator[int]:
    """Yield the port of somebody who accepts every connection and never says anything."""
    kept = []

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(server.accept())

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
    for connection, _address in kept:
        connection.close()


def test_a_silent_store_ends_with_the_time_limit(silent: int) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within"):
        stores.open_tcp_store("127.0.0.1", silent, 0.2)
    assert time.monotonic() - begun < 5


@pytest.mark.slow
def test_a_worker_does_not_wait_for_a_silent_store(silent: int) -> None:
    env = {**ENV, "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(silent)}
    done = subprocess.run([*TRAIN, "--dist-timeout", "1"], env=env, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imgcls-train: error: rank 1: the 2 processes of the job did not meet at 127.0.0.1:")
    assert "within 1 s (no answer within 1 s)" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_agent_does_not_wait_for_a_silent_store(silent: int) -> None:
    done = subprocess.run(agent(silent, 0, "true", timeout=1), env=ENV, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"lost contact with 127.0.0.1, where the hosts meet (127.0.0.1:{silent} does not answer)" in done.stderr


def test_a_process_meets_nobody_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    info = RankInfo(1, 2, address="127.0.0.1", port=free_port())
    import torch

    # this process goes on as one that has met nobody: a command in it would otherwise end it
    monkeypatch.setattr(process_group, "_joined", threading.Event())

    with pytest.raises(process_group.LostContact, match="did not meet at"):
        process_group.rendezvous(info, torch.device("cpu"), 0.3)


# ---- dist_async's servers know their workers


@pytest.mark.parametrize("is_known", [True, False])
def test_a_server_and_a_worker_show_that_they_know_the_secret(is_known: bool, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    known = secrets.token_bytes(32)
    results: list[Any] = [None, None]

    def side(rank: int, secret: bytes) -> None:
        store = dist.FileStore(str(tmp_path / "store"), 2)
        try:
            results[rank] = protocol.connect(protocol.Meeting(store, "token", secret, 5), 0, 0, rank)
        except RuntimeError as error:
            results[rank] = error

    threads = [threading.Thread(target=side, args=(rank, known if is_known or rank else b"x" * 32))
               for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [isinstance(result, RuntimeError) for result in results] == [not is_known] * 2, results
    if not is_known:
        assert "does not know the secret of this job" in str(results[1])


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_size_that_no_message_has_is_refused(size: float) -> None:
    with pytest.raises(RuntimeError, match="was announced"):
        protocol.receive_bytes(None, size, 0)


# ---- folders of agents


def test_the_folders_of_killed_agents_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / f"{scratch.PREFIX}killed"
    killed.mkdir()
    (killed / "lock").touch()
    (killed / "000001").mkdir()
    others = tmp_path / f"{scratch.PREFIX}without-a-lock"
    others.mkdir()
    (tmp_path / f"{scratch.PREFIX}link").symlink_to(killed)
    with scratch.locked_folder() as running:
        scratch.remove_abandoned()
        assert Path(running).is_dir()
        assert Path(running).stat().st_mode & 0o777 == 0o700
    assert not killed.exists()
    assert others.exists()
    assert not Path(running).exists()


@pytest.mark.parametrize("text", [
    "Got the following error when running the callback: RuntimeError: Application timeout caused pair closure\n\nAt:\n",
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3",
    "writev: No route to host", "Connection reset by peer"])
def test_whatever_gloo_calls_it_a_lost_peer_is_one_line(text: str) -> None:
    worker = SimpleNamespace(world_size=2, rank=1)
    with (pytest.raises(process_group.LostContact, match=r"rank 1 .*: lost contact with another process"),
          process_group.Worker.guard(worker)):  # type: ignore[arg-type]
        raise RuntimeError(text)


def test_the_host_of_the_store_leaves_while_another_one_still_looks() -> None:
    is_there = True

    def answer(*_: Any) -> bool:
        if not is_there:
            raise RuntimeError("Connection reset by peer")
        return False

    store: Any = SimpleNamespace(set=answer, check=answer, get=answer)
    done, late = Peers(store, 1, 2, "here"), Peers(store, 1, 2, "here")
    assert not done.all_done()
    is_there = False
    assert done.end_of_job() is None
    assert done.all_done()
    # what was never published no other host has read: that one has not ended well
    for call in (late.end_of_job, late.all_done):
        with pytest.raises(RuntimeError):
            call()


def test_the_name_of_a_host_in_the_store_may_be_anything() -> None:
    store: Any = SimpleNamespace(set=lambda *_: None, check=lambda _: True, get=lambda _: b"\xff" + b"a" * 70)
    assert Peers(store, 0, 2, "here")._suspects("no answer of 10.0.0.1", [1]) == ["\ufffd" + "a" * 70]
