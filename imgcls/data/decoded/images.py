"""Decoded images of a set, each kept as often as crops need it at another scale.

The loader for training draws a crop of an image, and the crop says at which scale (1, 1/2, 1/4 or 1/8) the
image is decoded (`decode.Decoder`). What is kept is the whole image at that scale, so the pixels that a crop
is made of are the same as from the file. Images stay in the order in which they came until the room is full;
nothing is ever put out for another one, so every epoch finds the same images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from imgcls.data.decoded.segment import HEADER_BYTES, Segment
from imgcls.storage import memory

#: decoded at 1, 1/2, 1/4 and 1/8
NUM_SCALES = 4
#: columns of what the header of an image said (`image_header.ImageInfo`), and whether anybody looked
NUM_INFOS = 7
#: images begin at multiples of it: a cache line
_ALIGNMENT = 64
#: places of the segment's header: where the next image goes
_NEXT = 1
#: bytes between two looks at how much memory the machine has left, and what must be left of it
_LOOK_BYTES, RESERVE_BYTES = 64 << 20, 512 << 20


class Place(NamedTuple):
    """Where the pixels of an image are, uint8 (height, width, channels)."""

    #: 0 where the image is not kept
    offset: int
    height: int
    width: int
    #: 0 to 3 for 1, 1/2, 1/4 and 1/8
    scale: int


def table_bytes(num_samples: int) -> int:
    """Return what the tables of a set take, beside the pixels."""
    return HEADER_BYTES + num_samples * (4 * NUM_INFOS + 16 * NUM_SCALES) + 8


class ImageCache:
    """The decoded images of `num_samples` samples, by number and scale, for many threads and processes."""

    def __init__(self, segment: Segment, num_samples: int, num_channels: int) -> None:
        self._segment = segment
        self._num_channels = num_channels
        begin = HEADER_BYTES + 4 * NUM_INFOS * num_samples
        begin += -begin % 8
        end = begin + 16 * NUM_SCALES * num_samples
        infos = segment.bytes[HEADER_BYTES:HEADER_BYTES + 4 * NUM_INFOS * num_samples]
        #: int32 (N, 7): what the headers say, shared as well: a process need not read what another one did
        self.infos = infos.view(np.int32).reshape(-1, NUM_INFOS)
        # offset, and height and width in one number; an offset of 0 is none
        self._places = segment.bytes[begin:end].view(np.int64).reshape(-1, 2)
        self._first = end + -end % _ALIGNMENT
        self._header = segment.header
        self._looked_bytes = 0
        self._is_closed = False

    @property
    def used_bytes(self) -> int:
        """How much of the segment is in use, with its tables."""
        return max(int(self._header[_NEXT]), self._first)

    @property
    def num_images(self) -> int:
        """How many images are kept, at one scale or more."""
        return int((self._places[:, 0].reshape(-1, NUM_SCALES) > 0).any(1).sum())

    def find(self, indices: np.ndarray, scales: list[int]) -> list[Place]:
        """Return where these samples, int64 (n,), are, each at its scale."""
        rows = self._places[indices * NUM_SCALES + np.array(scales, np.int64)].tolist()
        return [Place(offset, size >> 32, size & 0xFFFFFFFF, scale)
                for (offset, size), scale in zip(rows, scales, strict=True)]

    def pixels(self, place: Place) -> np.ndarray:
        """Return the pixels there, a view: uint8 (h, w), or (h, w, C) for more than one channel."""
        offset, height, width, _ = place
        channels = self._num_channels
        flat = self._segment.bytes[offset:offset + height * width * channels]
        return flat.reshape((height, width) if channels == 1 else (height, width, channels))

    def has_room(self, num_bytes: int) -> bool:
        """Say whether an image of this size could be kept."""
        return not self._is_closed and self.used_bytes + num_bytes <= self._segment.size

    def put(self, index: int, scale: int, image: np.ndarray) -> None:
        """Keep the pixels of a sample at a scale; nothing happens where there is no room for them."""
        row = self._places[index * NUM_SCALES + scale]
        # one that comes several times in an epoch may be there by now
        if row[0] or not (offset := self._reserve(image.nbytes)):
            return
        image = np.ascontiguousarray(image)
        if not self._segment.write(offset, image):
            self._is_closed = True
            return
        row[1] = image.shape[0] << 32 | image.shape[1]
        # last, and under the lock, which other processors see in this order
        with self._segment.locked():
            row[0] = offset

    def _reserve(self, num_bytes: int) -> int:
        """Return where `num_bytes` may be written, 0 for nowhere."""
        if not self.has_room(num_bytes) or not self._has_memory(num_bytes):
            return 0
        with self._segment.locked():
            offset = self.used_bytes
            end = offset + num_bytes
            end += -end % _ALIGNMENT
            if end > self._segment.size:
                return 0
            self._header[_NEXT] = end
        return offset

    def _has_memory(self, num_bytes: int) -> bool:
        """Stop for good where the machine has hardly any memory left: other programs may have taken it."""
        self._looked_bytes += num_bytes
        if self._looked_bytes >= _LOOK_BYTES:
            self._looked_bytes = 0
            available = memory.available_bytes()
            self._is_closed = available is not None and available < RESERVE_BYTES
        return not self._is_closed
