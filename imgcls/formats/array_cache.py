"""Arrays that take long to compute (indexes and listings), kept in the user's cache folder for the next run.

An entry belongs to a text that says what it was made from (path, size, time, version of the rules): with
another text it is not used. A damaged entry counts as absent. Processes of one machine that need the same
entry wait for the one that makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from imgcls.errors import ImgclsError
from imgcls.storage.atomic import write_bytes
from imgcls.storage.folders import cache_folder, remove_oldest
from imgcls.storage.locks import lock_file, open_lock

Arrays = Mapping[str, np.ndarray]

#: magic, bytes of the head behind it (JSON), CRC-32 of all that follows this
_HEAD = struct.Struct("<8sII")
_MAGIC = b"imgclsA1"
#: of all entries of a kind together; those used longest ago are removed when they are more
_MAX_TOTAL_BYTES = 4 << 30
#: entries that share a lock wait for each other: so many that this is rare
_NUM_LOCKS = 256
#: how many characters of `name` an entry's file name begins with
_SHOWN_CHARACTERS = 32


def load_or_make(kind: str, name: str, about: str, make: Callable[[], Arrays], *,
           is_good: Callable[[Arrays], bool] = lambda arrays: True,
           is_worth_keeping: Callable[[Arrays], bool] = lambda arrays: True) -> tuple[Arrays, bool]:
    """Return (arrays, whether they come from the cache); `make` is called where the cache has none.

    `kind` names the folder, `name` begins the file's name, and `about` says what the arrays are made from.
    Arrays from the cache are used only if `is_good` returns True for them, new ones are stored only if
    `is_worth_keeping` does. From the cache they come back flat and read-only. Without a cache folder they are
    made each time.
    """
    key = hashlib.sha256(f"{kind}\n{about}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    entry = None
    with contextlib.suppress(ImgclsError, OSError, RuntimeError):  # no home, a URL as cache folder
        entry = cache_folder(kind) / f"{name[:_SHOWN_CHARACTERS]}-{key}.kept"
    if entry is None:
        return make(), False
    # without the lock first: nearly always it is there and good
    kept = _load(entry, about)
    if kept is not None and is_good(kept):
        return kept, True
    with _only_one(entry.with_name(f"{int(key[:8], 16) % _NUM_LOCKS:03d}.lock")):
        kept = _load(entry, about)  # by another process, while we waited
        if kept is not None and is_good(kept):
            return kept, True
        arrays = make()
        if is_worth_keeping(arrays):
            _save(entry, about, arrays)
        return arrays, False


def _load(entry: Path, about: str) -> Arrays | None:
    try:
        data = memoryview(entry.read_bytes())
        magic, head_bytes, checksum = _HEAD.unpack_from(data)
        body = data[_HEAD.size:]
        # the sum is taken of 40 MB in some hundredths of a second
        if magic != _MAGIC or zlib.crc32(body) != checksum:
            return None
        head = json.loads(bytes(body[:head_bytes]))
        if head["about"] != about:
            return None
        arrays, offset = {}, head_bytes
        for name, dtype, count in head["arrays"]:
            arrays[name] = np.frombuffer(body, dtype, count, offset)
            offset += arrays[name].nbytes
        # used now: the others are removed first
        entry.touch()
        return arrays
    # no entry, or one that was cut or is not ours: what it was about is looked at anew
    except (OSError, struct.error, ValueError, KeyError, TypeError, OverflowError):
        return None


def _save(entry: Path, about: str, arrays: Arrays) -> None:
    columns = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    head = json.dumps({"about": about, "arrays": [[name, array.dtype.str, array.size]
                                                  for name, array in columns.items()]}).encode()
    head += b" " * (-(_HEAD.size + len(head)) % 8)
    body = [head, *(array.data.cast("B") for array in columns.values() if array.size)]
    checksum = 0
    for part in body:
        checksum = zlib.crc32(part, checksum)
    # a full disk only means that it is made again
    with contextlib.suppress(ImgclsError, OSError):
        write_bytes(entry, _HEAD.pack(_MAGIC, len(head), checksum), *body)
        remove_oldest(entry, _MAX_TOTAL_BYTES)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Wait for other processes that make the same entry; without locks each makes its own."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open_lock(path))
            lock_file(lock, wait=True)
        yield
