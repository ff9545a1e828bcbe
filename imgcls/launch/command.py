"""The user's command behind imgcls-launch: its arguments, and what the launcher reads in them.

Called by `imgcls-launch` and by the agents; nothing here runs the command.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence

from imgcls.config.flags import to_integer
from imgcls.config.sections import MAX_PROCESSES
from imgcls.errors import UsageError

#: variables that MXNet's launcher passed on to other hosts
PASSED_VARIABLES = ("OMP_NUM_THREADS", "KMP_AFFINITY", "LD_LIBRARY_PATH", "AWS_ACCESS_KEY_ID",
                    "AWS_SECRET_ACCESS_KEY", "DMLC_INTERFACE")
#: characters of the shortest beginning of a flag that is taken for it, `--gp`
_MIN_NAME = 4


def split_command(arguments: Sequence[str]) -> list[str]:
    """Return the command as a list of arguments; one quoted string is split as a shell would."""
    # argparse leaves the -- that separates the command from our flags
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if len(command) == 1 and any(c.isspace() for c in command[0]):
        try:
            command = shlex.split(command[0])
        except ValueError as error:
            raise UsageError(f"the command {command[0]!r}: {str(error).lower()}") from None
    if not command:
        raise UsageError("the command to run is missing; for example: imgcls-launch -n 2 imgcls-train "
                         "--network lenet")
    return command


def flag_value(command: Sequence[str], flag: str) -> str:
    """Return what a flag of the command is set to, the last time it is given; "" where it is not given.

    It may be given by its beginning, as in `--gpu 0,1`.
    """
    value = ""
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, text = argument.partition("=")
        # the last one counts, as for argparse; MXNet's scripts spell some flags with underscores
        name = name.replace("_", "-")
        if len(name) >= _MIN_NAME and flag.startswith(name):
            value = text if equals else following
    return value


def count_devices(command: Sequence[str]) -> int:
    """Return the processes of one worker: one for each GPU of --gpus, or --workers-per-host."""
    gpus = _numbers(flag_value(command, "--gpus"))
    if len(gpus) > 1:
        return len(gpus)
    # a wrong value is left to the command itself, which reports it in its own words
    (per_host,) = _numbers(flag_value(command, "--workers-per-host").replace(",", ";")) or [1]
    return per_host if 1 <= per_host <= MAX_PROCESSES else 1


def count_gpus(command: Sequence[str]) -> int:
    """Return how many GPUs the command names."""
    return len(_numbers(flag_value(command, "--gpus")))


def _numbers(text: str) -> list[int]:
    """Return the numbers of a list; [] where one of its parts is none."""
    try:
        numbers = [to_integer(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if min(numbers) >= 0 else []


def resolve_program(command: Sequence[str]) -> list[str]:
    """Return the command with the path of its program; UsageError where there is no such program.

    `python` and our own commands are found even where PATH has none.
    """
    program, *arguments = command
    path = shutil.which(program)
    if path:
        return [path, *arguments]
    if program in ("python", "python3"):
        return [sys.executable, *arguments]
    # imgcls-train is `python -m imgcls train`, wherever its script was installed
    if program == "imgcls" or program.startswith("imgcls-"):
        return [sys.executable, "-m", "imgcls", *program.split("-", 1)[1:], *arguments]
    raise UsageError(f"{program}: there is no such program on {socket.gethostname()}")


def passed_variables(named: Sequence[str]) -> dict[str, str]:
    """Return MXNet's variables and those that --env names, as far as they are set; NAME=VALUE sets one.

    UsageError for what is not a name.
    """
    chosen = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    for text in named:
        name, equals, content = text.partition("=")
        if not name.isidentifier():
            raise UsageError(f"--env {text}: must be NAME or NAME=VALUE")
        if equals or name in os.environ:
            chosen[name] = content if equals else os.environ[name]
    return chosen
