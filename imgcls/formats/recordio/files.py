"""Which record files a user's path or pattern means, and which of their records belong to one worker.

Commands and sources call `expand`; `imgcls.compat` calls `part_range`, which divides records as MXNet's
iterators do.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Sequence

import numpy as np

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats.recordio.reader import RecordReader
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import RemotePath


def expand(pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
           setting: str = "records") -> list[AnyPath]:
    """Return the record files meant by what a user wrote, sorted within each item.

    An item is a file, a folder (the `.rec` files in it), or a regular expression (or `*.rec`) as last
    component of a path; several are joined by `;` or in a list. Empty files are passed over. Where nothing is
    found a UsageError names `setting`, which is written as messages write it.
    """
    items = [pattern] if isinstance(pattern, (str, os.PathLike)) else list(pattern)
    files: list[AnyPath] = []
    # the object itself: it has cached what its store said of it
    remote = {os.fspath(item): item for item in items if isinstance(item, RemotePath)}
    for item in [os.fspath(i) for i in items]:
        # A file may have a `;` in its name: what exists as a whole is not taken apart.
        for text in [item] if os.path.exists(item) else filter(None, item.split(";")):
            path = remote.get(text) or to_path(text, setting)
            try:
                matching = _expand_one(path)
                is_special = not matching and not path.is_dir() and path.exists()
            except OSError as error:
                raise DataError(error.filename or text, f"cannot be read: {reason(error)}") from error
            if is_special:  # /dev/zero is there, and no pattern of anything
                raise UsageError(f"{setting} {verbatim(text)}: is a device or a pipe, and no file")
            if not matching:
                raise UsageError(f"{setting} {verbatim(text)}: no such file, no folder with .rec files, "
                                 "no pattern of any")
            files += matching
    # A part of a pack that got no image is an empty file.
    with_content = [file for file in files if file.stat().st_size]
    if not with_content:
        raise UsageError(f"{setting} {verbatim(pattern)}: "
                         f"{'all its files are empty' if files else 'names no file'}")
    return with_content


def part_range(readers: Sequence[RecordReader], num_parts: int, part_index: int, *, indexed: bool) -> range:
    """Return the records of part `part_index` of `num_parts`, numbered through all `readers`.

    MXNet divides them by count where it was given an index (`indexed`), otherwise by bytes (dmlc-core's
    InputSplit). Either may leave parts empty. A `part_index` outside of 0 .. num_parts - 1 is a UsageError.
    """
    if not 0 <= part_index < num_parts:
        raise UsageError(f"part_index {part_index} must be from 0 to num_parts - 1 = {num_parts - 1}")
    if indexed:  # dmlc-core's IndexedRecordIOSplitter
        count = sum(map(len, readers))
        step = -(-count // num_parts)
        return range(min(part_index * step, count), min((part_index + 1) * step, count))
    bases = np.cumsum([0, *(reader.size for reader in readers)]).tolist()
    offsets = np.concatenate([reader.offsets + base for reader, base in zip(readers, bases, strict=False)])
    # Parts of equal size in bytes, rounded up to a word; a record belongs to the part in which it begins.
    step = -(-bases[-1] // (4 * num_parts)) * 4
    return range(*np.searchsorted(offsets, [part_index * step, (part_index + 1) * step]).tolist())


def _expand_one(path: AnyPath) -> list[AnyPath]:
    # A path that exists is never taken for a pattern.
    if path.is_file():
        return [path]
    if path.is_dir():
        entries = path.glob("*.rec") if isinstance(path, RemotePath) else path.iterdir()
        return sorted(p for p in entries if p.suffix == ".rec" and p.is_file())
    if not path.parent.is_dir():
        return []
    files = sorted(p for p in path.parent.iterdir() if p.is_file())
    matching: list[AnyPath] = []
    # MXNet takes a regular expression; `*.rec` is none (nothing to repeat), but what people write.
    with contextlib.suppress(re.error):
        matching = [p for p in files if re.fullmatch(path.name, p.name)]
    matching = matching or [p for p in files if fnmatch.fnmatchcase(p.name, path.name)]
    # `train.*` means the records, not the index and the list beside them.
    return [p for p in matching if p.suffix == ".rec"] or matching
