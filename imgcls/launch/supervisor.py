"""A job on this machine or on many: one agent each, whose output is merged and whose end is everybody's end."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from imgcls.errors import RunError, UsageError
from imgcls.launch import messages
from imgcls.launch import ssh as ssh_client
from imgcls.launch.hosts import Share
from imgcls.launch.messages import Report

#: seconds between signs of life to the agents
BEAT_S = 2.0
#: after a failure: until agents that have not noticed are told, and until they are killed
NOTICE_S, KILL_S = 4.0, 10.0
#: after Ctrl-C: until agents are killed, which give their workers 60 s to save
PATIENCE_S = 75.0


@dataclass(frozen=True)
class Job:
    """What to run and where; `shares` is one agent each, the first of them the host where all meet."""

    command: list[str]
    shares: list[Share]
    #: processes for each worker, such as one for each of its GPUs
    devices: int
    least: int
    most: int
    max_restarts: int
    timeout_s: float
    env: dict[str, str]
    python: str
    folder: str
    roots: list[str]
    ssh: ssh_client.Ssh | None
    name: str
    job: str
    sync_folder: str = ""
    verbose: bool = False
    dry_run: bool = False

    def agent_words(self, number: int, port: int) -> list[str]:
        """The command line of the agent on host `number`."""
        share = self.shares[number]
        words = [self.python, "-m", "imgcls.launch.agent", "--processes", str(share.workers * self.devices),
                 "--job", self.job, "--max-restarts", str(self.max_restarts), "--timeout", f"{self.timeout_s:g}",
                 "--name", self.name, "--launched"]
        if self.ssh is not None:
            words += ["--nnodes", f"{self.least}:{self.most}", "--endpoint", f"{self.shares[0].host.name}:{port}",
                      "--local-addr", share.host.name, "--is-host", str(int(number == 0))]
        return [*words, *["--verbose"] * self.verbose, "--", *self.command]

    def started_by(self, number: int, port: int) -> list[str]:
        """The command line here that starts it."""
        words = self.agent_words(number, port)
        if self.ssh is None:
            return words
        script = ssh_client.agent_script(words, self.sync_folder or self.folder, self.roots)
        return self.ssh.command(self.shares[number].host, script)

    def environment(self, number: int, port: int) -> dict[str, str]:
        """What the workers of host `number` find set; it goes over stdin, where nobody else can read it."""
        first = self.shares[0].host.name if self.ssh else "127.0.0.1"
        own = {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": first, "DMLC_PS_ROOT_PORT": str(port),
               "DMLC_NODE_HOST": self.shares[number].host.name,
               "DMLC_JOB_CLUSTER": "ssh" if self.ssh else "local"}
        return {**own, **self.env}


@dataclass
class Member:
    """One agent of the job, as the launcher sees it."""

    host: str
    process: subprocess.Popen[bytes]
    rest: dict[int, bytes] = field(default_factory=dict)
    #: how it said that the job ended
    report: Report | None = None
    #: the last line that was nobody's output: ssh's own words
    remark: str = ""
    #: why it is gone without a word
    lost: str = ""

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, word: bytes) -> None:
        """A word of `reports` for the agent."""
        with contextlib.suppress(OSError):
            os.write(self.process.stdin.fileno(), word) if self.process.stdin else None


def run(job: Job) -> int:
    """Check, copy, start, stay until the end; the exit status. One line per host that cannot be used."""
    port = 0
    if job.dry_run:
        return _show(job)
    if job.ssh is not None:
        port = _prepare_hosts(job)
        if not port:
            return 1
    watch = Watch(job, port or _free_port())
    return watch.run()


def _show(job: Job) -> int:
    """--dry-run: what would be run, as words for a shell."""
    port = 29400
    for number, share in enumerate(job.shares):
        if job.ssh and job.sync_folder:
            print(shlex.join(job.ssh.copy(share.host, job.folder, job.sync_folder)))
        names = [f"{name}={text}" if name.startswith("DMLC_") else name
                 for name, text in job.environment(number, port).items()]
        print(f"# {share.host.name}: {share.workers * job.devices} process(es), with {' '.join(names)}")
        print(shlex.join(job.started_by(number, port)))
    return 0


def _prepare_hosts(job: Job) -> int:
    """Reach every host and copy what it needs; a port that is free on the first, or 0 after telling what is wrong."""
    ssh = job.ssh or ssh_client.Ssh()
    hosts = [share.host for share in job.shares]
    script = ssh_client.probe_script(job.python, job.sync_folder)
    try:
        found = ssh_client.in_parallel(hosts, lambda host: ssh.command(host, script), ssh_client.ANSWER_S)
        wrong = [ssh_client.complaint(result, job.python, job.sync_folder) for result in found]
        if not any(wrong) and job.sync_folder:
            copied = ssh_client.in_parallel(hosts, lambda host: ssh.copy(host, job.folder, job.sync_folder), None)
            wrong = [text and f"rsync: {text}" for text in
                     (ssh_client.complaint(result, job.python, job.sync_folder) for result in copied)]
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename}: is needed for --launcher ssh and is not installed here") from None
    for host, text in zip(hosts, wrong, strict=True):
        if text:
            print(f"{job.name}: error: {host.name}: {text}", file=sys.stderr)
    if any(wrong):
        return 0
    lines = (found[0].stdout if found[0] else "").split()
    if "port" not in lines or not lines[-1].isdigit():
        raise RunError(f"{hosts[0].name}: its shell prints {' '.join(lines)[:80]!r} where our answer was expected")
    return int(lines[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Watch:
    """The agents of a job from start to end."""

    def __init__(self, job: Job, port: int) -> None:
        self.job = job
        self.port = port
        self.members: list[Member] = []
        #: signals that asked for an end
        self.told: list[int] = []
        self.errors: list[Report] = []
        self.seen: set[str] = set()
        #: when the job began to end, and how far that has come (0: not; 1: noticed; 2: told; 3: killed)
        self.ending_at, self.stage = 0.0, 0
        self.selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Start all and stay; the exit status."""
        with self._signals():
            try:
                for number in range(len(self.job.shares)):
                    self._start(number)
                self._stay()
            finally:
                for member in self.members:
                    if member.running:
                        member.process.kill()
        return self._verdict()

    def _start(self, number: int) -> None:
        job = self.job
        process = subprocess.Popen(  # in a session of its own: a terminal's Ctrl-C is for us to pass on
            job.started_by(number, self.port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env=_with_roots(job.roots) if job.ssh is None else None)
        member = Member(job.shares[number].host.name, process)
        self.members.append(member)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        member.send(json.dumps(job.environment(number, self.port)).encode() + b"\n")
        for target, stream in ((1, process.stdout), (2, process.stderr)):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            member.rest[target] = b""
            self.selector.register(stream, selectors.EVENT_READ, (member, target))

    def _stay(self) -> None:
        beat = time.monotonic()
        ended: set[str] = set()
        while len(ended) < len(self.members):
            for key, _events in self.selector.select(timeout=0.1):
                self._read(key.fileobj, *key.data)
            if time.monotonic() > beat + BEAT_S:
                beat = time.monotonic()
                for member in self.members:
                    member.send(messages.ALIVE)
            for number, member in enumerate(self.members):
                if not member.running and member.host not in ended:
                    ended.add(member.host)
                    self._drain(member)
                    self._note_end(member, keeper=number == 0)
            self._hasten()

    def _read(self, stream: Any, member: Member, target: int) -> None:
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if data:
            self._take(member, target, data)
        else:
            self.selector.unregister(stream)

    def _take(self, member: Member, target: int, data: bytes) -> None:
        *lines, member.rest[target] = (member.rest[target] + data).split(b"\n")
        for line in lines:
            self._pass_on(member, target, line)

    def _drain(self, member: Member) -> None:
        """What an agent that has ended had still to say."""
        for target, stream in ((1, member.process.stdout), (2, member.process.stderr)):
            assert stream is not None
            with contextlib.suppress(BlockingIOError):
                while data := os.read(stream.fileno(), 1 << 16):
                    self._take(member, target, data)
            with contextlib.suppress(KeyError):
                self.selector.unregister(stream)
            if member.rest[target]:
                self._pass_on(member, target, member.rest[target])

    def _pass_on(self, member: Member, target: int, line: bytes) -> None:
        """A whole line: a report of the agent, output of a worker, or a remark of ssh."""
        text = line.decode(errors="replace")
        report = messages.decode(text) if target == 2 else None
        if report is None:
            if target == 2 and not line.startswith(b"["):
                member.remark = text.strip() or member.remark
                line = f"[{member.host}] ".encode() + line
            _write(target, line + b"\n")
        elif report.kind == "error":
            member.report = report
            self.errors.append(report)
        elif report.line not in self.seen:
            self.seen.add(report.line)
            self._say(report.line)

    def _note_end(self, member: Member, *, keeper: bool) -> None:
        """An agent has ended: is that the end of the job?"""
        status = member.process.returncode
        if status == 0 or self.told or self.stage:
            return
        if member.report is None:
            member.lost = _why(status, member, self.job)  # else another host tells: this one's workers lost a peer
        alive = sum(other.running for other in self.members)
        taken_away = member.report is not None and member.report.status in (130, 143)
        if (member.lost or taken_away) and not keeper and self.job.least <= alive:
            self._say(f"{member.host}: {member.lost or 'was told to stop'}; the other hosts go on")
            return
        self.ending_at, self.stage = time.monotonic(), 1

    def _hasten(self) -> None:
        """Once the job is ending: tell those that are still there, and in the end kill them."""
        if self.stage == 0:
            return
        stop_after, kill_after = (0.0, PATIENCE_S) if self.told else (NOTICE_S, NOTICE_S + KILL_S)
        passed = time.monotonic() - self.ending_at
        if self.stage == 1 and passed >= stop_after:
            self.stage = 2
            self._send(messages.STOP)
        if self.stage == 2 and (passed >= kill_after or len(self.told) > 1):
            self.stage, self.ending_at = 3, time.monotonic()
            self._send(messages.KILL)
        elif self.stage == 3 and passed >= 4.0:
            for member in self.members:
                if member.running:
                    self._say(f"{member.host}: does not answer; its processes end by themselves within "
                              f"{max(self.job.timeout_s, 10) + PATIENCE_S:g} s")
                    member.process.kill()
            self.ending_at = time.monotonic()

    def _send(self, word: bytes) -> None:
        for member in self.members:
            if member.running:
                member.send(word)

    def _verdict(self) -> int:
        """The exit status, after the one line about what everything died of."""
        if self.told:
            status = 130 if self.told[0] == signal.SIGINT else 143
            name = signal.Signals(self.told[0]).name
            lines = [report.line for report in self.errors]
            saved = next((line for line in lines if line.startswith("stopped by") and " in " in line), "")
            other = next((line for line in lines if not line.startswith("stopped by")), "")
            self._say(f"error: {saved.replace('SIGTERM', name) or other or f'stopped by {name}'}")
            return status
        if self.stage == 0:
            return 0
        lost = [member for member in self.members if member.lost and not member.report]
        if lost:
            self._say(f"error: {lost[0].host}: {lost[0].lost}")
            return 1
        failed = next(member for member in self.members if member.process.returncode)
        self.errors.sort(key=lambda report: report.status in (130, 143))  # a host that was taken away is no reason
        report = self.errors[0] if self.errors else Report(
            "error", f"{failed.host}: its agent ended with status {failed.process.returncode}"
            + f" ({failed.remark})" * bool(failed.remark))
        self._say(f"error: {report.line}")
        return report.status

    def _say(self, line: str) -> None:
        _write(2, f"{self.job.name}: {line}\n".encode())

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, _frame: FrameType | None) -> None:
            self.told.append(number)
            if self.stage == 0:
                self.ending_at, self.stage = time.monotonic(), 1

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _why(status: int, member: Member, job: Job) -> str:
    """Why an agent is gone that said nothing; "" for an ordinary end."""
    if status == ssh_client.NO_FOLDER:
        return (f"has no folder {job.sync_folder or job.folder} (--sync-dst-dir copies this one there)")
    if job.ssh is not None and status == 255:
        return "the connection was lost" + f" ({member.remark})" * bool(member.remark)
    killed = -status if status < 0 else status - 128
    if 0 < killed < 65:
        with contextlib.suppress(ValueError):
            return f"its agent was killed by {signal.Signals(killed).name}"
    return ""


def _with_roots(roots: Sequence[str]) -> Mapping[str, str]:
    """The environment of an agent here."""
    path = [*roots[:1], *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


def _write(target: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever read us has left; the job goes on
        while data:
            data = data[os.write(target, data):]
