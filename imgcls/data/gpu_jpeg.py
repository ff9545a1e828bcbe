"""JPEGs decoded on the GPU, by NVIDIA's nvJPEG: `jpeg_decoder` gpu.

Used by the `SamplePreparer` in place of its `Decoder`, for all samples of a job at once, since nvJPEG is fast
with many images only. What comes back is the crop, so a photograph's pixels never cross the bus. Everything
that is not a plain upright JPEG to be cut and resized (a border, a warp, a PNG, EXIF that turns the image, a
damaged file) is left to the CPU. The pixels are not those of the CPU to the bit: so a setting decides where
JPEGs are decoded, never whether a GPU happens to be there.

nvJPEG is torchvision's (torchvision.io.decode_jpeg, https://developer.nvidia.com/nvjpeg). It decodes whole
images at full size, which costs a GPU little and a CPU much.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgcls.config.sections import AugmentConfig
from imgcls.data.crops import METHODS, CropSpec
from imgcls.data.image_header import MAX_PIXELS, Bytes, ImageInfo
from imgcls.errors import UsageError

#: those that torch computes alike: bilinear as OpenCV does, and antialiased as Pillow does
INTERPOLATIONS = ("bilinear", "antialias")


def check_gpu_jpeg(config: AugmentConfig, num_channels: int, device: torch.device) -> None:
    """Raise UsageError where images cannot be decoded on `device`, or not resized there as `config` says."""
    if device.type != "cuda":
        raise UsageError("`jpeg_decoder` gpu: needs a GPU (`gpus` 0)")
    if config.interpolation not in INTERPOLATIONS:
        raise UsageError(f"`jpeg_decoder` gpu: resizes by {' or '.join(INTERPOLATIONS)}, not `interpolation` "
                         f"{config.interpolation}")
    if config.pad_size or num_channels not in (1, 3):
        raise UsageError("`jpeg_decoder` gpu: for images of 1 or 3 channels without a border (`pad_size` 0)")


class GpuJpegDecoder:
    """Decodes, cuts and resizes plain JPEGs on `device` for one shape (C, H, W); threads may share it."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        """UsageError where torchvision has no decoder."""
        self._shape = tuple(shape)
        self._device = device
        self._torchvision = _require_torchvision()
        self._local = threading.local()

    def fill(self, rows: Sequence[np.ndarray], data: Sequence[Bytes | None], infos: Sequence[ImageInfo],
             specs: Sequence[CropSpec | None]) -> list[bool]:
        """Fill those of `rows`, uint8 (H, W, C) each, that can be decoded here; return which they are.

        Colour and policies of the specs are left to the caller.
        """
        chosen = [i for i, (encoded, info, spec) in enumerate(zip(data, infos, specs, strict=True))
                  if encoded is not None and spec is not None and is_plain(info, spec)]
        filled = [False] * len(rows)
        if not chosen:
            return filled
        with self._stream():
            self._fill(chosen, rows, data, infos, specs, filled)
        return filled

    def _fill(self, chosen: Sequence[int], rows: Sequence[np.ndarray], data: Sequence[Bytes | None],
              infos: Sequence[ImageInfo], specs: Sequence[CropSpec | None], filled: list[bool]) -> None:
        images = self._decode([data[i] for i in chosen])
        crops = []
        for i, image in zip(chosen, images, strict=False):
            info, spec = infos[i], specs[i]
            # else the header gave a wrong size: the CPU draws another crop then
            if spec is not None and image.shape[1:] == (info.height, info.width):
                crops.append((i, self._cut(image, spec)))
        if crops:
            # one copy for all, and one wait
            pixels = torch.stack([crop for _, crop in crops]).permute(0, 2, 3, 1).cpu().numpy()
            for (i, _), row in zip(crops, pixels, strict=True):
                rows[i][:] = row
                filled[i] = True

    def _stream(self) -> AbstractContextManager[object]:
        """Return a stream of this thread's own: on the common one a copy would wait for a training step."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)
        return torch.cuda.stream(self._local.stream)

    def _decode(self, encoded: Sequence[Any]) -> list[Tensor]:
        """Return the images uint8 (C, h, w) on the device; an empty list where one of them is damaged."""
        # nvJPEG reads from memory that torch owns; a view of a mapped record would be read-only
        tensors = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data in encoded]
        mode = "RGB" if self._shape[0] == 3 else "GRAY"
        try:
            with warnings.catch_warnings():
                # torchvision announces that its decoders move to another package
                warnings.simplefilter("ignore")
                images: list[Tensor] = self._torchvision.decode_jpeg(tensors, mode=mode, device=self._device)
            return images
        except RuntimeError:
            # It does not say which one: the CPU decodes each by itself, and names what is damaged.
            return []

    def _cut(self, image: Tensor, spec: CropSpec) -> Tensor:
        """Return the crop of an image, uint8 (C, H, W)."""
        if spec.resize:
            image = _resized(image, spec.resize, spec.method)
        window = image[:, spec.top:spec.top + spec.height, spec.left:spec.left + spec.width]
        size = (self._shape[1], self._shape[2])
        if window.shape[1:] != size:
            window = _resized(window, size, spec.method)
        return window.flip(2) if spec.mirror else window


def is_plain(info: ImageInfo, spec: CropSpec) -> bool:
    """Return whether an image may be decoded on the GPU: a sequential JPEG that nothing turns or enlarges."""
    # A height offset stands for just such a JPEG: EXIF that turns the image, which nvJPEG ignores, has none.
    # One that would be resized to more pixels than are decoded is refused by the CPU, which names it.
    is_small = spec.resize is None or spec.resize[0] * spec.resize[1] <= MAX_PIXELS
    return (info.is_jpeg and info.height_offset > 0 and spec.warp is None and spec.enlarge is None
            and is_small)


def _resized(image: Tensor, size: tuple[int, int], method: int) -> Tensor:
    """Return uint8 (C, h, w) resized, rounded as bytes are."""
    resized = torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear", align_corners=False,
                                              antialias=method == METHODS["antialias"])[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _require_torchvision() -> Any:
    try:
        from torchvision import io
    except ImportError as error:
        raise UsageError("`jpeg_decoder` gpu: needs torchvision: pip install 'imgcls[zoo]'") from error
    if not hasattr(io, "decode_jpeg"):
        raise UsageError("`jpeg_decoder` gpu: this torchvision no longer has nvJPEG")
    return io
