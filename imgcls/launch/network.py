"""How the hosts of a job reach each other: this one's addresses and network cards.

The agent calls this before torch is loaded. Nothing is sent: a socket shows which way it would take.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from imgcls.distributed.addresses import split_endpoint
from imgcls.distributed.rank_info import host_name

#: any port: a datagram socket that is connected sends nothing
_PROBE_PORT = 9
#: an address outside of this machine that belongs to no host (RFC 5737)
_OUTSIDE = "192.0.2.1"
#: Linux's request for the address of a network card, as in <linux/sockios.h>
_SIOCGIFADDR = 0x8915

def serves_endpoint(endpoint: str, local_addr: str) -> bool:
    """Return whether the place where the hosts meet, HOST:PORT, is on this host."""
    host, _port = split_endpoint(endpoint)
    if host == local_addr or host in (socket.gethostname(), "localhost", "127.0.0.1"):
        return True
    try:
        family, _type, _protocol, _name, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)  # works for one's own addresses only
    except (OSError, UnicodeError):  # a name that is longer than a name can be is the latter
        return False
    return True


def reachable_address(endpoint: str) -> str:
    """Return the address by which the other hosts that meet at `endpoint` reach this one, or its name."""
    host, _port = split_endpoint(endpoint)
    with contextlib.suppress(OSError):
        own = _own_address(host)
        # this host's own name may lead to loopback, which would mean another machine elsewhere
        return host if own.startswith("127.") else own
    return host_name()


def interface_to(host: str) -> str:
    """Return the network card that leads to `host`, or to the outside where `host` is here; "" for none."""
    import fcntl  # not on Windows, where agents do not run

    for target in (host, _OUTSIDE):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            own = _own_address(target)
            for _number, card in socket.if_nameindex():
                with contextlib.suppress(OSError):
                    request = struct.pack("256s", card.encode()[:15])
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                    if socket.inet_ntoa(answer[20:24]) == own and not own.startswith("127."):
                        return card
    return ""


def _own_address(target: str) -> str:
    """Return this host's address on the way to `target`; OSError where there is no way."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, _PROBE_PORT))
        except UnicodeError as error:  # what the resolver makes of a part with more than 63 characters
            raise OSError(f"{target}: no name of a machine") from error
        return probe.getsockname()[0]
