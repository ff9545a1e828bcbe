"""The preparation of images as a part of the network: pixels in, normalised floats out.

The pixels are OpenCV's to the bit; where images are resized with antialiasing, a few differ by one level from
torch's. Only the pixels of the crop are computed, whatever the size of the image: the shapes after the first
step are fixed, which every exporter can express.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imgcls.config.flags import show
from imgcls.config.sections import AugmentConfig
from imgcls.data.normalize import per_channel, read_mean_image
from imgcls.errors import UsageError, verbatim

# OpenCV's 8-bit bilinear (resize.cpp): weights of 11 bits, sums of 22 with 4 and then 16 cut off, two rounded
_ONE = 2048.0
_FIRST_CUT = 16.0
_SECOND_CUT = 65536.0
# its luma: 15 bits each for red, green and blue
_LUMA = (9798.0, 19235.0, 3735.0)
_LUMA_ONE = 32768.0
# the weights of torch's antialiased resize of bytes
_WEIGHT_LIMIT = 32767.5
_MOST_BITS = 22.0


class _Size(NamedTuple):
    """Height and width as int64 scalar tensors: their values are known only when the network runs."""

    height: Tensor
    width: Tensor


class Preprocessing(nn.Module):
    """uint8 (N, H, W, C) of any size, RGB, -> float (N, c, h, w) as validation gives it to the network.

    C is 3 for a network of grey images, too; otherwise it is the network's number of channels.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, image_shape: Sequence[int], augment: AugmentConfig) -> None:
        """Raise UsageError for what cannot be part of a network; the message says what to do instead."""
        super().__init__()
        _check(image_shape, augment)
        num_channels, height, width = image_shape
        self.is_grey = num_channels == 1
        self.num_channels_in = 3 if self.is_grey else num_channels
        self.crop = (height, width)
        self.resize = augment.val_resize or 0
        self.is_antialiased = augment.interpolation == "antialias"
        # an image whose short edge is at least the crop's longer side holds the crop, and is not enlarged
        self.enlarges = self.resize < max(height, width)
        std = per_channel(augment.rgb_std, num_channels, "`rgb_std`")
        if augment.mean_image:
            mean = torch.from_numpy(read_mean_image(augment.mean_image, image_shape))
        else:
            mean = torch.tensor(per_channel(augment.rgb_mean, num_channels, "`rgb_mean`"))[:, None, None]
        self.register_buffer("mean", mean.clone())
        # A factor: the loader's normalisation multiplies, and a division rounds the last bit differently.
        self.register_buffer("scale", torch.tensor([1 / s for s in std])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        # As tensors: a Python number would be recorded as a constant, and every image treated as one of the
        # example's size.
        before = _Size(torch.full((), images.shape[1], dtype=torch.int64),
                       torch.full((), images.shape[2], dtype=torch.int64))
        sizes = [before]
        if self.resize:
            sizes.append(self._short_edge(before))
        if self.enlarges:
            sizes.append(self._enlarged(sizes[-1]))
        height, width = self.crop
        free_rows, free_columns = sizes[-1].height - height, sizes[-1].width - width
        rows = _half(free_rows) + torch.arange(height)
        columns = _half(free_columns) + torch.arange(width)
        pixels = self._pixels(images, rows, columns, sizes)
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) * self.scale

    def _short_edge(self, size: _Size) -> _Size:
        """Return the size with the short edge `resize`: `data.crops.short_edge_sizes` as operators."""
        is_tall = size.height > size.width
        edge = torch.full_like(size.height, self.resize)
        return _Size(torch.where(is_tall, _divide(self.resize * size.height, size.width), edge),
                     torch.where(is_tall, edge, _divide(self.resize * size.width, size.height)))

    def _enlarged(self, size: _Size) -> _Size:
        """Return the size, enlarged to hold the crop: `data.crops._enlarged_to_hold`, in float32 as there."""
        height, width = size
        for_height = (self.crop[0] / height.float() * width.float()).long()
        is_low = height < self.crop[0]
        width = torch.where(is_low, for_height, width)
        height = torch.clamp(height, min=self.crop[0])
        for_width = (self.crop[1] / width.float() * height.float()).long()
        is_narrow = width < self.crop[1]
        return _Size(torch.where(is_narrow, for_width, height), torch.clamp(width, min=self.crop[1]))

    def _pixels(self, images: Tensor, rows: Tensor, columns: Tensor, sizes: list[_Size]) -> Tensor:
        """Return the pixels (N, rows, columns, c) at these rows and columns of the images at `sizes[-1]`.

        `sizes` begins with the size of the images; from each to the next they are resized and rounded to
        bytes. The result is float64, all whole numbers.
        """
        if len(sizes) == 1:
            pixels = images.index_select(1, rows).index_select(2, columns).double()
            return _luma(pixels) if self.is_grey else pixels
        before, after = sizes[-2:]
        if self.is_antialiased:
            return self._antialiased(images, rows, columns, before, after)
        upper, lower, down = _neighbours(rows, before.height, after.height)
        left, right, across = _neighbours(columns, before.width, after.width)
        # OpenCV keeps both weights at the upper and lower edge, and one at the left and right
        across = torch.where((left == right), torch.zeros_like(across), across)
        pixels = self._pixels(images, torch.cat([upper, lower]), torch.cat([left, right]), sizes[:-1])
        num_rows, num_columns = len(rows), len(columns)
        west, east = _weights(across)
        sums = (pixels[:, :, :num_columns] * west[:, None] + pixels[:, :, num_columns:] * east[:, None])
        sums = torch.floor(sums / _FIRST_CUT)  # a shift by 4 bits
        north, south = _weights(down)
        # OpenCV truncates each product before it adds the two: added first, some pixels would be a level
        # higher.
        parts = (torch.floor(sums[:, :num_rows] * north[:, None, None] / _SECOND_CUT)
                 + torch.floor(sums[:, num_rows:] * south[:, None, None] / _SECOND_CUT))
        return torch.floor((parts + 2) / 4).clamp(0, 255)

    def _antialiased(self, images: Tensor, rows: Tensor, columns: Tensor, before: _Size,
                     after: _Size) -> Tensor:
        """Return the pixels of a resize that averages all old pixels below a new one, as torch's on bytes."""
        pixels = images.double()
        if self.is_grey:
            pixels = _luma(pixels)
        # Across and then down, rounded to bytes in between as there. As a matrix product over all pixels: how
        # many are averaged depends on the image, which no exporter can express.
        weights, one = _areas(columns, before.width, after.width, images.shape[2])
        pixels = _rounded(torch.matmul(weights, pixels), one)
        num_images, height, num_columns, num_channels = pixels.shape
        weights, one = _areas(rows, before.height, after.height, images.shape[1])
        flat = pixels.reshape(num_images, height, num_columns * num_channels)
        pixels = _rounded(torch.matmul(weights, flat), one)
        return pixels.reshape(num_images, len(rows), num_columns, num_channels)


def _check(image_shape: Sequence[int], augment: AugmentConfig) -> None:
    instead = "or `preprocessing` 0 leaves it to the program that runs the network"
    if len(image_shape) != 3:
        raise UsageError(f"`image_shape` {show(image_shape)}: no images, and what is done to "
                         "them cannot be made part of the network: `preprocessing` 0 exports the bare one")
    if augment.val_resize is None:
        raise UsageError("the checkpoint does not say whether images are resized first: `val_resize` N sets "
                         f"it, 0 for none, {instead}")
    if augment.interpolation not in ("bilinear", "antialias"):
        raise UsageError(f"`interpolation` {verbatim(augment.interpolation)}: only bilinear and antialias "
                         f"can be part of the network: give one of them (the pixels change), {instead}")
    if augment.interpolation == "antialias" and 0 < augment.val_resize < max(image_shape[1:]):
        raise UsageError(f"`val_resize` {augment.val_resize} is smaller than the crop, so images are resized "
                         "twice: with `interpolation` antialias that cannot be made part of the network; "
                         f"give bilinear, {instead}")


def _half(number: Tensor) -> Tensor:
    return _divide(number, torch.full_like(number, 2))


def _divide(number: Tensor, divisor: Tensor) -> Tensor:
    """Return number // divisor of whole numbers from 0 up, by way of float64, which is exact up to 2^53."""
    # an integer division is rounded differently by the runtimes, and some have none
    return torch.floor(number.double() / divisor.double()).long()


def _neighbours(places: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for positions (n,) after a resize the two positions before it, and the second one's weight."""
    exact = _centres(places, before, after).float()
    low = torch.floor(exact)
    weight = exact - low
    first = low.long()
    last = before - 1
    return _within(first, last), _within(first + 1, last), weight


def _centres(places: Tensor, before: Tensor, after: Tensor) -> Tensor:
    # in float64: OpenCV computes the factor in it, and whole numbers must stay whole
    return (places.double() + 0.5) * (before.double() / after.double()) - 0.5


def _within(places: Tensor, last: Tensor) -> Tensor:
    return torch.minimum(torch.clamp(places, min=0), last)


def _weights(second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of both neighbours as whole numbers of 11 bits, float64."""
    return torch.round((1 - second) * _ONE).double(), torch.round(second * _ONE).double()


def _areas(places: Tensor, before: Tensor, after: Tensor, num_before: int) -> tuple[Tensor, Tensor]:
    """Return the weights (n, num_before) of the pixels before a resize in each pixel of `places` after it.

    They are whole numbers; the second result is the number that stands for a weight of 1.
    """
    factor = before.double() / after.double()
    # where images are enlarged, the two neighbours are mixed as without antialiasing
    reach = torch.clamp(factor, min=1.0)
    distance = torch.arange(num_before).double() - _centres(places, before, after)[:, None]
    weights = torch.clamp(1 - (distance / reach).abs(), min=0)
    weights = weights / weights.sum(1, keepdim=True)
    # as many bits as the largest weight leaves in 16 (UpSampleKernel.cpp)
    bits = torch.clamp(torch.ceil(torch.log2(_WEIGHT_LIMIT / weights.max())) - 2, max=_MOST_BITS)
    one = torch.pow(2.0, bits)
    return torch.floor(weights * one + 0.5), one


def _rounded(sums: Tensor, one: Tensor) -> Tensor:
    return torch.floor((sums + one / 2) / one).clamp(0, 255)


def _luma(pixels: Tensor) -> Tensor:
    """Return grey float64 (N, H, W, 1) of RGB (N, H, W, 3), whole numbers, as OpenCV computes it."""
    red, green, blue = _LUMA
    total = pixels[..., 0:1] * red + pixels[..., 1:2] * green + pixels[..., 2:3] * blue
    return torch.floor((total + _LUMA_ONE / 2) / _LUMA_ONE)
