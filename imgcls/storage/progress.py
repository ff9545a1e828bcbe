"""Show that long work continues: a tqdm bar on a terminal, a line every ten seconds elsewhere.

For work below the commands, such as reading the index of a data set. Work that takes less than two seconds
(less than ten without a terminal) shows nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from imgcls.errors import printable, tell

_DELAY_S, _INTERVAL_S = 2.0, 10.0


@contextmanager
def show_count(what: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of `unit` of `what` that are done so far; `total` if known."""
    bar: Any = None
    is_terminal = sys.stderr.isatty()
    next_time = time.monotonic() + (_DELAY_S if is_terminal else _INTERVAL_S)

    def show(count: int) -> None:
        nonlocal bar, next_time
        # cheap where nothing is shown: it is called for each file
        now = time.monotonic()
        if now < next_time:
            return
        if not is_terminal:
            next_time = now + _INTERVAL_S
            if count == total:  # done: the next message shows it
                return
            tell(f"{what}: {count:,}{f' of {total:,}' if total else ''} {unit} so far")
            return
        if bar is None:
            from tqdm import tqdm

            bar = tqdm(total=total, desc=printable(what), unit=f" {unit}", leave=False, file=sys.stderr)
            next_time = now  # from now on the bar decides
        bar.update(count - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
