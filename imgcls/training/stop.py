"""SIGINT, SIGTERM and SIGUSR1 while training: the step in progress ends, the position is saved, then we
leave.

SIGUSR1 only saves and goes on (a scheduler's warning before it takes the machine back). A second Ctrl-C ends
the run at once, with nothing saved.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, ClassVar

from imgcls.errors import Stopped


class StopSignal:
    """A context in which signals set `requested`; the trainer calls `raise_if_requested` when it is safe to.

    A request is a number, and the largest over all processes wins: 0 for none, `SAVE` to save and go on, more
    to end.
    """

    SAVE: ClassVar[int] = 1
    #: what a shell reports for a process that a signal has killed: 128 and the signal's number
    STATUS: ClassVar[dict[signal.Signals, int]] = {signal.SIGINT: 130, signal.SIGTERM: 143}
    #: the signals that end a run; where processes got different ones, the later in this list counts
    _ENDING: ClassVar[list[signal.Signals]] = [signal.SIGINT, signal.SIGTERM]

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python lets only the main thread set handlers; `imgcls.fit` in another one runs without
        if threading.current_thread() is threading.main_thread():
            # Windows has no SIGUSR1
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", None)):
                if number is not None:
                    self._before[number] = signal.signal(number, self._on_signal)
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
        if self.requested in self._ENDING:
            return self.SAVE + 1 + self._ENDING.index(self.requested)
        return self.SAVE

    def raise_if_requested(self, progress: str, request: int) -> None:
        """Raise `Stopped` if `request`, of all processes, is to end; `progress` says how far the run came."""
        # a signal that came after the processes agreed asks for more, and stays for the next time
        if self.request <= request:
            self.requested = None
        if request > self.SAVE:
            number = self._ENDING[request - self.SAVE - 1]
            raise Stopped(f"stopped by {number.name} in {progress}", self.STATUS[number])

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # a handler runs between any two instructions: it may do no more than leave a note
        if number == signal.SIGINT and self.requested == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
