"""Which images of a tree go into the lists: small classes left out, a validation set, an order of classes.

`cli/im2rec.py` calls `select` while it lists. No file is moved. What is drawn depends only on the seed, the
class and the names of its images, so that it is the same on every machine and with any other classes.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from imgcls.data.image_trees import ImageNames
from imgcls.errors import DataError, UsageError, verbatim


@dataclass(frozen=True)
class SelectionConfig:
    """How images are selected; the defaults take all."""

    min_images: int = 0             # of a class; it is left out with fewer
    val_per_class: int = 0          # images of each class for the val list
    max_classes: int = 0            # 0: all
    max_images: int = 0             # of each class; 0: all
    seed: int = 0                   # of what is drawn
    classes: tuple[str, ...] = ()   # folder of each class, in label order; (): in the order of the walk


@dataclass
class SelectedClass:
    """A class and its images, paths relative to the root."""

    label: int
    folder: str
    train: Iterable[str]
    val: Iterable[str] = ()


@dataclass
class Selection:
    """What `select` found beside the images it yielded."""

    #: of each label; grows while `select` is read
    class_names: list[str] = field(default_factory=list)
    #: (folder, images) of what was left out
    too_small: list[tuple[str, int]] = field(default_factory=list)
    #: folders that `classes` does not name, and classes without images
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def select(folders: Iterable[tuple[str, ImageNames]], config: SelectionConfig,
           result: Selection) -> Iterator[SelectedClass]:
    """Yield the classes that are taken, of (folder, image names) in a sorted walk.

    UsageError where the val list would leave a class without images to train on.
    """
    labels = {name: label for label, name in enumerate(config.classes)}
    if config.classes:
        result.class_names = list(config.classes[:config.max_classes or None])
    found = set()
    num_taken = 0
    for folder, names in folders:
        if config.classes and folder not in labels:
            result.unknown.append(folder)
            continue
        found.add(folder)
        if config.min_images and (num_images := len(names)) < config.min_images:
            result.too_small.append((folder, num_images))
            continue
        # without `classes` a label is the number of the class among those that are taken
        label = labels.get(folder, num_taken)
        if config.max_classes and label >= config.max_classes:
            continue
        num_taken += 1
        if not config.classes:
            result.class_names.append(folder or os.curdir)
        yield _split(label, folder, names, config)
    result.missing = [name for name in result.class_names if config.classes and name not in found]


def _split(label: int, folder: str, names: ImageNames, config: SelectionConfig) -> SelectedClass:
    if config.max_images:
        names = sorted(drawn(folder, names, config.max_images, config.seed))
    val: set[str] = set()
    if config.val_per_class:
        if len(names) <= config.val_per_class:
            raise UsageError(f"`val_per_class` {config.val_per_class}: the class {verbatim(folder)} has "
                             f"{len(names)} images, which leaves none to train on; `min_images` "
                             f"{config.val_per_class + 1} leaves such classes out")
        val = set(drawn(folder, names, config.val_per_class, config.seed))
    return SelectedClass(label, folder, (os.path.join(folder, name) for name in names if name not in val),
                         [os.path.join(folder, name) for name in sorted(val)])


def drawn(folder: str, names: Iterable[str], count: int, seed: int) -> list[str]:
    """Return `count` names of a class, drawn by the seed; a larger count gives these first, then others."""
    def rank(name: str) -> bytes:
        # a hash instead of a generator: one image more or less changes nothing for the others
        text = f"{seed}\0{folder}\0{name}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=8).digest()

    return heapq.nsmallest(count, names, key=rank)


def by_ground_truth(folders: Iterable[tuple[str, ImageNames]], labels: Mapping[str, int],
                    problems: list[DataError], root: str) -> Iterator[SelectedClass]:
    """Yield each image of a tree as a class of one image, labelled by its name in `labels`.

    An image that `labels` does not name is appended to `problems`.
    """
    for folder, names in folders:
        for name in names:
            path = os.path.join(folder, name)
            if name in labels:
                yield SelectedClass(labels[name], folder, [path])
            else:
                problems.append(DataError(os.path.join(root, path), "the ground truth has no such image"))
