"""Host files, and which host has how many workers.

A host file has one host per line: `name`, `name:port` (of its ssh), `name slots=K` (how many workers it is for), with
`user@` before a name where it is another one; blank lines and what follows a # do not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.errors import DataError, UsageError

#: names are words of a command line on other machines: nothing in them may mean something to a shell or to ssh
_LINE = re.compile(r"(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*)(:(?P<port>\d{1,5}))?"
                   r"(\s+(?:slots|max_slots|max-slots)=(?P<slots>\d{1,5}))*\s*")
#: a longer file is none of hosts
MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Host:
    """`port` None: ssh's own; `slots` 0: not said."""

    name: str
    port: int | None = None
    slots: int = 0
    user: str = ""


@dataclass(frozen=True)
class Share:
    """A host with its part of the workers."""

    host: Host
    workers: int


def read(path: str) -> list[Host]:
    """The hosts of a file in its order; DataError that names the line that is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read(MOST_BYTES).splitlines()
    except OSError as error:
        raise UsageError(f"--hostfile {path}: {(error.strerror or str(error)).lower()}") from None
    hosts = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None or int(found["port"] or 22) > 65535:
            raise DataError(path, f"line {number}: {text[:60]!r} is no host; a line is a name, name:port or "
                                  "name slots=K")
        hosts.append(Host(found["name"], int(found["port"]) if found["port"] else None, int(found["slots"] or 0),
                          found["user"] or ""))
    if not hosts:
        raise DataError(path, "holds no hosts")
    return hosts


def spread(hosts: Sequence[Host], workers: int) -> list[Share]:
    """Deal `workers` out, one at a time in the file's order as MXNet did; a host that is full (slots) is passed over
    as long as there is another. Only hosts with work come back, each once, in order."""
    counts = dict.fromkeys((host.name for host in hosts), 0)
    slots: dict[str, int] = {}
    for host in hosts:  # a host that is there twice has the places of both lines
        slots[host.name] = slots.get(host.name, 0) + host.slots if host.slots else 1 << 30
    turn = list(hosts)
    while workers:
        free = [host for host in turn if counts[host.name] < slots[host.name]] or turn
        for host in free[:workers]:
            if counts[host.name] < slots[host.name] or free is turn:
                counts[host.name] += 1
                workers -= 1
    first = {host.name: host for host in reversed(hosts)}
    return [Share(first[name], count) for name, count in counts.items() if count]


def check_reachable_names(shares: Sequence[Share]) -> None:
    """UsageError where hosts could not find the first one by the name that it has in the file."""
    name = shares[0].host.name
    if len(shares) > 1 and (name == "localhost" or name.startswith("127.")):
        raise UsageError(f"--hostfile: {name} comes first, where all hosts meet, and means another machine on each of "
                         "them; give its name in the network")
