"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 while training: the step in progress is finished, the position is
saved, and the run ends.

SIGUSR1 only saves and continues (a scheduler's warning before it takes the machine back). A second Ctrl-C
ends the run at once, with nothing saved. SIGHUP comes when a terminal is closed; under nohup it is ignored,
and stays so. A log that no one reads any more counts as SIGPIPE, which Python itself ignores.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, ClassVar

from imgcls.errors import Stopped
from imgcls.training.output import is_hangup_ignored, is_unread


class StopSignal:
    """A context in which signals set `requested`; the trainer calls `raise_if_requested` when it is safe to.

    A request is a number, and the largest over all processes wins: 0 for none, `SAVE` to save and
    continue, a larger one to end.
    """

    SAVE: ClassVar[int] = 1
    #: the signals that end a run, and what a shell reports for a process that one has killed: 128 and its
    #: number; where processes got different ones, the later in this list counts
    _ENDING: ClassVar[list[tuple[str, int]]] = [("SIGINT", 130), ("SIGPIPE", 141), ("SIGHUP", 129),
                                                ("SIGTERM", 143)]

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python lets only the main thread set handlers; `imgcls.fit` in another one runs without
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
                number = getattr(signal, name, None)  # Windows lacks the last two
                if number is not None and not (name == "SIGHUP" and is_hangup_ignored()):
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def request(self) -> int:
        """The request of the signals so far, and of a log that no one reads."""
        names = [name for name, _status in self._ENDING]
        if self.requested is not None and self.requested.name in names:
            return self.SAVE + 1 + names.index(self.requested.name)
        if is_unread():
            return self.SAVE + 1 + names.index("SIGPIPE")
        return 0 if self.requested is None else self.SAVE

    def raise_if_requested(self, progress: str, request: int) -> None:
        """Raise `Stopped` if `request`, of all processes, is to end; `progress` says how far the run came."""
        # a signal that came after the processes agreed is a larger request, and stays for the next call
        if self.request <= request:
            self.requested = None
        if request > self.SAVE:
            name, status = self._ENDING[request - self.SAVE - 1]
            raise Stopped(f"stopped by {name} in {progress}", status)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # a handler runs between any two instructions: it may do no more than set a variable
        if number == signal.SIGINT and self.requested == signal.SIGINT:
            raise KeyboardInterrupt
        # a request to save and continue does not replace an earlier one to end
        if self.request <= self.SAVE or signal.Signals(number).name in dict(self._ENDING):
            self.requested = signal.Signals(number)
