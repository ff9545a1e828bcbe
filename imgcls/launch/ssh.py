"""Words for ssh and rsync. What a far shell gets is quoted here and nowhere else."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from imgcls.launch.hosts import Host

#: exit statuses of our own far scripts
NO_FOLDER, NO_PYTHON = 97, 98
#: seconds for a connection, and for a first answer
CONNECT_S, ANSWER_S = 10, 30


@dataclass(frozen=True)
class Ssh:
    """How to reach hosts; `config` is a file for -F, `options` words for -o."""

    config: str = ""
    options: list[str] = field(default_factory=list)
    alive_s: int = 10

    def words(self, host: Host) -> list[str]:
        """ssh with its flags, without a host: nothing is ever asked of a terminal."""
        own = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}", f"ServerAliveInterval={self.alive_s}",
               "ServerAliveCountMax=3"]
        config = ["-F", os.path.abspath(self.config)] if self.config else []
        port = ["-p", str(host.port)] if host.port else []
        # the first value of an option holds: the user's
        return ["ssh", "-T", *config, *(word for o in [*self.options, *own] for word in ("-o", o)), *port]

    def command(self, host: Host, script: str) -> list[str]:
        """What runs a script for sh on the host, whatever shell its user has."""
        return [*self.words(host), host.user + host.name, f"exec /bin/sh -c {shlex.quote(script)}"]

    def copy(self, host: Host, source: str, target: str) -> list[str]:
        """rsync of the contents of a folder here into one there."""
        return ["rsync", "-az", "--protect-args", "--exclude=.git", "--exclude=__pycache__",
                "-e", shlex.join(self.words(host)), "--", source.rstrip("/") + "/",
                f"{host.user}{host.name}:{target.rstrip('/')}/"]


def probe_script(python: str, sync_folder: str) -> str:
    """Prints a free port, so that a host is known to have what a job needs before anything is started."""
    make = f"mkdir -p -- {shlex.quote(sync_folder)} || exit {NO_FOLDER}; " if sync_folder else ""
    ask = "import socket; s = socket.socket(); s.bind(('', 0)); print('port', s.getsockname()[1])"
    return f"{make}{shlex.quote(python)} -c {shlex.quote(ask)} || exit {NO_PYTHON}"


def agent_script(words: Sequence[str], folder: str, roots: Sequence[str]) -> str:
    """Runs an agent in `folder`, with the first of `roots` that has our package.

    The shell stays, so that its exit status tells a killed agent from a lost connection (255).
    """
    places = " ".join(map(shlex.quote, roots))
    find = (f"for root in {places}; do if [ -f \"$root/imgcls/__init__.py\" ]; then "
            "PYTHONPATH=\"$root${PYTHONPATH:+:$PYTHONPATH}\"; export PYTHONPATH; break; fi; done; ") if roots else ""
    path = f"PATH={shlex.quote(os.path.dirname(words[0]))}:$PATH; export PATH; " if os.path.isabs(words[0]) else ""
    return (f"cd -- {shlex.quote(folder)} 2>/dev/null || exit {NO_FOLDER}; {find}{path}"
            f"{shlex.join(words)}; exit $?")


def in_parallel(hosts: Sequence[Host], make: Callable[[Host], list[str]], timeout_s: float | None
                ) -> list[subprocess.CompletedProcess[str] | None]:
    """Run a command for every host at the same time; None for those that did not end in time. Order is kept."""

    def one(host: Host) -> subprocess.CompletedProcess[str] | None:
        try:
            return subprocess.run(make(host), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                                  timeout=timeout_s, errors="replace")
        except subprocess.TimeoutExpired:
            return None

    with ThreadPoolExecutor(max_workers=min(len(hosts), 64)) as pool:
        return list(pool.map(one, hosts))


def complaint(result: subprocess.CompletedProcess[str] | None, python: str, folder: str) -> str:
    """Why a probe or a copy failed, in one line; "" when it did not."""
    if result is None:
        return f"did not answer within {ANSWER_S} s"
    last = ([line.strip() for line in result.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
    if result.returncode == 0:
        return ""
    if result.returncode == NO_PYTHON:
        return f"{python} does not run there (--python PATH names another one): {last}"
    if result.returncode == NO_FOLDER:
        return f"cannot make the folder {folder}: {last}"
    return f"cannot be reached by ssh: {last}" if result.returncode == 255 else last
