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

from imgcls.data.listing import class_names_by_folder
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.pack import PackResult
from imgcls.formats import lists
from imgcls.formats.lists import Listing
from imgcls.formats.recordio import RecordReader, kept_names
from imgcls.storage import atomic
from imgcls.storage.atomic import write_bytes


@dataclass(frozen=True)
class PackCounts:
    """What became of a list, in numbers; the names are keys of STEM.pack.json."""

    records: int
    skipped: int
    size_bytes: int


def write_outputs(stem: str, target: str, listing: Listing, result: PackResult) -> PackCounts:
    """Write what stands beside the records `target` as STEM.bad and so on, but for the stamp; return the
    counts."""
    problems = [str(problem) for problem in listing.problems]
    # tab and reason: what is before the tab can be cut out and packed again
    problems += [f"{entry.path}\t{reason}" for entry, reason in result.skipped]
    _write_bad_list(stem + ".bad", problems)
    # a list that im2rec made has them already, from all its images
    names = lists.class_names(stem + ".rec")
    if not names and (names := tuple(class_names_by_folder(listing.entries))):
        lists.write_class_names(lists.classes_path(stem), names)
    remember_names(target, names)
    return PackCounts(result.num_records, len(problems), result.size_bytes)


def remove_leftovers(stem: str) -> None:
    """Remove what killed runs left half written of the files of STEM; another run's that goes on stays."""
    path = Path(stem)
    ends = r"\.(rec|idx|bad|lst|pack\.json|classes\.txt)"
    atomic.remove_leftovers(path.parent, re.compile(re.escape(path.name) + ends))


def remember_names(target: str, names: Sequence[str]) -> None:
    """Keep the class names for when the records are moved and STEM.classes.txt is not."""
    if names:
        kept_names.remember(RecordReader(target), names)


def _write_bad_list(path: str, problems: list[str]) -> None:
    """Write one line per image or line of the list that was left out, with the reason; no file for none."""
    if problems:
        write_bytes(path, "".join(line + "\n" for line in problems).encode("utf-8", "surrogateescape"))
    else:
        Path(path).unlink(missing_ok=True)


def write_stamp(stem: str, list_path: Path, config: PackConfig, counts: PackCounts) -> None:
    """Write STEM.pack.json, last of all, so that it is only there when everything is."""
    text = json.dumps({**_stamp(list_path, config), **dataclasses.asdict(counts)}, indent=1) + "\n"
    write_bytes(stem + ".pack.json", text.encode())


def read_stamp(stem: str, list_path: Path, config: PackConfig) -> PackCounts | None:
    """Return the counts of a complete earlier run with this list and these settings, else None."""
    try:
        stamp = json.loads(Path(stem + ".pack.json").read_bytes())
        names = [field.name for field in dataclasses.fields(PackCounts)]
        counts = PackCounts(**{name: int(stamp.pop(name)) for name in names})
        is_same = stamp == _stamp(list_path, config) and os.path.getsize(stem + ".rec") == counts.size_bytes
        return counts if is_same and os.path.exists(stem + ".idx") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # no stamp, or one that anybody may have edited: packed again


def _stamp(list_path: Path, config: PackConfig) -> dict[str, Any]:
    """Return all that the bytes of the records depend on, but for the images."""
    settings = dataclasses.asdict(config)
    # the bytes do not depend on it
    del settings["num_threads"]  # any number of threads gives the same bytes
    return {"list_sha256": hashlib.sha256(list_path.read_bytes()).hexdigest(), "settings": settings}
