"""Encoded bytes -> the pixels of a planned crop, written straight into a slot of a batch.

`inspect` reads the size of a JPEG or PNG from its header, so that the crop can be planned (`plan.py`) before anything
is decoded; `Decoder` then decodes no more than the plan needs: at a half, quarter or eighth where the crop is that much
larger than the network's input, and of a plain JPEG only the rows down to the lower edge of the crop. That is done by
telling the decoder that the image is less high, which gives the same pixels, since a JPEG is coded from top to bottom.
Of a JPEG with restart markers only the part around the crop is decoded (`seekable.py`), with the same pixels too.

Used by the streaming loader, in its threads: OpenCV lets go of the interpreter while it decodes and resizes. Nothing
here trusts a file: sizes are bounded before memory is taken, and what cannot be decoded is a `BadImageError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from imgcls.data import seekable
from imgcls.data.crops import METHODS, Color, CropSpec, Size

#: larger images are not decoded: no camera makes them, and a file of a few bytes can claim to be one
MAX_PIXELS = 1 << 28
# OpenCV's own bound, for the formats whose header is not looked at here; it is read when OpenCV is loaded
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402

Bytes = bytes | memoryview

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"
_KINDS = {_JPEG: "a JPEG", _PNG: "a PNG", b"GIF8": "a GIF", b"BM": "a BMP", b"RIFF": "a WebP"}
_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.11
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}  # the bit that is common to IMREAD_REDUCED_GRAYSCALE_n and ..._COLOR_n
_ANTIALIAS, _AUTO, _NEAREST = METHODS["antialias"], METHODS["auto"], METHODS["nearest"]


class BadImageError(ValueError):
    """Bytes that are no image that can be used; the text says why, in words that follow the name of the sample."""


class ImageInfo(NamedTuple):
    """What an encoded image says of itself, before it is decoded."""

    #: as decoded, that is turned as EXIF says; 0, 0 where the header was not understood
    height: int = 0
    width: int = 0
    #: where the height stands in a JPEG whose upper rows can be decoded alone, otherwise 0
    rows_at: int = 0
    #: height of a row of blocks in such a JPEG
    block: int = 0
    is_jpeg: bool = False
    #: a JPEG with restart markers, of which a part may be decoded without the rest
    restarts: bool = False


def prepare() -> None:
    """One OpenCV thread per call, since we have our own, and none of its messages: what it says names no file."""
    cv2.setNumThreads(1)
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)


def inspect(data: Bytes) -> ImageInfo:
    """Size and build of an encoded image from its header; BadImageError for one that is empty, cut or too large."""
    if not len(data):
        raise BadImageError("is empty")
    head = bytes(data[:8])
    if head.startswith(_JPEG):
        _check_end(data, _JPEG_END, "a JPEG that is cut: its end marker is missing")
        info = _inspect_jpeg(data)
    elif head == _PNG:
        _check_end(data, _PNG_END, "a PNG that is cut: its end chunk is missing")
        info = ImageInfo(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    else:
        return ImageInfo()
    if info.height * info.width > MAX_PIXELS:
        raise BadImageError(f"is {info.width} x {info.height} pixels, more than the {MAX_PIXELS:,} that are decoded")
    return info


class Decoder:
    """Carries plans out for one shape (C, H, W); of use to many threads at once."""

    def __init__(self, shape: tuple[int, ...], *, pad: int = 0, fill_value: int = 0, exact: bool = False,
                 reduce_resized: bool = False) -> None:
        """`pad` is the border that plans count with. With `reduce_resized` images that are resized as a whole may be
        decoded at less than full size as well as those that are cut; without it the resized pixels are MXNet's own,
        even where its plain bilinear takes every tenth pixel and passes over the rest. `exact`: nothing ever is."""
        self.channels, self.crop = shape[0], (shape[1], shape[2])
        self.pad, self.fill = pad, (fill_value,) * 4
        self._reduce, self._reduce_resized = not exact, reduce_resized and not exact
        self._swap = False
        if self.channels == 3:
            self._flags, self._swap = (cv2.IMREAD_COLOR, True) if _RGB is None else (_RGB, False)
        else:
            self._flags = cv2.IMREAD_GRAYSCALE if self.channels == 1 else cv2.IMREAD_UNCHANGED

    def __call__(self, slot: np.ndarray, data: Bytes | np.ndarray, info: ImageInfo, plan: CropSpec | None,
                 replan: Callable[[Size], CropSpec]) -> CropSpec:
        """Fill `slot`, uint8 (H, W, C) in C order, RGB, from encoded bytes or uint8 pixels (h, w, c) or (h, w).

        `plan` was made for the size in `info`; where that is not known, or not true, `replan` is asked. Returns the
        plan that was carried out. Raises BadImageError.
        """
        try:
            if isinstance(data, np.ndarray):
                pixels, full, reduced, corner = _to_channels(data, self.channels), data.shape[:2], 1, (0, 0)
                pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if self._swap else pixels
                plan = replan(full) if plan is None else plan
            else:
                pixels, full, reduced, corner = self._decode(data, info, plan)
                if plan is None or full != (info.height, info.width):
                    plan = replan(full)
            self._render(slot, pixels, full, reduced, plan, corner)
            return plan
        except (cv2.error, MemoryError) as error:
            raise BadImageError(f"cannot be decoded: {_first_line(error)}") from error

    def _decode(self, data: Bytes, info: ImageInfo, plan: CropSpec | None) -> tuple[np.ndarray, Size, int, tuple[int, int]]:
        """(pixels, size of the whole image, how many times smaller they are, row and column of the whole image at which
        they begin): all of the image, or what is needed."""
        if plan is not None and info.is_jpeg and plan.warp is None and plan.enlarge is None and not self.pad:
            rows, reduced = self._needed(info, plan)
            part = None
            if info.restarts and not plan.resize:
                part = seekable.cut(data, plan.top, plan.left, plan.height, plan.width, reduced=reduced)
            if part is None:
                upper = _upper_rows(data, info, rows) if rows < info.height else data
                part = seekable.Cut(upper, 0, 0, rows, info.width)
            image = cv2.imdecode(np.frombuffer(part.data, np.uint8), self._flags | _REDUCED[reduced])
            if image is not None and image.shape[:2] == (-(-part.height // reduced), -(-part.width // reduced)):
                return self._checked(image), (info.height, info.width), reduced, (part.top, part.left)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), self._flags)
        if image is None:
            kind = next((name for start, name in _KINDS.items() if bytes(data[:len(start)]) == start), "")
            raise BadImageError(f"is {kind} that is damaged, or that OpenCV cannot read" if kind else "is no image")
        return self._checked(image), image.shape[:2], 1, (0, 0)

    def _needed(self, info: ImageInfo, plan: CropSpec) -> tuple[int, int]:
        """(upper rows of the image, reduction) that are enough for the plan."""
        height, width = info.height, info.width
        rows = plan.top + plan.height
        if plan.resize:
            zoom = height / plan.resize[0]
            ratio = min(zoom, width / plan.resize[1])
            rows = int(rows * zoom + 2 * zoom) + 8
        else:
            ratio = min(plan.height / self.crop[0], plan.width / self.crop[1])
        if plan.method == _ANTIALIAS or plan.resize:
            ratio /= 2  # with twice the pixels that are needed no difference can be seen
        may_reduce = self._reduce_resized if plan.resize else self._reduce
        reduced = next((n for n in (8, 4, 2) if ratio >= n), 1) if may_reduce and plan.method != _NEAREST else 1
        # two more where colour may be coded at half the height: the last row is made with what is below it
        rows = -(-(rows + 2 * (info.block > 8)) // info.block) * info.block if info.rows_at else height
        return min(rows, height), reduced

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """The pixels as uint8 of the right number of channels; OpenCV sees to that but for four."""
        if self.channels < 4:
            return image
        if image.ndim != 3 or image.shape[2] != 4 or image.dtype not in (np.uint8, np.uint16):
            found = 1 if image.ndim == 2 else image.shape[2]
            raise BadImageError(f"has {found} channels of {image.dtype}, `image_shape` asks for 4")
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)

    def _render(self, slot: np.ndarray, image: np.ndarray, full: Size, reduced: int, plan: CropSpec,
                corner: tuple[int, int]) -> None:
        """All steps after decoding. `image` may lack lower rows and be `reduced`; `full` is the whole image's size.
        Only where it is neither resized nor warped may it begin at another `corner` of the whole than 0, 0."""
        if plan.resize:
            needed = (None if plan.warp or plan.enlarge or self.pad
                      else (plan.top + plan.height, plan.left + plan.width))
            image = _resized_by(image, full, reduced, plan.resize, plan.method, needed)
            reduced = 1
        if plan.warp and plan.enlarge is None and not self.pad and (plan.height, plan.width) == self.crop:
            self._warp(image, plan.warp[0], (plan.left, plan.top), slot, plan.method)
            window = slot  # the rest of the canvas is not needed
        else:
            window = self._window(image, reduced, plan, corner)
        if window.shape[:2] != self.crop:
            window = resize(window, self.crop, plan.method, into=slot)
        if plan.mirror:
            cv2.flip(window, 1, dst=slot)
        elif window is not slot:
            slot[:] = window if window.ndim == 3 else window[:, :, None]
        if self._swap:
            cv2.cvtColor(slot, cv2.COLOR_BGR2RGB, dst=slot)
        if plan.color:
            recolor(slot, plan.color)

    def _window(self, image: np.ndarray, reduced: int, plan: CropSpec, corner: tuple[int, int]) -> np.ndarray:
        """What is cut from the image, after the warp, border and enlargement of the plan."""
        if plan.warp:
            matrix, canvas = plan.warp
            _check_size(canvas)
            warped = np.empty((*canvas, *image.shape[2:]), np.uint8)
            self._warp(image, matrix, (0, 0), warped, plan.method)
            image = warped
        if self.pad:
            pad = self.pad
            image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=self.fill)
        if plan.enlarge:
            image = resize(image, plan.enlarge, plan.method)
        top, left, height, width = plan.top, plan.left, plan.height, plan.width
        if reduced > 1:
            height, width = (max(n // reduced, least) for n, least in zip((height, width), self.crop, strict=True))
            # a corner is a whole number of pixels here too, and must not change how the place is rounded
            top, left = (min(round(at / reduced) - begin // reduced, most - side) for at, begin, most, side in zip(
                (top, left), corner, image.shape, (height, width), strict=False))
        else:
            top, left = top - corner[0], left - corner[1]
        return image[top:top + height, left:left + width]

    def _warp(self, image: np.ndarray, matrix: np.ndarray, corner: tuple[int, int], into: np.ndarray,
              method: int) -> None:
        """Fill `into` with the part of the canvas whose upper left corner is (x, y)."""
        if corner != (0, 0):
            matrix = matrix.copy()
            matrix[:, 2] -= corner
        method = cv2.INTER_LINEAR if method == _ANTIALIAS else _interpolation(method, image.shape[:2], into.shape[:2])
        method = cv2.INTER_LINEAR if method == cv2.INTER_AREA else method  # as OpenCV does itself
        cv2.warpAffine(image, matrix, into.shape[1::-1], dst=into, flags=method, borderMode=cv2.BORDER_CONSTANT,
                       borderValue=self.fill)


def resize(image: np.ndarray, size: Size, method: int, *, into: np.ndarray | None = None) -> np.ndarray:
    """uint8 (h, w) or (h, w, c) resized to `size`; `into` is filled where it is given and has the right size."""
    _check_size(size)
    if method == _ANTIALIAS:
        return _antialiased(image, size, None, into)
    return cv2.resize(image, size[::-1], dst=into, interpolation=_interpolation(method, image.shape[:2], size))


def recolor(image: np.ndarray, color: Color) -> None:
    """Change the colour of uint8 (H, W, C) RGB in place, as MXNet does, step by step with the rounding of bytes.

    Its grey takes red for blue and blue for red; so does this.
    """
    for step in color.order:
        factor = color.factors[step]
        if factor == 1:
            continue
        if step == 0:
            cv2.addWeighted(image, factor, image, 0, 0, dst=image)
        elif image.shape[2] != 3:
            grey = image if step == 1 else None
            if grey is not None:
                cv2.addWeighted(image, factor, image, 0, (1 - factor) * float(grey.mean()), dst=image)
        else:
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            if step == 1:
                cv2.addWeighted(image, factor, image, 0, (1 - factor) * cv2.mean(grey)[0], dst=image)
            else:
                cv2.addWeighted(image, factor, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), 1 - factor, 0, dst=image)
    if any(color.hls):
        hls = cv2.cvtColor(image, cv2.COLOR_RGB2HLS)
        cv2.add(hls, np.array([*color.hls, 0.0]), dst=hls)
        np.minimum(hls[:, :, 0], 180, out=hls[:, :, 0])  # hue ends there, it does not wrap
        cv2.cvtColor(hls, cv2.COLOR_HLS2RGB, dst=image)
    if any(color.light):
        # Adding a number and cutting the fraction off is adding its floor, as all below 0 ends at 0.
        cv2.add(image, np.floor([*color.light, 0.0]), dst=image)


def _resized_by(image: np.ndarray, full: Size, reduced: int, target: Size, method: int,
                needed: Size | None) -> np.ndarray:
    """Resize as if `image` were the whole image, of which the lower rows may be missing and which may be `reduced`.
    What is right of and below the upper left part `needed` may be left out."""
    _check_size(target)
    height, width = image.shape[:2]
    whole = height * reduced >= full[0]
    rows, columns = needed or target
    # Cubic and the others round a pixel by where it stands in the row: they are given whole rows.
    if method not in (_NEAREST, cv2.INTER_LINEAR, _ANTIALIAS):
        columns = target[1]
    if whole and columns == target[1]:
        return resize(image, target, method)
    # OpenCV would put the pixels elsewhere if it were given the part's size: it is given the factors.
    across, down = target[1] / width, target[0] / height if whole else target[0] * reduced / full[0]
    if method == _ANTIALIAS:
        return _antialiased(image, (rows, columns), (down, across), None)
    method = _interpolation(method, image.shape[:2] if whole else full, target)
    if columns < target[1]:
        image = image[:, :int((columns + 2) / across) + 8]
    return cv2.resize(image, None, fx=across, fy=down, interpolation=method)


def _interpolation(method: int, before: Size, after: Size) -> int:
    """OpenCV's number; auto is cubic where both sides grow, area where both shrink, otherwise bilinear."""
    if method != _AUTO:
        return method
    if after[0] > before[0] and after[1] > before[1]:
        return cv2.INTER_CUBIC
    return cv2.INTER_AREA if after[0] < before[0] and after[1] < before[1] else cv2.INTER_LINEAR


def _antialiased(image: np.ndarray, size: Size, factors: tuple[float, float] | None,
                 into: np.ndarray | None) -> np.ndarray:
    """Bilinear over all pixels that fall into one, as Pillow and torchvision do, in torch's byte arithmetic."""
    import torch

    if image.ndim == 2:
        image = image[:, :, None]
    if into is None:
        into = np.empty((*size, image.shape[2]), np.uint8)
    source = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    target = torch.from_numpy(into).permute(2, 0, 1)[None]
    torch.ops.aten._upsample_bilinear2d_aa.out(source, size, False, *(factors or (None, None)), out=target)
    return into


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Pixels (h, w) or (h, w, c) as uint8 with `channels`: grey is repeated, colour becomes its luma."""
    found = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8:
        raise BadImageError(f"has pixels of {image.dtype}: only border, crop and mirror are for these")
    image = np.ascontiguousarray(image)
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if (found, channels) == (3, 1):
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise BadImageError(f"has {found} channels, `image_shape` asks for {channels}")


def _check_size(size: Size) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError(f"would become {size[1]} x {size[0]} pixels when resized")


def _check_end(data: Bytes, end: bytes, reason: str) -> None:
    """An image without its end is cut: the decoder would fill it up with grey and say nothing."""
    if end not in bytes(data[-16:]) and end not in bytes(data):
        raise BadImageError(f"is {reason}")


def _upper_rows(data: Bytes, info: ImageInfo, rows: int) -> bytearray:
    """The JPEG with only its `rows` upper rows, a multiple of the blocks. Without an end, the decoder stops where the
    bytes do and finds nothing to warn of."""
    part = bytearray(data)
    part[info.rows_at:info.rows_at + 2] = rows.to_bytes(2, "big")
    end = part.rfind(_JPEG_END)
    del part[end if end > info.rows_at else len(part):]
    return part


def _inspect_jpeg(data: Bytes) -> ImageInfo:
    """Walk the segments up to the first scan. Whatever is not as usual is left to the decoder (ImageInfo without a size)."""
    at, size = 2, len(data)
    height = width = components = rows_at = block = 0
    turned = restarts = False
    while at + 10 < size and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            components = data[at + 9]
            if marker <= 0xC1 and at + 10 + 3 * components < size:  # the sequential ones
                rows_at, block = at + 5, 8 * max(data[at + 11 + 3 * i] & 15 for i in range(components))
        elif marker == 0xDD:
            restarts = bool(data[at + 4] or data[at + 5])
        elif marker == 0xE1 and bytes(data[at + 4:at + 10]) == b"Exif\0\0":
            orientation = _orientation(bytes(data[at + 10:at + 2 + length]))
            turned = orientation != 1
            if orientation >= 5:
                return ImageInfo()  # lying on its side: rare, and not worth two sizes
        elif marker == 0xDA:
            if not height or not width or not components:
                return ImageInfo()
            plain = data[at + 4] == components and block > 0 and not turned
            return ImageInfo(height, width, rows_at if plain and not restarts else 0, block, True, plain and restarts)
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2:
            return ImageInfo()
        at += 2 + length
    return ImageInfo()


def _orientation(tiff: bytes) -> int:
    """1 to 8 from the EXIF block, 1 where it says nothing."""
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], order)
    for entry in range(min(int.from_bytes(tiff[first:first + 2], order), 100)):
        at = first + 2 + 12 * entry
        if int.from_bytes(tiff[at:at + 2], order) == 0x112:
            value = int.from_bytes(tiff[at + 8:at + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _first_line(error: Exception) -> str:
    """An OpenCV error without its paths and lines of source."""
    text = getattr(error, "err", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200]
