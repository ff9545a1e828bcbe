"""How a worker ended, and which of several failures caused the others.

The agent reads here what its workers wrote before they ended; agents send each other the result (`peers`).
Needs no torch, and ends no process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from imgcls.errors import RunError


class Cause(IntEnum):
    """Why a worker ended, the best explanation of a job's end first: `root_cause` takes the smallest."""

    ERROR = 0  # it had a reason of its own
    STOPPED = 1  # it was asked to stop, and did
    PEER_LOST = 2  # another worker was gone
    KILLED = 3  # the agent ended it, because of some other failure


# What torch's back ends say in a worker that lost another one: their exceptions have no common class. Only
# texts that nobody else writes: a worker's own error may name any file, and any server that timed out.
_PEER_GONE = re.compile("|".join((
    # imgcls (`LostContact`)
    r"lost contact with another process|processes of the job did not meet at|the server here lost a worker|"
    r"a server does not answer, or has ended",
    # torch's classes, which its ErrorHandler writes in front of the text
    r"\bDist(Network|Store|Backend)Error\b",
    # gloo: a line of its source, an address in brackets, or the bare text
    r"\[[^]\s]*\.cc:\d+\]|Connection (closed|reset) by peer \[|Application timeout caused pair closure|"
    r"Timed out waiting \d+ ?ms for|Connect timeout \[|connectFullMesh failed|in monitoredBarrier|"
    r"reached monitoredBarrier|failed to pass monitoredBarrier|Operation timed out!",
    r"^(RuntimeError: )?(writev|readv|Connection (closed|reset) by peer|Connection refused|Broken pipe|"
    r"Socket Timeout)\b",
    # NCCL
    r"NCCL error|NCCL operations have failed|NCCL communicator was aborted|nccl(Remote|System|Internal)Error|"
    r"Watchdog caught collective operation timeout|remote process exited",
    # TCPStore and the other stores
    r"The (client|server) socket has (failed|timed out)|SocketImpl\(fd=|\bTCPStore\b|c10d key-value store|"
    r"(got|got error:) Socket Timeout|[Ww]ait timeout after \d+ ?ms|barrier timeout after \d+ ?ms|"
    r"[Tt]imeout waiting for key|Timed out after \d+ seconds waiting for clients|waitForInput: |"
    r"TCP client failed to connect|failed to recv, got 0 bytes|Connection was likely closed")))
#: exit statuses of a command that was asked to stop, and did in good order: SIGHUP, SIGINT, SIGPIPE, SIGTERM
STOP_STATUSES = (129, 130, 141, 143)
#: those of a worker: by its own handler (128 + signal), or by the signal itself
_STOP_STATUSES = (*STOP_STATUSES, -signal.SIGTERM, -signal.SIGINT, -1)
#: more of an error file than this is not read: one line is shown in the end
_MAX_ERROR_BYTES = 1 << 20
#: no rank, exit status or time of another host is larger
_MAX_NUMBER = 1 << 53


@dataclass(frozen=True)
class WorkerFailure:
    """The end of one worker: `status` as in subprocess (negative: a signal), its own `message` or ""."""

    rank: int
    host: str
    status: int
    message: str
    # clocks of hosts may differ: only failures with the same cause are compared by it
    #: seconds since 1970, by the clock of its host
    time: float
    cause: Cause
    #: whether the agent of this worker will start no others
    is_final: bool = False

    @property
    def exit_status(self) -> int:
        """What the command ends with: 2 for wrong usage, one of STOP_STATUSES when told to stop, else 1."""
        if self.status in (2, *STOP_STATUSES):
            return self.status
        # a worker without a handler dies of the signal itself
        return 128 - self.status if self.status in _STOP_STATUSES else 1

    @property
    def was_told_to_stop(self) -> bool:
        """Whether the worker was asked to stop, and did."""
        return self.cause == Cause.STOPPED

    def describe(self, several_hosts: bool, *, is_restarted: bool = False) -> str:
        """Return a line for people; with `is_restarted` the beginning of a sentence about a restart."""
        worker = f"rank {self.rank} ({self.host})"
        if self.status < 0:
            name = _signal_name(-self.status)
            # Linux kills with SIGKILL the process that takes the last memory, and tells only the system log
            return f"{worker} was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
        if not self.message:
            return f"{worker} exited with status {self.status}"
        if is_restarted:
            return f"{worker} died: {self.message.removeprefix(f'{worker}: ')}"
        needs_name = several_hosts and not self.message.startswith("rank ")
        return f"{worker}: {self.message}" if needs_name else self.message

    def encode(self) -> str:
        """Return the failure as JSON, for `decode_failure` in another agent."""
        return json.dumps(asdict(self))


def decode_failure(data: str | bytes) -> WorkerFailure:
    """Return the failure that `WorkerFailure.encode` wrote; RunError for anything else."""
    try:
        fields = json.loads(data)
        failure = WorkerFailure(
            rank=_typed(fields["rank"], int), host=_typed(fields["host"], str),
            status=_typed(fields["status"], int), message=_typed(fields["message"], str),
            time=float(_typed(fields["time"], (int, float))), cause=Cause(_typed(fields["cause"], int)),
            is_final=_typed(fields["is_final"], bool))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise RunError("what another host wrote about the end of its workers is damaged") from error
    return failure


def _typed(value: Any, kind: type | tuple[type, ...]) -> Any:
    # True is an int for isinstance, and -10**30 can be no exit status
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(value)
    if isinstance(value, (int, float)) and not abs(value) < _MAX_NUMBER:
        raise ValueError(value)
    return value


def read_failure(rank: int, host: str, status: int, error_file: str, *,
                 ended_by_agent: bool) -> WorkerFailure:
    """Return the failure of a worker that ended with `status`, with the message it left in `error_file`.

    `ended_by_agent`: after this agent had told it to end.
    """
    message, when = _read_error_file(error_file)
    # a worker that was ended may still say why it had to: a lost peer, for example
    if ended_by_agent and (status < 0 or not message):
        cause = Cause.KILLED
    elif status in _STOP_STATUSES:
        cause = Cause.KILLED if ended_by_agent else Cause.STOPPED
    elif message and _PEER_GONE.search(message):
        cause = Cause.PEER_LOST
    else:
        cause = Cause.ERROR
    return WorkerFailure(rank, host, status, message, when, cause)


def _read_error_file(path: str) -> tuple[str, float]:
    """Return a worker's message in one line and when it wrote it; "" and now where it left none."""
    # torch's own format of TORCHELASTIC_ERROR_FILE: `message` is a text, or an object that has one
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            content = json.loads(stream.read(_MAX_ERROR_BYTES))["message"]
        text = content if isinstance(content, str) else str(content.get("message", ""))
        message = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", time.time()  # it had no time to write, or is not one of ours
    try:
        return message, os.stat(path).st_mtime
    except OSError:
        return message, time.time()


def root_cause(failures: Iterable[WorkerFailure]) -> WorkerFailure:
    """Return the failure that explains the others: the first in time of those with the best cause."""
    return min(failures, key=lambda failure: (failure.cause, failure.time))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
