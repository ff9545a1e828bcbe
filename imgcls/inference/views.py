"""The views of an image that a network is given: validation's crop, and on request corners and mirror images.

The crop is `CropSampler`'s for validation, the same as in training, imgcls-score and imgcls-predict; the
other views move its window to the corners of the same resized image (AlexNet's ten views), and mirror it.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from imgcls.config.flags import show
from imgcls.config.sections import AugmentConfig
from imgcls.data import image_header, opencv
from imgcls.data.crops import CropSampler, CropSpec, Size, usual_val_resize
from imgcls.data.decode import Decoder
from imgcls.data.image_header import BadImageError, ImageInfo
from imgcls.errors import ImgclsError, UsageError
from imgcls.inference.images import Image
from imgcls.storage.thread_pool import DaemonPool

#: the values of `crops`: the centre, the corners too, and all of them mirrored
NUM_CROPS = (1, 5, 10)
#: images that threads prepare ahead of a full batch, for each thread
_AHEAD = 4
#: decoded views that may wait for the network
_MAX_WAITING_BYTES = 1 << 28

T = TypeVar("T")


@dataclass(frozen=True)
class Views:
    """The views of one image: uint8 (V, H, W, C) in RGB, and the short edge that its header states."""

    image: Image
    pixels: np.ndarray
    short_edge: int


class ViewMaker:
    """Decodes images to views; many threads may use it at once."""

    def __init__(self, config: AugmentConfig, image_shape: Sequence[int], *, crops: int = 1,
                 flip: bool = False) -> None:
        """`crops` is 1, 5 or 10; with `flip` each is shown mirrored as well, as with 10 it is anyway."""
        if len(image_shape) != 3 or image_shape[0] not in (1, 3, 4):
            raise UsageError(f"`image_shape` {show(image_shape)}: images are decoded to C,H,W, "
                             "C being 1, 3 or 4")
        if crops not in NUM_CROPS:
            raise UsageError(f"`crops` {crops}: must be one of {', '.join(map(str, NUM_CROPS))}")
        opencv.prepare()
        self._config = config
        self._shape = (image_shape[1], image_shape[2], image_shape[0])
        corners = 1 if crops == 1 else 5
        is_mirrored = flip or crops == 10
        #: of each view, which corner (0: the centre) and whether it is mirrored
        self._places = [(corner, mirror) for mirror in ((False, True) if is_mirrored else (False,))
                        for corner in range(corners)]
        #: bool (V,), for a mean image, which is mirrored with them
        self.mirrored = np.array([mirror for _, mirror in self._places])
        #: torch, and not OpenCV, resizes with antialiasing
        self.uses_torch = config.interpolation == "antialias"
        # as validation in training has it: see StreamingLoader
        self._decode = Decoder(tuple(image_shape), fill_value=config.fill_value, reduce_resized=True)

    @property
    def num_bytes(self) -> int:
        """Return how many bytes of memory the views of one image take."""
        return len(self._places) * int(np.prod(self._shape))

    def __call__(self, image: Image) -> Views:
        """Return the views of an image; DataError for one that cannot be read or decoded."""
        data = image.read()
        try:
            is_array = isinstance(data, np.ndarray)
            info = ImageInfo(*data.shape[:2]) if is_array else image_header.inspect(data)
            sampler = self._sampler(min(info.height, info.width))
            # zeros: a decoder writes every row, but an error may come first
            views = np.zeros((len(self._places), *self._shape), np.uint8)
            for row, place in zip(views, self._places, strict=True):
                # The decoder calls this where a header has no size, or another than the pixels.
                def draw(size: Size, place: tuple[int, bool] = place) -> CropSpec:
                    return _spec(sampler, size, place)

                spec = draw((info.height, info.width)) if info.height else None
                self._decode(row, data, info, spec, draw)
        except BadImageError as error:
            raise image.problem(str(error)) from error
        return Views(image, views, min(info.height, info.width))

    def _sampler(self, short_edge: int) -> CropSampler:
        """Return the sampler of validation's crops; a resize that is not recorded depends on the image."""
        height, width, channels = self._shape
        config = self._config
        if config.val_resize is None:
            config = dataclasses.replace(
                config, val_resize=usual_val_resize(config, (height, width), short_edge))
        return CropSampler(config, (height, width), channels, seed=0, train=False)


def _spec(sampler: CropSampler, size: Size, place: tuple[int, bool]) -> CropSpec:
    """Return what is done to an image of this size for a view of it."""
    (spec,) = sampler.specs(0, np.zeros(1, np.int64), np.array([size], np.int64))
    corner, mirror = place
    if corner:
        height, width = spec.enlarge or spec.resize or size  # of the image when it is cut
        lower, right = divmod(corner - 1, 2)  # 0 to 3: upper left, upper right, lower left, lower right
        spec = spec._replace(top=lower * (height - spec.height), left=right * (width - spec.width))
    return spec._replace(mirror=mirror)


def prepare(images: Iterable[Image | ImgclsError], make: ViewMaker,
            num_threads: int) -> Iterator[Views | ImgclsError]:
    """Yield the views of each image in order, made by threads ahead; errors where an image cannot be read.

    With `num_threads` 0 the caller's thread does everything. The memory of what is prepared ahead is bounded.
    """
    if not num_threads:
        yield from (_attempt(make, image) for image in images)
        return
    ahead = max(num_threads, min(_AHEAD * num_threads, _MAX_WAITING_BYTES // make.num_bytes))
    waiting: deque[Future[Views | ImgclsError]] = deque()
    with DaemonPool(num_threads, "imgcls-images") as pool:
        for image in images:
            waiting.append(pool.submit(_attempt_in_thread, make, image))
            # In order and bounded: a slow first image holds back the yields, never the memory.
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _attempt_in_thread(make: ViewMaker, image: Image | ImgclsError) -> Views | ImgclsError:
    if make.uses_torch:
        torch.set_num_threads(1)  # for this thread: torch starts no others beside ours
    return _attempt(make, image)


def _attempt(make: ViewMaker, image: Image | ImgclsError) -> Views | ImgclsError:
    if isinstance(image, ImgclsError):
        return image
    try:
        return make(image)
    except ImgclsError as error:  # damaged, deleted, a server that does not answer: one image's error
        return error


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one perhaps shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
