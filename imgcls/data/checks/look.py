"""Read and decode every image of a source once, with threads, and keep the few numbers that checks need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from imgcls.data import opencv
from imgcls.data.checks.cropped import DETAIL_SIDE
from imgcls.data.checks.decoder_warnings import DecoderWarnings
from imgcls.data.checks.stored_damage import damage_of_pixels, find_damage, is_jpeg, is_sequential
from imgcls.data.image_header import BadImageError, inspect
from imgcls.data.opencv import cv2
from imgcls.data.packing.images import quiet_opencv
from imgcls.data.packing.pipeline import map_in_order
from imgcls.data.sources import Source
from imgcls.errors import DataError, printable

#: side of the thumbnail that images are compared by; 768 bytes of each image, with its three colours
# small enough that re-encoding and resizing vanish in the mean of a cell, large enough to tell
# two photographs of one series apart
THUMBNAIL = 16
#: of smaller images no finer thumbnail is made: crops of digits and icons are not looked for
SMALL_SIDE = 40
#: what a decoder of JPEG fills in for data that are missing, and how far re-encoding moves it
# 128: coefficients of 0, which libjpeg takes for blocks that are not there
_MISSING_GREY, _GREY_TOLERANCE = 128, 4


@dataclass
class Facts:
    """What was seen of the N images of a source; rows of damaged images are zeros, except in `digests`.

    `digests` uint64 (N, 2) of the encoded bytes, `sizes` int32 (N, 2) height and width, `means` float32
    (N, 3) in RGB on the scale 0-255, `spreads` float32 (N,) the standard deviation of all values, `is_grey`
    bool (N,), `missing` float32 (N,) the part of the rows, counted from the lower edge, that a decoder filled
    in, `thumbnails` uint8 (N, 16 * 16 * 3) in colour, `details` uint8 (N, 32 * 32) in grey: both empty where
    near duplicates are not looked for. `problems` are those that cannot be read, index -> error, and `damage`
    others with damaged bytes, index -> what is wrong with them.
    """

    digests: np.ndarray
    sizes: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    is_grey: np.ndarray
    missing: np.ndarray
    thumbnails: np.ndarray
    details: np.ndarray
    problems: dict[int, DataError]
    damage: dict[int, str]

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def is_good(self) -> np.ndarray:
        """bool (N,): which could be read, and have no damage."""
        good = np.ones(len(self), bool)
        good[[*self.problems, *self.damage]] = False
        return good


def look(source: Source, num_threads: int, name: str, max_compared: int) -> Facts:
    """Return the facts of all images of a source; `name` is what the progress bar shows.

    Of more than `max_compared` different images no thumbnails and details are kept: nothing compares them.
    """
    from tqdm import tqdm

    count = len(source)
    num_kept = count if max_compared else 0
    facts = Facts(np.zeros((count, 2), np.uint64), np.zeros((count, 2), np.int32),
                  np.zeros((count, 3), np.float32), np.zeros(count, np.float32), np.zeros(count, bool),
                  np.zeros(count, np.float32), np.zeros((num_kept, THUMBNAIL * THUMBNAIL * 3), np.uint8),
                  np.zeros((num_kept, DETAIL_SIDE * DETAIL_SIDE), np.uint8), {}, {})
    different: set[bytes] = set()

    def look_at(index: int) -> DataError | None:
        try:
            data = source.read(index)
            # noted before it is decoded: copies of a damaged file are copies as well
            facts.digests[index] = _digest(data)
            if damage := _stored_damage(data, warnings):
                # not decoded here: libjpeg would write its warning between our lines
                facts.damage[index] = damage
                return None
            pixels = decode(data)
            if not isinstance(data, np.ndarray) and (damage := damage_of_pixels(bytes(data), pixels)):
                facts.damage[index] = damage
                return None
            _keep(facts, index, pixels)
        except BadImageError as error:
            return source.problem(index, str(error))
        except cv2.error as error:
            return source.problem(index, f"cannot be decoded: {str(error).strip().splitlines()[-1][:200]}")
        except DataError as error:
            return error
        return None

    with (quiet_opencv(), DecoderWarnings() as warnings,
          map_in_order(look_at, range(count), num_threads) as errors):
        # disable=None: a bar on a terminal, nothing in a file
        shown = tqdm(errors, total=count, desc=printable(name), unit="img", disable=None, leave=False)
        for index, error in enumerate(shown):
            if error:
                facts.problems[index] = error
            elif len(facts.thumbnails) and index not in facts.damage:
                different.add(facts.digests[index].tobytes())
                if len(different) > max_compared:
                    # Memory that was not written to yet was not taken: so no more than these took any.
                    facts.thumbnails, facts.details = facts.thumbnails[:0].copy(), facts.details[:0].copy()
    return facts


def decode(data: bytes | memoryview | np.ndarray) -> np.ndarray:
    """Return pixels uint8 (H, W, 3) in RGB of what a source reads; BadImageError for what is no picture."""
    if isinstance(data, np.ndarray):
        pixels = data if data.ndim == 3 else data[:, :, None]
        pixels = pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0, 255).astype(np.uint8)
        return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[:, :, :3])
    return opencv.decode(data, 1)[:, :, ::-1]


def _stored_damage(data: bytes | memoryview | np.ndarray, warnings: DecoderWarnings) -> str:
    """Return what is wrong with the bytes of an image that may decode all the same, or ""."""
    if isinstance(data, np.ndarray):
        return ""
    inspect(data)  # before anything is decoded, here as in a separate process
    content = bytes(data)
    if not is_jpeg(content):
        return find_damage(content)
    return find_damage(content) or warnings.of(content, is_sequential=is_sequential(content))


def _digest(data: bytes | memoryview | np.ndarray) -> np.ndarray:
    content = data.tobytes() if isinstance(data, np.ndarray) else data
    # no protection against an attacker, but 128 bits: no two images share them by chance
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint64)


def _keep(facts: Facts, index: int, pixels: np.ndarray) -> None:
    """Store the numbers of an image in `facts`; each index is written by one thread."""
    facts.sizes[index] = pixels.shape[:2]
    mean, deviation = cv2.meanStdDev(pixels)
    facts.means[index] = mean[:, 0]
    # of all values together: variance within the channels and between them
    facts.spreads[index] = np.sqrt((deviation**2).mean() + mean.var())
    # INTER_AREA is the mean of each cell: no pixel is left out, whatever the size
    small = cv2.resize(np.ascontiguousarray(pixels), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    thumbnails, details = facts.thumbnails, facts.details  # another thread may put empty ones in their place
    if len(thumbnails):
        thumbnails[index] = small.reshape(-1)
    if len(details) and max(pixels.shape[:2]) > SMALL_SIDE:
        grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
        detail = cv2.resize(grey, (DETAIL_SIDE, DETAIL_SIDE), interpolation=cv2.INTER_AREA)
        details[index] = detail.reshape(-1)
    # of the thumbnail: the noise of a JPEG's colours averages out
    facts.is_grey[index] = bool((np.ptp(small, axis=2) == 0).all())
    facts.missing[index] = _missing_part(pixels)


def _missing_part(pixels: np.ndarray) -> float:
    """Return the part of the rows that end the image in the grey of a decoder that ran out of data."""
    last = pixels[-1].astype(np.int16)
    if np.abs(last - _MISSING_GREY).max() > _GREY_TOLERANCE:  # nearly all images: no more work for them
        return 0.0
    distance = np.abs(pixels.astype(np.int16) - _MISSING_GREY).max(axis=(1, 2))
    others = np.flatnonzero(distance > _GREY_TOLERANCE)
    return 1.0 - (others[-1] + 1 if len(others) else 0) / len(pixels)
