"""The agent's thread that listens to its launcher through stdin, and ends the agent when nobody is there any more.

A dropped ssh connection, a killed launcher or a cable pulled out must not leave processes behind on a far machine.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

from imgcls.launch.messages import KILL, STOP

#: seconds that an agent without workers has to leave
LEAVING_S = 10.0
#: workers (each the head of a process group) that die with the agent
groups: set[int] = set()


def watch(stream: int, silence_s: float, patience_s: float) -> None:
    """Begin to listen on the file descriptor `stream`, which the launcher writes to every few seconds.

    At its end, at STOP, or after `silence_s` without a word, this process gets SIGTERM; when it is still there
    `patience_s` later, or at KILL, its workers and it are killed.
    """
    threading.Thread(target=_listen, args=(stream, silence_s, patience_s), daemon=True).start()


def kill_groups() -> None:
    """SIGKILL to every worker and what it started."""
    for group in list(groups):
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            groups.discard(group)


def _any_alive() -> bool:
    """Whether a worker has not ended; one that the main thread has not asked about yet has."""
    for worker in list(groups):
        try:
            if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return True
        except (ChildProcessError, AttributeError):  # ended and asked about; no such call
            continue
    return False


def _listen(stream: int, silence_s: float, patience_s: float) -> None:
    told_at = float("inf")
    while time.monotonic() < told_at + patience_s:
        ready = select.select([stream], [], [], silence_s if told_at == float("inf") else 0.5)[0] \
            if stream >= 0 else []
        word = os.read(stream, 256) if ready else b""
        if KILL in word:
            break
        if ready and not word:
            stream = -1
        if told_at == float("inf") and (not word or STOP in word):
            os.kill(os.getpid(), signal.SIGTERM)
            told_at = time.monotonic()
        elif told_at != float("inf"):
            time.sleep(0.2 if stream < 0 else 0)
            if not _any_alive():  # nobody saves any more, and the main thread may hang in a silent connection
                patience_s = min(patience_s, LEAVING_S)
    kill_groups()
    time.sleep(1.0)  # the main thread may still tell what happened
    os._exit(143)
