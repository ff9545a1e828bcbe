"""All members of one or many archives in an SQLite file: walked in sorted order, looked up by path.

Memory does not grow with the number of members: ImageNet's 14 million are 1.2 TB of tars whose headers take
hours to read from a hard disk. So the index of large archives is kept in the user's cache folder; it is used
only for files of the same path, size and modification time. For small archives it is a temporary file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from imgcls.errors import DataError, ImgclsError, RunError, UsageError, printable, reason, verbatim
from imgcls.formats.archives.member import Member, is_archive_name
from imgcls.formats.archives.read import MemberReader, iter_members, open_reader
from imgcls.storage.folders import cache_folder, remove_oldest
from imgcls.storage.remote import RemotePath

#: a new number wherever the tables or the rules of names change
_VERSION = 1
#: archives of fewer bytes together are read again each time, which is quick: they get no entry
MIN_KEPT_BYTES = 64 << 20
#: of all kept indexes together; those used longest ago are removed when they are more
_MAX_TOTAL_BYTES = 16 << 30
_PAGE_CACHE_KIB = 4 << 10
_ROWS_AT_ONCE = 1000
#: archives that are open at a time
_MAX_OPEN = 256
_TABLES = """
    CREATE TABLE about (text TEXT);
    CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB UNIQUE);
    CREATE TABLE members (folder INTEGER, name BLOB, archive INTEGER, offset INTEGER, size INTEGER,
                          stored_size INTEGER, method INTEGER, crc INTEGER,
                          PRIMARY KEY (folder, name)) WITHOUT ROWID;
    CREATE TABLE problems (path TEXT, reason TEXT, offset INTEGER);
"""
_COLUMNS = "archive, offset, size, stored_size, method, crc"

#: called while headers are read: (bytes passed, bytes of all archives)
Progress = Callable[[int, int], object]


def split_root(root: str) -> tuple[str, str]:
    """Return (archive, folder in it) of `photos.zip/train`; ("", "") where no part is an archive's file."""
    parts = root.rstrip("/").split("/")
    for count in range(len(parts), 0, -1):
        path = "/".join(parts[:count])
        if is_archive_name(path) and os.path.isfile(path):
            return path, "/".join(parts[count:])
    return "", ""


def find_archives(folder: str) -> list[str]:
    """Return the archives in a folder, sorted; none in those below it."""
    try:
        with os.scandir(folder) as items:
            names = sorted(item.name for item in items if is_archive_name(item.name) and item.is_file())
    except OSError as error:
        raise DataError(folder, f"cannot be read: {reason(error)}") from error
    return [os.path.join(folder, name) for name in names]


def open_index(paths: Sequence[str | RemotePath], *, are_folders: bool = False, inner: str = "",
               names: Sequence[str] = (), progress: Progress = lambda done, total: None) -> ArchiveIndex:
    """Return the index of archives, from the cache or by reading their headers.

    With `are_folders` each archive X.tar is a folder X, as an inner tar is; `names` are the archives' file
    names, one for each path, where they differ from the last part of the paths. With `inner` only the members
    below that folder are listed, with paths relative to it; a UsageError where there is no such folder.
    Damage is a DataError.
    """
    try:
        files = [_identify(path) for path in paths]
    except OSError as error:
        raise DataError(error.filename, reason(error)) from error
    names = [os.path.basename(name) for name in names or paths]
    about = _about(files, are_folders=are_folders)
    # of small archives the headers are read in no time
    total = sum(file.size for file in files)
    kept = _kept_path(about) if total >= MIN_KEPT_BYTES else None
    database = _open_kept(kept, about) if kept else None
    if database is None:
        folders = [os.path.splitext(name)[0] + "/" if are_folders else "" for name in names]
        database = _build(files, about, kept, folders, lambda done: progress(done, total))
    return ArchiveIndex(database, list(paths), about, inner)


def fingerprint_of(paths: Sequence[str | RemotePath]) -> str:
    """Return the `fingerprint` of the index of these archives, without reading their headers."""
    # the same text as `open_index` makes: a run compares it with the one that an earlier run has noted
    return _fingerprint(_about([_identify(path) for path in paths], are_folders=False), "")


def _about(files: Sequence[_File], *, are_folders: bool) -> str:
    return json.dumps([_VERSION, are_folders, [[file.name, file.size, file.version] for file in files]])


def _fingerprint(about: str, inner: str) -> str:
    # surrogateescape: folders of a tar may have names that are no UTF-8
    return hashlib.sha256(f"{about} {inner}".encode("utf-8", "surrogateescape")).hexdigest()


class _File(NamedTuple):
    """An archive, with what distinguishes it from another file of the same path."""

    path: str | RemotePath
    name: str
    size: int
    #: the time of its last change in ns, or what its store has for that
    version: int | str


def _identify(path: str | RemotePath) -> _File:
    # a store has no time in ns; its ETag says more
    if isinstance(path, RemotePath):
        info = path.stat()
        return _File(path, path.url, info.size, info.version)
    status = os.stat(path)
    return _File(path, os.path.realpath(path), status.st_size, status.st_mtime_ns)


def _kept_path(about: str) -> Path | None:
    with contextlib.suppress(ImgclsError, OSError, RuntimeError):  # no home folder, a URL as cache folder
        return cache_folder("archives") / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.sqlite"
    return None


def _open_kept(path: Path, about: str) -> sqlite3.Connection | None:
    """Open a kept index; None where there is none, or where it is damaged."""
    if not path.is_file():
        return None
    with contextlib.suppress(sqlite3.Error, OSError):
        database = _connect(str(path))
        if database.execute("SELECT text FROM about").fetchone() == (about,):
            with contextlib.suppress(OSError):  # another user's cache, which can be read all the same
                os.utime(path)  # used now: the others are removed first
            return database
        database.close()
    return None


def _connect(path: str) -> sqlite3.Connection:
    # threads share it behind a lock of ours
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    database.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
    return database


def _build(files: Sequence[_File], about: str, kept: Path | None,
           folders: Sequence[str], progress: Callable[[int], object]) -> sqlite3.Connection:
    """Read all headers into a new database; where it cannot be kept, into a temporary one."""
    building = ""
    if kept:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            # not the process id alone: hosts that share the folder may have processes of one id
            building = f"{kept}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        database = _connect(building)  # "" is SQLite's own temporary file
        # what a crash leaves is never read: the name comes last
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES} BEGIN;")
        _Filler(database, folders, progress).fill(files)
        database.execute("INSERT INTO about VALUES (?)", (about,))
        database.execute("COMMIT")
        if kept and building:
            os.replace(building, kept)
            remove_oldest(kept, _MAX_TOTAL_BYTES)
        return database
    except (sqlite3.Error, OSError) as error:
        raise RunError(f"cannot write the index of {verbatim(files[0].path)} in "
                       f"{verbatim(building or 'the temporary folder')}: {verbatim(error)}; IMGCLS_CACHE "
                       f"names "
                       "another folder") from error
    finally:
        if building:
            Path(building).unlink(missing_ok=True)


def _key(text: str) -> bytes:
    # bytes in the order of Python's strings, of names that are no UTF-8 too
    return text.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


class _Filler:
    """Writes the members of archives into the tables."""

    def __init__(self, database: sqlite3.Connection, prefixes: Sequence[str],
                 progress: Callable[[int], object]) -> None:
        self._database = database
        #: what stands before the paths of each archive's members
        self._prefixes = prefixes
        self._progress = progress
        self._folders: dict[str, int] = {}
        self._rows: list[tuple[object, ...]] = []

    def fill(self, files: Sequence[_File]) -> None:
        """Read the archives one after the other."""
        passed = 0
        for number, file in enumerate(files):
            prefix = self._prefixes[number]
            for member in iter_members(file.path, lambda offset, base=passed: self._progress(base + offset)):
                if isinstance(member, DataError):
                    why = member.reason.encode("utf-8", "replace").decode()
                    # as it will be shown: SQLite takes no name that is no UTF-8
                    self._database.execute("INSERT INTO problems VALUES (?, ?, ?)",
                                           (printable(member.path), why, member.offset))
                else:
                    self._add(prefix, number, member)
            passed += file.size
        # the last rows, fewer than a batch
        self._flush()

    def _add(self, prefix: str, number: int, member: Member) -> None:
        folder, _, name = (prefix + member.path).rpartition("/")
        row = self._folders.get(folder)
        if row is None:
            row = self._folders[folder] = len(self._folders)
            # with \0 for the slash a folder's sub-folders sort directly after it, in the order of os.walk
            self._database.execute("INSERT INTO folders VALUES (?, ?)",
                                   (row, _key(folder.replace("/", "\0"))))
        self._rows.append((row, _key(name), number, *member[1:]))
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        # of a name that occurs twice the last one counts, as when it is extracted
        self._database.executemany("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                                   self._rows)
        self._rows.clear()


class ArchiveIndex:
    """The members of archives as a tree of folders; threads may share it."""

    def __init__(self, database: sqlite3.Connection, paths: Sequence[str | RemotePath], about: str,
                 inner: str) -> None:
        #: the archives, and a text that changes with any of them
        self.paths = list(paths)
        self.fingerprint = _fingerprint(about, inner)
        self._database = database
        self._lock = threading.Lock()
        self._readers: dict[int, MemberReader] = {}
        self._inner = inner
        rows = self._execute("SELECT path, id FROM folders ORDER BY path")
        #: folder -> row, in the order of a sorted walk; without `inner`
        self._folders = {_text(path).replace("\0", "/"): row for path, row in rows}
        if inner:
            below = {folder: row for folder, row in self._folders.items()
                     if f"{folder}/".startswith(f"{inner}/")}
            self._folders = {folder[len(inner) + 1:]: row for folder, row in below.items()}
            if not below:
                raise UsageError(f"{verbatim(paths[0])} holds no folder {verbatim(inner)}")

    def close(self) -> None:
        """Close the index and the archives."""
        self._database.close()
        for reader in self._readers.values():
            reader.close()

    def __len__(self) -> int:
        """Return the number of members, of all folders."""
        return self._execute("SELECT COUNT(*) FROM members")[0][0]

    def problems(self, limit: int = 100_000) -> list[DataError]:
        """Return what was refused, at most `limit` of it."""
        rows = self._execute("SELECT path, reason, offset FROM problems LIMIT ?", limit)
        return [DataError(path, why, offset) for path, why, offset in rows]

    def folders(self) -> list[str]:
        """Return the folders that hold files themselves, "" for the root, in the order of a sorted walk."""
        return list(self._folders)

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder, sorted by code point."""
        row, last = self._folders[folder], b""
        # a page at a time: a folder may hold millions, and no name is empty
        while page := self._execute("SELECT name FROM members WHERE folder = ? AND name > ? ORDER BY name "
                                    "LIMIT ?", row, last, _ROWS_AT_ONCE):
            for name, in page:
                yield _text(name)
            last = page[-1][0]

    def find(self, path: str) -> tuple[MemberReader, Member] | None:
        """Return (reader of its archive, member) for a path; None where there is no such member."""
        folder, _, name = path.rpartition("/")
        row = self._folders.get(folder)
        found = self._execute(f"SELECT {_COLUMNS} FROM members WHERE folder = ? AND name = ?", row,
                              _key(name)) if row is not None else []
        if not found:
            return None
        number, *fields = found[0]
        return self._reader(number), Member(path, *fields)

    def _reader(self, number: int) -> MemberReader:
        with self._lock:
            reader = self._readers.get(number)
            if reader is None:
                # a folder of 21,841 class tars has more than a process may open
                while len(self._readers) >= _MAX_OPEN:
                    self._readers.pop(next(iter(self._readers)))  # closed when no one reads any more
                reader = self._readers[number] = open_reader(self.paths[number])
            return reader

    def _execute(self, query: str, *values: object) -> list[tuple]:
        try:
            with self._lock:
                return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise RunError(f"the index of {verbatim(self.paths[0])} cannot be read: "
                           f"{verbatim(error)}") from error
