"""A job on this machine or on many: one agent on each, whose output is merged here.

`imgcls-launch` calls `run`. The agents (`agent`) start and restart the workers; here agents are started (over
ssh where they are elsewhere), sent signs of life, told to stop once the job is over, and killed where they do
not. An agent that fails ends the job, unless that is elastic and has hosts enough. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import FrameType
from typing import Any

from imgcls.errors import RunError, printable, reason, verbatim
from imgcls.launch import messages
from imgcls.launch import ssh as ssh_client
from imgcls.launch.failures import STOP_STATUSES
from imgcls.launch.job import Job, free_port, prepare_hosts, print_commands
from imgcls.launch.log_streams import write_all
from imgcls.launch.messages import AgentMessage, decode_message
from imgcls.launch.worker_processes import stop_signals

#: seconds between signs of life to the agents
BEAT_S = 2.0
#: seconds after a failure until agents that still run are told to stop, and from then until they are killed
NOTICE_S, KILL_S = 4.0, 10.0
#: seconds after Ctrl-C until agents are killed; they give their workers 60 s to save
PATIENCE_S = 75.0
#: seconds from telling an agent to kill its workers until the process here that reaches it is killed
CUT_S = 4.0
STDOUT, STDERR = 1, 2


class Shutdown(IntEnum):
    """How far the end of a job has come."""

    NOT_BEGUN = 0
    NOTICED = 1
    STOP_SENT = 2
    KILL_SENT = 3


@dataclass
class AgentHandle:
    """One agent of the job, as the launcher sees it."""

    host: str
    process: subprocess.Popen[bytes]
    #: the beginning of a line whose end has not come yet, by stream
    partial: dict[int, bytes] = field(default_factory=dict)
    #: its message about the end of the job
    final_message: AgentMessage | None = None
    #: the last line on stderr that is neither a message nor output of a worker: ssh's own
    last_stderr: str = ""
    #: why it is gone without a message
    lost: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the agent, or the ssh that reaches it, has not ended."""
        return self.process.poll() is None

    def send(self, data: bytes) -> None:
        """Send one of the bytes of `messages`, or the environment at the start."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                write_all(self.process.stdin.fileno(), data)


def run(job: Job) -> int:
    """Check the hosts, copy the folder, start the agents and wait for their end; return the exit status."""
    if job.dry_run:
        print_commands(job)
        return 0
    port = prepare_hosts(job, job.ssh) if job.ssh is not None else free_port()
    return Supervisor(job, port).run() if port else 1


class Supervisor:
    """The agents of a job from start to end."""

    def __init__(self, job: Job, port: int) -> None:
        self._job = job
        self._port = port
        self._agents: list[AgentHandle] = []
        #: signals that asked for an end
        self._stop_signals: list[int] = []
        self._errors: list[AgentMessage] = []
        #: notes that were shown: several hosts may say the same
        self._shown: set[str] = set()
        self._shutdown = Shutdown.NOT_BEGUN
        #: when the shutdown began, or when it came to its last stage
        self._shutdown_time = 0.0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Start all agents and wait until they have ended; return the exit status."""
        with self._catch_signals():
            try:
                for index in range(len(self._job.hosts)):
                    self._start(index)
                self._event_loop()
            finally:
                for agent in self._agents:
                    if agent.is_running:
                        agent.process.kill()
                    for stream in (agent.process.stdin, agent.process.stdout, agent.process.stderr):
                        if stream is not None:
                            stream.close()
        return self._exit_status()

    def _start(self, index: int) -> None:
        job = self._job
        env = _with_roots(job.roots) if job.ssh is None else None
        command = job.start_command(index, self._port)
        try:  # in a session of its own: a terminal's Ctrl-C is for us to pass on
            process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, start_new_session=True)
        except (OSError, ValueError) as error:  # a name with a zero byte is the latter
            raise RunError(f"cannot start {verbatim(command[0])} (`python` names the Python): {reason(error)}"
                           ) from error
        agent = AgentHandle(job.hosts[index].host.name, process)
        self._agents.append(agent)
        assert process.stdin is not None
        # over stdin, where no one else can read it: there may be secrets among the variables
        agent.send(json.dumps(job.environment(index, self._port)).encode() + b"\n")
        # only now: it may be more than a pipe holds. From here on a host that hangs must not block the others
        os.set_blocking(process.stdin.fileno(), False)
        for target, stream in ((STDOUT, process.stdout), (STDERR, process.stderr)):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            agent.partial[target] = b""
            self._selector.register(stream, selectors.EVENT_READ, (agent, target))

    def _event_loop(self) -> None:
        last_beat = time.monotonic()
        ended: set[str] = set()
        while len(ended) < len(self._agents):
            # a tenth of a second: how late an ended agent may be noticed
            for key, _events in self._selector.select(timeout=0.1):
                self._read(key.fileobj, *key.data)
            if time.monotonic() > last_beat + BEAT_S:
                last_beat = time.monotonic()
                self._send_all(messages.ALIVE)
            for index, agent in enumerate(self._agents):
                # an ended agent may have left output in its pipes
                if not agent.is_running and agent.host not in ended:
                    ended.add(agent.host)
                    self._drain(agent)
                    self._handle_end(agent, is_rendezvous_host=index == 0)
            self._escalate_shutdown()

    # ---- output

    def _read(self, stream: Any, agent: AgentHandle, target: int) -> None:
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if data:
            self._split_lines(agent, target, data)
        else:
            self._selector.unregister(stream)

    def _split_lines(self, agent: AgentHandle, target: int, data: bytes) -> None:
        *lines, agent.partial[target] = (agent.partial[target] + data).split(b"\n")
        for line in lines:
            self._pass_on(agent, target, line)

    def _drain(self, agent: AgentHandle) -> None:
        """Pass on what is left of the output of an agent that has ended."""
        for target, stream in ((STDOUT, agent.process.stdout), (STDERR, agent.process.stderr)):
            assert stream is not None
            with contextlib.suppress(BlockingIOError):
                while data := os.read(stream.fileno(), 1 << 16):
                    self._split_lines(agent, target, data)
            with contextlib.suppress(KeyError):
                self._selector.unregister(stream)
            if agent.partial[target]:
                self._pass_on(agent, target, agent.partial[target])

    def _pass_on(self, agent: AgentHandle, target: int, line: bytes) -> None:
        """Handle a whole line: a message of the agent, output of a worker, or a line of ssh itself."""
        text = line.decode(errors="replace")
        message = decode_message(text) if target == STDERR else None
        if message is None:
            if target == STDERR and not line.startswith(b"["):  # lines of workers begin with [host:rank]
                agent.last_stderr = text.strip() or agent.last_stderr
                line = f"[{agent.host}] ".encode() + line
            _write(target, line + b"\n")
        elif message.kind == "error":
            agent.final_message = message
            self._errors.append(message)
        elif message.line not in self._shown:
            self._shown.add(message.line)
            self._log(message.line)

    def _log(self, line: str) -> None:
        _write(STDERR, f"{self._job.name}: {printable(line)}\n".encode())

    # ---- the end

    def _handle_end(self, agent: AgentHandle, *, is_rendezvous_host: bool) -> None:
        """Begin the shutdown if the end of an agent is the end of the job."""
        status = agent.process.returncode
        # once the job is ending, what agents end with is a consequence
        if status == 0 or self._stop_signals or self._shutdown:
            return
        if agent.final_message is None:
            # "" where its workers only lost a peer: the host of that one reports why
            agent.lost = _loss_reason(status, agent, self._job)
        # enough hosts left: an elastic job continues, except without the store
        num_running = sum(other.is_running for other in self._agents)
        was_told = agent.final_message is not None and agent.final_message.status in STOP_STATUSES
        if (agent.lost or was_told) and not is_rendezvous_host and self._job.min_hosts <= num_running:
            self._log(f"{agent.host}: {agent.lost or 'was terminated'}; the other hosts continue")
            return
        self._begin_shutdown()

    def _begin_shutdown(self) -> None:
        self._shutdown_time = time.monotonic()
        self._shutdown = Shutdown.NOTICED

    def _escalate_shutdown(self) -> None:
        """Once the job is ending: tell the agents that still run to stop, then kill them."""
        if self._shutdown == Shutdown.NOT_BEGUN:
            return
        # after a failure most agents end by themselves; after Ctrl-C none does, and workers have to save
        tell_after, kill_after = (0.0, PATIENCE_S) if self._stop_signals else (NOTICE_S, NOTICE_S + KILL_S)
        elapsed = time.monotonic() - self._shutdown_time
        if self._shutdown == Shutdown.NOTICED and elapsed >= tell_after:
            self._shutdown = Shutdown.STOP_SENT
            self._send_all(messages.STOP)
        if self._shutdown == Shutdown.STOP_SENT and (elapsed >= kill_after or len(self._stop_signals) > 1):
            self._shutdown = Shutdown.KILL_SENT
            self._shutdown_time = time.monotonic()
            self._send_all(messages.KILL)
        elif self._shutdown == Shutdown.KILL_SENT and elapsed >= CUT_S:
            for agent in self._agents:
                # the ssh here ends; on the other host the heartbeat's silence ends the agent
                if agent.is_running:
                    self._log(f"{agent.host}: does not answer; its processes end by themselves within "
                              f"{max(self._job.timeout_s, 10) + PATIENCE_S:g} s")
                    agent.process.kill()
            self._shutdown_time = time.monotonic()

    def _send_all(self, data: bytes) -> None:
        for agent in self._agents:
            if agent.is_running:
                agent.send(data)

    def _exit_status(self) -> int:
        """Return the exit status, after one line about the cause of a failure."""
        if self._stop_signals:
            return self._stopped_status(self._stop_signals[0])
        if self._shutdown == Shutdown.NOT_BEGUN:
            return 0
        for agent in self._agents:
            if agent.lost and not agent.final_message:
                self._log(f"error: {agent.host}: {agent.lost}")
                return 1
        # a host that was asked to stop is no reason: others first
        errors = sorted(self._errors, key=lambda message: message.status in STOP_STATUSES)
        message = errors[0] if errors else self._unexplained_end()
        self._log(f"error: {message.line}")
        return message.status

    def _stopped_status(self, number: int) -> int:
        """Return the exit status after a signal, and report what a worker reported about its end."""
        name = signal.Signals(number).name
        lines = [message.line for message in self._errors]
        saved = next((line for line in lines if line.startswith("stopped by") and " in " in line), "")
        other = next((line for line in lines if not line.startswith("stopped by")), "")
        # the agents pass every signal on as SIGTERM
        self._log(f"error: {saved.replace('SIGTERM', name) or other or f'stopped by {name}'}")
        return 128 + number

    def _unexplained_end(self) -> AgentMessage:
        failed = next(agent for agent in self._agents if agent.process.returncode)
        ssh_text = f" ({failed.last_stderr})" if failed.last_stderr else ""
        status = failed.process.returncode
        return AgentMessage("error", f"{failed.host}: its agent ended with status {status}{ssh_text}")

    @contextlib.contextmanager
    def _catch_signals(self) -> Iterator[None]:
        def note(number: int, _frame: FrameType | None) -> None:
            self._stop_signals.append(number)
            if self._shutdown == Shutdown.NOT_BEGUN:
                self._begin_shutdown()

        previous = {number: signal.signal(number, note)
                    for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _loss_reason(status: int, agent: AgentHandle, job: Job) -> str:
    """Return why an agent is gone without a message; "" for an ordinary end."""
    if status == ssh_client.NO_FOLDER:
        return f"has no folder {job.sync_folder or job.folder} (--sync-dst-dir copies this one there)"
    if job.ssh is not None and status == ssh_client.CONNECTION_LOST:
        return f"the connection was lost{f' ({agent.last_stderr})' if agent.last_stderr else ''}"
    # ssh gives the status of the shell there, which is 128 + the signal
    number = -status if status < 0 else status - 128  # a shell's way to say the same
    if 0 < number < 65:
        with contextlib.suppress(ValueError):
            return f"its agent was killed by {signal.Signals(number).name}"
    return ""


def _with_roots(roots: Sequence[str]) -> Mapping[str, str]:
    """Return the environment of an agent here."""
    # first our own package: the agent has to be of this version
    path = [*roots[:1], *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


def _write(target: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the reader of our output is gone; the job continues
        write_all(target, data)
