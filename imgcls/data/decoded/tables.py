"""The tables of a decoded cache on a disk: which pixels are where in its `PixelFile`.

During a run they are in memory that processes share (`Segment`), and are written to a file from time to time:
under another name, synced and renamed, and only after the pixels that they describe are on the disk. So a
process that is killed, or a machine that loses its power, leaves the tables of an earlier moment, and every
place in them has its pixels. What was written to the file of pixels after that moment is in no table, and the
next run cuts it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import weakref

import numpy as np

from imgcls.data.decoded.pixel_file import PixelFile, open_private
from imgcls.data.decoded.segment import HEADER_BYTES, Segment
from imgcls.errors import RunError, reason
from imgcls.storage.atomic import write_bytes

#: of the identity of a cache, and of the digest at the end of its file
DIGEST_BYTES = 32
_MAGIC = b"imgclsD1"
#: the least pause between two writes: in seconds, and as a multiple of the time that the last write took
_MIN_PAUSE_SECONDS, _PAUSE_TIMES = 1.0, 20

_log = logging.getLogger(__name__)
#: for each saving in the background, what ends it
_ends: list[weakref.finalize] = []


class Tables:
    """The `num_bytes` behind the header of a segment, and their file."""

    def __init__(self, path: str, identity: bytes, segment: Segment, num_bytes: int) -> None:
        """`identity` is a digest of all that the pixels depend on."""
        self.path = path
        self._begin = _MAGIC + identity
        self._segment = segment
        self._saved = segment.bytes[HEADER_BYTES:HEADER_BYTES + num_bytes]
        self._num_saved = 0
        # set where nothing is saved any more
        self._is_closed = threading.Event()
        self._saving = threading.Lock()

    def load(self) -> str:
        """Fill the tables from the file; return what is wrong with it, "" if nothing or if there is no file.

        A file with a problem leaves the tables empty.
        """
        try:
            with os.fdopen(open_private(self.path, must_exist=True), "rb") as stream:
                begin = stream.read(len(self._begin))
                if begin != self._begin:
                    return "of other data" if begin.startswith(_MAGIC) and len(begin) == len(
                        self._begin) else "damaged"
                # its length is known, so a longer file is not read to its end:
                # one byte more than there should be already makes `end` differ from the digest
                content, end = stream.read(self._saved.nbytes), stream.read(DIGEST_BYTES + 1)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"unreadable ({reason(error)})"
        if len(content) != self._saved.nbytes or end != _digest(begin, content):
            return "damaged"
        self._saved[:] = np.frombuffer(content, np.uint8)
        return ""

    def save(self, pixels: PixelFile) -> None:
        """Write the tables to their file if they have changed since the last time; RunError if it fails."""
        with self._saving:
            # under the lock no process is between the change of a place and its `note_change`
            with self._segment.locked():
                num_changes = self._segment.num_changes
                if num_changes == self._num_saved:
                    return
                content = self._saved.tobytes()
            try:
                pixels.sync()  # before the tables that describe them
            except OSError as error:
                raise RunError(f"cannot write {pixels.path}: {reason(error)}") from error
            write_bytes(self.path, self._begin, content, _digest(self._begin, content))
            self._num_saved = num_changes

    def save_often(self, pixels: PixelFile, owner: object) -> None:
        """Save in the background until `owner` is collected or the process ends, and then once more."""
        thread = threading.Thread(target=self._save_often, args=(pixels,), name="imgcls-decoded", daemon=True)
        thread.start()
        _ends[:] = [end for end in _ends if end.alive]
        _ends.append(weakref.finalize(owner, self._close, pixels, thread))

    def _save_often(self, pixels: PixelFile) -> None:
        pause = _MIN_PAUSE_SECONDS
        while not self._is_closed.wait(pause):
            started = time.monotonic()
            self._try_save(pixels)
            pause = max(_MIN_PAUSE_SECONDS, _PAUSE_TIMES * (time.monotonic() - started))

    def _close(self, pixels: PixelFile, thread: threading.Thread) -> None:
        if not self._is_closed.is_set():
            self._try_save(pixels)
        self._is_closed.set()
        # the thread is the last that has the file open: when it has ended, the file's lock is released
        thread.join()

    def _try_save(self, pixels: PixelFile) -> None:
        """Save; where that fails the run continues, and the next one finds what was saved before."""
        try:
            self.save(pixels)
        except RunError as error:
            self._is_closed.set()
            _log.warning("the decoded cache is not saved any more: %s", error)


def save_all() -> None:
    """End all saving in the background, each with a last save."""
    while _ends:
        _ends.pop()()


def remove(path: str) -> None:
    """Remove the file of tables, if there is one."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def _digest(begin: bytes, content: bytes) -> bytes:
    digest = hashlib.blake2b(begin, digest_size=DIGEST_BYTES)
    digest.update(content)
    return digest.digest()
