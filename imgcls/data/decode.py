"""Encoded bytes -> the pixels of a drawn crop, written straight into a row of a batch.

`Decoder` decodes no more than the crop needs: at a half, quarter or eighth where the crop is that much larger
than the network's input, and of a plain JPEG only the rows down to the lower edge of the crop. Of a JPEG with
restart markers only the part around the crop is decoded (`seekable.py`). The pixels are the same as from
decoding everything, but where they are decoded smaller.

Called by the streaming loader, in its threads: OpenCV releases the interpreter's lock while it decodes and
resizes. No file is trusted: sizes are bounded before memory is taken, and what cannot be decoded is a
`BadImageError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from imgcls.data import operations, pixels, seekable
from imgcls.data.crops import METHODS, CropSpec, Size
from imgcls.data.image_header import BadImageError, Bytes, ImageInfo, stored_pixels, upper_rows
from imgcls.data.opencv import cv2, damaged
from imgcls.errors import first_line
from imgcls.formats import npy_image

_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.11
# the bit that is common to IMREAD_REDUCED_GRAYSCALE_n and IMREAD_REDUCED_COLOR_n
_REDUCTION_FLAGS = {1: 0, 2: 16, 4: 32, 8: 64}
# how much of a library's message is shown
_MAX_MESSAGE = 200


class Decoded(NamedTuple):
    """The pixels of an image, or of the part of it that is needed."""

    #: uint8 (h, w) or (h, w, C)
    pixels: np.ndarray
    #: size of the full image
    full: Size
    #: how many times smaller than the full image they are decoded
    reduction: int = 1
    #: row and column of the full image at which they begin
    corner: tuple[int, int] = (0, 0)


#: `pad_mode`, named as by torchvision and numpy -> OpenCV's number of it
BORDERS = {"constant": cv2.BORDER_CONSTANT, "edge": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101,
           "symmetric": cv2.BORDER_REFLECT}


class Decoder:
    """Carries out crop specs for one shape (C, H, W); many threads may use it at once."""

    def __init__(self, shape: tuple[int, ...], *, pad: int = 0, pad_mode: str = "constant",
                 fill_value: int = 0, exact: bool = False, reduce_resized: bool = False,
                 keeps_resized: bool = True) -> None:
        """`pad` is the width of the border that the windows of specs include, `pad_mode` one of `BORDERS`.

        With `reduce_resized` images that are resized as a whole may be decoded smaller as well as those that
        are cut; without it the resized pixels are MXNet's own, even where its plain bilinear takes every
        tenth pixel and ignores the rest. With `exact` no image is decoded smaller. With `keeps_resized` a
        decoded cache gets an image that is resized first in its resized form. False is for interpolation that
        is drawn, or that rounds a pixel differently when less of the image is there (cubic): a crop of the
        resized whole would not be the crop that is made without a cache.
        """
        self.num_channels = shape[0]
        self.crop = (shape[1], shape[2])
        self.pad = pad
        self._border = BORDERS[pad_mode]
        self.fill = (fill_value,) * 4
        self._reduces = not exact
        self._reduces_resized = reduce_resized and not exact
        self._keeps_resized = keeps_resized
        self._swaps_channels = False
        if self.num_channels == 3:
            # an older OpenCV gives BGR, whose channels are swapped at the end, when the pixels are fewer
            self._flags, self._swaps_channels = (cv2.IMREAD_COLOR, True) if _RGB is None else (_RGB, False)
        else:
            self._flags = cv2.IMREAD_GRAYSCALE if self.num_channels == 1 else cv2.IMREAD_UNCHANGED

    def __call__(self, row: np.ndarray, data: Bytes | np.ndarray, info: ImageInfo, spec: CropSpec | None,
                 draw_spec: Callable[[Size], CropSpec]) -> CropSpec:
        """Fill `row`, uint8 (H, W, C) in C order and RGB, from encoded bytes or uint8 pixels (h, w[, c]).

        `spec` was drawn for the size in `info`; where that is unknown or wrong, `draw_spec` is called with
        the true (height, width). Returns the spec that was carried out. Raises BadImageError.
        """
        try:
            if not isinstance(data, np.ndarray) and npy_image.is_npy(data):
                data = stored_pixels(data)
            if isinstance(data, np.ndarray):
                image = pixels.to_channels(data, self.num_channels)
                image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if self._swaps_channels else image
                decoded = Decoded(image, (data.shape[0], data.shape[1]))
                spec = draw_spec(decoded.full) if spec is None else spec
            else:
                # may find another size than the header gave: then the spec is drawn for that one
                decoded = self._decode(data, info, spec)
                if spec is None or decoded.full != (info.height, info.width):
                    spec = draw_spec(decoded.full)
            self._render(row, decoded, spec)
            return spec
        except (cv2.error, MemoryError) as error:
            raise BadImageError(f"cannot be decoded: {first_line(error)[:_MAX_MESSAGE]}") from error

    def scale(self, info: ImageInfo, spec: CropSpec | None) -> int:
        """Return at which scale an image is kept for the crop: 0 to 3 for 1, 1/2, 1/4 and 1/8."""
        # 0 for one that is resized first: without `reduce_resized` it is not decoded smaller, and validation,
        # which has `reduce_resized`, keeps finished crops instead
        return 0 if spec is None or not self._is_part_enough(info, spec) else (
            self.reduction(info, spec).bit_length() - 1)

    def to_keep(self, data: Bytes, info: ImageInfo, spec: CropSpec | None) -> np.ndarray | None:
        """Return the pixels of an encoded image that any crop of this scale is made of, resized if it is.

        None where the image cannot be decoded, or its header gave another size: then it is not to be kept.
        """
        if npy_image.is_npy(data):
            return None  # stored decoded: the system's cache of files keeps it in memory
        reduction = 1 << self.scale(info, spec)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), self._flags | _REDUCTION_FLAGS[reduction])
            if image is None:
                return None
            is_true = image.shape[:2] == (-(-info.height // reduction), -(-info.width // reduction))
            if info.height and not is_true:
                return None
            image = self._checked(image)
            if spec is not None and self._is_kept_resized(info, spec):
                assert spec.resize
                full = (info.height, info.width)
                image = pixels.resize_part(image, full, 1, spec.resize, spec.method, None)
            return image
        except (cv2.error, MemoryError, BadImageError):
            return None

    def cut_kept(self, row: np.ndarray, image: np.ndarray, scale: int, info: ImageInfo,
                 spec: CropSpec | None, draw_spec: Callable[[Size], CropSpec]) -> CropSpec:
        """Fill `row` as a call does, from the pixels that `to_keep` returned for this scale."""
        if spec is None:
            spec = draw_spec(image.shape[:2])
            self._render(row, Decoded(image, image.shape[:2]), spec)
        elif self._is_kept_resized(info, spec):
            self._render(row, Decoded(image, image.shape[:2]), spec._replace(resize=None))
        else:
            if spec.resize and self._is_part_enough(info, spec):
                image = image[:self._num_rows(info, spec)]  # what would be decoded for this crop
            self._render(row, Decoded(image, (info.height, info.width), 1 << scale), spec)
        return spec

    def kept_size(self, info: ImageInfo, spec: CropSpec | None) -> Size:
        """Return the height and width of what `to_keep` gives; zeros where the header gave no size."""
        height, width = info.height, info.width
        if spec is not None and self._is_kept_resized(info, spec):
            assert spec.resize
            height, width = spec.resize
        reduction = 1 << self.scale(info, spec)
        return -(-height // reduction), -(-width // reduction)

    def kept_bytes(self, info: ImageInfo, spec: CropSpec | None) -> int:
        """Return how many bytes that takes."""
        return math.prod(self.kept_size(info, spec)) * self.num_channels

    def _is_kept_resized(self, info: ImageInfo, spec: CropSpec) -> bool:
        """Return whether an image is kept resized as a whole; settings and its size alone decide that."""
        return spec.resize is not None and self._keeps_resized and (
            spec.resize[0] * spec.resize[1] <= info.height * info.width)

    def _is_part_enough(self, info: ImageInfo, spec: CropSpec) -> bool:
        """Return whether it is enough to decode a part of the image, or all of it smaller."""
        # A warp, an enlargement and a border count from the corners of the full image: it is decoded then.
        return info.is_jpeg and spec.warp is None and spec.enlarge is None and not self.pad

    def reduction(self, info: ImageInfo, spec: CropSpec) -> int:
        """Return how many times smaller (1, 2, 4, 8) an image may be decoded for the crop."""
        if spec.resize:
            ratio = min(info.height / spec.resize[0], info.width / spec.resize[1])
        else:
            ratio = min(spec.height / self.crop[0], spec.width / self.crop[1])
        if spec.method == METHODS["antialias"] or spec.resize:
            ratio /= 2  # with twice the pixels that are needed no difference can be seen
        if spec.method == METHODS["nearest"] or not (self._reduces_resized if spec.resize else self._reduces):
            return 1
        return next((n for n in (8, 4, 2) if ratio >= n), 1)

    def _decode(self, data: Bytes, info: ImageInfo, spec: CropSpec | None) -> Decoded:
        """Return the image, or the part of it that is needed."""
        if spec is not None and self._is_part_enough(info, spec):
            part = self._decode_part(data, info, spec)
            if part is not None:
                return part
        image = cv2.imdecode(np.frombuffer(data, np.uint8), self._flags)
        if image is None:
            raise BadImageError(damaged(data))
        return Decoded(self._checked(image), image.shape[:2])

    def _decode_part(self, data: Bytes, info: ImageInfo, spec: CropSpec) -> Decoded | None:
        """Return the part of a JPEG that the crop needs, None where the decoder gives another size."""
        reduction = self.reduction(info, spec)
        part = None
        if info.has_restarts and not spec.resize:
            part = seekable.cut(data, spec.top, spec.left, spec.height, spec.width, reduction=reduction)
        if part is None:
            num_rows = self._num_rows(info, spec)
            upper = upper_rows(data, info, num_rows) if num_rows < info.height else data
            part = seekable.Cut(upper, 0, 0, num_rows, info.width)
        image = cv2.imdecode(np.frombuffer(part.data, np.uint8), self._flags | _REDUCTION_FLAGS[reduction])
        # With a wrong header, or EXIF that turns the image after all, the size differs: then all is decoded.
        if image is None or image.shape[:2] != (-(-part.height // reduction), -(-part.width // reduction)):
            return None
        return Decoded(self._checked(image), (info.height, info.width), reduction, (part.top, part.left))

    def _num_rows(self, info: ImageInfo, spec: CropSpec) -> int:
        """Return how many upper rows of the image are enough for the crop."""
        if not info.height_offset:
            return info.height
        num_rows = spec.top + spec.height
        if spec.resize:
            zoom = info.height / spec.resize[0]
            # and the neighbours that the last row is mixed with
            num_rows = int(num_rows * zoom + 2 * zoom) + 8
        # two more where colour may be coded at half the height: the last row is made with what is below it
        num_rows += 2 * (info.block_height > 8)
        # up to a full row of blocks: less of one is not coded by itself
        return min(-(-num_rows // info.block_height) * info.block_height, info.height)

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """Return the pixels as uint8 with `num_channels`; OpenCV itself converts to three and to one."""
        if self.num_channels < 4:
            return image
        if image.ndim != 3 or image.shape[2] != 4 or image.dtype not in (np.uint8, np.uint16):
            num_given = 1 if image.ndim == 2 else image.shape[2]
            raise BadImageError(f"has {num_given} channels of {image.dtype}, `image_shape` has 4")
        # the upper byte, as OpenCV does it for three channels and one
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)

    def _render(self, row: np.ndarray, decoded: Decoded, spec: CropSpec) -> None:
        """Do all that comes after decoding, and fill `row`."""
        if spec.resize:
            decoded = self._resized(decoded, spec)
        if spec.warp and spec.enlarge is None and not self.pad and (spec.height, spec.width) == self.crop:
            # the usual case with a warp: only the window of the canvas is computed, directly in the batch
            self._warp(decoded.pixels, spec.warp[0], (spec.left, spec.top), row, spec.method)
            window = row
        else:
            window = self._window(decoded, spec)
        if window.shape[:2] != self.crop:
            window = pixels.resize(window, self.crop, spec.method, into=row)
        if spec.mirror:
            cv2.flip(window, 1, dst=row)
        elif window is not row:
            row[:] = window if window.ndim == 3 else window[:, :, None]
        if self._swaps_channels:
            cv2.cvtColor(row, cv2.COLOR_BGR2RGB, dst=row)
        self.finish(row, spec)

    def finish(self, row: np.ndarray, spec: CropSpec) -> None:
        """Do what comes after the crop, in place: colour, and the operations of a policy."""
        if spec.color:
            pixels.recolor(row, spec.color)
        if spec.policy:
            operations.apply(row, spec.policy)

    def _resized(self, decoded: Decoded, spec: CropSpec) -> Decoded:
        """Return the image resized as a whole, at least as much of it as the crop needs."""
        assert spec.resize
        needed = None
        if not (spec.warp or spec.enlarge or self.pad):
            needed = (spec.top + spec.height, spec.left + spec.width)
        image = pixels.resize_part(decoded.pixels, decoded.full, decoded.reduction, spec.resize, spec.method,
                                   needed)
        return Decoded(image, spec.resize)

    def _window(self, decoded: Decoded, spec: CropSpec) -> np.ndarray:
        """Return what is cut from the image, after the warp, border and enlargement of the spec."""
        image = decoded.pixels
        if spec.warp:
            matrix, canvas = spec.warp
            pixels.check_size(canvas)
            warped = np.empty((*canvas, *image.shape[2:]), np.uint8)
            self._warp(image, matrix, (0, 0), warped, spec.method)
            image = warped
        if self.pad:
            pad = self.pad
            pixels.check_size((image.shape[0] + 2 * pad, image.shape[1] + 2 * pad))
            image = cv2.copyMakeBorder(image, pad, pad, pad, pad, self._border, value=self.fill)
        if spec.enlarge:
            image = pixels.resize(image, spec.enlarge, spec.method)
        top, left, height, width = spec.top, spec.left, spec.height, spec.width
        reduction, corner = decoded.reduction, decoded.corner
        if reduction > 1:
            # rounding must not make the window smaller than the crop, nor let it extend over the edge
            height, width = max(height // reduction, self.crop[0]), max(width // reduction, self.crop[1])
            # a corner is a multiple of the reduction: taking it off does not change how the place is rounded
            top = min(round(top / reduction) - corner[0] // reduction, image.shape[0] - height)
            left = min(round(left / reduction) - corner[1] // reduction, image.shape[1] - width)
        else:
            top, left = top - corner[0], left - corner[1]
        return image[top:top + height, left:left + width]

    def _warp(self, image: np.ndarray, matrix: np.ndarray, corner: tuple[int, int], into: np.ndarray,
              method: int) -> None:
        """Fill `into` with the part of the canvas whose upper left corner is (x, y)."""
        if corner != (0, 0):
            # a matrix that gives the window directly: the rest of the canvas is never computed
            matrix = matrix.copy()
            matrix[:, 2] -= corner
        if method == METHODS["antialias"]:
            method = cv2.INTER_LINEAR
        else:
            method = pixels.interpolation(method, image.shape[:2], into.shape[:2])
        method = cv2.INTER_LINEAR if method == cv2.INTER_AREA else method  # as OpenCV does itself
        cv2.warpAffine(image, matrix, into.shape[1::-1], dst=into, flags=method,
                       borderMode=cv2.BORDER_CONSTANT, borderValue=self.fill)
