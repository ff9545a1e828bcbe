"""What a ROOT of images is, a folder or archives: its folders in sorted order, and the bytes of each image.

The packer lists a tree and reads it through `open_tree`. An archive is treated as the tree that it would be
when extracted, and so is a folder that holds only archives, each archive a folder; nothing is extracted.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol

from imgcls.data.remote_members import Entry, RemoteImageReader, Reserve
from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import image_folders
from imgcls.formats.archives import ArchiveIndex, find_archives, is_archive_name, open_index, split_root
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES
from imgcls.storage.cache import LIMIT_VARIABLE, default_gb
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read, open_regular, read_bounded
from imgcls.storage.remote import RemotePath

#: copies of remote archives that are kept open: a process may have about a thousand files
_MAX_HELD = 256


class ImageNames(Protocol):
    """Names of images in sorted order."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...


class ImageReader(Protocol):
    """Gives the bytes of an image by its path. OSError or ValueError says why they cannot be read."""

    def read(self, path: str) -> bytes:
        """Return the content of an image."""
        ...

    def read_into(self, path: str, reserve: Reserve) -> memoryview:
        """Read an image into memory that `reserve` gives; return that memory, cut to the image's length."""
        ...

    def read_ahead(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries unchanged; the image at the `path` of each is to be read, about in this order."""
        ...


class ImageTree(Protocol):
    """Images in folders."""

    root: str
    #: changes with the archives that are read; "" for a folder, whose files are not compared
    fingerprint: str
    #: suffix of other images -> how many of them `folders` did not take; empty for archives
    passed_over: Counter[str]

    def folders(self, *, recursive: bool, extensions: Sequence[str],
                problems: list[DataError]) -> Iterator[tuple[str, ImageNames]]:
        """Yield (folder, its sorted image names) as `image_folders.walk`, one folder at a time.

        Entries that cannot be images or folders, such as broken links, are appended to `problems`.
        """
        ...

    def reader(self) -> ImageReader:
        """Return the reader of the images, by the paths that a list names."""
        ...


def open_tree(root: str, *, progress: Callable[[int, int], object] = lambda done, total: None,
              note: Callable[[str], object] = lambda text: None) -> ImageTree:
    """Return the tree of a folder, of an archive, of a folder in an archive, or of a folder of archives.

    `progress` is called with (bytes so far, bytes of all) while headers of archives are read, `note` with a
    line for the user. A UsageError where there is none of these.
    """
    if "://" in root:
        return _remote_tree(root, progress, note)
    if os.path.isdir(root):
        # by names alone: an archive is opened only once it is known that the root holds no images
        archives = find_archives(root)
        # images take precedence, since MXNet reads no archives: a folder that MXNet packed is packed to
        # the same bytes
        if archives and (first := _first_image(root)) is not None:
            note(f"{root} holds images ({first}) and {len(archives)} archives, which are not read")
        elif archives:
            return ArchiveTree(root, open_index(archives, are_folders=True, progress=progress))
        return FolderTree(root)
    archive, inner = split_root(root)
    if archive:
        return ArchiveTree(root, open_index([archive], inner=inner, progress=progress))
    missing = "no such file" if root.lower().endswith((".tar", ".zip")) else "no such folder"
    kind = "is neither a folder nor a .tar or .zip" if os.path.exists(root) else missing
    raise UsageError(f"ROOT {verbatim(root)}: {kind}")


def _remote_tree(url: str, progress: Callable[[int, int], object],
                 note: Callable[[str], object]) -> ArchiveTree:
    """Return the tree of an archive under a URL, or of the archives in its folder: read where they are.

    From a web server that does not serve ranges each is copied into the cache, once. UsageError where they
    are more than that may hold, or no archives.
    """
    # the images of a remote folder would be a request each: only archives are read from a URL
    path = to_path(url, "ROOT")
    assert isinstance(path, RemotePath)
    is_archive = is_archive_name(path.name)
    found = [path] if is_archive else [item for item in path.iterdir() if is_archive_name(item.name)]
    if not found:
        raise UsageError(f"ROOT {verbatim(url)}: names neither a .tar or .zip nor a folder that holds some")
    try:
        size = sum(item.stat().size for item in found)
        # a server treats all of its files alike
        has_ranges = found[0].has_ranges()
    except OSError as error:
        raise DataError(error.filename or url, reason(error)) from error
    if not has_ranges:
        note(f"{verbatim(url)}: the server sends whole files only: {size / 1e6:,.0f} MB are copied first")
        return _copied_tree(url, found, size, is_archive=is_archive, progress=progress)
    note(f"{verbatim(url)}: {size / 1e6:,.0f} MB are read where they are, no copy is kept here: the headers "
         "first, then the images in the order of the lists")
    index = open_index(found, are_folders=not is_archive, progress=progress)
    return ArchiveTree(url, index, is_remote=True)


def _copied_tree(url: str, found: Sequence[RemotePath], size: int, *, is_archive: bool,
                 progress: Callable[[int, int], object]) -> ArchiveTree:
    if size > default_gb() * 1e9:
        # when packed list by list they would be fetched again and again
        raise UsageError(f"ROOT {verbatim(url)}: {size / 1e9:.3g} GB, more than the {default_gb():g} of "
                         f"copies that are kept here: {LIMIT_VARIABLE} sets another limit")
    # kept open as long as the tree is used, so that no other process removes the copies; not thousands
    streams = []
    names = []
    for item in found:
        stream = open_read(item)
        names.append(stream.name)
        if len(streams) < _MAX_HELD:
            streams.append(stream)
        else:
            stream.close()
    # the copies have the cache's names: classes are named after the archives
    index = open_index(names, are_folders=not is_archive, names=[item.name for item in found],
                       progress=progress)
    return ArchiveTree(url, index, streams)


def is_archive_root(root: str) -> bool:
    """Return whether a root that is no folder names an archive or a folder in one."""
    return "://" in root or (not os.path.isdir(root) and bool(split_root(root)[0]))


def _first_image(root: str) -> str | None:
    """Return the first image that a walk meets, None where there is none."""
    for folder, names in image_folders.walk(root, recursive=True, extensions=image_folders.EXTENSIONS,
                                            problems=[]):
        return os.path.join(folder, names[0])
    return None


class FolderTree:
    """A folder of this machine."""

    fingerprint = ""

    def __init__(self, root: str) -> None:
        self.root = root
        self.passed_over = Counter()

    def folders(self, *, recursive: bool, extensions: Sequence[str],
                problems: list[DataError]) -> Iterator[tuple[str, ImageNames]]:
        """Yield its folders; see `ImageTree`."""
        self.passed_over.clear()  # when called again, each image counts once
        return image_folders.walk(self.root, recursive=recursive, extensions=extensions, problems=problems,
                                  passed_over=self.passed_over)

    def reader(self) -> ImageReader:
        """Return the reader of its files."""
        return FileReader(self.root)


class ArchiveTree:
    """The images in archives."""

    def __init__(self, root: str, index: ArchiveIndex, held: Sequence[BinaryIO] = (), *,
                 is_remote: bool = False) -> None:
        """`held` are files that stay open as long as the tree is used."""
        self.root = root
        self._is_remote = is_remote
        # a tree has no `close`: its files are closed when it is collected
        for stream in held:
            weakref.finalize(self, stream.close)
        self.index = index
        self.fingerprint = index.fingerprint
        self.passed_over = Counter()

    def folders(self, *, recursive: bool, extensions: Sequence[str],
                problems: list[DataError]) -> Iterator[tuple[str, ImageNames]]:
        """Yield its folders; see `ImageTree`."""
        # what was refused while the headers were read
        problems += self.index.problems()
        suffixes = image_folders.image_suffixes(extensions)
        for folder in self.index.folders():
            if folder and not recursive:
                continue
            names = _MemberNames(self.index, folder, suffixes)
            # a folder without images is no class and takes no number
            if next(iter(names), None):
                yield folder, names

    def reader(self) -> ImageReader:
        """Return the reader of its members."""
        return RemoteImageReader(self.index) if self._is_remote else _MemberReader(self.index)


class _MemberNames:
    """The names of the images in a folder of an archive, looked up anew each time: there may be millions."""

    def __init__(self, index: ArchiveIndex, folder: str, suffixes: set[str]) -> None:
        self._index = index
        self._folder = folder
        self._suffixes = suffixes

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._index.names(self._folder)
                if image_folders.has_suffix(name, self._suffixes))

    def __len__(self) -> int:
        # counted by walking: names are not kept, as there may be millions in one folder
        return sum(1 for _ in self)


class FileReader:
    """Reads files by their paths relative to a folder, or to any beginning of a path."""

    def __init__(self, root: str, *, join: bool = True) -> None:
        """Without `join`, root and path are put together as they are, with no separator."""
        # With the separator at its end from the beginning: joining a path to it is then cheap.
        self._base = os.path.join(root, "") if join else root
        self._join = join

    def read_ahead(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries: the system reads ahead on its own."""
        return iter(entries)

    def _file(self, path: str) -> str:
        return os.path.join(self._base, path) if self._join else self._base + path

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        return read_bounded(self._file(path), MAX_PAYLOAD_BYTES)

    def read_into(self, path: str, reserve: Reserve) -> memoryview:
        """Read a file without an extra copy."""
        with open(self._file(path), "rb", buffering=0, opener=open_regular) as stream:
            size = os.fstat(stream.fileno()).st_size
            check_size(size)
            # One byte more than the size, to see whether the file is longer: it may grow, or report no size.
            image = reserve(size + 1)
            num_read = stream.readinto(image)
            if num_read == size:
                return image[:size]
            # Rare, so it may cost a copy: `reserve` may give other memory below, so what was read is saved.
            content = bytes(image[:num_read]) + (stream.read(MAX_PAYLOAD_BYTES) or b"")
        check_size(len(content))
        image = reserve(len(content) + 1)
        image[:len(content)] = content
        return image[:len(content)]


class _MemberReader:
    """Reads members of archives."""

    def __init__(self, index: ArchiveIndex) -> None:
        self._index = index

    def read_ahead(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries: the system reads ahead on its own."""
        return iter(entries)

    def read(self, path: str) -> bytes:
        """Return the content of a member."""
        return bytes(self.read_into(path, lambda size: memoryview(bytearray(size))))

    def read_into(self, path: str, reserve: Reserve) -> memoryview:
        """Read a member without an extra copy."""
        found = self._index.find(path)
        if found is None:
            raise ValueError("no such member in the archive")
        # refused before memory is taken: the number comes from the archive
        reader, member = found
        check_size(member.size)
        image = reserve(member.size)
        try:
            reader.read_into(member, image)
        except OSError as error:
            raise ValueError(reason(error)) from error
        return image


def check_size(size: int) -> None:
    """Raise a ValueError for an image that fits into no record, before memory is taken."""
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{size} bytes are more than a record holds")
