"""The class names that records were packed with, kept in the user's cache folder under what the file holds.

`X.classes.txt` stays behind when `X.rec` is moved alone, and MXNet's files have no place for names. So the
packer keeps them here as well, and whoever finds no names beside a record file asks here. The key is what the
file holds and not what it is called or where it lies: its size, every record's place, id and labels, and the
bytes of records spread through it. Two packs that are alike in all of that and had different names leave
none: a wrong name is never given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgcls.errors import ImgclsError
from imgcls.formats.recordio.reader import RecordReader
from imgcls.storage.atomic import write_bytes
from imgcls.storage.folders import cache_folder

#: records whose bytes are part of the key, evenly spread, and bytes of each
_NUM_SAMPLED = 64
_SAMPLED_BYTES = 1 << 16
#: packs that are remembered; those of longest ago are forgotten
_MAX_ENTRIES = 1000
_FORMAT = "imgcls-names-1"


def remember(reader: RecordReader, names: Sequence[str]) -> None:
    """Keep the class names of a file that was just packed; in vain where there is no cache folder."""
    if not len(reader) or not names:
        return
    with contextlib.suppress(ImgclsError, OSError, RuntimeError):
        entry = _entry(reader)
        known = _read(entry)
        # None: two packs disagree, and it stays at that
        kept = list(names) if (known is None and not entry.exists()) or known == list(names) else None
        write_bytes(entry, json.dumps({"format": _FORMAT, "names": kept}).encode())
        _remove_oldest(entry.parent)


def recall(reader: RecordReader) -> tuple[str, ...]:
    """Return the class names that these records were packed with; empty where nobody knows them."""
    if not len(reader):
        return ()
    # A file that nobody packed here, by far the commonest: not even read through for its key.
    with contextlib.suppress(ImgclsError, OSError, RuntimeError):
        folder = cache_folder("names")
        if folder.is_dir() and any(folder.glob(f"{_prefix(reader)}-*.json")):
            return tuple(_read(_entry(reader)) or ())
    return ()


def _prefix(reader: RecordReader) -> str:
    return f"{reader.size:x}-{len(reader):x}"


def _entry(reader: RecordReader) -> Path:
    """Return the file that keeps the names of these records."""
    digest = hashlib.sha256()
    digest.update(reader.offsets.astype("<i8").tobytes())
    digest.update(reader.headers().tobytes())
    digest.update(np.nan_to_num(reader.labels(strict=False), nan=-1).astype("<f4").tobytes())
    for i in np.unique(np.linspace(0, len(reader) - 1, _NUM_SAMPLED).astype(int)).tolist():
        payload = reader.payload(i)
        digest.update(len(payload).to_bytes(8, "little"))
        digest.update(payload[:_SAMPLED_BYTES])
    return cache_folder("names") / f"{_prefix(reader)}-{digest.hexdigest()[:32]}.json"


def _read(entry: Path) -> list[str] | None:
    """Return the names of an entry; None where there is none, or where two packs disagreed."""
    try:
        content = json.loads(entry.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    names = content.get("names") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    is_good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_good else None


def _remove_oldest(folder: Path) -> None:
    entries = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for entry in entries[:-_MAX_ENTRIES]:
        entry.unlink(missing_ok=True)
