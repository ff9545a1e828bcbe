"""SIGINT, SIGTERM and SIGUSR1 while training: the step in progress ends, the position is saved, then we leave.

SIGUSR1 only saves and goes on (a scheduler's warning before it takes the machine back). A second Ctrl-C ends at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, ClassVar

from imgcls.errors import Stopped


class StopSignal:
    """A context: signals inside it set `requested`, and the trainer calls `raise_if_requested` when it is safe to.

    A request is a number of which the largest wins over all processes: 0 for none, `SAVE` to save and go on, more
    to end.
    """

    SAVE: ClassVar[int] = 1
    STATUS: ClassVar[dict[signal.Signals, int]] = {signal.SIGINT: 130, signal.SIGTERM: 143}
    _ENDS: ClassVar[list[signal.Signals]] = [signal.SIGINT, signal.SIGTERM]

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", None)):
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def request(self) -> int:
        """What the signals so far ask for."""
        if self.requested is None:
            return 0
        return self.SAVE + 1 + self._ENDS.index(self.requested) if self.requested in self._ENDS else self.SAVE

    def raise_if_requested(self, where: str, request: int) -> None:
        """End the run with its exit status if that is the request of all processes; `where` tells how far it came."""
        if self.request <= request:
            self.requested = None
        if request > self.SAVE:
            number = self._ENDS[request - self.SAVE - 1]
            raise Stopped(f"stopped by {number.name} in {where}", self.STATUS[number])

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
