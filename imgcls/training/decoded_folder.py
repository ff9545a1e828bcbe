"""Decoded images in a folder of a fast disk, kept for the next run: `decoded_cache_dir`.

Each set, at each size, has a file of pixels and one of tables there; a run holds a lock on those it uses. The
limit is for all of them together: what was used longest ago is removed first, unless a run has it open.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls.data.decoded import identity
from imgcls.data.decoded.pixel_file import PixelFile, free_bytes
from imgcls.data.decoded.segment import Segment
from imgcls.data.decoded.tables import Tables
from imgcls.errors import RunError, UsageError, printable, reason, verbatim
from imgcls.storage.paths import to_local_path

if TYPE_CHECKING:
    from imgcls.data.loaders.streaming import StreamingLoader

#: the names of a cache's two files, before their suffix
_NAME = re.compile(r"imgcls-decoded-[0-9a-f]{16}")
_PIXELS, _TABLES = ".pixels", ".tables"
#: where the segment's header has the numbers of the file of pixels: its device and inode
_FILE_NUMBERS = slice(3, 5)

_log = logging.getLogger(__name__)


def check(folder: str) -> str:
    """Return the absolute path of a folder that can be written to, made where it is not there.

    UsageError for a URL and for what is no folder, RunError where it cannot be written.
    """
    path = to_local_path(folder, "`decoded_cache_dir`").absolute()
    if os.path.lexists(path) and not path.is_dir():
        raise UsageError(f"`decoded_cache_dir` {verbatim(folder)}: must be a folder, and is none")
    try:
        path.mkdir(parents=True, exist_ok=True)
        # nothing is written into it: a full disk is no reason to end a run
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RunError(f"`decoded_cache_dir` {verbatim(folder)}: cannot write there: {reason(error)}"
                       ) from error
    return str(path)


@dataclass
class Kept:
    """An open cache of this run: its file of pixels, which is locked; `begin` gives it to a loader."""

    file: PixelFile
    identity: bytes
    #: bytes of pixels
    limit: int

    def begin(self, loader: StreamingLoader, segment: Segment) -> int:
        """Let `loader` use it, with its tables in `segment`; return how many images are there already."""
        stem = self.file.path.removesuffix(_PIXELS)
        # before the cache is made, which then finds its tables filled
        tables = Tables(stem + _TABLES, self.identity, segment, loader.disk_table_bytes()[1])
        problem = tables.load()
        cache = loader.keep_in(segment, self.file, self.limit)
        cache.recover(self.file.num_bytes)
        if problem:
            _remove(tables.path)
            _log.warning("`decoded_cache_dir`: the decoded images of %s there are %s: they are removed and "
                         "decoded again", printable(loader.source.description), problem)
        # removes what a killed run wrote after its tables were saved
        self.file.cut(cache.used_bytes)
        segment.header[_FILE_NUMBERS] = self.file.numbers
        tables.save_often(self.file, cache)
        return cache.num_images


class Folder:
    """The folder, and what this run may take of it."""

    def __init__(self, path: str, limit_gb: float | None, default_share: float) -> None:
        """The limit is for all caches in it; None: `default_share` of the free disk and of what they take."""
        self.path = path
        self._place = f"`decoded_cache_dir` {verbatim(path)}"
        self._limit_gb = limit_gb
        self._default_share = default_share
        #: where the limit comes from
        self.source = "half of the free disk" if limit_gb is None else "`decoded_cache_gb`"
        #: the limit of each cache of this run, in bytes, by the path without its suffix
        self._own: dict[str, int] = {}

    def open_kept(self, loader: StreamingLoader, share: float, needed: int) -> Kept:
        """Open the cache of a loader's images, of about `needed` bytes; RunError with the reason why not.

        It may take `share` of what is left; if that is below 1, no more than it needs.
        """
        settings = loader.kept_settings()
        digest = identity.of_source(loader.source, settings)
        description = verbatim(loader.source.description)
        if digest is None:
            raise RunError(f"{self._place}: changes of {description} between runs cannot be detected")
        stem = _stem(self.path, loader)
        try:
            file = PixelFile(stem + _PIXELS)
            if not file.lock():
                raise RunError(f"{self._place}: another run uses the decoded images of {description}")
            os.utime(file.path)  # a run that only reads counts as a use
            limit = self._limit(stem, share, needed, file.num_bytes)
        except OSError as error:
            raise RunError(f"{self._place}: {verbatim(stem + _PIXELS)}: {reason(error)}") from error
        # not even one image
        if limit < loader.kept_bytes()[1]:
            raise RunError(f"{self._place}: there is no room for decoded images")
        self._own[stem] = limit
        return Kept(file, digest, limit)

    def _limit(self, stem: str, share: float, needed: int, own_bytes: int) -> int:
        """Return how many bytes the cache `stem` may take; remove others if it needs their space."""
        others = sorted(self._others(stem))
        others_bytes = sum(size for _, size, _ in others)
        free = free_bytes(self.path)
        # what is there already is part of the budget, not of what is free
        total = int(self._limit_gb * 1e9) if self._limit_gb is not None else int(
            (free + others_bytes + own_bytes) * self._default_share)

        def room() -> int:
            taken = sum(self._own.values()) + others_bytes
            return max(int(min(total - taken, free_bytes(self.path) + own_bytes) * share), 0)

        # oldest first
        for _, size, other in others:
            if room() >= needed:
                break
            if _remove_unused(other):
                _log.warning("`decoded_cache_dir`: removed %s (%.3g GB), the images that were used longest "
                             "ago", printable(other), size / 1e9)
                others_bytes -= size
        return room() if share == 1 else min(room(), needed)

    def _others(self, stem: str) -> Iterator[tuple[float, int, str]]:
        """Yield when each other cache in the folder was used last, its bytes, and its pixels' path."""
        own = {*self._own, stem}
        for entry in os.scandir(self.path):
            name, suffix = os.path.splitext(entry.path)
            if suffix == _PIXELS and _NAME.fullmatch(os.path.basename(name)) and name not in own:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # another run has just removed it
                    continue
                # blocks and not the length: a file with holes takes less
                yield status.st_mtime, 512 * status.st_blocks, entry.path


def _stem(folder: str, loader: StreamingLoader) -> str:
    name = identity.name_of(loader.source, loader.kept_settings())
    return os.path.join(folder, f"imgcls-decoded-{name}")


def join(loader: StreamingLoader, folder: str, segment: Segment, limit: int) -> None:
    """Let `loader` use the cache that the first process of this machine has begun."""
    stem = _stem(folder, loader)
    try:
        file = PixelFile(stem + _PIXELS)
    except OSError as error:
        _log.warning("%s: %s: this process keeps nothing decoded", printable(stem), reason(error))
        return
    # A folder of that name in another container is another one, and so is a file that was made anew.
    if list(file.numbers) == segment.header[_FILE_NUMBERS].tolist():
        loader.keep_in(segment, file, limit)


def _remove_unused(pixels: str) -> bool:
    """Remove a cache that no run has open."""
    try:
        # the lock is given back at once: a run that takes it now finds that the file has lost its name
        if not PixelFile(pixels).lock():
            return False
    except OSError:
        return False
    # tables first: without pixels they would be reported as damaged
    _remove(pixels.removesuffix(_PIXELS) + _TABLES)
    _remove(pixels)
    return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        _log.info("%s: %s", printable(path), reason(error))
