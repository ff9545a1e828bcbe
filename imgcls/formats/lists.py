"""Image lists (`.lst`): finding the images under a folder, dealing them out into lists, reading and writing.

A line is `id TAB label [TAB label ...] TAB path`: ids are integers, labels are written with six decimals, the
path is relative to a root folder that the list does not name. Everything here follows MXNet's im2rec.py to
the byte: the order, who gets which label, the shuffle, the cuts between train, val and test.

Beside a list `X.lst` (and the records made of it) `X.classes.txt` names the classes: line n is class n.
Used by the packer and by the sources of `data/`.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imgcls.errors import DataError, UsageError
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import read_all

EXTENSIONS = (".jpeg", ".jpg", ".png")

#: the seed that MXNet shuffles every list with
_SHUFFLE_SEED = 100
_FLOAT32_MAX = 3.4028235e38
_SPLIT_SUFFIX = re.compile(r"(_\d+)?(_train|_val|_test)?$")


class ListEntry(NamedTuple):
    """One image of a list."""

    id: int
    labels: tuple[float, ...]
    path: str


@dataclass
class Listing:
    """What was found under a folder, or in a list: `problems` says what could not be taken."""

    entries: list[ListEntry] = field(default_factory=list)
    #: folder of each class, relative to the root, in label order; empty where there are no classes
    class_names: list[str] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)


def walk(root: str, *, recursive: bool, extensions: Sequence[str] = EXTENSIONS) -> Listing:
    """The images under `root`, sorted by name, ids counting up.

    With `recursive` every folder that itself holds an image is a class, numbered as they are met (files of a
    folder before its sub-folders, links followed); otherwise only the root's own images are taken, with label
    0. """
    if not os.path.isdir(root):
        raise UsageError(f"ROOT {root}: " + ("is no folder" if os.path.exists(root) else "no such folder"))
    found = Listing()
    suffixes = {("" if e.startswith(".") else ".") + e.lower() for e in extensions}
    folders: list[tuple[str, tuple[str, ...]]] = [("", ())]
    while folders:
        relative, above = folders.pop()
        names, subfolders = _look_into(os.path.join(root, relative), found.problems)
        images = [n for n in names if os.path.splitext(n)[1].lower() in suffixes]
        if images and recursive:
            found.class_names.append(relative or os.curdir)
        label = float(max(0, len(found.class_names) - 1))
        for name in images:
            path = os.path.join(relative, name)
            if path.strip() != path or re.search(r"[\t\n\r]", path):
                reason = "a list cannot hold a name with tabs, line breaks or blanks at its ends"
                found.problems.append(DataError(os.path.join(root, path), reason))
            else:
                found.entries.append(ListEntry(len(found.entries), (label,), path))
        if recursive:
            here = (*above, os.path.realpath(os.path.join(root, relative)))
            below = [os.path.join(relative, s) for s in reversed(subfolders)]
            # A link to a folder that we are in would lead round for ever.
            folders += [(b, here) for b in below if os.path.realpath(os.path.join(root, b)) not in here]
    return found


def shuffled(entries: Sequence[ListEntry]) -> list[ListEntry]:
    """In the order that MXNet shuffles a list of this length to; ids stay with their images."""
    mixed = list(entries)
    random.Random(_SHUFFLE_SEED).shuffle(mixed)
    return mixed


def split(entries: Sequence[ListEntry], *, chunks: int = 1, train_ratio: float = 1.0,
          test_ratio: float = 0.0) -> list[tuple[str, list[ListEntry]]]:
    """(suffix of the file name, entries) of each list to write.

    Chunks are consecutive and of equal size but for the last; in each the test images come first, then train,
    then val. As in MXNet the numbers follow the nominal size, so a short last chunk is short of val images.
    """
    size = -(-len(entries) // chunks)
    num_train, num_test = int(size * train_ratio), int(size * test_ratio)
    lists = []
    for i in range(chunks):
        chunk = list(entries[i * size:(i + 1) * size])
        name = f"_{i}" if chunks > 1 else ""
        if train_ratio == 1.0:
            lists.append((name, chunk))
            continue
        if test_ratio:
            lists.append((name + "_test", chunk[:num_test]))
        if train_ratio + test_ratio < 1.0:
            lists.append((name + "_val", chunk[num_test + num_train:]))
        lists.append((name + "_train", chunk[num_test:num_test + num_train]))
    return lists


def read(path: str | os.PathLike[str]) -> Listing:
    """The entries of a `.lst`; a line that is none is left out and told in `problems`, as MXNet does."""
    found = Listing()
    for number, line in enumerate(_lines(path), 1):
        fields = [f.strip() for f in line.strip().split("\t")]
        if len(fields) < 3:
            found.problems.append(DataError(path, f"line {number} is no id, label and path between tabs: "
                                                  f"{line.strip()[:60]!r}"))
            continue
        reason = _add(found.entries, fields[0], fields[1:-1], fields[-1])
        if reason:
            found.problems.append(DataError(path, f"line {number}: {reason}"))
    return found


def read_blank_separated(path: str | os.PathLike[str], label_width: int = 1, num_parts: int = 1,
                         part_index: int = 0) -> Listing:
    """A list as MXNet's C++ tools read it: columns end at any blank, `label_width` labels, the rest is the
    path.

    With several parts, the lines of one: the bytes are dealt out evenly, a line goes where it begins.
    """
    found = Listing()
    text = _text(path).encode("utf-8", "surrogateescape")
    begin, end = (_line_start(text, -(-len(text) // num_parts) * k) for k in (part_index, part_index + 1))
    for line in text[begin:end].decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(None, label_width + 1)
        if not fields:
            continue
        reason = f"an id, {label_width} labels and a path are needed"
        if len(fields) == label_width + 2:
            reason = _add(found.entries, fields[0], fields[1:-1], fields[-1].strip())
        if reason:
            found.problems.append(DataError(path, f"{reason}: {line.strip()[:60]!r}"))
    return found


def write(path: str | os.PathLike[str], entries: Sequence[ListEntry]) -> None:
    """Write a `.lst`, atomically."""
    lines = []
    for entry in entries:
        labels = "".join(f"{label:f}\t" for label in entry.labels)
        lines.append(f"{entry.id}\t{labels}{entry.path}\n")
    write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))


def classes_path(prefix: str | os.PathLike[str]) -> AnyPath:
    """Where the class names of `PREFIX.lst` or `PREFIX.rec` stand, given that path or the bare prefix."""
    text = os.fspath(prefix)
    stem, suffix = os.path.splitext(text)
    return to_path((stem if suffix in (".lst", ".rec") else text) + ".classes.txt")


def write_class_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    text = "".join(re.sub(r"[\r\n]", " ", name) + "\n" for name in names)
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names that belong to a list or record file, in label order; empty where nobody wrote them.

    `N_0_train.rec` finds `N_0_train.classes.txt` or, since a list and its parts share them, `N.classes.txt`;
    the last resort is `classes.txt` in the folder.
    """
    own = classes_path(path)
    base = own.name.removesuffix(".classes.txt")
    for name in (own.name, _SPLIT_SUFFIX.sub("", base, count=1) + ".classes.txt", "classes.txt"):
        file = own.with_name(name)
        if file.is_file():
            return tuple(_text(file).splitlines())
    return ()


def _look_into(folder: str, problems: list[DataError]) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the sub-folders; a folder that may not be read is a problem."""
    files, folders = [], []
    try:
        with os.scandir(folder) as items:
            for item in items:
                if item.is_dir():
                    folders.append(item.name)
                elif item.is_file():
                    files.append(item.name)
    except OSError as error:
        problems.append(DataError(folder, (error.strerror or str(error)).lower()))
    return sorted(files), sorted(folders)


def _add(entries: list[ListEntry], key: str, labels: Sequence[str], path: str) -> str:
    """Append the entry that these fields make; otherwise return why they make none."""
    try:
        number = int(key)
    except ValueError:
        return f"the id {key[:40]!r} is no integer"
    try:
        values = tuple(map(float, labels))
    except ValueError:
        return f"{list(labels)[:8]} are no numbers, where labels must be"
    if not 0 <= number < 1 << 64:
        return f"the id {number} is not between 0 and 2^64 - 1"
    if any(_FLOAT32_MAX < abs(v) < float("inf") for v in values):
        return f"a label of {values} does not fit in 32 bits"
    if not path or "\0" in path:
        return "the path is empty" if not path else "the path holds a zero byte"
    entries.append(ListEntry(number, values, path))
    return ""


def _lines(path: str | os.PathLike[str]) -> list[str]:
    """Of a list; only real line ends count, a name may hold any other kind of break."""
    lines = re.split(r"\r\n|\n|\r", _text(path))
    return lines if lines[-1] else lines[:-1]


def _text(path: str | os.PathLike[str]) -> str:
    """UTF-8; names in another encoding come through unchanged."""
    try:
        return read_all(to_path(path)).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error


def _line_start(text: bytes, offset: int) -> int:
    """The first line start at or behind `offset` as dmlc's splitter moves: past the next line end, if not at
    0."""
    if offset <= 0 or offset >= len(text):
        return max(0, min(offset, len(text)))
    match = re.compile(rb"[\r\n]+").search(text, offset)
    return match.end() if match else len(text)
