"""List and pack the images of a tar behind a URL in one pass, while it is being downloaded.

This needs folders in the order of their names, as in ImageNet's tars: a class gets its number when its folder
begins. Inside a folder names may come in any order, so its images are held in memory until it is complete.
`cli/_im2rec_stream.py` calls it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from imgcls.data.remote_members import Entry, Reserve
from imgcls.errors import DataError
from imgcls.formats import image_folders
from imgcls.formats.archives import Member, fingerprint_of, iter_stream
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES
from imgcls.storage.remote import RemotePath
from imgcls.storage.remote_file import RemoteFile, check_unchanged, read_range

#: bytes of one folder's images that are held in memory; images beyond that are requested again when they are
#: packed
_HELD_BYTES = 512 << 20


class OutOfOrderError(Exception):
    """A folder follows one that sorts after it: numbering the classes takes a separate pass over the tar."""


class ArchiveStream:
    """The `image_trees.ImageTree` of one tar that is read once, and the `ImageReader` of its images."""

    def __init__(self, path: RemotePath) -> None:
        self.root = path.url
        self.fingerprint = fingerprint_of([path])
        self.passed_over: Counter[str] = Counter()
        self._path = path
        self._lock = threading.Lock()
        #: path -> content of an image that was yielded and is not packed yet, or its place in the archive
        self._images: dict[str, bytes | Member] = {}

    def folders(self, *, recursive: bool, extensions: Sequence[str],
                problems: list[DataError]) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield (folder, its sorted image names) as each folder is complete.

        Raise OutOfOrderError for folders out of order, and DataError at the end if the archive has changed
        meanwhile.
        """
        suffixes = image_folders.image_suffixes(extensions)
        # as it was before the first byte is read
        version = self._path.stat().version
        with RemoteFile(self._path) as stream:
            def read(member: Member) -> bytes:
                stream.seek(member.offset)  # `iter_stream` seeks to its own position before it reads on
                return stream.read(member.size)

            members = iter_stream(stream, self._path)  # type: ignore[arg-type]
            for folder, images in _by_folder(members, suffixes, read, problems):
                with self._lock:
                    self._images.update(images)
                yield folder, sorted(path[len(folder) + 1:] if folder else path for path in images)
        check_unchanged([(self._path, version)])

    def reader(self) -> ArchiveStream:
        """Return the reader of the images of the folders yielded so far."""
        return self

    def read_ahead(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries unchanged: their images are in memory already."""
        return iter(entries)

    def read(self, path: str) -> bytes:
        """Return the content of an image, which can be read once; ValueError says why it cannot be packed."""
        # popped: the memory is needed for the next folder
        with self._lock:
            image = self._images.pop(path)
        if isinstance(image, Member):
            if image.size > MAX_PAYLOAD_BYTES:
                raise ValueError(f"{image.size} bytes are more than a record holds")
            return read_range(self._path, image.offset, image.offset + image.size)
        return image

    def read_into(self, path: str, reserve: Reserve) -> memoryview:
        """Read an image into memory that `reserve` gives."""
        content = self.read(path)
        image = reserve(len(content))
        image[:] = content
        return image


def _by_folder(members: Iterable[Member | DataError], suffixes: set[str], read: Callable[[Member], bytes],
               problems: list[DataError]) -> Iterator[tuple[str, dict[str, bytes | Member]]]:
    """Yield (folder, path -> image) for each folder with images; OutOfOrderError unless they are sorted."""
    current, images, num_bytes = "", {}, 0
    for member in members:
        if isinstance(member, DataError):
            problems.append(member)
            continue
        folder, _, name = member.path.rpartition("/")
        if not image_folders.has_suffix(name, suffixes):
            continue
        if folder != current:
            # compared as a sorted walk visits them: subfolders right after their folder
            if images and folder.replace("/", "\0") < current.replace("/", "\0"):
                raise OutOfOrderError
            if images:
                yield current, images
            current, images, num_bytes = folder, {}, 0
        # of two members with the same name the later one counts, as when the tar is extracted
        num_bytes += member.size
        images[member.path] = read(member) if num_bytes <= _HELD_BYTES else member
    if images:
        yield current, images
