"""The class names that records were packed with, kept in the user's cache folder under what the file holds.

`X.classes.txt` stays behind when `X.rec` is moved alone, and MXNet's files have no place for names. So the
packer keeps them here as well, and readers that find no names beside a record file look here. The key is made
from the file's content and not from its name or folder: its size, every record's offset, id and labels, and
the bytes of some records spread through it. Where two packs agree in all of that and had different names,
no names are returned: a wrong name is never given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from imgcls.errors import ImgclsError
from imgcls.formats.recordio.framing import HEAD, LENGTH_BITS, join_parts
from imgcls.formats.recordio.image_record import HEADER_DTYPE
from imgcls.formats.recordio.index import index_path
from imgcls.formats.recordio.reader import RecordReader
from imgcls.formats.recordio.record_file import FileView, RecordFile
from imgcls.storage.atomic import write_bytes
from imgcls.storage.folders import cache_folder
from imgcls.storage.paths import to_path

#: records whose bytes are part of the key, evenly spread, and bytes of each
_NUM_SAMPLED = 64
_SAMPLED_BYTES = 1 << 16
#: packs that are remembered; of more than these the oldest are removed
_MAX_ENTRIES = 1000
_FORMAT = "imgcls-names-1"
#: records that are looked at together
_ROWS_AT_ONCE = 1 << 12


def remember(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Keep the class names of a file that was just packed; does nothing where there is no cache folder."""
    with contextlib.suppress(ImgclsError, OSError, RuntimeError):
        # a file without records has no names; RecordReader is for the few that `_packed_entry` cannot do
        if not names or not os.path.getsize(path):
            return
        entry = _packed_entry(path) or _entry(RecordReader(path))
        known = _read(entry)
        # None: two packs disagree, which is kept, so that no later pack sets names either
        kept = list(names) if (known is None and not entry.exists()) or known == list(names) else None
        write_bytes(entry, json.dumps({"format": _FORMAT, "names": kept}).encode())
        _remove_oldest(entry.parent)


def recall(reader: RecordReader) -> tuple[str, ...]:
    """Return the class names that these records were packed with; () where they are not in the cache."""
    if not len(reader):
        return ()
    # By far the commonest is a file that was not packed here: then it is not even read for its key.
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
    digest.update(_label_bytes(reader.labels(strict=False)))
    for i in _sampled(len(reader)):
        _update(digest, reader.payload(i))
    return _path(_prefix(reader), digest)


def _packed_entry(path: str | os.PathLike[str]) -> Path | None:
    """Return what `_entry` does, for a file with its `.idx` that was just packed, in memory that does not
    grow with the number of records; None where a record is split in its header or has one label behind it.
    """
    file = RecordFile(to_path(path))
    digest = hashlib.sha256()
    count = 0
    for offsets in _offsets(path):
        digest.update(offsets.astype("<i8").tobytes())
        count += len(offsets)
    # read twice rather than kept in memory: the digest takes all headers before the first label
    for column in ("header", "label"):
        for offsets in _offsets(path):
            words = file.rows(offsets // 4, (HEAD.size + HEADER_DTYPE.itemsize) // 4)
            headers = np.ascontiguousarray(words[:, HEAD.size // 4:]).view(HEADER_DTYPE)[:, 0]
            # split within its header, or its one label behind it
            if ((words[:, 1] & LENGTH_BITS) < HEADER_DTYPE.itemsize).any() or (headers["flag"] == 1).any():
                return None
            labels = np.where(headers["flag"] == 0, headers["label"], np.float32("nan"))
            digest.update(headers.tobytes() if column == "header" else _label_bytes(labels))
    rows = set(_sampled(count))
    for number, offset in enumerate(offset for offsets in _offsets(path) for offset in offsets.tolist()):
        if number in rows:
            _update(digest, join_parts(file.path, FileView(file), offset))
    return _path(f"{file.size:x}-{count:x}", digest)


def _offsets(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Yield the offsets of the `.idx` of a file, int64, many at a time."""
    with open(index_path(path), "rb") as stream:
        while lines := list(islice(stream, _ROWS_AT_ONCE)):
            yield np.array([int(line.rpartition(b"\t")[2]) for line in lines], np.int64)


def _sampled(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, _NUM_SAMPLED).astype(int)).tolist()


def _label_bytes(labels: np.ndarray) -> bytes:
    return np.nan_to_num(labels, nan=-1).astype("<f4").tobytes()


def _update(digest: hashlib._Hash, payload: memoryview | bytes) -> None:
    digest.update(len(payload).to_bytes(8, "little"))
    digest.update(payload[:_SAMPLED_BYTES])


def _path(prefix: str, digest: hashlib._Hash) -> Path:
    return cache_folder("names") / f"{prefix}-{digest.hexdigest()[:32]}.json"


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
