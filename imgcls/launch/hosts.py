"""Host files, and which host runs how many workers.

A host file has one host per line: `name`, `name:port` (of its ssh) or `name slots=K` (how many workers it is
for), with `user@` before the name where the user is another one. Blank lines and what follows a # do not
count. `imgcls-launch` reads it; nothing here connects to a host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.config.flags import shortened, to_integer
from imgcls.errors import DataError, UsageError, reason, verbatim

# names go into command lines on other machines: nothing in them may mean something to a shell or ssh
_LINE = re.compile(
    r"(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*)(:(?P<port>[0-9]{1,5}))?"
    r"(\s+(?:slots|max_slots|max-slots)=(?P<slots>[0-9]{1,5}))*\s*")
#: a longer file is not one of hosts
MAX_BYTES = 1 << 22
#: machines of a job
MAX_HOSTS = 100_000
#: slots of a host that gives no number: more than anybody has workers
UNLIMITED = 1 << 30


@dataclass(frozen=True)
class Host:
    """A line of a host file; `port` None: ssh's own; `slots` 0: not given; `user` "" or with its @."""

    name: str
    port: int | None = None
    slots: int = 0
    user: str = ""


@dataclass(frozen=True)
class HostSlots:
    """A host and how many workers it runs."""

    host: Host
    num_workers: int


def read_hostfile(path: str) -> list[Host]:
    """Return the hosts of a file in its order; DataError for a line that is no host, or where there is none.

    UsageError where the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read(MAX_BYTES).splitlines()
    except OSError as error:
        raise UsageError(f"--hostfile {verbatim(path)}: {reason(error)}") from None
    hosts = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None or int(match["port"] or 22) > 65535:
            raise DataError(path, f"line {number}: {text[:60]!r} is no host; a line is a name, name:port or "
                                  "name slots=K")
        if match["slots"] and not int(match["slots"]):
            continue  # no slots, no workers: as in Open MPI's host files
        hosts.append(Host(match["name"], int(match["port"]) if match["port"] else None,
                          int(match["slots"] or 0), match["user"] or ""))
    if not hosts:
        raise DataError(path, "holds no hosts")
    return hosts


def assign_workers(hosts: Sequence[Host], num_workers: int) -> list[HostSlots]:
    """Return how many workers each host runs, dealt out one at a time in the file's order as MXNet did.

    A host that is full (slots) is passed over as long as another is not. Only hosts with workers are
    returned, each once, in order.
    """
    counts = dict.fromkeys((host.name for host in hosts), 0)
    slots: dict[str, int] = {}
    for host in hosts:  # a host that is there twice has the slots of both lines
        slots[host.name] = slots.get(host.name, 0) + host.slots if host.slots else UNLIMITED
    # where all hosts are full they take more workers than slots, in turn
    left = num_workers
    while left:
        free = [host for host in hosts if counts[host.name] < slots[host.name]]
        for host in (free or hosts)[:left]:
            if counts[host.name] < slots[host.name] or not free:
                counts[host.name] += 1
                left -= 1
    # of a host that is there twice the first line says how to reach it
    first = {host.name: host for host in reversed(hosts)}
    return [HostSlots(first[name], count) for name, count in counts.items() if count]


def check_rendezvous_host(assigned: Sequence[HostSlots]) -> None:
    """Raise UsageError where hosts could not find the first one by the name that it has in the file."""
    name = assigned[0].host.name
    # on one host the name is good: no one else has to find it
    if len(assigned) > 1 and (name == "localhost" or name.startswith("127.")):
        raise UsageError(f"--hostfile: {verbatim(name)} comes first, where all hosts meet, and means "
                         "another machine on each of them; give its name in the network")


def parse_nnodes(text: str) -> tuple[int, int]:
    """Return (N, N) for N and (MIN, MAX) for MIN:MAX; UsageError for anything else."""
    try:
        numbers = [to_integer(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not 1 <= numbers[0] <= numbers[-1] <= MAX_HOSTS:
        raise UsageError(f"`nnodes` {shortened(text)}: must be a number of machines from 1 to {MAX_HOSTS}, "
                         "or MIN:MAX such as 1:4")
    return numbers[0], numbers[-1]
