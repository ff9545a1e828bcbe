"""Memory that the processes of one machine share, and that is freed when the last of them ends.

A file without a name (`memfd_create`): nothing is left behind however a process ends, and no name can be
taken or guessed by anybody else. Another process of the same user opens it as /proc/PID/fd/N, as long as the
first one runs. It is sealed against being cut short, so a mapping of it never ends a process with SIGBUS;
pages are taken only when they are written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from imgcls.errors import RunError, reason
from imgcls.storage import memory

#: the beginning of a segment: a random number by which it is recognized, and counters of the caches in it
HEADER_BYTES = 4096
#: index in the header of how often the tables were changed (the caches use other indices)
_NUM_CHANGES = 2
#: bytes that are written between two checks of how much memory the machine has left, and what must be left
_LOOK_BYTES, RESERVE_BYTES = 64 << 20, 512 << 20
#: random bits of that number (the token): all that a float64 carries from one process to another
_TOKEN_BITS = 52
#: files that are the same for processes that see each other: the namespace of process numbers, the boot
_NAMESPACE = "/proc/self/ns/pid"
_BOOT = "/proc/sys/kernel/random/boot_id"


class Address(NamedTuple):
    """Where the other processes of this machine find a segment."""

    pid: int
    handle: int
    token: int


def is_available() -> bool:
    """Whether this system has memory of this kind (Linux)."""
    return hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate")


def machine_id() -> int:
    """Return a number of 52 bits that is the same for processes that see each other in /proc."""
    import hashlib

    text = ""
    with contextlib.suppress(OSError), open(_BOOT, encoding="ascii") as stream:
        text = f"{stream.read()} {os.stat(_NAMESPACE).st_ino} {os.getuid()}"
    # where these files cannot be read, a number that no other process has
    text = text or secrets.token_hex(16)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> (64 - _TOKEN_BITS)


class Segment:
    """`size` bytes of shared memory, zeros at first, for many threads and processes at once."""

    def __init__(self, handle: int, size: int) -> None:
        """Take over an open file of that size; `create` and `attach` open one."""
        self._handle = handle
        self.size = size
        #: uint8 (size,): the mapping, kept alive by every view of it
        self.bytes = np.frombuffer(memoryview(mmap.mmap(handle, size)), np.uint8)
        self._lock = threading.Lock()
        self._looked_bytes = 0
        self._is_full = False
        # the memory itself is freed with the last view of the mapping
        weakref.finalize(self, os.close, handle)

    @classmethod
    def create(cls, size: int) -> Segment:
        """Return a new segment; no page of it is taken yet. RunError where the system refuses."""
        import fcntl

        try:
            handle = os.memfd_create("imgcls-decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(handle, size)
            # from now on no process, this one included, can change the size
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
            segment = cls(handle, size)
        except (OSError, ValueError) as error:
            raise RunError(f"`decoded_cache_gb`: {size} bytes of shared memory: {reason(error)}") from error
        segment.header[0] = secrets.randbits(_TOKEN_BITS)
        return segment

    @classmethod
    def attach(cls, address: Address, size: int) -> Segment | None:
        """Return the segment of another process, None where it cannot be reached from here."""
        try:
            handle = os.open(f"/proc/{address.pid}/fd/{address.handle}", os.O_RDWR | os.O_CLOEXEC)
            if os.fstat(handle).st_size != size:
                os.close(handle)
                return None
            segment = cls(handle, size)
        except (OSError, ValueError):
            return None
        # in another container the process of that number is a different one, with other memory there
        return segment if int(segment.header[0]) == address.token else None

    @property
    def address(self) -> Address:
        """Where others find it."""
        return Address(os.getpid(), self._handle, int(self.header[0]))

    @property
    def header(self) -> np.ndarray:
        """int64 (512,): the token, and counters of the caches in the segment."""
        return self.bytes[:HEADER_BYTES].view(np.int64)

    @property
    def num_changes(self) -> int:
        """How often `note_change` was called, by any process."""
        return int(self.header[_NUM_CHANGES])

    def note_change(self) -> None:
        """Note, under the lock, that the tables were changed."""
        self.header[_NUM_CHANGES] += 1

    def write(self, offset: int, pixels: np.ndarray) -> bool:
        """Copy C-contiguous pixels to `offset`; False where the machine has no memory, and from then on."""
        if not self._has_memory(pixels.nbytes):
            return False
        # By position and not through the mapping: the kernel takes the pages and fills them in one go, where
        # a mapping costs a fault for each; and what it has no memory for is an error, not a signal.
        view = pixels.reshape(-1).data
        try:
            done = os.pwrite(self._handle, view, offset)
            while done < len(view):
                done += os.pwrite(self._handle, view[done:], offset + done)
        except OSError:
            self._is_full = True
        return not self._is_full

    def _has_memory(self, num_bytes: int) -> bool:
        """Return whether the machine has enough memory left: other programs may have taken it."""
        self._looked_bytes += num_bytes
        if self._looked_bytes >= _LOOK_BYTES:
            self._looked_bytes = 0
            available = memory.available_bytes()
            self._is_full = self._is_full or (available is not None and available < RESERVE_BYTES)
        return not self._is_full

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the segment's lock, against threads and processes; that of a killed process is released."""
        import fcntl

        # flock belongs to the open file, which the threads of a process share: they need a lock of their own
        with self._lock:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._handle, fcntl.LOCK_UN)
