"""The agent: starts the worker processes of one host, watches them, starts them again, and tells what one died of.

`imgcls-train --gpus 0,1` calls `run`; the launcher starts `python -m imgcls.launch.agent` on each of its hosts.
Processes, ranks and rendezvous are torch's own elastic agent's; ours are the words, the end of things, and the rule
which failure is worth another try.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from imgcls.distributed.rank_info import AGENT_VARIABLE, host_name
from imgcls.errors import RunError, UsageError
from imgcls.launch import failures, heartbeat
from imgcls.launch.command import resolve
from imgcls.launch.messages import Report

#: seconds that workers have to save and leave when the job is told to stop, and when another of them has died
STOP_S, FAILURE_S = 60.0, 4.0
#: how often an elastic job is started again where --max-restarts does not say: 0 would end it at the first lost host
ELASTIC_RESTARTS = 10


@dataclass
class Plan:
    """What one agent is to do; shared by `run` and the torch side of it (`elastic.py`)."""

    command: list[str]
    processes: int
    least: int
    most: int
    endpoint: str
    job: str
    is_host: bool
    address: str
    host: str
    max_restarts: int
    timeout_s: float
    name: str
    verbose: bool
    #: under the launcher: prefixed output, reports instead of messages
    launched: bool
    #: only lost hosts and killed workers are worth another try, not a worker's own error
    losses_only: bool
    #: what workers know the job by: no other job has it; "" until the hosts have agreed on it
    unique: str
    folder: str = ""
    #: the signal that told this agent to stop, 0 while none did
    told: int = 0
    #: while this is set, a signal is noted and not acted on
    busy: bool = False
    #: what has been reported as the end of the job
    ended: Report | None = None
    #: workers that outlived STOP_S and were killed
    stubborn: list[int] = field(default_factory=list)

    @property
    def several_hosts(self) -> bool:
        return self.most > 1

    @property
    def elastic(self) -> bool:
        return self.least < self.most

    def say(self, report: Report) -> None:
        """Tell the user, or the launcher."""
        if report.kind == "error":
            if self.ended is not None:
                return
            self.ended = report
        words = "error: " if report.kind == "error" else ""
        text = report.encode() if self.launched else f"{self.name}: {words}{report.line}\n"
        sys.stderr.write(text)
        sys.stderr.flush()


class Told(BaseException):
    """Raised in the main thread by a signal that asks for an end. No Exception, so that torch does not swallow it."""


def run(command: Sequence[str], *, processes: int, nnodes: str = "1", endpoint: str = "", job: str = "",
        is_host: bool | None = None, local_addr: str = "", max_restarts: int = 0, timeout: float = 300,
        name: str = "imgcls-train", verbose: bool = False, launched: bool = False) -> int:
    """Run `processes` copies of `command` on this host, and return the exit status of the whole.

    `nnodes` is the number of hosts, N or MIN:MAX; several meet at `endpoint` (HOST:PORT, kept by the host with
    `is_host`) under the name `job`, and know this one as `local_addr`. 0: all ended well. 2: a worker was used wrongly
    (never tried again). 143, 130: told to stop by SIGTERM, SIGINT; workers got SIGTERM and saved. 1: anything else,
    with one line on stderr about the first cause. `timeout` in seconds; UsageError for arguments that make no sense.
    """
    least, most = parse_nnodes(nnodes)
    if processes < 1:
        raise UsageError(f"{processes} processes: there must be at least 1")
    if most > 1 and not endpoint:
        raise UsageError(f"--nnodes {nnodes}: --rdzv-endpoint HOST:PORT must say where the machines meet")
    losses_only = least < most and max_restarts == 0
    if losses_only:
        max_restarts = ELASTIC_RESTARTS
    if os.name == "nt":
        raise UsageError("several processes need Linux or macOS")
    host, several = local_addr or host_name(), most > 1
    unique = job or ("" if several else secrets.token_hex(8))
    plan = Plan(resolve(command), processes, least, most, endpoint or "127.0.0.1:0", unique or "none",
                _keeps(endpoint, local_addr) if is_host is None else is_host,
                local_addr or (_address(endpoint) if several else "127.0.0.1"), host, max_restarts, timeout, name,
                verbose, launched, losses_only, unique)
    with _signals(plan), _scratch(plan), _quiet(verbose):
        try:
            _prepare_environment(plan)
            from imgcls.launch.elastic import supervise

            return supervise(plan)
        except Told:
            return _end_told(plan)


def parse_nnodes(text: str) -> tuple[int, int]:
    """N -> (N, N), MIN:MAX -> (MIN, MAX); UsageError for anything else."""
    least, colon, most = text.partition(":")
    if not (least.isdigit() and (most.isdigit() or not colon)) or not 1 <= int(least) <= int(most or least):
        raise UsageError(f"--nnodes {text}: must be a number of machines, or MIN:MAX such as 1:4")
    return int(least), int(most or least)


def tie_to_agent() -> list[str]:
    """Words before a command that end it when the agent is killed; none where the system has no such tool."""
    words = [shutil.which("setpriv") or "", "--pdeathsig", "TERM", "--"]
    if not words[0] or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        return []
    return words


def _prepare_environment(plan: Plan) -> None:
    os.environ[AGENT_VARIABLE] = "1"
    # torch's restart is broken where workers of two attempts share a store: the new ones read dead addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # ours are handled here
    if not plan.verbose:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if plan.launched:
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if plan.several_hosts and "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = os.environ.get("DMLC_INTERFACE") or _interface(plan.endpoint.rpartition(":")[0])
        if interface:  # else gloo asks what this host's own name means, which on Debian is 127.0.1.1
            os.environ["GLOO_SOCKET_IFNAME"] = interface


def _keeps(endpoint: str, local_addr: str) -> bool:
    """Whether the place where the hosts meet is this host."""
    import socket

    host = endpoint.rpartition(":")[0]
    if not host or host == local_addr or host in (socket.gethostname(), "localhost", "127.0.0.1"):
        return True
    try:
        address = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))  # works for one's own addresses only
    except OSError:
        return False
    return True


def _address(endpoint: str) -> str:
    """The address by which the other hosts reach this one."""
    import socket

    kept = endpoint.rpartition(":")[0]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((kept, 9))  # sends nothing
        mine = probe.getsockname()[0]
        return kept if mine.startswith("127.") else mine  # this host's own name may lead to itself the short way
    return host_name()


def _interface(host: str) -> str:
    """The network card that leads to `host`, or where that is this one, out of here; "" when it cannot be told."""
    import fcntl
    import socket
    import struct

    for target in (host, "192.0.2.1"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            mine = probe.getsockname()[0]
            for _number, card in socket.if_nameindex():
                with contextlib.suppress(OSError):
                    answer = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", card.encode()[:15]))  # SIOCGIFADDR
                    if socket.inet_ntoa(answer[20:24]) == mine and not mine.startswith("127."):
                        return card
    return ""


@contextlib.contextmanager
def _signals(plan: Plan) -> Iterator[None]:
    """The first SIGTERM, SIGINT or SIGHUP asks for an end in good order, the second for one at once."""

    def note(number: int, _frame: FrameType | None) -> None:
        if plan.told:
            heartbeat.kill_groups()
            return
        plan.told = number
        if not plan.busy:
            raise Told

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _scratch(plan: Plan) -> Iterator[None]:
    """A folder for the workers' last words."""
    plan.folder = tempfile.mkdtemp(prefix="imgcls-agent-")
    try:
        yield
    finally:
        shutil.rmtree(plan.folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """No log of torch's own, which tells a failure in thirty lines."""
    before = logging.root.manager.disable
    if not verbose:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _end_told(plan: Plan) -> int:
    """The exit status and the line after the workers have ended as they were told."""
    asked = signal.Signals(plan.told)
    status = 130 if asked == signal.SIGINT else 143
    line = ""
    for root, _folders, files in sorted(os.walk(plan.folder)):
        for file in files:
            last = failures.read(0, plan.host, 1, os.path.join(root, file), by_us=False)
            if last.weight == failures.OWN and not last.line.startswith("stopped by"):
                plan.say(Report("error", last.line, 1))  # such as a disk that was too full to save
                return 1
            line = last.line if last.line.startswith("stopped by") else line
    if plan.stubborn:
        line = f"rank {plan.stubborn[0]} ({plan.host}) did not end within {STOP_S:g} s of SIGTERM and was killed"
    line = line.replace("SIGTERM", asked.name) or f"stopped by {asked.name}"
    plan.say(Report("error", line, status))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m imgcls.launch.agent [flags] -- COMMAND...`, for the launcher and the generated scripts."""
    parser = argparse.ArgumentParser(prog="imgcls-agent", allow_abbrev=False)
    for flag in ("--processes", "--max-restarts"):
        parser.add_argument(flag, type=int, default=1 if flag == "--processes" else 0)
    for flag in ("--endpoint", "--job", "--local-addr"):
        parser.add_argument(flag, default="")
    parser.add_argument("--nnodes", default="1")
    parser.add_argument("--name", default="imgcls-launch")
    parser.add_argument("--is-host", type=int, choices=(0, 1))
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--launched", action="store_true", help="the launcher is at the other end of stdin")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("command", nargs="+")
    flags = parser.parse_args(argv)
    if flags.launched:
        _obey_launcher(flags.timeout)
    try:
        return run(flags.command, processes=flags.processes, nnodes=flags.nnodes, endpoint=flags.endpoint,
                   job=flags.job, is_host=None if flags.is_host is None else bool(flags.is_host),
                   local_addr=flags.local_addr, max_restarts=flags.max_restarts, timeout=flags.timeout,
                   name=flags.name, verbose=flags.verbose, launched=flags.launched)
    except (UsageError, RunError) as error:
        report = Report("error", str(error), error.exit_status)
        sys.stderr.write(report.encode() if flags.launched else f"{flags.name}: error: {error}\n")
        return error.exit_status


def _obey_launcher(timeout_s: float) -> None:
    """Take from stdin the environment, which may hold secrets, and then signs of life; workers get an empty stdin."""
    import json

    stream = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(stream, 1)
        if not byte:
            raise SystemExit(143)  # the launcher is gone already
        line += byte
    os.environ.update({str(name): str(value) for name, value in json.loads(line).items()})
    heartbeat.watch(stream, silence_s=max(timeout_s, 10.0), patience_s=STOP_S + 10)


if __name__ == "__main__":
    from imgcls.launch import agent  # as elastic.py knows it: the classes of __main__ are others

    sys.exit(agent.main())
