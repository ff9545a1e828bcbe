"""Names and addresses of machines: parse them, find those of this machine, and listen on these alone.

Used before torch is loaded. `stores` serves torch's stores on the sockets that are made here.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import sys

from imgcls.config.flags import shortened
from imgcls.errors import UsageError

MAX_PORT = 65535
#: the port where none is given: torchrun's
DEFAULT_PORT = 29400
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
_IPV6 = r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?"
#: connections that may wait to be accepted, as many as in torch
_BACKLOG = 2048


def is_address(text: str) -> bool:
    """Return whether a text may be a host's name or address."""
    return bool(re.fullmatch(rf"{_NAME}|{_IPV6}|\[{_IPV6}\]", text))


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT or [IPV6]:PORT, or of a host alone with `DEFAULT_PORT`.

    UsageError for anything else.
    """
    match = re.fullmatch(rf"({_NAME}|\[{_IPV6}\])(?::([0-9]{{1,5}}))?", endpoint)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if match is None or not 1 <= port <= MAX_PORT:
        raise UsageError(f"`rdzv_endpoint` {shortened(endpoint)}: must be HOST:PORT with a port of 1 to "
                         f"{MAX_PORT}, such as node1:{DEFAULT_PORT}")
    return match[1].strip("[]"), port


def is_loopback(host: str) -> bool:
    """Return whether an address or name means, on every machine, that machine itself."""
    if host.lower() in ("localhost", "localhost.localdomain", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return False


def stay_on_this_machine() -> None:
    """Have gloo and NCCL listen on loopback, where the user has not named a network card."""
    card = "lo0" if sys.platform == "darwin" else "lo"
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, card)


def listen(host: str, port: int, *, is_one_machine: bool = False) -> socket.socket:
    """Return a socket that listens on the address `host` of this machine; OSError where the port is taken.

    It listens on all addresses only where `host` is an address of another machine (a router), or is a name
    that means loopback on this machine and may mean something else on others (Debian's 127.0.1.1). With
    `is_one_machine` the job has no others: loopback is right, and another machine's address an OSError.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    may_be_loopback = is_one_machine or is_loopback(host)
    # IPv4 first: for localhost clients try both
    for family, _type, _protocol, _name, address in sorted(found, key=lambda entry: entry[0]):
        if is_loopback(str(address[0])) and not may_be_loopback:
            continue
        try:
            return socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    if may_be_loopback:
        raise OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this machine")
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True,
                                        backlog=_BACKLOG)
    return socket.create_server(("", port), backlog=_BACKLOG)
