"""Command lines of ssh and rsync, and the scripts that run on other hosts.

What a shell of another host gets is quoted here and nowhere else. `job` starts agents with it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imgcls.launch.hosts import Host

#: exit statuses of our own scripts there: unlike those of ssh (255), shells (126 and up) and programs
NO_FOLDER, NO_PYTHON = 97, 98
#: what ssh itself exits with when it has no connection
CONNECTION_LOST = 255
#: seconds for a connection, and for a first answer
CONNECT_S, ANSWER_S = 10, 30
#: hosts that a command is run on at the same time
MAX_PARALLEL = 64


@dataclass(frozen=True)
class Ssh:
    """How to reach hosts; `config` is a file for -F, `options` NAME=VALUE for -o."""

    config: str = ""
    options: Sequence[str] = ()
    alive_s: int = 10

    def base_command(self, host: Host) -> list[str]:
        """Return ssh with its flags, without a host; it never asks for a password or a confirmation."""
        own = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}", f"ServerAliveInterval={self.alive_s}",
               "ServerAliveCountMax=3"]
        config = ["-F", os.path.abspath(self.config)] if self.config else []
        port = ["-p", str(host.port)] if host.port else []
        # ssh takes the first value of an option: the user's
        options = [argument for option in [*self.options, *own] for argument in ("-o", option)]
        return ["ssh", "-T", *config, *options, *port]

    def command(self, host: Host, script: str) -> list[str]:
        """Return what runs a script for sh on the host, whatever shell its user has."""
        # sh, since the login shell may be csh or fish; quoted once more for that login shell
        return [*self.base_command(host), host.user + host.name, f"exec /bin/sh -c {shlex.quote(script)}"]

    def rsync_command(self, host: Host, source: str, target: str) -> list[str]:
        """Return the rsync of the contents of a folder here into one there."""
        # --protect-args: the shell there must not expand the folder's name
        return ["rsync", "-az", "--protect-args", "--exclude=.git", "--exclude=__pycache__",
                "-e", shlex.join(self.base_command(host)), "--", source.rstrip("/") + "/",
                f"{host.user}{host.name}:{target.rstrip('/')}/"]


def probe_script(python: str, sync_folder: str) -> str:
    """Return a script that prints "port" and a free port, and makes the folder.

    So a host is known to have what a job needs before anything is started.
    """
    make = f"mkdir -p -- {shlex.quote(sync_folder)} || exit {NO_FOLDER}; " if sync_folder else ""
    # bound and closed again: free now, which is all that can be known
    ask = "import socket; s = socket.socket(); s.bind(('', 0)); print('port', s.getsockname()[1])"
    return f"{make}{shlex.quote(python)} -c {shlex.quote(ask)} || exit {NO_PYTHON}"


def agent_script(command: Sequence[str], folder: str, roots: Sequence[str]) -> str:
    """Return a script that runs an agent in `folder`, with the first of `roots` that has our package."""
    candidates = " ".join(map(shlex.quote, roots))
    find = (f"for root in {candidates}; do if [ -f \"$root/imgcls/__init__.py\" ]; then "
            "PYTHONPATH=\"$root${PYTHONPATH:+:$PYTHONPATH}\"; export PYTHONPATH; break; fi; done; "
            ) if roots else ""
    # `python` in the user's command is then the one that runs the agent
    bin_folder = os.path.dirname(command[0])
    path = f"PATH={shlex.quote(bin_folder)}:$PATH; export PATH; " if os.path.isabs(command[0]) else ""
    # No `exec`: the shell's exit status tells a killed agent (128 + signal) from a lost connection.
    return (f"cd -- {shlex.quote(folder)} 2>/dev/null || exit {NO_FOLDER}; {find}{path}"
            f"{shlex.join(command)}; exit $?")


def run_on_hosts(hosts: Sequence[Host], make_command: Callable[[Host], list[str]],
                 timeout_s: float | None) -> list[subprocess.CompletedProcess[str] | None]:
    """Run a command for every host at once, in their order; None for those that did not end in time."""

    def run(host: Host) -> subprocess.CompletedProcess[str] | None:
        try:
            return subprocess.run(make_command(host), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, check=False, timeout=timeout_s, errors="replace")
        except subprocess.TimeoutExpired:
            return None

    with ThreadPoolExecutor(max_workers=min(len(hosts), MAX_PARALLEL)) as pool:
        return list(pool.map(run, hosts))


def failure_reason(result: subprocess.CompletedProcess[str] | None, python: str, folder: str) -> str:
    """Return why a probe or a copy failed, in one line; "" when it did not."""
    if result is None:
        return f"did not answer within {ANSWER_S} s"
    if result.returncode == 0:
        return ""
    # banners come first, the error last
    last = ([line.strip() for line in result.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
    if result.returncode == NO_PYTHON:
        return f"{python} does not run there (--python PATH names another one): {last}"
    if result.returncode == NO_FOLDER:
        return f"cannot make the folder {folder}: {last}"
    return f"cannot be reached by ssh: {last}" if result.returncode == CONNECTION_LOST else last
