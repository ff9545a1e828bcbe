"""What one agent is to do, and its state while it does it: for `agent` and `elastic`.

Needs no torch, starts and ends nothing.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field

from imgcls.errors import printable
from imgcls.launch.messages import AgentMessage
from imgcls.launch.worker_processes import WorkerProcesses

#: seconds that workers have to save and leave when told to stop, and when another has failed
STOP_S, FAILURE_S = 60.0, 4.0


class StopRequested(BaseException):
    """Raised in the main thread by a signal that asks for an end.

    It is no Exception, so that torch, which catches those in many places, does not swallow it.
    """


@dataclass(frozen=True)
class LaunchSpec:
    """What one agent is to run, with which hosts, and how often to start it again."""

    command: list[str]
    processes: int
    #: MIN and MAX of --nnodes: so many hosts must meet, and so many may take part
    min_hosts: int
    max_hosts: int
    #: HOST:PORT of the store where the hosts meet
    endpoint: str
    #: the job's own name, which no other job has; "" where the hosts still have to agree on one
    job: str
    #: whether this host serves that store
    is_rendezvous_host: bool
    #: the address by which the other hosts reach this one
    address: str
    #: this host's name in messages
    host: str
    max_restarts: int
    timeout_s: float
    #: the command's name in messages
    name: str
    verbose: bool
    #: whether a launcher reads the output: then lines have a prefix, and messages are encoded
    has_launcher: bool
    #: whether only lost hosts and killed workers are a reason to start again, not a worker's own error
    restarts_losses_only: bool

    @property
    def has_several_hosts(self) -> bool:
        """Whether the job is for more than this host."""
        return self.max_hosts > 1

    @property
    def is_elastic(self) -> bool:
        """Whether hosts may come and go."""
        return self.min_hosts < self.max_hosts


@dataclass
class AgentState:
    """One agent at work."""

    spec: LaunchSpec
    workers: WorkerProcesses
    #: the name of the job that workers are given; "" until the hosts have agreed on it
    job: str
    #: a folder for the error files of the workers
    folder: str = ""
    #: the signal that asked this agent to stop, 0 while none did
    stop_signal: int = 0
    #: while this is set, a signal is recorded and handled later
    defer_signals: bool = False
    # the first error only: later ones are its consequences
    #: what has been reported as the end of the job
    final_message: AgentMessage | None = None
    #: ranks of workers that outlived STOP_S and were killed
    unresponsive: list[int] = field(default_factory=list)

    def report(self, message: AgentMessage) -> None:
        """Tell the user, or the launcher; of several errors only the first."""
        if message.kind == "error":
            if self.final_message is not None:
                return
            self.final_message = message
        label = "error: " if message.kind == "error" else ""
        line = f"{self.spec.name}: {label}{printable(message.line)}\n"
        text = message.encode() if self.spec.has_launcher else line
        # a stop may be asked for because the terminal was closed, and then nothing can be written
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
