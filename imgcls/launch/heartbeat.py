"""The agent's thread that listens to its launcher through stdin, and ends the agent when that is gone.

A dropped ssh connection, a killed launcher or a pulled cable must not leave processes behind on another
machine. The launcher's side of it is in `supervisor`.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

from imgcls.launch.messages import KILL, STOP
from imgcls.launch.worker_processes import WorkerProcesses

#: seconds that an agent without workers has to leave
LEAVING_S = 10.0


def watch_launcher(stream: int, workers: WorkerProcesses, silence_s: float, patience_s: float) -> None:
    """Begin to listen on the file descriptor `stream`, which the launcher writes to every few seconds.

    At its end, at STOP, or after `silence_s` without a byte, this process gets SIGTERM. When it still runs
    `patience_s` later, or at KILL, its workers and it are killed.
    """
    # a daemon: it must not keep an agent that has done its work
    threading.Thread(target=_listen, args=(stream, workers, silence_s, patience_s), daemon=True).start()


def _listen(stream: int, workers: WorkerProcesses, silence_s: float, patience_s: float) -> None:
    stop_time: float | None = None  # when this process was asked to stop
    is_open = True
    while stop_time is None or time.monotonic() < stop_time + patience_s:
        timeout_s = silence_s if stop_time is None else 0.5
        is_ready = is_open and bool(select.select([stream], [], [], timeout_s)[0])
        received = os.read(stream, 256) if is_ready else b""
        if KILL in received:
            break
        if is_ready and not received:
            is_open = False  # the launcher is gone: select would call its stream ready for ever
        if stop_time is None:
            if not received or STOP in received:  # closed, silent for too long, or asked
                os.kill(os.getpid(), signal.SIGTERM)
                stop_time = time.monotonic()
            continue
        if not is_open:
            time.sleep(0.2)
        # no worker is saving any more, and the main thread may hang in a silent connection
        if not workers.any_alive():
            patience_s = min(patience_s, LEAVING_S)
    workers.kill()
    time.sleep(1.0)  # the main thread may still say what happened
    os._exit(143)
