"""A copy of a data set without what was found to be wrong; the data set itself is never touched.

Left out are damaged, half decoded and blank images, labels that are no class, copies, to the byte or nearly,
after the first (all of them where their labels differ), and training images that are in the validation data
as well.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from imgcls.data.checks.findings import Finding
from imgcls.data.file_source import FolderSource, ListSource
from imgcls.data.packed.source import PackedSource
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import Source
from imgcls.errors import UsageError, tell, verbatim
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry
from imgcls.formats.recordio import ImageHeader, RecordWriter, pack
from imgcls.storage.atomic import write_bytes

#: kinds of findings whose samples are left out, each of them
_LEFT_OUT = ("damaged", "half decoded", "blank", "label")


def bad_samples(name: str, findings: Iterable[Finding], labels: np.ndarray) -> np.ndarray:
    """Return the samples of the set `name` that a clean copy leaves out, int64 (M,) rising."""
    bad: set[int] = set()
    for finding in findings:
        for group in finding.samples:
            members = [index for where, index in group if where == name]
            if finding.kind in _LEFT_OUT or (finding.kind == "leak" and name == "train"):
                bad.update(members)
            # of a leak too: several copies may be in the validation data
            elif finding.kind in ("duplicate", "near duplicate", "leak"):
                # under two labels it is not known which is right
                is_contradiction = len(np.unique(labels[members])) > 1
                bad.update(members if is_contradiction else members[1:])
    return np.array(sorted(bad), np.int64)


def check_copy(source: Source, folder: Path) -> None:
    """Raise UsageError where no clean copy of the source can be written to `folder`."""
    if not isinstance(source, (FolderSource, ListSource, RecordSource, PackedSource)):
        raise UsageError(f"`fix` {verbatim(folder)}: copies folders, lists and record files, shards and "
                         "the like, not "
                         f"{verbatim(source.description)}")
    # files that are there may be needed, and a mixture would be no clean copy
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"`fix` {verbatim(folder)}: is there already; name a folder that is new or empty")
    # the next run would take the copy for a class
    if isinstance(source, FolderSource) and folder.resolve().is_relative_to(Path(str(source.root)).resolve()):
        raise UsageError(f"`fix` {verbatim(folder)}: is inside of the data {verbatim(source.root)}; "
                         "name a folder elsewhere")


def copy_without(source: Source, bad: np.ndarray, folder: Path, shown: Path) -> tuple[Path, int]:
    """Write the good samples below `folder`; return what was written, and how many they are.

    `shown` is the folder's name in messages and in the returned path: `folder` may be a temporary name of it.
    Images and records keep their bytes, and files their names. Shards, parquet and LMDB become a record file.
    """
    good = np.setdiff1d(np.arange(len(source)), bad).tolist()
    if isinstance(source, RecordSource):
        path = folder / Path(str(source.path)).name
        path.parent.mkdir(parents=True, exist_ok=True)
        with RecordWriter(path) as writer:
            for index in good:
                writer.write(source.whole_record(index))
        _copy_names(source, path)
        return shown / path.name, len(good)
    if isinstance(source, PackedSource):
        path = folder / f"{Path(str(source.path)).stem}.rec"
        path.parent.mkdir(parents=True, exist_ok=True)
        with RecordWriter(path) as writer:
            for number, index in enumerate(good):
                header = ImageHeader(0, float(source.labels[index]), number)
                writer.write(pack(header, _encoded(source.read(index))))
        _copy_names(source, path)
        return shown / path.name, len(good)
    assert isinstance(source, (FolderSource, ListSource))
    if isinstance(source, ListSource):
        return _write_list(source, good, folder, shown), len(good)
    for index in good:
        path = folder / Path(str(source.path_of(index))).relative_to(str(source.root))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, source.read(index))
    return shown, len(good)


def _write_list(source: ListSource, good: Sequence[int], folder: Path, shown: Path) -> Path:
    """Write the list alone: what it names stays where it is. A CSV becomes a `.lst` with names beside it."""
    path = folder / f"{Path(str(source.path)).stem}.lst"
    path.parent.mkdir(parents=True, exist_ok=True)
    root = str(source.root)
    names = [str(source.path_of(index)) for index in good]
    # relative to the root that they had, as a list should name them
    names = [os.path.relpath(name, root) if Path(name).is_relative_to(root) else name for name in names]
    lists.write(path, [ListEntry(number, (float(source.labels[index]),), name)
                       for number, (index, name) in enumerate(zip(good, names, strict=True))])
    _copy_names(source, path)
    tell(f"{shown / path.name}: is read with --data-root {shlex.quote(os.path.abspath(root))}")
    return shown / path.name


def _encoded(image: bytes | memoryview | np.ndarray) -> bytes:
    """Return an image's bytes; pixels as a PNG, which loses nothing."""
    if not isinstance(image, np.ndarray):
        return bytes(image)
    from imgcls.data.opencv import cv2

    is_color = image.shape[2] == 3
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if is_color else image)[1].tobytes()


def _copy_names(source: Source, path: Path) -> None:
    if source.class_names:
        lists.write_class_names(lists.classes_path(path), list(source.class_names))
