"""The worker processes of one agent, each the head of a process group: ended together, and with the agent.

The agent, its torch side (`elastic`) and its listener (`heartbeat`) share one `WorkerProcesses`. torch starts
the processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable


class WorkerProcesses:
    """Process groups by the process id of their worker."""

    def __init__(self) -> None:
        self._pids: set[int] = set()

    def replace(self, pids: Iterable[int]) -> None:
        """Take the workers of a new attempt in place of the earlier ones."""
        self._pids = set(pids)

    def kill(self) -> None:
        """Send SIGKILL to every worker and what it started."""
        # called from a signal handler and from another thread: so a copy is read, and ids are only removed
        for pid in list(self._pids):
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._pids.discard(pid)

    def any_alive(self) -> bool:
        """Return whether a worker still runs; a zombie, whose status was not collected yet, has ended."""
        for pid in list(self._pids):
            try:
                # WNOWAIT leaves the status to the main thread, which is torch's to collect
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return True
            except (ChildProcessError, AttributeError):  # ended and collected; no such call on this system
                continue
        return False


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a job to end: SIGHUP, of a closed terminal, only without nohup."""
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if is_nohup else [signal.SIGHUP])]


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a worker and what it started, if it is still there."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def parent_death_command() -> list[str]:
    """Return what to put before a command so that it ends with a killed agent; [] without the tool."""
    command = [shutil.which("setpriv") or "", "--pdeathsig", "TERM", "--"]
    # older versions of setpriv have no --pdeathsig: ask it
    if not command[0] or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        return []
    return command
