"""The lines of a file that may be of any size, with lines of any length, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

#: how much of a line is kept: MXNet's longest, with all arguments, has 2,000 characters
MAX_LINE_BYTES = 1 << 16


def bounded_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines, of each no more than its first 64 kB."""
    while line := stream.readline(MAX_LINE_BYTES):
        yield line
        # the rest of a long line is read and dropped, a piece at a time
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
