"""The user's command: its words, and what the launcher has to know of it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence

from imgcls.errors import UsageError

#: variables that MXNet's launcher passed on to other hosts
PASSED = ("OMP_NUM_THREADS", "KMP_AFFINITY", "LD_LIBRARY_PATH", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
          "DMLC_INTERFACE")


def words(rest: Sequence[str]) -> list[str]:
    """The command as words; one quoted string is taken apart as a shell would."""
    command = list(rest[1:] if rest[:1] == ["--"] else rest)
    if len(command) == 1 and any(c.isspace() for c in command[0]):
        try:
            command = shlex.split(command[0])
        except ValueError as error:
            raise UsageError(f"the command {command[0]!r}: {str(error).lower()}") from None
    if not command:
        raise UsageError("what is to be run is missing; for example: imgcls-launch -n 2 imgcls-train --network lenet")
    return command


def value(command: Sequence[str], flag: str) -> str:
    """What a flag of the user's command is set to, last place first; "" where it is not there."""
    found = ""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, text = word.partition("=")
        if name.replace("_", "-") == flag:
            found = text if equals else following
    return found


def devices(command: Sequence[str]) -> int:
    """Processes that one worker takes: one for each GPU of --gpus, or what --workers-per-host says."""
    gpus = value(command, "--gpus").split(",")
    if len(gpus) > 1 and all(part.strip().isdigit() for part in gpus):
        return len(gpus)
    several = value(command, "--workers-per-host")
    return int(several) if several.isdigit() and int(several) > 0 else 1


def gpus(command: Sequence[str]) -> int:
    """How many GPUs the command names."""
    return sum(part.strip().isdigit() for part in value(command, "--gpus").split(","))


def resolve(command: Sequence[str]) -> list[str]:
    """The command with a program that is there: `python` and our own commands are found where PATH has none."""
    program, *rest = command
    found = shutil.which(program)
    if found:
        return [found, *rest]
    if program in ("python", "python3"):
        return [sys.executable, *rest]
    if program == "imgcls" or program.startswith("imgcls-"):
        return [sys.executable, "-m", "imgcls", *program.split("-", 1)[1:], *rest]
    raise UsageError(f"{program}: there is no such program on {socket.gethostname()}")


def passed_variables(named: Sequence[str]) -> dict[str, str]:
    """MXNet's list and what --env names, as far as they are set; NAME=VALUE sets one. UsageError for no name."""
    chosen = {name: os.environ[name] for name in PASSED if name in os.environ}
    for text in named:
        name, equals, content = text.partition("=")
        if not name.isidentifier():
            raise UsageError(f"--env {text}: must be NAME or NAME=VALUE")
        if equals or name in os.environ:
            chosen[name] = content if equals else os.environ[name]
    return chosen
