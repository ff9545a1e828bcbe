"""Make the lists that im2rec packs from, and look at a list before it is packed.

`cli/im2rec.py` calls it; it prints nothing and reads no image. The format of a list is `formats/lists.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imgcls.formats import lists
from imgcls.formats.lists import ListEntry, Listing


def write_lists(prefix: str, listing: Listing, *, shuffle: bool, chunks: int, train_ratio: float,
                test_ratio: float) -> list[tuple[Path, int]]:
    """Write PREFIX*.lst and, where there are classes, PREFIX.classes.txt; return (path, number of images)."""
    # shuffled as a whole and then split: each list is a fair sample
    entries = lists.shuffled(listing.entries) if shuffle else listing.entries
    written = []
    for suffix, chunk in lists.split(entries, chunks=chunks, train_ratio=train_ratio, test_ratio=test_ratio):
        path = Path(f"{prefix}{suffix}.lst")
        lists.write(path, chunk)
        written.append((path, len(chunk)))
    if listing.class_names:
        lists.write_class_names(lists.classes_path(prefix), listing.class_names)
    return written


def find_lists(prefix: str) -> list[Path]:
    """Return the lists that begin with a prefix, or all in a folder of that name, sorted."""
    # PREFIX may name a folder: im2rec.py took all lists in it
    folder = Path(prefix if os.path.isdir(prefix) else os.path.dirname(prefix))
    return [path for path in sorted(folder.glob("*.lst")) if str(path).startswith(prefix) and path.is_file()]


def class_names_by_folder(entries: Sequence[ListEntry]) -> list[str]:
    """Return class names for a list that came without: the folders, where each label 0, 1, ... has just one
    of its own; else none."""
    folders: dict[float, str] = {}
    for entry in entries:
        folder = os.path.dirname(entry.path)
        # two folders with one label: the label is no folder's
        if folders.setdefault(entry.labels[0], folder) != folder:
            return []
    # one folder names no classes, and labels with gaps were not dealt out by folder
    if len(folders) < 2 or sorted(folders) != list(range(len(folders))):
        return []
    names = [folders[label] for label in sorted(folders)]
    return names if len(set(names)) == len(names) and all(names) else []


def rarely_meant(entries: Sequence[ListEntry], target: str) -> list[str]:
    """Return what to warn of: ids that repeat, and training images that come class by class."""
    warnings = []
    num_ids = len({entry.id for entry in entries})
    if num_ids < len(entries):
        warnings.append(f"{target}: {len(entries) - num_ids} ids of the list stand there more than once; a "
                        "reader that looks records up by id finds only one of each")
    labels = [entry.labels[0] for entry in entries]
    num_classes = len(set(labels))
    # only the order of training data matters
    is_training = not any(word in Path(target).name for word in ("val", "test"))
    # four images of a class and more: shorter lists may be in the order of their labels by chance
    if is_training and 1 < num_classes <= len(labels) // 4 and labels == sorted(labels):
        warnings.append(f"{target}: the list is in the order of its labels; readers that shuffle only nearby "
                        "ones, as MXNet without an index, learn nothing from that: make the list with "
                        "`shuffle`")
    return warnings
