"""What the agents of a job tell each other through the store of their rendezvous: how their workers ended.

So each of them knows whether its own workers were the cause or only lost a peer. Used by `elastic`;
everything here is about one attempt of the workers.
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

from imgcls.launch.failures import Cause, WorkerFailure, decode_failure, root_cause

if TYPE_CHECKING:
    from torch.distributed import Store

#: seconds to wait for other hosts' accounts of a failure, and for the others to leave before the store goes
HEARING_S, LEAVING_S = 3.0, 3.0


class Peers:
    """The agents of one attempt: this one is `rank` of `size`, on `host`."""

    def __init__(self, store: Store, rank: int, size: int, host: str) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._others = [other for other in range(size) if other != rank]
        #: whether the others can read that the workers here have ended well
        self._is_done = False
        # now: a host that is lost later cannot give its name any more
        store.set(f"imgcls/host/{rank}", host)

    def exchange_failures(self, own: WorkerFailure) -> tuple[WorkerFailure, list[str]]:
        """Publish how a worker here failed; return the root cause and the hosts that did not answer."""
        try:
            self._store.set(f"imgcls/failure/{self._rank}", own.encode())
            failures = {self._rank: own}
            deadline = time.monotonic() + HEARING_S
            while len(failures) < self._size and time.monotonic() < deadline:
                failures |= self._new_failures(failures)
                # a reason of its own explains all the others: no need to wait for them
                if root_cause(failures.values()).cause < Cause.PEER_LOST:
                    break
                time.sleep(0.05)
            # where one host starts no workers again, none does: they would wait for it at the rendezvous
            cause = root_cause(failures.values())
            if cause.is_final or own.is_final:
                self._store.set("imgcls/end", cause.encode())
            silent = [other for other in self._others if other not in failures]
            return cause, self._suspects(own.message, silent)
        except RuntimeError:  # the host that served the store is gone
            return own, []

    def _new_failures(self, failures: dict[int, WorkerFailure]) -> dict[int, WorkerFailure]:
        return {other: decode_failure(self._store.get(f"imgcls/failure/{other}")) for other in self._others
                if other not in failures and self._store.check([f"imgcls/failure/{other}"])}

    def _suspects(self, message: str, silent: list[int]) -> list[str]:
        """Return the names of the silent hosts, or only of the one whose address is in `message`."""
        names = [self._store.get(f"imgcls/host/{other}").decode(errors="replace") for other in silent
                 if self._store.check([f"imgcls/host/{other}"])]
        # gloo names the address that no longer answers
        addresses = set(re.findall(r"\d+\.\d+\.\d+\.\d+", message))
        named = [name for name in names if _address(name) in addresses]
        return named or names

    def end_of_job(self) -> WorkerFailure | None:
        """Return how the job ended, on whichever host; None while it continues."""
        try:
            if not self._store.check(["imgcls/end"]):
                return None
            return decode_failure(self._store.get("imgcls/end"))
        except RuntimeError:
            # as in `all_done`, which looks next
            if self._is_done:
                return None
            raise

    def all_done(self) -> bool:
        """Publish that the workers here have ended well; return whether those of all hosts have."""
        if not self._is_done:
            # an error: without this no other host can have ended well
            self._store.set(f"imgcls/done/{self._rank}", "1")
            self._is_done = True
        try:
            return bool(self._store.check([f"imgcls/done/{other}" for other in range(self._size)]))
        except RuntimeError:  # the host that serves the store leaves last, and has left
            return True

    def leave(self, serves_store: bool) -> None:
        """Publish that this host leaves; the one that serves the store waits for the others, not for long."""
        try:
            self._store.set(f"imgcls/left/{self._rank}", "1")
            deadline = time.monotonic() + LEAVING_S
            # without the store the others could not read what they still need
            keys = [f"imgcls/left/{other}" for other in self._others]
            while serves_store and keys and time.monotonic() < deadline and not self._store.check(keys):
                time.sleep(0.05)
        except RuntimeError:
            return


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):  # a name that is longer than a name can be is the latter
        return ""
