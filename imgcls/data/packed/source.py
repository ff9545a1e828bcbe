"""A source of samples in several containers of one kind: shards, databases, parquet files."""

from __future__ import annotations

import bisect
import copy
import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from imgcls.data.bad_samples import check_bad_samples, is_class_number
from imgcls.data.file_source import label_of_names
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import lists
from imgcls.storage.paths import AnyPath

T = TypeVar("T", bound="PackedSource")


class Container(Protocol):
    """A file of samples that can be read in any order, from any thread."""

    @property
    def path(self) -> AnyPath:
        """Where it is."""
        ...

    #: float64 (N,): the label of each sample
    labels: np.ndarray
    #: names of the classes in label order; empty where the file has none
    class_names: Sequence[str]
    #: where the file's labels are names: `labels` are indices into these, in any order; else empty
    label_names: Sequence[str]
    #: errors of entries that are damaged, and so are no samples
    problems: Sequence[DataError]

    def read(self, number: int) -> bytes | memoryview | np.ndarray:
        """Return the encoded image of a sample, or its pixels; a DataError where it cannot be read."""
        ...

    def problem(self, number: int, reason: str) -> DataError:
        """Return the error that names a sample."""
        ...

    def version(self) -> str:
        """Return a text that changes when the file is changed or replaced."""
        ...


class PackedSource:
    """The samples of several containers, one after the other; see `sources.Source`."""

    #: how much of the cache the copies of remote files take
    copied_bytes = 0

    def __init__(self, containers: Sequence[Container], *, class_names: Sequence[str] = (),
                 on_bad: str = "skip") -> None:
        """`class_names` are those of the training data, by which labels that are names are numbered."""
        self.containers = containers
        #: of the first container
        self.path = containers[0].path
        more = f" and {len(containers) - 1} more" if len(containers) > 1 else ""
        self.description = f"{self.path}{more}"
        self.problems = [problem for container in containers for problem in container.problems]
        self.class_names, labels = _number_classes(containers, class_names)
        is_class = is_class_number(labels)
        # samples count through all containers, so that one index is all a loader needs
        firsts = np.cumsum([0, *(len(container.labels) for container in containers)])
        #: number of the first sample of each container
        self.firsts: list[int] = firsts.tolist()
        for index in np.flatnonzero(~is_class).tolist():
            file = bisect.bisect_right(self.firsts, index) - 1
            self.problems.append(containers[file].problem(
                index - self.firsts[file], f"has the label {labels[index]:g}, which is no class number"))
        check_bad_samples(self.problems, len(labels) + len(self.problems), self.description, on_bad)
        # the number of each sample, counted through all containers
        self._numbers = np.flatnonzero(is_class)
        self.labels = labels[is_class].astype(np.int64)
        #: what to tell the user about the way these files are read
        self.notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | memoryview | np.ndarray:
        """Return the encoded image of sample `index`, or its pixels; a DataError where it is damaged."""
        container, number = self._locate(index)
        return container.read(number)

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names sample `index` by its file and its place there."""
        container, number = self._locate(index)
        return container.problem(number, reason)

    def subset(self: T, indices: np.ndarray) -> T:
        """Return a source of these samples only, in this order; of the same classes."""
        # shallow: the open files are shared
        part = copy.copy(self)
        part._numbers = self._numbers[indices]
        part.labels = self.labels[indices]
        return part

    def fingerprint(self) -> str | None:
        """Return a digest of the files, their sizes and times, and of which samples are taken."""
        digest = hashlib.blake2b()
        for container in self.containers:
            digest.update(f"{container.path} {container.version()}\n".encode("utf-8", "surrogateescape"))
        # which rows are samples: `subset` takes some, and labels leave some out
        digest.update(self._numbers.tobytes())
        return digest.hexdigest()

    def _locate(self, index: int) -> tuple[Container, int]:
        # `item`: an int of numpy's would make all arithmetic that follows several times slower
        number = self._numbers.item(index)
        file = bisect.bisect_right(self.firsts, number) - 1 if len(self.containers) > 1 else 0
        return self.containers[file], number - self.firsts[file]


def _number_classes(containers: Sequence[Container],
                    train_names: Sequence[str]) -> tuple[Sequence[str], np.ndarray]:
    """Return (class names, float64 (N,) labels) of all containers; UsageError where they do not agree."""
    named = next((container for container in containers if container.class_names), None)
    for container in containers:
        if named and tuple(container.class_names) != tuple(named.class_names):
            raise UsageError(f"{verbatim(named.path)} and {verbatim(container.path)} have other classes")
    if not any(container.label_names for container in containers):
        # what the user wrote beside the files comes first, as with records
        names = lists.class_names(containers[0].path) or (named.class_names if named else ())
        return tuple(names), np.concatenate([container.labels for container in containers])
    # some of the files may have no image of a class
    found = {name for container in containers for name in container.label_names}
    names = tuple(train_names or sorted(found))
    parts = []
    for container in containers:
        if len(container.labels) and not container.label_names:
            raise UsageError(f"{verbatim(container.path)}: has numbers for labels, and others have names")
        label_of = label_of_names(container.label_names, names,
                                  lambda name, path=container.path: f"{path}: {name}")
        # nan, a sample without a label, stays nan
        is_named = np.isfinite(container.labels)
        labels = np.full(len(container.labels), np.nan)
        labels[is_named] = label_of[container.labels[is_named].astype(np.int64)]
        parts.append(labels)
    return names, np.concatenate(parts)
