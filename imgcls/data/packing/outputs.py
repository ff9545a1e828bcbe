"""Write the files beside a packed list: STEM.bad, class names, and STEM.pack.json, by which runs resume.

`cli/im2rec.py` calls it around `pack.pack_list`; it packs and prints nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.data.listing import ListSummary
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.pack import PackResult
from imgcls.formats import lists
from imgcls.formats.recordio import names_cache
from imgcls.storage import atomic
from imgcls.storage.atomic import write_bytes


@dataclass(frozen=True)
class PackCounts:
    """The counts of a packed list; their names are keys of STEM.pack.json."""

    records: int
    skipped: int
    size_bytes: int


def write_outputs(stem: str, target: str, summary: ListSummary, result: PackResult) -> PackCounts:
    """Write the files beside the records `target`, STEM.bad and class names, but not the stamp; return the
    counts."""
    problems = [str(problem) for problem in summary.problems]
    # tab and reason: what is before the tab can be cut out and packed again
    problems += [f"{skipped.path}\t{skipped.reason}" for skipped in result.skipped]
    _write_bad_list(stem + ".bad", problems)
    # a list that im2rec made has them already, from all its images
    names = lists.class_names(stem + ".rec")
    if not names and (names := tuple(summary.class_names())):
        lists.write_class_names(lists.classes_path(stem), names)
    remember_names(target, names)
    return PackCounts(result.num_records, len(problems), result.size_bytes)


def remove_leftovers(stem: str, *, is_resumed: bool = False) -> None:
    """Remove what killed runs left half written of the files of STEM; what a running process writes stays.

    With `is_resumed` the part of an earlier run that this one continues with stays as well.
    """
    path = Path(stem)
    ends = r"\.(rec|idx|bad|lst|pack\.json|classes\.txt)"
    atomic.remove_leftovers(path.parent, re.compile(re.escape(path.name) + ends), unfinished=not is_resumed)


def remember_names(target: str, names: Sequence[str]) -> None:
    """Keep the class names for when the records are moved and STEM.classes.txt is not."""
    if names:
        names_cache.remember(target, names)


def _write_bad_list(path: str, problems: list[str]) -> None:
    """Write one line per image or line of the list that was left out, with the reason; no file for none."""
    if problems:
        write_bytes(path, "".join(line + "\n" for line in problems).encode("utf-8", "surrogateescape"))
    else:
        Path(path).unlink(missing_ok=True)


def write_stamp(stem: str, inputs: PackInputs, counts: PackCounts) -> None:
    """Write STEM.pack.json, last of all, so that it is only there when everything is."""
    text = json.dumps({**inputs.stamp(), **dataclasses.asdict(counts)}, indent=1) + "\n"
    write_bytes(stem + ".pack.json", text.encode())


def read_stamp(stem: str, inputs: PackInputs) -> PackCounts | None:
    """Return the counts of a complete earlier run with these inputs, else None."""
    try:
        counts = parse_stamp(Path(stem + ".pack.json").read_bytes(), inputs)
        is_whole = counts is not None and os.path.getsize(stem + ".rec") == counts.size_bytes
        return counts if is_whole and os.path.exists(stem + ".idx") else None
    except OSError:
        return None  # no stamp: packed again


def parse_stamp(text: bytes, inputs: PackInputs) -> PackCounts | None:
    """Return the counts in a STEM.pack.json if it is of a run with these inputs, else None."""
    try:
        stamp = json.loads(text)
        names = [field.name for field in dataclasses.fields(PackCounts)]
        counts = PackCounts(**{name: int(stamp.pop(name)) for name in names})
        return counts if stamp == inputs.stamp() else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # damaged or edited: packed again


@dataclass(frozen=True)
class PackInputs:
    """All that the bytes of the records depend on, but for the files of a folder."""

    list_path: Path
    config: PackConfig
    #: of the archives that are read, "" for a folder
    fingerprint: str = ""

    def stamp(self) -> dict[str, Any]:
        """Return the inputs as JSON values for STEM.pack.json; the list is read for its hash."""
        settings = dataclasses.asdict(self.config)
        # the bytes do not depend on it
        del settings["num_threads"]  # any number of threads gives the same bytes
        # in pieces: a list of millions of lines need not be in memory
        digest = hashlib.sha256()
        with open(self.list_path, "rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        archives = {"archives_sha256": self.fingerprint} if self.fingerprint else {}
        return {"list_sha256": digest.hexdigest(), "settings": settings, **archives}

    def identity(self) -> str:
        """Return the stamp as one line of text."""
        return json.dumps(self.stamp(), sort_keys=True)
