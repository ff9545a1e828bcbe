"""Image lists (`.lst`): find the images under a folder, divide them into lists, read and write them.

A line is `id TAB label [TAB label ...] TAB path`: ids are integers, labels are written with six decimals, the
path is relative to a root folder that the list does not name. Everything here follows MXNet's tools/im2rec.py
to the byte: the order, which folder gets which label, the shuffle, the cuts between train, val and test.

Beside a list `X.lst` (and the records made of it) `X.classes.txt` names the classes: line n is class n. Used
by the packer and by the sources of `data/`. Nothing here opens an image.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats import image_folders
from imgcls.storage.atomic import atomic_write, write_bytes
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read, read_all

Entry = TypeVar("Entry")

#: the seed that MXNet shuffles every list with
_SHUFFLE_SEED = 100
_FLOAT32_MAX = 3.4028235e38
#: ids are u64 in an image record
_MAX_ID = (1 << 64) - 1
#: of a line that is no entry, an error shows at most this many characters
_SHOWN_LENGTH = 60
#: a longer line is no image: paths have 4,096 bytes at most, and labels are few
_MAX_LINE = 1 << 20
#: what distinguishes the parts of one set: train_3, train_3_val, and train-000017 as shards are called
_SPLIT_SUFFIX = re.compile(r"([_-]\d+)?(_train|_val|_test)?$")
_CLASSES_SUFFIX = ".classes.txt"
#: endings of data that have such a file beside them
_DATA_SUFFIXES = (".lst", ".rec", ".csv", ".tsv", ".tar", ".parquet")


class ListEntry(NamedTuple):
    """One image of a list."""

    id: int
    labels: tuple[float, ...]
    path: str


@dataclass
class Listing:
    """The images under a folder, or in a list: `problems` says what could not be taken."""

    entries: list[ListEntry] = field(default_factory=list)
    #: folder of each class, relative to the root, in label order; empty where there are no classes
    class_names: list[str] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)
    #: suffix of other images -> how many of them were not taken
    passed_over: Counter[str] = field(default_factory=Counter)


def walk(root: str, *, recursive: bool, extensions: Sequence[str] = image_folders.EXTENSIONS,
         takes_any_name: bool = False, with_hidden: bool = True) -> Listing:
    """Return the images under `root`, sorted by name, ids counting up.

    With `recursive` every folder that itself holds an image is a class, numbered as they are met (files of a
    folder before its sub-folders, links followed); otherwise only the root's own images are taken, with label
    0.

    A name that no line of a list can hold is a problem, unless `takes_any_name` is set (no list is written).
    Names that begin with a dot are taken, as MXNet does, unless `with_hidden` is false.
    An entry that is no file, such as a link to nothing, is a problem of its own and costs no other image. A
    folder that cannot be read is a DataError: without it the classes behind it would get other numbers.
    """
    listing = Listing()
    for folder, names in image_folders.walk(root, recursive=recursive, extensions=extensions,
                                            problems=listing.problems, with_hidden=with_hidden,
                                            passed_over=listing.passed_over):
        if recursive:
            listing.class_names.append(folder or os.curdir)
        label = float(max(0, len(listing.class_names) - 1))
        for name in names:
            path = os.path.join(folder, name)
            if takes_any_name or is_listable(path, root, listing.problems):
                listing.entries.append(ListEntry(len(listing.entries), (label,), path))
    return listing


def is_listable(path: str, root: str, problems: list[DataError]) -> bool:
    """Return whether a line of a list can hold a path; if not, a problem is appended."""
    if path.strip() == path and not re.search(r"[\t\n\r]", path):
        return True
    problem = "a list cannot hold a name with tabs, line breaks or blanks at its ends"
    problems.append(DataError(os.path.join(root, path), problem))
    return False


def shuffled(entries: Sequence[ListEntry]) -> list[ListEntry]:
    """Return the entries in the order that MXNet shuffles a list of this length to, with their ids."""
    mixed = list(entries)
    shuffle(mixed)
    return mixed


def shuffle(entries: MutableSequence[Any]) -> None:
    """Shuffle in place as MXNet shuffles a list of this length; also works on a list of indices."""
    random.Random(_SHUFFLE_SEED).shuffle(entries)


def split(entries: Sequence[Entry], *, chunks: int = 1, train_ratio: float = 1.0,
          test_ratio: float = 0.0) -> list[tuple[str, Sequence[Entry]]]:
    """Return (suffix of the file name, entries) of each list to write.

    Chunks are consecutive and of equal size but for the last; in each the test images come first, then train,
    then val. As in MXNet the numbers follow the nominal size, so a shorter last chunk has fewer val images.
    """
    # Rounded up, and the products down, as in make_list of im2rec.py.
    size = -(-len(entries) // chunks)
    num_train = int(size * train_ratio)
    num_test = int(size * test_ratio)
    lists: list[tuple[str, Sequence[Entry]]] = []
    for i in range(chunks):
        chunk = entries[i * size:(i + 1) * size]
        suffix = f"_{i}" if chunks > 1 else ""
        # MXNet names a list _train only where another one stands beside it.
        if train_ratio == 1.0:
            lists.append((suffix, chunk))
            continue
        if test_ratio:
            lists.append((suffix + "_test", chunk[:num_test]))
        if train_ratio + test_ratio < 1.0:
            lists.append((suffix + "_val", chunk[num_test + num_train:]))
        lists.append((suffix + "_train", chunk[num_test:num_test + num_train]))
    return lists


def read(path: str | os.PathLike[str]) -> Listing:
    """Read a `.lst`; a line that is no entry is left out, as in MXNet, and described in `problems`."""
    listing = Listing()
    for entry in iterate(path):
        if isinstance(entry, DataError):
            listing.problems.append(entry)
        else:
            listing.entries.append(entry)
    return listing


def iterate(path: str | os.PathLike[str]) -> Iterator[ListEntry | DataError]:
    """Yield the entries of a `.lst` in its order, and a DataError in place of a line that is no entry."""
    try:
        # Windows' editors begin a file with a byte order mark; line ends are \r, \n or both
        with open_read(to_path(path)) as stream, io.TextIOWrapper(stream, "utf-8-sig",
                                                                  "surrogateescape") as text:
            for number, line in enumerate(bounded_lines(text, path), 1):
                yield _parse_line(path, number, line.rstrip("\n"))
    except OSError as error:
        raise DataError(path, reason(error)) from error


def bounded_lines(text: TextIO, path: object) -> Iterator[str]:
    """Yield the lines of a file with their ends; a DataError for one that is too long to belong to a list."""
    number = 0
    # read with a bound: a file without a line end would be one line of the file's size
    while line := text.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise DataError(path, f"line {number} has more than {_MAX_LINE:,} characters: it is no list of "
                                  "images")
        yield line


def _parse_line(path: object, number: int, line: str) -> ListEntry | DataError:
    fields = [f.strip() for f in line.strip().split("\t")]
    # MXNet's im2rec.py passes over such a line with a message.
    if len(fields) < 3:
        return DataError(path, f"line {number} is no id, label and path between tabs: "
                               f"{verbatim(repr(line.strip()[:_SHOWN_LENGTH]))}")
    entry = _parse_entry(fields[0], fields[1:-1], fields[-1])
    return DataError(path, f"line {number}: {entry}") if isinstance(entry, str) else entry


def read_blank_separated(path: str | os.PathLike[str], label_width: int = 1, num_parts: int = 1,
                         part_index: int = 0) -> Listing:
    """Read a list as MXNet's C++ tools do: columns end at any blank, `label_width` labels, the rest is the
    path.

    With several parts, only the lines of part `part_index`: the file is divided into `num_parts` equal ranges
    of bytes, and a line belongs to the range in which it begins. A line that is no entry is described in
    `problems`.
    """
    listing = Listing()
    # Parts are counted in bytes, as dmlc-core's InputSplit does, so the text is cut as bytes.
    text = _read_text(path).encode("utf-8", "surrogateescape")
    part_bytes = -(-len(text) // num_parts)
    begin = _find_line_start(text, part_bytes * part_index)
    end = _find_line_start(text, part_bytes * (part_index + 1))
    for raw_line in re.split(rb"[\r\n]+", text[begin:end]):
        # as bytes: C++ takes no blank of Unicode for one, and a name may hold them
        fields = [field.decode("utf-8", "surrogateescape") for field in raw_line.split(None, label_width + 1)]
        if not fields:
            continue
        line = raw_line.decode("utf-8", "surrogateescape")
        problem = f"an id, {label_width} labels and a path are needed"
        if len(fields) == label_width + 2:
            entry = _parse_entry(fields[0], fields[1:-1], fields[-1].strip())
            if not isinstance(entry, str):
                listing.entries.append(entry)
                continue
            problem = entry
        if problem:
            shown = verbatim(repr(line.strip()[:_SHOWN_LENGTH]))
            listing.problems.append(DataError(path, f"{problem}: {shown}"))
    return listing


def check_inside(path: object, entries: Iterable[ListEntry], root: AnyPath | str) -> None:
    """Refuse a list that names files outside of `root`, by `..` or from the root of the file system.

    A list may come from a stranger, and what it names is read, and packed. Links that stand below the root
    are followed: they were made with the folder. Raises DataError.
    """
    inside = inside_of(root)
    for entry in entries:
        check_entry_inside(path, entry, root, inside)


def inside_of(root: AnyPath | str) -> str:
    """Return what absolute paths of a list must begin with to be inside of `root`; "" for a URL."""
    return os.path.join(os.path.abspath(root), "") if isinstance(root, (str, Path)) else ""


def check_entry_inside(path: object, entry: ListEntry, root: AnyPath | str, inside: str) -> None:
    """Refuse one entry as `check_inside` does; `inside` is what `inside_of` returns."""
    climbs = ".." in entry.path and os.pardir in entry.path.split("/")
    if climbs or (inside and entry.path.startswith("/") and not entry.path.startswith(inside)):
        raise DataError(path, f"names {verbatim(entry.path)} (image {entry.id}), which is outside of its "
                              f"root folder {verbatim(root)}; `outside_root` allows it")


def write(path: str | os.PathLike[str], entries: Iterable[ListEntry]) -> None:
    """Write a `.lst`, atomically."""
    with atomic_write(path) as stream:
        stream.writelines(map(line_of, entries))


def line_of(entry: ListEntry) -> bytes:
    """Return an entry as a list has it."""
    labels = "".join(f"{label:f}\t" for label in entry.labels)
    # File names need not be UTF-8: what the system gave is written back byte for byte.
    return f"{entry.id}\t{labels}{entry.path}\n".encode("utf-8", "surrogateescape")


def classes_path(prefix: str | os.PathLike[str]) -> AnyPath:
    """Return the path of the class names of `PREFIX.lst`, `PREFIX.rec` and the like, or of a bare prefix."""
    text = os.fspath(prefix)
    stem, suffix = os.path.splitext(text)
    return to_path((stem if suffix in _DATA_SUFFIXES else text) + _CLASSES_SUFFIX)


def write_class_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Write one name a line, atomically; line breaks in a name become blanks."""
    text = "".join(re.sub(r"[\r\n]", " ", name) + "\n" for name in names)
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the class names that belong to a list or record file, in label order; () where there are none.

    For `N_0_train.rec` they stand in `N_0_train.classes.txt` or, since a list and its parts share them, in
    `N.classes.txt`; where neither exists, in `classes.txt` of the same folder.
    """
    # The nearest name wins: parts of one list may lie beside those of another.
    own = classes_path(path)
    base = own.name.removesuffix(_CLASSES_SUFFIX)
    for name in (own.name, _SPLIT_SUFFIX.sub("", base, count=1) + _CLASSES_SUFFIX, "classes.txt"):
        file = own.with_name(name)
        if file.is_file():
            # line by line as they were written: splitlines would break a name at U+2028 and shift the rest
            return tuple(_read_lines(file))
    return ()


def _parse_entry(key: str, labels: Sequence[str], path: str) -> ListEntry | str:
    """Return the entry that these fields make, or why they make none."""
    try:
        number = int(key)
    except ValueError:
        return f"the id {key[:40]!r} is no integer"
    try:
        values = tuple(map(float, labels))
    except ValueError:
        return f"{list(labels)[:8]} are no numbers, where labels must be"
    if not 0 <= number <= _MAX_ID:
        return f"the id {number} is not between 0 and 2^64 - 1"
    # inf and nan do fit.
    if any(_FLOAT32_MAX < abs(value) < float("inf") for value in values):
        return f"a label of {values} does not fit in 32 bits"
    if not path or "\0" in path:
        return "the path is empty" if not path else "the path holds a zero byte"
    return ListEntry(number, values, path)


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    # Not splitlines: a name may hold any break but a real line end, such as a form feed.
    lines = re.split(r"\r\n|\n|\r", _read_text(path))
    return lines if lines[-1] else lines[:-1]


def _read_text(path: str | os.PathLike[str]) -> str:
    """Return a UTF-8 file's text; names in another encoding come through unchanged."""
    try:
        # Windows' editors begin a file with a byte order mark.
        return read_all(to_path(path)).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise DataError(path, reason(error)) from error


def _find_line_start(text: bytes, offset: int) -> int:
    """Return the line start that dmlc's splitter moves to from `offset`: behind the next line end; 0 stays 0.
    """
    if offset <= 0 or offset >= len(text):
        return max(0, min(offset, len(text)))
    match = re.compile(rb"[\r\n]+").search(text, offset)
    return match.end() if match else len(text)
