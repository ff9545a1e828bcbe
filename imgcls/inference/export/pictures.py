"""The images that an export is compared with its checkpoint on: the user's, or made ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.data import pixels
from imgcls.data.image_header import BadImageError
from imgcls.data.sources import is_packed, open_source
from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats.image_folders import SUFFIXES
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES
from imgcls.storage.reading import read_bounded

#: the largest side of made images, unless the network's own is larger: enough to be resized, and quick to
#: compute
_MAX_SIDE = 400


class Pictures:
    """A Source of pictures, each read when it is requested; its `labels` are all 0 (see `label`)."""

    def __init__(self, items: Sequence[Any], description: str, *, is_made: bool = False) -> None:
        """Take uint8 arrays (H, W, 3), paths, or (source, index)."""
        self._items = items
        self.labels = np.zeros(len(items), np.int64)
        self.class_names = ()
        self.description = description
        self.is_made = is_made

    def __len__(self) -> int:
        return len(self._items)

    def read(self, index: int) -> bytes | memoryview | np.ndarray:
        """Return the picture's bytes, or its pixels."""
        item = self._items[index]
        if isinstance(item, np.ndarray):
            return item
        if isinstance(item, tuple):
            return item[0].read(item[1])
        try:
            return read_bounded(item, MAX_PAYLOAD_BYTES)
        except OSError as error:
            raise DataError(item, reason(error)) from error

    def label(self, index: int) -> int | Path:
        """Return the picture's class where its source has labels, its path where it is a file, else -1."""
        item = self._items[index]
        if isinstance(item, tuple):
            return int(item[0].labels[item[1]])
        return item if isinstance(item, Path) else -1

    def subset(self, places: np.ndarray) -> Pictures:
        """Return the pictures with these indices."""
        return Pictures([self._items[place] for place in places], self.description, is_made=self.is_made)

    def decoded(self, num_channels: int) -> Pictures:
        """Return the same pictures, each read as all of its pixels, uint8 (H, W, num_channels)."""
        return _DecodedPictures(self, num_channels)

    def name(self, index: int) -> str:
        """Return what messages call the picture: its path, or its number among those compared."""
        item = self._items[index]
        return verbatim(item) if isinstance(item, Path) else f"number {index}"

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error for a picture that cannot be decoded."""
        item = self._items[index]
        if isinstance(item, tuple):
            return item[0].problem(item[1], reason)
        return DataError(self.description if isinstance(item, np.ndarray) else item, reason)

    def pixels(self, index: int, num_channels: int) -> np.ndarray:
        """Return uint8 (H, W, num_channels), as a program that runs the export would decode the picture."""
        from imgcls.data.opencv import cv2, decode

        content = self.read(index)
        try:
            if not isinstance(content, np.ndarray):
                # IMREAD_COLOR drops alpha, which a network of four channels was trained with.
                flags = cv2.IMREAD_UNCHANGED if num_channels == 4 else cv2.IMREAD_COLOR
                content = decode(content, flags)
                code = cv2.COLOR_BGRA2RGBA if num_channels == 4 else cv2.COLOR_BGR2RGB
                content = cv2.cvtColor(content, code)
            return np.ascontiguousarray(pixels.to_channels(content, num_channels))
        except (BadImageError, cv2.error) as error:
            raise self.problem(index, str(error)) from error


class _DecodedPictures(Pictures):
    """Pictures that are read as a program that runs an export decodes them."""

    def __init__(self, pictures: Pictures, num_channels: int) -> None:
        super().__init__(pictures._items, pictures.description, is_made=pictures.is_made)
        self._pictures = pictures
        self._num_channels = num_channels

    def read(self, index: int) -> np.ndarray:
        """Return the pixels of a picture."""
        return self._pictures.pixels(index, self._num_channels)


def find_pictures(path: str, max_count: int) -> Pictures:
    """Return at most `max_count` pictures, evenly spaced over all that `path` holds.

    `path` is a picture, a folder with pictures at any depth, or packed data (`sources.is_packed`). UsageError
    where there are none.
    """
    if os.path.isdir(path) and not is_packed(path):
        items: list[Any] = [file for file in _walk(Path(path)) if file.suffix.lower() in SUFFIXES]
    elif is_packed(path) or ";" in path or "*" in path:
        source = open_source(path, "`images`")
        items = [(source, index) for index in range(len(source))]
    elif os.path.exists(path):
        items = [Path(path)]
    else:
        raise UsageError(f"`images` {verbatim(path)}: there is no such file or folder")
    if not items:
        raise UsageError(f"`images` {verbatim(path)}: the folder holds no pictures ({', '.join(SUFFIXES)})")
    # Spread over all of them: folders are sorted by class, and the first hundred would be of one class.
    places = np.linspace(0, len(items) - 1, min(len(items), max_count)).astype(int)
    return Pictures([items[place] for place in places], path)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()  # in place, which sets the order in which os.walk continues
        yield from (Path(parent, file) for file in sorted(files))


def make_pictures(image_shape: Sequence[int], count: int) -> Pictures:
    """Return `count` computed images of several sizes around the network's, with areas and edges as in
    photographs."""
    from imgcls.data.opencv import cv2

    random = np.random.default_rng(0)  # the same images each time, so that a difference can be looked into
    sides = image_shape[1:] if len(image_shape) == 3 else (32, 32)
    num_channels = image_shape[0] if len(image_shape) == 3 and image_shape[0] == 4 else 3
    images = []
    for number in range(count):
        # every eighth is of the network's own size, the others smaller or larger, upright or wide
        factors = random.uniform(0.7, 2.2, 2) if number % 8 else np.ones(2)
        height, width = (int(np.clip(side * factor, 1, max(_MAX_SIDE, side)))
                         for side, factor in zip(sides, factors, strict=True))
        coarse = random.integers(0, 256, (int(random.integers(2, 7)), int(random.integers(2, 7)),
                                          num_channels), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=int(random.integers(0, 3)))
        noise = random.normal(0, 12, image.shape)
        images.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    return Pictures(images, "made images", is_made=True)
