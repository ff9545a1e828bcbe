"""What agents and launcher say to each other: marked lines on stderr, single bytes on stdin.

Both ends are of one version: a launcher starts the agents of its own package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from imgcls.errors import printable

#: the first character of an agent's own line among those of its workers; no text for people has it
MARK = "\x1e"

#: what the launcher says: still here; end in good order; end at once
ALIVE, STOP, KILL = b".", b"t", b"k"


@dataclass(frozen=True)
class AgentMessage:
    """`kind` is "error" (the job is over, and why; `status` is its exit status) or "note" (it continues)."""

    kind: str
    line: str
    status: int = 1

    def encode(self) -> str:
        """Return the message as one line, with its end."""
        return f"{MARK}{json.dumps(asdict(self))}\n"


def decode_message(line: str) -> AgentMessage | None:
    """Return the message in a line of an agent's stderr; None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        fields = json.loads(line[1:])
        # one line whatever it says: it is shown as it is
        text = printable(" ".join(str(fields["line"]).split()))
        return AgentMessage(str(fields["kind"]), text, int(fields["status"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
