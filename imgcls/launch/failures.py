"""What a worker died of, and which of several deaths was the cause of the others. Needs no torch."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import asdict, dataclass

#: how much a death explains: it had a reason of its own; it was told to stop; another one was gone; we ended it
OWN, TOLD, PEER, ENDED = range(4)

#: what torch's back ends say in a worker that lost another one
_PEER_GONE = re.compile(
    r"lost contact|did not meet|gloo|NCCL|connection (was )?(closed|reset|refused|aborted)|broken pipe|timed out|"
    r"remote process exited|Dist(Network|Store|Backend)Error|does not answer|TCPStore|socket", re.IGNORECASE)


@dataclass(frozen=True)
class Death:
    """The end of one worker: `status` as subprocess tells it (negative: a signal), `line` its own words or none."""

    rank: int
    host: str
    status: int
    line: str
    time: float
    weight: int
    #: whether the agent of this worker will start no others
    final: bool = False

    @property
    def exit_status(self) -> int:
        """What the command as a whole ends with: 2 for wrong usage, 130 and 143 for an end that was asked for."""
        return self.status if self.status in (2, 130, 143) else 143 if self.status == -signal.SIGTERM else 1

    @property
    def deliberate(self) -> bool:
        """Whether the worker was told to stop, and did."""
        return self.weight == TOLD

    def sentence(self, several_hosts: bool, *, died: bool = False) -> str:
        """For people; with `died` as the beginning of a sentence about a restart."""
        who = f"rank {self.rank} ({self.host})"
        if self.status < 0:
            name = _signal_name(-self.status)
            return f"{who} was killed by {name}" + " (out of memory?)" * (name == "SIGKILL")
        if not self.line:
            return f"{who} exited with status {self.status}"
        if died:
            return f"{who} died: {self.line.removeprefix(f'{who}: ')}"
        return f"{who}: {self.line}" if several_hosts and not self.line.startswith("rank ") else self.line

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def decode(data: bytes) -> Death:
    """The inverse of Death.encode."""
    return Death(**json.loads(data))


def read(rank: int, host: str, status: int, error_file: str, *, by_us: bool) -> Death:
    """The Death of a worker that ended with `status`; `by_us`: after this agent had told it to end."""
    line, when = "", time.time()
    try:
        with open(error_file, encoding="utf-8", errors="replace") as stream:
            message = json.loads(stream.read(1 << 20))["message"]
        text = message if isinstance(message, str) else str(message.get("message", ""))
        line = "; ".join(part.strip() for part in text.splitlines() if part.strip())
        when = os.stat(error_file).st_mtime
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # it had no time for last words, or is not one of ours
    if by_us and (status < 0 or not line):
        weight = ENDED
    elif status in (130, 143, -signal.SIGTERM, -signal.SIGINT):
        weight = ENDED if by_us else TOLD
    elif line and _PEER_GONE.search(line):
        weight = PEER
    else:
        weight = OWN
    return Death(rank, host, status, line, when, weight)


def cause(deaths: list[Death]) -> Death:
    """The one that explains the others: the first in time of those with the best reason."""
    return min(deaths, key=lambda death: (death.weight, death.time))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
