"""The images that a user names for prediction: one by one, from files, folders, patterns, URLs and records.

`find_images` turns words of a command line into `Image`s, lazily: a folder is walked and a list on stdin read
while the first images are being predicted. An error takes the place of what cannot be read; the others are
read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgcls.data.sources import is_packed, open_source
from imgcls.errors import DataError, ImgclsError, UsageError, reason
from imgcls.formats.image_folders import SUFFIXES
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES, RecordReader, unpack
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import read_bounded
from imgcls.storage.remote import RemotePath
from imgcls.storage.urls import url_scheme

#: what Python code may pass: a path or URL, the bytes of an encoded image, uint8 pixels in RGB
AnyImage = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray
#: a word that is a list on stdin
STDIN = "-"
#: more characters are no path on any system
_MAX_LINE = 1 << 16


@dataclass(frozen=True)
class Image:
    """An image that was named and not yet read; `read` gives encoded bytes or pixels, or raises DataError."""

    name: str
    read: Callable[[], bytes | memoryview | np.ndarray]

    def problem(self, reason: str) -> DataError:
        """Return the error for an image that cannot be decoded."""
        return DataError(self.name, reason)


def as_image(image: AnyImage, name: str = "image") -> Image:
    """Return an Image of a path, of encoded bytes or of pixels; UsageError for pixels of another kind.

    `name` is what errors call bytes and pixels.
    """
    if isinstance(image, np.ndarray):
        pixels = _checked(image)
        return Image(name, lambda: pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        # copied: the caller may change a bytearray, or what a view shows, before this is read
        data = bytes(image)
        return Image(name, lambda: data)
    try:
        path = os.fspath(image)
    except TypeError:
        raise UsageError("an image must be a path, the bytes of a file or uint8 pixels (a numpy array), not "
                         f"{type(image).__name__}") from None
    return Image(path, lambda: _read(path))


def find_images(words: Iterable[str], lines: Iterable[bytes] = ()) -> Iterator[Image | ImgclsError]:
    """Yield the images that words mean, in their order; an error for a word that means none.

    A word is a file, a `.rec` file, a list, shards or a database (`sources.is_packed`), a folder (its images,
    those of folders inside it too, in sorted order), a pattern (`*`, `?`, `[]`, `**` for any folders), a URL,
    or `-`: then each of `lines`, without its line end, is such a word.
    """
    for word in words:
        if word == STDIN:
            for line in lines:
                text = os.fsdecode(line.rstrip(b"\r\n"))
                if text.strip():
                    # Cut, not refused: the error then shows the beginning of what came, and the next line is
                    # read.
                    yield from _guarded(text[:_MAX_LINE])
        else:
            yield from _guarded(word)


def _guarded(word: str) -> Iterator[Image | ImgclsError]:
    """Yield the images of a word; after an error that ends it, that error."""
    try:
        yield from _expand(word)
    except (DataError, UsageError) as error:
        yield error
    except OSError as error:
        yield DataError(error.filename or word, reason(error))
    except ValueError as error:  # a zero byte in a name
        yield DataError(word, reason(error))


def _expand(word: str) -> Iterator[Image | ImgclsError]:
    path = to_path(word)
    if isinstance(path, RemotePath):
        yield from _remote(path)
    elif path.is_dir():
        yield from (_packed(str(path)) if is_packed(str(path)) else _folder(str(path)))
    elif not os.path.lexists(path) and glob.has_magic(word) and not url_scheme(word):
        # only where no file has the word as its name: a name may contain *, ? and [
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            yield DataError(word, "no file matches this pattern")
        folders: set[Path] = set()
        for match in matches:
            # ** matches a folder and all that is in it, which the folder stands for already
            if any(parent in folders for parent in Path(match).parents):
                continue
            if os.path.isdir(match):
                folders.add(Path(match))
                yield from _folder(match)
            else:
                yield from _file(to_path(match))
    else:
        yield from _file(path, word)


def _remote(url: RemotePath) -> Iterator[Image | ImgclsError]:
    """Yield the image of a URL, or those of a pattern in its last part (not of http, which lists nothing)."""
    if url_scheme(url) in ("http", "https") or not glob.has_magic(url.name):
        yield from _file(url)
        return
    matches = url.parent.glob(url.name)
    if not matches:
        yield DataError(url, "no file matches this pattern")
    for match in matches:
        yield from _file(match)


def _file(path: AnyPath, name: str = "") -> Iterator[Image | ImgclsError]:
    if path.suffix.lower() == ".rec":
        yield from _records(path)
    elif is_packed(str(path)):
        yield from _packed(str(path))
    else:
        shown = name or str(path)
        yield Image(shown, lambda: _read(shown))


def _records(path: AnyPath) -> Iterator[Image | ImgclsError]:
    """Yield the images of a record file, named FILE:ID; labels are not used here."""
    # Damaged records are left out and the others predicted: predictions do not depend on each other.
    reader = RecordReader(path, resync=True)
    yield from reader.problems
    if not len(reader) and not reader.problems:
        yield DataError(path, "holds no records")

    def read(number: int) -> memoryview:
        try:
            return unpack(reader.payload(number))[2]
        except ValueError as error:
            raise DataError(path, f"record {number} {error}", reader.offsets.item(number)) from error

    ids = reader.headers()["id"].tolist()
    for number, record_id in enumerate(ids):
        yield Image(f"{path}:{record_id}", lambda number=number: read(number))


def _packed(path: str) -> Iterator[Image | ImgclsError]:
    """Yield the images of a list, of shards or of a database, named FILE:NUMBER; labels are not used."""
    # "count": entries that cannot be read are yielded as errors, where training would stop
    source = open_source(path, "images", on_bad="count")
    yield from getattr(source, "problems", [])
    for index in range(len(source)):
        yield Image(f"{path}:{index}", lambda index=index: source.read(index))


def _folder(folder: str) -> Iterator[Image | ImgclsError]:
    """Yield the images of a folder and of those inside it; each folder once, whatever links lead to it."""
    problems: list[OSError] = []
    is_empty = True
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        # a link to a folder above would be walked without end
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            # hidden files are what other systems keep beside images: ._photo.jpg
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                is_empty = False
                path = os.path.join(where, name)
                yield Image(path, lambda path=path: _read(path))  # bound now: the loop's variable continues
    for problem in problems:
        yield DataError(problem.filename or folder, reason(problem))
    # A folder that could not be read is reported as that, and not as empty.
    if is_empty and not problems:
        yield DataError(folder, f"holds no images ({', '.join(SUFFIXES)})")


def _read(name: str) -> bytes:
    try:
        path = to_path(name)
        if isinstance(path, RemotePath):
            # Bounded: a URL may answer without end, and its Content-Length may lie.
            return path.read_bytes(MAX_PAYLOAD_BYTES)
        return read_bounded(path, MAX_PAYLOAD_BYTES, takes_pipes=True)  # <(command) of a shell is a pipe
    except (OSError, ValueError) as error:
        raise DataError(name, reason(error)) from error


def _checked(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as (H, W, C); UsageError for what is not uint8 or no picture."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        shape = "x".join(map(str, pixels.shape))
        raise UsageError(f"an image must be uint8 (H, W) or (H, W, C) in RGB, not {pixels.dtype} {shape}")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
