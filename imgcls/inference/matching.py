"""Find which class of a network each label of the data means: by name where both have names.

A wrong order of classes gives a number that looks like any other: what cannot be matched is refused or
reported.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from imgcls.data.file_source import FolderSource, ListSource
from imgcls.data.packed.source import PackedSource
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import ArraySource, Source
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.pretrained.class_names import ClassNames


def match_classes(source: Source, classes: ClassNames, model: str, num_classes: int) -> tuple[Source, str]:
    """Return the source with labels that are the network's classes, and a note about that, or "".

    `classes` are the network's `num_classes` and `model` is what messages call it. UsageError where some
    names of the data are the network's and some are not.
    """
    names = list(source.class_names)
    model = verbatim(model)
    if not names:
        return source, ""  # there are labels alone, which are checked against the number of classes
    if not classes.names:
        is_numbered = names == [str(number) for number in range(len(names))]
        return source, "" if is_numbered else (
            f"note: {model} has no names of its {num_classes} classes: class k of the {len(names)} "
            f"classes of the data ('{verbatim(names[0])}' is 0) is taken for its class k")
    # Fewer classes than the network has are no mistake: users may score on a part of them.
    if list(classes.names[:len(names)]) == names:
        return source, ""
    # Ids first: folders of ImageNet are named n01440764, and two of its names are both "crane".
    for known in (classes.ids, classes.names):
        labels = _labels_of(names, known)
        if labels is not None:
            return _relabelled(source, labels), (
                f"note: the classes of the data are matched by name: '{verbatim(names[0])}' is class "
                f"{labels[0]} of {model}")
    # counted once: looked up in lists, 20,000 classes would take minutes
    counts = Counter([*classes.names, *classes.ids])
    missing = [name for name in names if not counts[name]]
    if len(missing) < len(names):
        repeated = [name for name in names if counts[name] > 1]
        reason = f"is no class of {model}, but others are" if missing else f"is several classes of {model}"
        name = verbatim([*missing, *repeated, *names][0])
        raise UsageError(f"`data_val`: '{name}' {reason}: which class is meant is not known")
    return source, (f"note: the data has {len(names)} classes and the network {len(classes.names)}, of other "
                    f"names: class k of the data is taken for class k of the network ('{verbatim(names[0])}' "
                    f"for '{verbatim(classes.names[0])}')")


def _labels_of(names: list[str], known: Any) -> list[int] | None:
    """Return the index of each name in `known`, None where one is not there exactly once."""
    # a name that occurs twice could mean either class
    counts = Counter(known)
    if any(counts[name] != 1 for name in names):
        return None
    places = {name: place for place, name in enumerate(known)}
    return [places[name] for name in names]


def _relabelled(source: Source, labels: list[int]) -> Source:
    """Return the source with label k changed to labels[k]; a label that has no name stays out of range."""
    table = np.append(np.array(labels, np.int64), -1)  # the last entry is for labels without a name
    old = np.asarray(source.labels).astype(np.int64)
    new = table[np.where((old >= 0) & (old < len(labels)), old, len(labels))]
    if isinstance(source, ArraySource):
        return dataclasses.replace(source, labels=new)
    if isinstance(source, (FolderSource, ListSource, RecordSource, PackedSource)):
        other = copy.copy(source)  # shallow: the open files are shared
        other.labels = new
        return other
    return _Relabelled(source, new)


class _Relabelled:
    """A source of any other class, such as a user's own data set's, with other labels."""

    def __init__(self, source: Source, labels: np.ndarray) -> None:
        self._source = source
        self.labels = labels
        self.class_names = source.class_names
        self.description = source.description

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> bytes | memoryview | np.ndarray:
        """Return sample `index` as the source has it."""
        return self._source.read(index)

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that the source names the sample with."""
        return self._source.problem(index, reason)
