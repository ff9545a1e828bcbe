"""Images that can be decoded and are probably not what was intended: cut, blank, of odd size or colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imgcls.data.checks.findings import Finding
from imgcls.data.checks.look import Facts

#: a smaller part of the rows at the lower edge may be grey in the picture itself
_MIN_MISSING = 0.04
#: an image whose values differ by less than this, of 255, shows nothing
_BLANK_SPREAD = 2.0
#: sides that are so many times smaller or larger than the median of the set, and longer than wide
_SIZE_FACTOR, _ASPECT = 8.0, 6.0
#: what fewer images than this part of the set have may be a mistake; what more have belongs to the set
_RARE = 0.05
#: means of two sets that differ by more, of 255, and by more than chance
_MEAN_DIFFERENCE, _STANDARD_ERRORS = 12.0, 6.0


def check_images(name: str, facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with single images of the set `name`."""
    if facts.problems:
        yield _about(name, "damaged", "cannot be read or decoded", sorted(facts.problems),
                     [facts.problems[index].reason for index in sorted(facts.problems)])
    good = facts.is_good
    half = np.flatnonzero(good & (facts.missing >= _MIN_MISSING) & (facts.missing < 1))
    if len(half):
        yield _about(name, "half decoded", "end in plain grey, as a decoder fills in what is missing "
                     "from a file that was cut", half.tolist(),
                     [f"{facts.missing[index]:.0%} of the rows are grey" for index in half])
    if facts.damage:
        yield _about(name, "half decoded", "have damaged or missing bytes: what is shown there is made up",
                     sorted(facts.damage), [facts.damage[index] for index in sorted(facts.damage)])
    blank = np.flatnonzero(good & (facts.spreads < _BLANK_SPREAD))
    if len(blank):
        yield _about(name, "blank", "show a single colour", blank.tolist(),
                     [_color(facts.means[index]) for index in blank])
    yield from _odd_sizes(name, facts, good)
    yield from _odd_colors(name, facts, good)


def compare_sets(train: Facts, val: Facts) -> Iterator[Finding]:
    """Yield where the images of two sets differ as a whole: colours in another order, other sizes."""
    pair = [facts.means[facts.is_good] for facts in (train, val)]
    if min(map(len, pair)) < 10:
        return
    means = [values.mean(0) for values in pair]
    errors = np.sqrt(sum(values.var(0) / len(values) for values in pair))
    difference = np.abs(means[0] - means[1])
    swapped = np.abs(means[0] - means[1][::-1])
    shown = " and ".join(_color(mean) for mean in means)
    if (difference > np.maximum(_STANDARD_ERRORS * errors, 3)).any() and swapped.max() < difference.max() / 4:
        yield Finding("colour", "fault", "the means of red and blue are exchanged between training and "
                      f"validation images ({shown}): one of them is in the order BGR")
    elif (difference > np.maximum(_STANDARD_ERRORS * errors, _MEAN_DIFFERENCE)).any():
        yield Finding("colour", "remark", f"training and validation images differ in their colours: {shown} "
                      "in the mean")
    edges = [float(np.median(facts.sizes[facts.is_good].min(1))) for facts in (train, val)]
    if max(edges) > 2 * min(edges):
        yield Finding("size", "remark", f"the short edges of training and validation images are {edges[0]:g} "
                      f"and {edges[1]:g} pixels in the median: crops of them show different parts")


def _odd_sizes(name: str, facts: Facts, good: np.ndarray) -> Iterator[Finding]:
    if not good.any():
        return
    short, long = facts.sizes.min(1), facts.sizes.max(1)
    median = float(np.median(short[good]))
    is_odd = (short * _SIZE_FACTOR < median) | (short > median * _SIZE_FACTOR) | (long > _ASPECT * short)
    odd = np.flatnonzero(good & is_odd)
    if 0 < len(odd) <= max(3, _RARE * good.sum()):
        yield _about(name, "size", f"are of a size unlike the others (short edge {median:g} pixels in the "
                     "median)", odd.tolist(), [f"{facts.sizes[index][1]} x {facts.sizes[index][0]} pixels"
                                               for index in odd], severity="remark")


def _odd_colors(name: str, facts: Facts, good: np.ndarray) -> Iterator[Finding]:
    """Yield grey images in a set of colour; a few of them are often scans or errors."""
    is_grey = good & facts.is_grey & (facts.spreads >= _BLANK_SPREAD)
    if 0 < is_grey.sum() <= _RARE * good.sum():
        grey = np.flatnonzero(is_grey)
        yield _about(name, "colour", "are grey, the others are not", grey.tolist(), severity="remark")


def _about(name: str, kind: str, message: str, indices: list[int], details: list[str] | None = None,
           severity: str = "fault") -> Finding:
    what = "image" if len(indices) == 1 else "images"
    words = {"end": "ends", "show": "shows", "are": "is", "have": "has"}
    first, _, rest = message.partition(" ")
    message = f"{words.get(first, first)} {rest}" if len(indices) == 1 else message
    return Finding(kind, severity, f"{name}: {len(indices):,} {what} {message}",  # type: ignore[arg-type]
                   tuple(((name, index),) for index in indices), tuple(details or ()))


def _color(mean: np.ndarray) -> str:
    return f"({','.join(f'{value:.0f}' for value in mean)})"
