"""What an agent has to say to the launcher: lines on its stderr that stand out from the workers' own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

#: the first byte of such a line; no text that people read has it
MARK = "\x1e"

#: what the launcher says through an agent's stdin: still here; end in good order; end at once
ALIVE, STOP, KILL = b".", b"t", b"k"


@dataclass(frozen=True)
class Report:
    """`kind` is "error" (the job is over, and why; `status` is its exit status) or "note" (it goes on)."""

    kind: str
    line: str
    status: int = 1

    def encode(self) -> str:
        """As one line, with its end."""
        return f"{MARK}{json.dumps(asdict(self))}\n"


def decode(line: str) -> Report | None:
    """The Report in a line of an agent's stderr; None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        found = json.loads(line[1:])
        return Report(str(found["kind"]), " ".join(str(found["line"]).split()), int(found["status"]))
    except (ValueError, KeyError, TypeError):
        return None
