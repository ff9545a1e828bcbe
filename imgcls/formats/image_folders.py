"""Find images in folders: what their names end in, and a sorted walk over the folders that hold them.

Used by `lists` (and with it by im2rec), by the trees of the packer and by the sources of `data/`. Nothing
here opens an image.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.storage.paths import AnyPath
from imgcls.storage.thread_pool import DaemonPool

#: what the names of images end in, wherever a folder is looked through for images: what OpenCV decodes
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
            ".pgm", ".pbm", ".pnm", ".jp2", ".avif")
#: what MXNet's im2rec takes by default, and so does ours
EXTENSIONS = (".jpeg", ".jpg", ".png")
#: images that im2rec passes over: they are counted, for a line that says so
_OTHER_IMAGES = frozenset((*SUFFIXES, ".heic", ".heif"))
#: Folders that are listed at a time, in threads: on a network file system each of them is a wait. The next
#: ones only, so that memory does not grow with their number.
_NUM_THREADS = 8
_LOOK_AHEAD = 32


class _Listed(NamedTuple):
    """What is in one folder, sorted."""

    files: list[str]
    #: names, and whether each is a link
    folders: list[tuple[str, bool]]
    problems: list[DataError]
    #: of the folder before it was listed
    status: os.stat_result


class _Pending:
    """A folder that is still to be visited."""

    def __init__(self, path: str, parents: tuple[str, ...], is_below_link: bool) -> None:
        self.path = path
        #: real paths of the folders that it lies in
        self.parents = parents
        self.is_below_link = is_below_link
        self.listed: Future[_Listed] | None = None


def walk(root: str, *, recursive: bool, extensions: Sequence[str], problems: list[DataError],
         with_hidden: bool = True, passed_over: Counter[str] | None = None,
         visited: Callable[[str, os.stat_result], object] = lambda folder, status: None,
         ) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder relative to `root`, its sorted image names) of each folder that itself holds an image.

    The order is that of `lists.walk`, which says what is appended to `problems` and what is raised. Images of
    other kinds are counted in `passed_over`, by suffix. `visited` is called with every folder, also one
    without images, and with its `os.stat` from before it was listed.
    """
    if not os.path.isdir(root):
        raise UsageError(f"ROOT {verbatim(root)}: "
                         f"{'is no folder' if os.path.exists(root) else 'no such folder'}")
    suffixes = image_suffixes(extensions)
    others = _OTHER_IMAGES - suffixes
    # folders still to visit, the next one last
    pending = [_Pending("", (), False)]
    with DaemonPool(_NUM_THREADS if recursive else 0, "imgcls-folders") as pool:
        while pending:
            here = pending.pop()
            path = os.path.join(root, here.path)
            found = here.listed.result() if here.listed else _list_folder(path, suffixes, recursive)
            visited(here.path, found.status)
            problems += found.problems
            names, folders = found.files, found.folders
            if not with_hidden:
                names = [name for name in names if not name.startswith(".")]
                folders = [folder for folder in folders if not folder[0].startswith(".")]
            images = [name for name in names if has_suffix(name, suffixes)]
            if passed_over is not None and len(images) < len(names):
                passed_over.update(suffix for name in names if not name.startswith(".")
                                   and (suffix := os.path.splitext(name)[1].lower()) in others)
            if images:
                yield here.path, images
            if recursive:
                pending += _below(root, here, folders)
                for folder in pending[-_LOOK_AHEAD:] if len(pending) > 1 else ():
                    folder.listed = folder.listed or pool.submit(
                        _list_folder, os.path.join(root, folder.path), suffixes, recursive)


def _below(root: str, here: _Pending, folders: Sequence[tuple[str, bool]]) -> list[_Pending]:
    """Return the folders in a folder, the first one last."""
    # most folders of a data set hold files alone
    if not folders:
        return []
    parents = (*here.parents, os.path.realpath(os.path.join(root, here.path)))
    below = []
    for name, is_link in reversed(folders):
        path = os.path.join(here.path, name)
        is_below_link = here.is_below_link or is_link
        # A link to one of the folders above would make the walk endless. Without a link nothing does.
        if not is_below_link or os.path.realpath(os.path.join(root, path)) not in parents:
            below.append(_Pending(path, parents, is_below_link))
    return below


def _list_folder(folder: str, suffixes: set[str], recursive: bool) -> _Listed:
    """Return what is in a folder; what is neither file nor folder and matters is a problem."""
    files: list[str] = []
    folders: list[tuple[str, bool]] = []
    problems: list[DataError] = []
    try:
        # before it is listed: what comes meanwhile changes its time once more
        status = os.stat(folder or os.curdir)
        with os.scandir(folder or os.curdir) as items:
            entries = sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise DataError(folder or os.curdir, f"cannot be read: {reason(error)}; left out, it would shift the "
                                             "labels of the classes behind it") from error
    for item in entries:
        try:
            # without another system call: for most entries the listing says what they are
            if item.is_dir():
                folders.append((item.name, item.is_symlink()))
            elif item.is_file():
                files.append(item.name)
            elif has_suffix(item.name, suffixes) or (recursive and item.is_symlink()):
                kind = "a pipe, a socket or a device" if os.path.exists(item.path) else "a link to nothing"
                problems.append(DataError(item.path, f"is {kind}, no file"))
        except OSError as error:
            # What cannot be looked at may be a class, unless it has an image's name or is a link to itself.
            if recursive and not has_suffix(item.name, suffixes) and error.errno != errno.ELOOP:
                raise DataError(item.path, f"cannot be looked at: {reason(error)}; left out, it would shift "
                                           "the labels of the classes behind it") from error
            problems.append(DataError(item.path, reason(error)))
    return _Listed(files, folders, problems, status)


def about_passed_over(root: AnyPath | str, counts: Counter[str], extensions: Sequence[str]) -> str:
    """Return one line about the images under `root` that were left out because of their suffix; "" for none.
    """
    if not counts:
        return ""
    return (f"{verbatim(root)}: {counts.total():,} images are left out for what their names end in: "
            f"{describe_suffixes(counts)}; taken are {' '.join(extensions)}")


def describe_suffixes(counts: Counter[str]) -> str:
    """Return ".bmp (1), .webp (2)"."""
    return ", ".join(f"{suffix} ({count:,})" for suffix, count in sorted(counts.items()))


def image_suffixes(extensions: Sequence[str]) -> set[str]:
    """Return what the names of images end in, in lower case and with the dot."""
    return {("" if e.startswith(".") else ".") + e.lower() for e in extensions}


def has_suffix(name: str, suffixes: set[str]) -> bool:
    """Return whether a file has an image's name: by its suffix alone, as in MXNet."""
    return os.path.splitext(name)[1].lower() in suffixes
