"""A writer of records: when a run is killed, the next one continues where it ended, to the same bytes.

Until they are complete the records are in `.X.rec.partial_.tmp`, with the index and the list of what was left
out beside them, and a journal records how much of each is on the disk. The next run with the same identity
(list, settings, archives) cuts all of them to what the journal's last line says and continues there. One
process writes at a time: it holds a lock.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

from imgcls.errors import RunError, reason, verbatim
from imgcls.formats.recordio import RecordWriter, index_path
from imgcls.storage.atomic import UNFINISHED_SUFFIX, sync_folder
from imgcls.storage.locks import lock_file
from imgcls.storage.paths import AnyPath, to_local_path


class SkippedEntry(NamedTuple):
    """The path of an image that was not packed, and why."""

    path: str
    reason: str


# Not one of imgcls.errors: the packer catches it and writes a file that it does not share, without resuming.
class BusyError(Exception):
    """Another process writes the same records now."""


class ResumableWriter(RecordWriter):
    """Writes `X.rec` and `X.idx` as RecordWriter, and resumes where an earlier one was stopped."""

    def __init__(self, path: str | os.PathLike[str], identity: str, *, is_kept: bool) -> None:
        """Open what is there of an earlier run with this identity, or start again.

        With `is_kept` an earlier run's part is used, and what is written stays when this run ends with an
        error. BusyError where another process writes the same records, RunError where the files cannot be
        written.
        """
        self.path = to_local_path(path, "OUT.rec")
        #: how far the list is done: entries, records, and the entries left out
        self.num_entries = 0
        self.count = 0
        self.skipped: list[SkippedEntry] = []
        self._identity = identity
        self._is_kept = is_kept
        self._offset = 0
        # names that `remove_leftovers` recognizes: a later run without `is_kept` removes them
        self._files = {name: _unfinished(target) for name, target in (
            ("rec", self.path), ("idx", index_path(self.path)), ("bad", self.path.with_suffix(".bad")),
            ("journal", self.path.with_suffix(".pack.json")))}
        self._streams: dict[str, IO[bytes]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for name, file in self._files.items():
                self._streams[name] = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
                # locked before anything is read or cut: two packers would write into one another's
                # records
                if not lock_file(self._streams[name]):
                    raise BusyError
            self._rec, self._idx = self._streams["rec"], self._streams["idx"]
            if not (is_kept and self._go_on()):
                for stream in self._streams.values():
                    stream.seek(0)
                    stream.truncate(0)
                self.skipped = []
        except OSError as error:
            self._close()
            raise RunError(f"cannot write {verbatim(self.path)}: {reason(error)}") from error
        except BaseException:
            self._close()
            raise

    def __exit__(self, *exc_info: Any) -> None:
        try:
            if exc_info[0] is None:
                self._finish()
        except OSError as error:
            self._end()
            raise RunError(f"cannot write {verbatim(self.path)}: {reason(error)}") from error
        except BaseException:
            self._end()
            raise
        # a write that failed names no file of its own
        if isinstance(exc_info[1], OSError):
            self._end()
            raise RunError(f"cannot write {verbatim(self.path)}: {reason(exc_info[1])}") from exc_info[1]
        if exc_info[0] is not None:
            self._end()

    def add(self, skipped: SkippedEntry | None) -> None:
        """Count an entry of the list: its record is written, or it was left out."""
        self.num_entries += 1
        if skipped:
            self.skipped.append(skipped)
            # JSON escapes line breaks that a path may hold: one line is one entry
            line = json.dumps(skipped)
            self._streams["bad"].write(line.encode("ascii") + b"\n")

    def mark(self) -> object:
        """Pass all buffers to the system; return the journal's line, which is true when they are on the disk.
        """
        sizes = {}
        # records and index first: what the journal says of them must be there
        for name in ("rec", "idx", "bad"):
            self._streams[name].flush()
            sizes[name] = self._streams[name].tell()
        return json.dumps({"identity": self._identity, "entries": self.num_entries, "records": self.count,
                           **sizes}).encode()

    def sync(self) -> None:
        """Wait until what was passed to the system is on the disk."""
        for name in ("rec", "idx", "bad"):
            # fdatasync, where there is one: the time of the last change may be lost
            getattr(os, "fdatasync", os.fsync)(self._streams[name].fileno())

    def commit(self, mark: object) -> None:
        """Append the line to the journal."""
        assert isinstance(mark, bytes)
        journal = self._streams["journal"]
        journal.write(mark + b"\n")
        journal.flush()

    def _go_on(self) -> bool:
        """Cut all files to the last line of the journal; False where none of them can be used."""
        state = self._last_state()
        if state is None:
            return False
        for name in ("rec", "idx", "bad"):
            # what stands behind the mark may be half a record, or bytes that never reached the disk
            self._streams[name].truncate(state[name])
            self._streams[name].seek(state[name])
        # keys and offsets continue as in a run that was not interrupted
        self._offset = state["rec"]
        self.count = state["records"]
        self.num_entries = state["entries"]
        return True

    def _last_state(self) -> dict[str, Any] | None:
        journal = self._streams["journal"]
        lines = journal.read().split(b"\n")
        # what stands behind the last line end was being written when the run ended
        journal.truncate(journal.seek(-len(lines[-1]), os.SEEK_END))
        for line in reversed(lines[:-1]):
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                state = json.loads(line)
                is_same = state["identity"] == self._identity
                numbers = [state[name] for name in ("rec", "idx", "bad", "records", "entries")]
                if not is_same or not all(type(number) is int and number >= 0 for number in numbers):
                    return None
                fits = all(os.fstat(self._streams[name].fileno()).st_size >= state[name]
                           for name in ("rec", "idx", "bad"))
                bad = self._streams["bad"].read(state["bad"]).splitlines()
                self.skipped = [SkippedEntry(*map(str, json.loads(entry))) for entry in bad]
                return state if fits else None
        return None

    def _finish(self) -> None:
        """Give both files their names, records first: no index may speak of records that are not there."""
        for name in ("rec", "idx"):
            stream = self._streams[name]
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(self._files["rec"], self.path)
        os.replace(self._files["idx"], index_path(self.path))
        sync_folder(self.path.parent)
        self._is_kept = False
        self._end()

    def _end(self) -> None:
        """Close the files, and remove them unless they are kept."""
        self._close()
        for file in () if self._is_kept else self._files.values():
            with contextlib.suppress(OSError):
                file.unlink()

    def _close(self) -> None:
        for stream in self._streams.values():
            with contextlib.suppress(OSError):  # a full disk, which has been reported
                stream.close()


def _unfinished(target: AnyPath) -> Path:
    return to_local_path(target).with_name(f".{target.name}{UNFINISHED_SUFFIX}")
