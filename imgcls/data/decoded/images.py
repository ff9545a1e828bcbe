"""Decoded images of a set, each kept at every scale at which crops need it.

The loader for training draws a crop of an image, and the crop says at which scale (1, 1/2, 1/4 or 1/8) the
image is decoded (`decode.Decoder`). What is kept is the whole image at that scale, so the pixels that a crop
is made of are the same as from the file. Images are kept as they come until the space is full; none is ever
removed for another one, so every epoch finds the same images.

The tables are in shared memory, the pixels behind them or in a file (`stores`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from imgcls.data.decoded.pixel_file import PixelFile
from imgcls.data.decoded.segment import HEADER_BYTES, Segment
from imgcls.data.decoded.stores import DiskStore, MemoryStore, Store

#: decoded at 1, 1/2, 1/4 and 1/8
NUM_SCALES = 4
#: columns of what the header of an image said (`image_header.ImageInfo`), and whether it was read
NUM_INFOS = 7
#: images begin at multiples of it: a cache line
_ALIGNMENT = 64
#: index in the segment's header of the number of the byte where the next image goes
_NEXT = 1
#: above what any image is high or wide, and small enough that products do not overflow
_MAX_SIDE = 1 << 24


class Place(NamedTuple):
    """Where the pixels of an image are, uint8 (height, width, channels)."""

    #: 0 where the image is not kept
    offset: int
    height: int
    width: int
    #: 0 to 3 for 1, 1/2, 1/4 and 1/8
    scale: int


def table_bytes(num_samples: int) -> int:
    """Return how many bytes the header and the tables of a set take in a segment, beside the pixels."""
    return HEADER_BYTES + _saved_bytes(num_samples) + 8


def disk_table_bytes(num_samples: int) -> tuple[int, int]:
    """Return the same where the pixels are on a disk, and how many of these bytes are saved to a file: those
    behind the header."""
    saved = _saved_bytes(num_samples) + 8 * NUM_SCALES * num_samples
    return HEADER_BYTES + saved, saved


def _saved_bytes(num_samples: int) -> int:
    infos = 4 * NUM_INFOS * num_samples
    return infos + -infos % 8 + 16 * NUM_SCALES * num_samples


class ImageCache:
    """The decoded images of `num_samples` samples, by number and scale, for many threads and processes."""

    def __init__(self, segment: Segment, num_samples: int, num_channels: int, file: PixelFile | None = None,
                 limit: int = 0) -> None:
        """Keep pixels in the rest of `segment`, or in at most `limit` bytes of `file`."""
        self._segment = segment
        self._num_channels = num_channels
        end = HEADER_BYTES + _saved_bytes(num_samples)
        begin = end - 16 * NUM_SCALES * num_samples
        infos = segment.bytes[HEADER_BYTES:HEADER_BYTES + 4 * NUM_INFOS * num_samples]
        #: int32 (N, 7): what the headers say, shared as well: a process need not read what another one did
        self.infos = infos.view(np.int32).reshape(-1, NUM_INFOS)
        # offset, and height and width in one number; an offset of 0 is none
        self._places = segment.bytes[begin:end].view(np.int64).reshape(-1, 2)
        #: whether the pixels may be of another run
        self.is_on_disk = file is not None
        self._store: Store = MemoryStore(segment, end + -end % _ALIGNMENT)
        if file:
            sums = segment.bytes[end:end + 8 * NUM_SCALES * num_samples].view(np.uint64)
            self._store = DiskStore(file, limit, sums)
        self._header = segment.header
        self._is_closed = False

    @property
    def used_bytes(self) -> int:
        """How much of the segment is in use, with its tables; or of the file."""
        return max(int(self._header[_NEXT]), self._store.begin)

    @property
    def num_images(self) -> int:
        """How many images are kept, at one scale or more."""
        return int((self._places[:, 0].reshape(-1, NUM_SCALES) > 0).any(1).sum())

    def find(self, indices: np.ndarray, scales: list[int]) -> list[Place]:
        """Return where these samples, int64 (n,), are, each at its scale."""
        rows = self._places[indices * NUM_SCALES + np.array(scales, np.int64)].tolist()
        return [Place(offset, size >> 32, size & 0xFFFFFFFF, scale)
                for (offset, size), scale in zip(rows, scales, strict=True)]

    def pixels(self, index: int, place: Place) -> np.ndarray | None:
        """Return the pixels there, uint8 (h, w), or (h, w, C) for more than one channel.

        None where they are gone, or are not those that were written: then the sample is no longer kept at
        this scale. Valid until this thread reads others.
        """
        number = index * NUM_SCALES + place.scale
        shape = (place.height, place.width, self._num_channels)
        image = self._store.read(number, place.offset, shape)
        if image is None:
            self._drop(number)
            return None
        return image[:, :, 0] if self._num_channels == 1 else image

    def has_room(self, num_bytes: int) -> bool:
        """Return whether an image of so many bytes could be kept."""
        return not self._is_closed and self.used_bytes + num_bytes <= self._store.end

    def put(self, index: int, scale: int, image: np.ndarray) -> None:
        """Keep the pixels of a sample at a scale; nothing happens where there is no room for them."""
        number = index * NUM_SCALES + scale
        row = self._places[number]
        # one that comes several times in an epoch may have been kept meanwhile
        if row[0] or not (offset := self._reserve(image.nbytes)):
            return
        image = np.ascontiguousarray(image)
        if not self._store.write(number, offset, image):
            self._is_closed = True
            return
        row[1] = image.shape[0] << 32 | image.shape[1]
        # last, and under the lock, so that other processors see the pixels before the offset
        with self._segment.locked():
            row[0] = offset
            self._segment.note_change()

    def recover(self, num_bytes: int) -> None:
        """Use tables that were read from a file, for `num_bytes` of pixels; drop entries without pixels.

        To be called before any other process uses them: the tables are of an earlier run, and since then the
        file of pixels may have been cut, or the limit lowered.
        """
        places, channels = self._places, self._num_channels
        offsets, heights, widths = places[:, 0], places[:, 1] >> 32, places[:, 1] & 0xFFFFFFFF
        # sides are bounded first, so that the products below do not overflow
        is_small = (heights > 0) & (heights < _MAX_SIDE) & (widths > 0) & (widths < _MAX_SIDE)
        is_inside = (offsets >= self._store.begin) & (offsets % _ALIGNMENT == 0) & (offsets <= num_bytes)
        ends = offsets + np.where(is_small, heights * widths * channels, 0)
        is_good = is_small & is_inside & (ends <= min(num_bytes, self._store.end))
        places[~is_good] = 0
        infos = self.infos
        height, width, height_offset, block_height, *flags, is_known = infos.T
        is_known = (is_known == 1) & (infos >= 0).all(1) & (infos[:, :2] < _MAX_SIDE).all(1)
        is_known &= (np.array(flags) < 2).all(0) & ((height > 0) == (width > 0))
        # where the values are impossible the header is read again
        infos[~is_known | ((block_height == 0) & (height_offset > 0))] = 0
        end = int(ends[is_good].max(initial=0))
        self._header[_NEXT] = end + -end % _ALIGNMENT

    def _drop(self, number: int) -> None:
        with self._segment.locked():
            self._places[number, 0] = 0
            self._segment.note_change()

    def _reserve(self, num_bytes: int) -> int:
        """Return the offset at which `num_bytes` may be written, 0 where there is no room."""
        if not self.has_room(num_bytes):
            return 0
        with self._segment.locked():
            offset = self.used_bytes
            end = offset + num_bytes
            end += -end % _ALIGNMENT
            if end > self._store.end:
                return 0
            self._header[_NEXT] = end
        return offset
