"""Labels, classes and the order of samples: what can be found without looking at an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from imgcls.data.checks.findings import Finding
from imgcls.data.sources import Source
from imgcls.errors import verbatim

#: a class with fewer images than this part of the largest is rare
_RARE_CLASS = 0.1
#: fewer images teach nothing about a class
_FEW_IMAGES = 5
#: classes that are named in a message
_MAX_NAMED = 5
#: where more than this part of the samples follow one of their own class, a set is sorted by class
_SORTED = 0.9


def check_labels(name: str, source: Source, labels: np.ndarray, num_classes: int) -> Iterator[Finding]:
    """Yield what is wrong with the labels int64 (N,) of a set whose network has `num_classes` classes."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        what = "1 label is" if len(outside) == 1 else f"{len(outside):,} labels are"
        yield Finding("label", "fault", f"{name}: {what} not 0 to {num_classes - 1}",
                      tuple(((name, int(index)),) for index in outside),
                      tuple(f"label {labels[index]}" for index in outside))
    counts = np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
    yield from _check_balance(name, counts, source.class_names)
    # the order of files in folders means nothing: all readers shuffle those
    is_stored = hasattr(source, "readers") or hasattr(source, "path")
    if is_stored and len(labels) >= 4 * max(2, np.count_nonzero(counts)) and np.count_nonzero(counts) > 1:
        follows = float((labels[1:] == labels[:-1]).mean())
        # what a random order of these labels would give
        expected = float(((counts / max(counts.sum(), 1))**2).sum())
        if follows > max(_SORTED, (1 + expected) / 2):
            yield Finding("order", "remark", f"{name}: the samples are sorted by class; imgcls-train "
                          "shuffles all of them, readers that shuffle only nearby ones learn nothing from "
                          "that: pack again from a shuffled list")


def check_class_names(train: Source, val: Source | None) -> Iterator[Finding]:
    """Yield where names are there twice, or are not the same in training and validation data."""
    names = list(train.class_names)
    # counted once for all: there may be ten thousands of classes
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        yield Finding("class names", "fault", f"classes of the same name: {_shown(repeated)}")
    folded: dict[str, str] = {}
    alike = [f"{folded[key]} and {name}" for name in names
             if folded.setdefault(key := " ".join(name.lower().replace("_", " ").split()), name) != name]
    if alike:
        yield Finding("class names", "remark", f"classes whose names differ only in case or spaces: "
                      f"{_shown(alike)}")
    if val is None or not names or not val.class_names:
        return
    there = list(val.class_names)
    if there == names:
        return
    known, known_there = set(names), set(there)
    missing, added = [n for n in names if n not in known_there], [n for n in there if n not in known]
    if not missing and not added:
        text = ("training and validation data have the same classes in another order: a label means another "
                "class")
    else:
        parts = [f"only in training data: {_shown(missing)}" if missing else "",
                 f"only in validation data: {_shown(added)}" if added else ""]
        text = f"the class names differ; {'; '.join(filter(None, parts))}"
    yield Finding("class names", "fault", text)


def _check_balance(name: str, counts: np.ndarray, class_names: Sequence[str]) -> Iterator[Finding]:
    def called(classes: np.ndarray) -> str:
        return _shown([f"{class_names[i] if i < len(class_names) else i} ({counts[i]:,})"
                       for i in classes.tolist()])

    empty = np.flatnonzero(counts == 0)
    few = np.flatnonzero((counts > 0) & (counts < _FEW_IMAGES))
    if name == "train":
        if len(empty):
            yield Finding("classes", "fault", f"{name}: {_classes(empty)} no image: {called(empty)}")
        if len(few):
            yield Finding("classes", "remark", f"{name}: {_classes(few)} fewer than {_FEW_IMAGES} "
                          f"images: {called(few)}")
        rare = np.flatnonzero((counts >= _FEW_IMAGES) & (counts < _RARE_CLASS * counts.max()))
        if len(rare):
            yield Finding("balance", "remark", f"{name}: {_classes(rare)} less than a tenth of the "
                          f"images of the largest ({counts.max():,}): {called(rare)}; `class_weights` "
                          "balanced makes up for that")
    elif len(empty) and counts.sum():
        yield Finding("classes", "remark", f"{name}: {_classes(empty)} no image: {called(empty)}")


def _classes(numbers: np.ndarray) -> str:
    return "1 class has" if len(numbers) == 1 else f"{len(numbers):,} classes have"


def _shown(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - _MAX_NAMED:,} more" if len(texts) > _MAX_NAMED else ""
    return ", ".join(verbatim(text) for text in texts[:_MAX_NAMED]) + more
