"""What the commands that prepare data have in common: flags, and how they report what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_SIDE, MAX_THREADS
from imgcls.errors import DataError, tell

#: how many problems are printed
SHOWN_PROBLEMS = 10


def threads_flag(since: str = "new") -> Any:
    """Return the field `num_thread`: MXNet's name, which is why it is not in the plural."""
    return flag(0, "threads; 0: one per core", since=since, metavar="N", minimum=0, maximum=MAX_THREADS)


def resize_flag(help: str, since: str = "new") -> Any:
    """Return the field `resize`, a length in pixels."""
    return flag(0, help, since=since, metavar="PIXELS", minimum=0, maximum=MAX_SIDE)


def print_left_out(command: str, problems: Sequence[DataError]) -> None:
    """Print the first ten of the images that were left out, and how many more there are."""
    for problem in problems[:SHOWN_PROBLEMS]:
        tell(f"{command}: left out: {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        tell(f"{command}: {len(problems) - SHOWN_PROBLEMS} more were left out")
