"""Where imgcls-im2rec writes: to PREFIX* on this machine, or through a local folder to a URL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from imgcls.data import listing
from imgcls.data.packing import outputs
from imgcls.data.packing.outputs import PackCounts, PackInputs
from imgcls.errors import DataError, RunError
from imgcls.formats import lists
from imgcls.storage import atomic
from imgcls.storage.folders import cache_folder
from imgcls.storage.paths import to_path
from imgcls.storage.remote import RemotePath

#: the files that packing a list makes; the stamp comes last: where it exists, all others do
_ENDS = (".idx", ".rec", ".bad", ".classes.txt", ".pack.json")


class Target:
    """The files PREFIX*. Those of a URL are written into a folder of the cache and uploaded list by list.

    The folder is the same in every run with the URL, so that a killed run can be resumed. At most one list's
    records are in it at a time.
    """

    def __init__(self, prefix: str) -> None:
        path = to_path(prefix, "PREFIX")
        self._remote = path if isinstance(path, RemotePath) else None
        #: PREFIX as messages show it; `prefix` is what the paths of the files on this machine begin with
        self.name = prefix
        self.prefix = prefix
        if self._remote:
            key = hashlib.sha256(self._remote.url.encode()).hexdigest()[:16]
            self._folder = cache_folder("pack") / key
            self.prefix = str(self._folder / self._remote.name)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # what is unfinished stays for the next run
        if self._remote and exc_info[0] is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def is_remote(self) -> bool:
        """Return whether PREFIX is a URL."""
        return self._remote is not None

    def shown(self, path: str | os.PathLike[str]) -> str:
        """Return the name under which a file of this machine is published."""
        return str(self._remote.with_name(os.path.basename(path))) if self._remote else os.fspath(path)

    def check_writable(self) -> None:
        """Raise RunError now where the first file could not be written."""
        atomic.check_writable(self.prefix, "PREFIX")

    def find_lists(self) -> list[Path]:
        """Return the lists PREFIX*.lst, those of a URL as copies; [] where they were not all written."""
        if self.has_unfinished_lists():
            return []
        if self._remote:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                names = self._remote.parent.glob(f"{_escaped(self._remote.name)}*.lst")
                for path in [*names, lists.classes_path(self._remote)]:
                    if path.exists():
                        atomic.write_bytes(self._folder / path.name, path.read_bytes())
            except FileNotFoundError:
                pass  # no such folder yet
            except OSError as error:
                raise RunError(f"cannot read the lists of {self._remote}: {error}") from error
        return listing.find_lists(self.prefix)

    def has_unfinished_lists(self) -> bool:
        """Return whether a run was stopped while it wrote the lists, or another run is writing them."""
        mark = self._unfinished
        return mark.exists() or bool(self._remote and self._remote.with_name(mark.name).exists())

    @contextlib.contextmanager
    def writing_lists(self) -> Iterator[list[Path]]:
        """Mark the lists as incomplete while the block writes them; yield a list that takes their paths.

        Without the mark another run would take the lists that are there so far for all of them. Lists that an
        earlier, killed run wrote and this one did not are removed.
        """
        mark = self._unfinished
        earlier = mark.read_bytes().splitlines() if mark.exists() else []
        atomic.write_bytes(mark, *(name + b"\n" for name in earlier))
        if self._remote:
            self._upload(mark)
        written: list[Path] = []
        yield written
        for name in {os.fsdecode(name) for name in earlier} - {path.name for path in written}:
            mark.with_name(name).unlink(missing_ok=True)
            if self._remote:
                self._remote.with_name(name).unlink(missing_ok=True)
        if self._remote:
            self._remote.with_name(mark.name).unlink(missing_ok=True)
        mark.unlink(missing_ok=True)

    @property
    def _unfinished(self) -> Path:
        return listing.unfinished_lists(self.prefix)

    def publish_lists(self, paths: Iterable[Path]) -> None:
        """Upload lists with the names of their classes."""
        if self._remote:
            # the class names last: a list without them can be packed
            for path in [*paths, Path(str(lists.classes_path(self.prefix)))]:
                self._upload(path)

    def read_stamp(self, stem: str, inputs: PackInputs) -> PackCounts | None:
        """Return the counts of a complete earlier run with these inputs, else None."""
        if not self._remote:
            return outputs.read_stamp(stem, inputs)
        # what cannot be read is packed again
        with contextlib.suppress(OSError, DataError):
            stamp = self._remote.with_name(Path(stem).name + ".pack.json")
            counts = outputs.parse_stamp(stamp.read_bytes(), inputs) if stamp.exists() else None
            records = self._remote.with_name(Path(stem).name + ".rec").info(fresh=True)
            return counts if counts and records and records.size == counts.size_bytes else None
        return None

    def publish(self, stem: str) -> None:
        """Upload what packing a list has made, and remove the records from this machine."""
        if self._remote:
            for end in _ENDS:
                self._upload(Path(stem + end))
            # the rest is small, and is removed with the folder
            for end in (".rec", ".idx"):
                Path(stem + end).unlink(missing_ok=True)

    def _upload(self, path: Path) -> None:
        if path.exists():
            target = to_path(self.shown(path))
            assert isinstance(target, RemotePath)
            target.upload(path)


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
