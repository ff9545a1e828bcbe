"""Images that are there more than once: to the byte, or nearly (encoded again, resized, mirrored, cropped).

Two images are near duplicates where their thumbnails, 16 x 16 pixels in colour, have a normalised correlation
above a bound, as they are or mirrored. The few most alike of each image are looked at again: one of them may
be the other without its borders (`cropped.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imgcls.data.checks.cropped import DETAIL_SIDE, is_crop
from imgcls.data.checks.findings import Finding, Sample, Severity
from imgcls.data.checks.look import SMALL_SIDE, THUMBNAIL, Facts

#: the least correlation of near duplicates. Of 396 photographs of ants and bees and of 4,000 of CIFAR-10 no
#: two different ones reach it; re-encoded with quality 40, halved or 6 % brighter, 99 of 100 do.
MIN_CORRELATION = 0.99
#: for small images: of 20,000 digits of MNIST no two different ones reach it
MIN_SMALL_CORRELATION = 0.997
#: with a quarter of the pixels, which leave out what re-encoding changes most
MIN_COARSE_CORRELATION = 0.985
#: so many images that are most alike to each one are compared as crops, if their coarse correlation is
#: above this: of 99 photographs each with 5 % cut off at a side, at two and at all four, 99, 99 and 98 are
_MOST_ALIKE, _MIN_ALIKE = 3, 0.8
#: of more images than this not every pair is compared: it would take hours
MAX_COMPARED = 120_000
_BLOCK = 1000
#: pairs whose thumbnails are compared at a time: 25 MB
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class _Rows:
    """The samples of all sets, one after the other: the set of each, its number in that set, its label."""

    names: Sequence[str]
    whose: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]

    def samples(self, group: np.ndarray) -> tuple[Sample, ...]:
        return tuple((self.names[int(self.whose[row])], int(self.index[row])) for row in group)

    def describe(self, group: np.ndarray) -> str:
        """Return the classes of a group."""
        return " and ".join(
            str(self.class_names[label]) if 0 <= label < len(self.class_names) else f"label {label}"
            for label in map(int, np.unique(self.labels[group])))

    def is_contradiction(self, group: np.ndarray) -> bool:
        """Whether the group has more than one label."""
        return len(np.unique(self.labels[group])) > 1


def check_duplicates(names: Sequence[str], sets: Sequence[Facts], labels: Sequence[np.ndarray],
                     class_names: Sequence[str] = (), *, with_near: bool = True) -> Iterator[Finding]:
    """Yield duplicates inside each set, and those that stand in two of them, which is a leak.

    `labels` int64 (N,) of each set: copies under different labels are counted separately. Without `with_near`
    only those that are equal to the byte.
    """
    counts = [len(facts) for facts in sets]
    rows = _Rows(names, np.repeat(np.arange(len(sets)), counts),
                 np.concatenate([np.arange(count) for count in counts]), np.concatenate(labels), class_names)
    is_good = np.concatenate([facts.is_good for facts in sets])
    exact = _equal_groups(np.concatenate([facts.digests for facts in sets]), is_good)
    yield from _findings(rows, exact, "duplicate", "the same to the byte")
    if not with_near or is_good.sum() < 2:
        return
    # one of each group stands for all: equal images are not reported twice
    is_first = is_good.copy()
    for group in exact:
        is_first[group[1:]] = False
    if is_first.sum() > MAX_COMPARED:
        yield Finding("near duplicate", "remark", f"more than {MAX_COMPARED:,} images: only those that are "
                      "equal to the byte were looked for")
        return
    thumbnails = np.concatenate([facts.thumbnails for facts in sets])
    details = np.concatenate([facts.details for facts in sets])
    sizes = np.concatenate([facts.sizes for facts in sets])
    near = _near_groups(thumbnails, details, np.flatnonzero(is_first), sizes)
    yield from _findings(rows, near, "near duplicate", "nearly the same")


def _equal_groups(digests: np.ndarray, is_good: np.ndarray) -> list[np.ndarray]:
    """Return the rows that have equal digests, in groups of two and more, each in order."""
    rows = np.flatnonzero(is_good)
    order = rows[np.lexsort(digests[rows].T)]
    is_new = np.any(digests[order[1:]] != digests[order[:-1]], axis=1)
    groups = np.split(order, np.flatnonzero(is_new) + 1)
    # in the order of the data: the first of each group is the one that a clean copy keeps
    return sorted((np.sort(group) for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def _near_groups(thumbnails: np.ndarray, details: np.ndarray, rows: np.ndarray, sizes: np.ndarray
                 ) -> list[np.ndarray]:
    """Return groups of rows whose thumbnails correlate; what is near to a member belongs to its group."""
    from tqdm import tqdm

    images = thumbnails[rows].reshape(len(rows), THUMBNAIL, THUMBNAIL, 3)
    if (np.ptp(images, axis=3) == 0).all():  # digits and scans: a third of the work
        images = images[..., :1]
    vectors = _normalized(images)
    # a quarter of the pixels finds the candidates, in a quarter of the time
    half = THUMBNAIL // 2
    coarse = _normalized(images.reshape(len(rows), half, 2, half, 2, -1).mean((2, 4), dtype=np.float32))
    # digits and icons are their own mirror images now and then
    is_large = sizes[rows].max(1) > SMALL_SIDE
    bounds = np.where(sizes[rows].max(1) <= SMALL_SIDE, MIN_SMALL_CORRELATION, MIN_CORRELATION)
    parents = np.arange(len(rows))
    # disable=None: a bar on a terminal, nothing in a file
    for start in tqdm(range(0, len(rows), _BLOCK), desc="near duplicates", disable=None, leave=False):
        for turned, is_asked in ((_same, np.ones_like(is_large)), (_mirrored, is_large)):
            if not is_asked[start:start + _BLOCK].any():
                continue
            block = turned(coarse[start:start + _BLOCK], half) @ coarse[start:].T
            first, second = np.divmod(np.flatnonzero(block >= MIN_COARSE_CORRELATION), block.shape[1])
            is_pair = (second > first) & is_asked[first + start]
            first, second = first[is_pair] + start, second[is_pair] + start
            exact = _correlations(vectors, first, second, turned)
            is_near = exact >= np.maximum(bounds[first], bounds[second])
            pairs = [(first[is_near], second[is_near])]
            if is_large.any():
                pairs.append(_crops(block, start, turned, details[rows], is_large))
            for left, right in pairs:
                _join(parents, left, right)
    roots = _roots(parents, np.arange(len(rows)))
    order = np.argsort(roots, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(roots[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def _join(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Put the rows of each pair, int64 (P,) each, into one group; `parents` changes in place."""
    order = np.argsort(left, kind="stable")
    left, right = left[order], right[order]
    starts = np.flatnonzero(np.diff(left, prepend=-1))
    # all pairs of a row at once: images that are all alike have as many pairs as the square of their number
    for start, end in zip(starts, np.append(starts, len(left))[1:], strict=True):
        roots = _roots(parents, np.append(left[start], right[start:end]))
        parents[roots] = roots[0]


def _roots(parents: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the row that stands for the group of each of `rows`, int64; later calls take fewer steps."""
    roots = parents[rows]
    while (parents[roots] != roots).any():
        roots = parents[roots]
    parents[rows] = roots
    return roots


def _correlations(vectors: np.ndarray, first: np.ndarray, second: np.ndarray,
                  turned: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Return float32 (P,): the correlation of each pair of rows, `first` and `second` int64 (P,)."""
    found = np.empty(len(first), np.float32)
    # in pieces: of thousands of images that are all alike, the vectors of all pairs would fill the memory
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        found[some] = np.einsum("ij,ij->i", turned(vectors[first[some]], THUMBNAIL), vectors[second[some]])
    return found


def _crops(block: np.ndarray, start: int, turned: Callable[[np.ndarray, int], np.ndarray],
           details: np.ndarray, is_large: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return those pairs of rows, of the most alike, where one is a crop of the other; overwrites `block`.

    `block` (B, M) has the correlations of the rows from `start` on with all those from `start` on.
    """
    block[np.tril_indices(len(block))] = -1  # neither with itself nor twice
    block[:, ~is_large[start:]] = -1
    rows = np.arange(len(block))
    first, second = [], []
    for _ in range(_MOST_ALIKE):
        best = block.argmax(1)
        is_alike = is_large[start + rows] & (block[rows, best] >= _MIN_ALIKE)
        block[rows, best] = -1
        first.append(rows[is_alike] + start)
        second.append(best[is_alike] + start)
    left, right = np.concatenate(first), np.concatenate(second)
    is_pair = is_crop(turned(details[left], DETAIL_SIDE), details[right])
    return left[is_pair], right[is_pair]


def _same(vectors: np.ndarray, side: int) -> np.ndarray:
    return vectors


def _mirrored(vectors: np.ndarray, side: int) -> np.ndarray:
    """Return vectors (N, D) of square images with left and right exchanged."""
    images = vectors.reshape(len(vectors), side, side, vectors.shape[1] // side**2)
    return images[:, :, ::-1].reshape(vectors.shape)


def _normalized(images: np.ndarray) -> np.ndarray:
    """Return float32 (N, D) with mean 0 and length 1, whose products are correlations; blank ones are 0."""
    vectors = images.reshape(len(images), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # a blank image is like every other: it has a finding of its own
    return np.where(norms > vectors.shape[1]**0.5, vectors / np.maximum(norms, 1e-6), 0)


def _findings(rows: _Rows, groups: Sequence[np.ndarray], kind: str, how: str) -> Iterator[Finding]:
    """Yield a finding of the groups that cross sets, and one for each set of those inside it."""
    def about(some: Sequence[np.ndarray], kind: str, severity: Severity, message: str) -> Finding:
        return Finding(kind, severity, message, tuple(map(rows.samples, some)),
                       tuple(map(rows.describe, some)))

    crossing = [group for group in groups if len(np.unique(rows.whose[group])) > 1]
    if crossing:
        what = "1 image is" if len(crossing) == 1 else f"{len(crossing):,} images are"
        yield about(crossing, "leak", "fault", f"{what} in training and in validation data, {how}: accuracy "
                    "on such images measures memorization")
    for number, name in enumerate(rows.names):
        inside = [group for group in groups if (rows.whose[group] == number).all()]
        if inside:
            count = sum(len(group) - 1 for group in inside)
            what = "1 image is a copy" if count == 1 else f"{count:,} images are copies"
            num_contradictions = sum(map(rows.is_contradiction, inside))
            labelled = f"; {num_contradictions:,} under another label" if num_contradictions else ""
            severity: Severity = "fault" if num_contradictions or kind == "duplicate" else "remark"
            yield about(inside, kind, severity, f"{name}: {what} of another, {how}{labelled}")
