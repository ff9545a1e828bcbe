"""List the images of a folder of class folders, and remember the list for as long as no folder changes.

A million files take seconds to list on a local disk and minutes over a network. So the list of a large folder
is kept in the user's cache folder. It is valid as long as every folder that was visited has the times it had:
adding, removing or renaming a file changes those of its folder. The files themselves are always read anew.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.path_table import PathTable, PathTableBuilder
from imgcls.errors import DataError
from imgcls.formats import array_cache, image_folders
from imgcls.formats.array_cache import Arrays
from imgcls.storage.progress import show_count
from imgcls.storage.thread_pool import DaemonPool

#: increased whenever the rules of the walk change
_VERSION = 1
#: a folder of fewer images is listed again each time: keeping its list would save next to nothing
MIN_KEPT_IMAGES = 10_000
#: A folder that changed so shortly before it was listed may change again within one tick of its clock, and
#: keep its time: such a list is not kept. File systems count in steps of up to two seconds.
_MIN_AGE_NS = 2_000_000_000
#: threads that read the times of folders, which waits for the disk or the network
_NUM_THREADS = 8
_FOLDERS_AT_ONCE = 256


class FolderListing(NamedTuple):
    """The images of a folder in the order of `image_folders.walk`."""

    #: relative to the folder
    paths: PathTable
    #: int64 (N,): the number of the class folder
    labels: np.ndarray
    #: path of each class folder
    class_names: tuple[str, ...]
    problems: list[DataError]
    #: suffix -> how many images with it are left out, as it is not one of those that are taken
    passed_over: Counter[str]
    num_folders: int
    #: whether the list was kept from an earlier run
    was_kept: bool


def list_folder(root: Path) -> FolderListing:
    """Return the images in the class folders of `root`, hidden ones left out; DataError and UsageError as
    `image_folders.walk`."""
    problems: list[DataError] = []

    def make() -> Arrays:
        # listed again after a wait for another process, each counts once
        problems.clear()
        return _walk(root, problems)

    def is_worth_keeping(arrays: Arrays) -> bool:
        # a problem may be gone the next time, and until then it is to be reported each time
        return len(arrays["ends"]) >= MIN_KEPT_IMAGES and not problems and bool(arrays["is_old"].all())

    arrays, was_kept = array_cache.load_or_make(
        "folders", root.name, _about(root), make, is_worth_keeping=is_worth_keeping,
        is_good=lambda arrays: _is_unchanged(root, arrays))
    ends = arrays["ends"].astype(np.int64)
    # as JSON: a few words of any length
    counts = json.loads(arrays["passed_over"].tobytes())
    return FolderListing(PathTable(arrays["text"].data, ends), arrays["labels"].astype(np.int64),
                         tuple(_texts(arrays, "classes")), problems, Counter(counts),
                         len(arrays["times"]) // 2, was_kept)


def _about(root: Path) -> str:
    """Return a text that identifies a folder and the rules of the walk."""
    try:
        status = os.stat(root)
    except OSError:  # the walk reports what is wrong
        return ""
    return json.dumps([_VERSION, os.path.realpath(root), status.st_dev, status.st_ino,
                       image_folders.SUFFIXES])


def _walk(root: Path, problems: list[DataError]) -> Arrays:
    folders: list[str] = []
    times = array("q")

    def visited(folder: str, status: os.stat_result) -> None:
        folders.append(folder)
        # the second one also changes with permissions and names, and no program can set it back
        times.extend((status.st_mtime_ns, status.st_ctime_ns))

    now = time.time_ns()
    # a table and no list of strings: of a million images they would take 100 MB
    table, class_names, counts = PathTableBuilder(), [], []
    passed_over: Counter[str] = Counter()
    num_images = 0
    with show_count(f"{root}: listing", "images") as show:
        for folder, names in image_folders.walk(
                str(root), recursive=True, extensions=image_folders.SUFFIXES, problems=problems,
                with_hidden=False, passed_over=passed_over, visited=visited):
            class_names.append(folder or os.curdir)
            counts.append(len(names))
            table.append_all(folder, names)
            num_images += len(names)
            show(num_images)
    paths = table.build()
    newest = max(times, default=0)
    # plain arrays, which are kept as they are
    return {"text": np.frombuffer(paths.text, np.uint8), "ends": paths.ends,
            "labels": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            "classes": _packed(class_names), "folders": _packed(folders),
            "times": np.array(times, np.int64), "is_old": np.array([newest < now - _MIN_AGE_NS]),
            "passed_over": np.frombuffer(json.dumps(passed_over).encode(), np.uint8)}


def _is_unchanged(root: Path, arrays: Arrays) -> bool:
    """Return whether all folders of a kept list have the times that they had."""
    folders = _texts(arrays, "folders")
    # of each folder the time of its entries and that of its own data
    times = arrays["times"].reshape(-1, 2)
    if len(times) != len(folders):
        return False

    def are_unchanged(first: int) -> bool:
        for folder, (modified, changed) in zip(folders[first:first + _FOLDERS_AT_ONCE],
                                               times[first:first + _FOLDERS_AT_ONCE].tolist(), strict=True):
            status = os.stat(os.path.join(root, folder))
            if (status.st_mtime_ns, status.st_ctime_ns) != (modified, changed):
                return False
        return True

    # in threads: on a network file system each `stat` is a wait
    starts = range(0, len(folders), _FOLDERS_AT_ONCE)
    try:
        with DaemonPool(min(_NUM_THREADS, len(starts)), "imgcls-folders") as pool:
            return all(job.result() for job in [pool.submit(are_unchanged, first) for first in starts])
    except OSError:  # one is gone
        return False


def _packed(texts: list[str]) -> np.ndarray:
    # no path holds a zero byte
    return np.frombuffer(b"\0".join(map(os.fsencode, texts)), np.uint8)


def _texts(arrays: Arrays, name: str) -> list[str]:
    # the root is the empty path: where there is any folder, there is at least that
    return [os.fsdecode(part) for part in arrays[name].tobytes().split(b"\0")] if len(
        arrays["times"]) else []
