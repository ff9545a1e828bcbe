"""The encoded bytes of some samples -> their pixels, in rows of a batch.

Called by the prefetcher, from many threads at a time: a preparer stores only what the headers of the samples
say, and decoded pixels where it has a cache for them (`keep`). What it writes into a batch is a pure function
of (seed, epoch, index).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from imgcls.data import image_header
from imgcls.data.crops import CropSampler, CropSpec, Size
from imgcls.data.decode import Decoder
from imgcls.data.decoded.crops import CropCache
from imgcls.data.decoded.images import NUM_INFOS, ImageCache, Place
from imgcls.data.gpu_jpeg import GpuJpegDecoder
from imgcls.data.image_header import BadImageError, Bytes, ImageInfo
from imgcls.data.loaders.host_batch import HostBatch
from imgcls.data.sources import Source
from imgcls.errors import DataError
from imgcls.formats import npy_image

Data = bytes | memoryview | np.ndarray

#: stands for the header of a sample that has none
_DAMAGED = ImageInfo(-1)
_NOT_KEPT = Place(0, 0, 0, 0)
#: about how many times as large as its file the pixels of an image are, where its header gives no size
_TYPICAL_RATIO = 8
#: what the headers say is stored for sets of up to so many samples
_MAX_NOTED = 4_000_000


class SamplePreparer:
    """Reads, crops and decodes samples of a source."""

    def __init__(self, source: Source, crops: CropSampler, decoder: Decoder) -> None:
        self._source = source
        self._crops = crops
        self._decoder = decoder
        # What the header of every sample says, where it was read: 0 in the last column where it was not.
        # 28 bytes a sample, which save a walk through its header in every epoch. Nothing is stored for the
        # largest sets: one of many workers hardly ever gets a sample twice.
        self._infos = np.zeros((len(source), NUM_INFOS), np.int32) if len(source) <= _MAX_NOTED else None
        self._images: ImageCache | None = None
        self._finished: CropCache | None = None
        self._gpu: GpuJpegDecoder | None = None

    def decode_on_gpu(self, decoder: GpuJpegDecoder) -> None:
        """Have plain JPEGs decoded by `decoder` from now on."""
        self._gpu = decoder

    def keep(self, cache: ImageCache | CropCache) -> None:
        """Keep what is decoded from now on in `cache`: images for training, or the crops of validation."""
        if isinstance(cache, CropCache):
            self._finished = cache
        else:
            self._images = cache
            self._infos = cache.infos

    @property
    def is_keeping(self) -> bool:
        """Whether what is decoded is kept."""
        return self._images is not None or self._finished is not None

    def typical_bytes(self, num_probed: int = 64) -> int:
        """Return about how many bytes an image of the source takes in a decoded cache; reads `num_probed`.

        Those that are stored decoded count as 0, since they are not kept.
        """
        probed = np.unique(np.linspace(0, len(self._source) - 1, num_probed).astype(np.int64)).tolist()
        sizes = []
        for index in probed:
            with contextlib.suppress(BadImageError, DataError):
                data = self._source.read(index)
                info = self.info(index, data)
                if isinstance(data, np.ndarray) or npy_image.is_npy(data):
                    sizes.append(0)  # pixels already
                elif not info.height:
                    sizes.append(_TYPICAL_RATIO * len(data))
                else:
                    spec = self._crops.specs(0, np.array([index]), np.array([info[:2]], np.int64))[0]
                    sizes.append(self._decoder.kept_bytes(info, spec))
        return sum(sizes) // max(len(sizes), 1)

    def prepare(self, batch: HostBatch, first: int, end: int, epoch: int) -> None:
        """Fill rows first .. end-1 of the batch. A damaged sample is noted, and its row made black."""
        rows = np.arange(first, end)
        if self._finished:
            # in validation nearly always all of them
            rows = rows[~self._finished.fill(batch.indices[first:end], batch.pixels[first:end].numpy(),
                                             batch.enlarged[first:end])]
            if not len(rows):
                return
        indices, drawn = batch.indices[rows], batch.drawn[rows]
        row_numbers = rows.tolist()
        # read, draw for all, then decode: the draws need the sizes, and decoding needs the draws
        samples = [self._look(batch, row, index, values) for row, index, values in zip(
            row_numbers, indices.tolist(), self._noted(indices), strict=True)]
        # The crops of all images whose size is known are drawn in one call: most of its cost is per call.
        sizes = np.array([info[:2] for _, info in samples], np.int64)
        has_size = np.flatnonzero(sizes[:, 0] > 0)
        new_specs = iter(self._crops.specs(epoch, drawn[has_size], sizes[has_size]) if len(has_size) else ())
        specs = [next(new_specs) if info.height > 0 else None for _, info in samples]
        if (erased := self._crops.erased(epoch, drawn)) is not None:
            batch.erased[rows] = erased
        places = [_NOT_KEPT] * len(samples)
        if self._images:
            scales = [self._decoder.scale(info, spec) for (_, info), spec in zip(samples, specs, strict=True)]
            places = self._images.find(indices, scales)
        filled = [False] * len(samples)
        if self._gpu:
            filled = self._fill_on_gpu(batch, row_numbers, samples, specs)
        pixels = batch.pixels.numpy()
        for i, (row, (data, info)) in enumerate(zip(row_numbers, samples, strict=True)):
            if info is not _DAMAGED and not filled[i]:
                self._fill(batch, row, pixels[row], data, info, specs[i], places[i], epoch)

    def info(self, index: int, data: Data) -> ImageInfo:
        """Return what the header of sample `index`, `data`, says; it is read once. Raises BadImageError."""
        row = None if self._infos is None else self._infos[index]
        if row is not None and row[6]:
            return _to_info(row.tolist())
        info = ImageInfo(*data.shape[:2]) if isinstance(data, np.ndarray) else image_header.inspect(data)
        if row is not None:
            row[:6] = info
            row[6] = 1  # last: another thread may be reading the row
        return info

    def _noted(self, indices: np.ndarray) -> list[list[int]]:
        """Return what is stored of the headers of samples, 7 numbers each; the last is 0 where nothing is."""
        return [[0] * NUM_INFOS] * len(indices) if self._infos is None else self._infos[indices].tolist()

    def _look(self, batch: HostBatch, row: int, index: int,
              values: list[int]) -> tuple[Data | None, ImageInfo]:
        """Return what the header of a sample says, and the sample if it had to be read for that."""
        if values[6]:
            return None, _to_info(values)
        try:
            # A lost server is a RunError, which is not caught here: the sample is not damaged.
            data = self._source.read(index)
            return data, self.info(index, data)
        except (BadImageError, DataError) as error:
            self._note(batch, row, index, error)
            return None, _DAMAGED

    def _fill_on_gpu(self, batch: HostBatch, rows: list[int],
                     samples: list[tuple[Data | None, ImageInfo]],
                     specs: list[CropSpec | None]) -> list[bool]:
        """Fill the rows of plain JPEGs, and return which they are; the others are left to the CPU."""
        assert self._gpu
        data: list[Bytes | None] = []
        for row, (encoded, info) in zip(rows, samples, strict=True):
            if encoded is None and info is not _DAMAGED:
                with contextlib.suppress(DataError):  # raised again on the CPU, and reported there
                    encoded = self._source.read(int(batch.indices[row]))
            data.append(None if isinstance(encoded, np.ndarray) else encoded)
        pixels = [batch.pixels[row].numpy() for row in rows]
        filled = self._gpu.fill(pixels, data, [info for _, info in samples], specs)
        for i, spec in enumerate(specs):
            if filled[i] and spec is not None:
                self._decoder.finish(pixels[i], spec)
                batch.mirrored[rows[i]] = spec.mirror
        return filled

    def _fill(self, batch: HostBatch, row: int, pixels: np.ndarray, data: Data | None, info: ImageInfo,
              spec: CropSpec | None, place: Place, epoch: int) -> None:
        """Fill `pixels`, row `row` of the batch, from what is kept of the sample or from the sample."""
        index, drawn = int(batch.indices[row]), batch.drawn[row:row + 1]

        # For an image whose header gave no size, or a wrong one. The same crop as drawn for the whole job.
        def draw_spec(size: Size) -> CropSpec:
            return self._crops.specs(epoch, drawn, np.array([size], np.int64))[0]

        try:
            image = self._kept_pixels(index, place, info, spec)
            if image is not None:
                spec = self._decoder.cut_kept(pixels, image, place.scale, info, spec, draw_spec)
            else:
                data = self._source.read(index) if data is None else data
                spec = self._decode(pixels, index, data, info, spec, place.scale, draw_spec)
        except (BadImageError, DataError) as error:
            self._note(batch, row, index, error)
            return
        batch.mirrored[row] = spec.mirror
        batch.enlarged[row] = spec.enlarge is not None
        if self._finished:
            self._finished.put(index, pixels, is_enlarged=spec.enlarge is not None)

    def _kept_pixels(self, index: int, place: Place, info: ImageInfo,
                     spec: CropSpec | None) -> np.ndarray | None:
        """Return what is kept of a sample; None where nothing is."""
        if not place.offset or not self._images:
            return None
        # a cache on a disk is not trusted: pixels of another size would be another image
        if self._images.is_on_disk and info.height and place[1:3] != self._decoder.kept_size(info, spec):
            return None
        return self._images.pixels(index, place)

    def _decode(self, pixels: np.ndarray, index: int, data: Data, info: ImageInfo, spec: CropSpec | None,
                scale: int, draw_spec: Callable[[Size], CropSpec]) -> CropSpec:
        """Fill `pixels` from the sample, and keep its decoded image where there is room for it."""
        if self._images and not isinstance(data, np.ndarray) and self._images.has_room(
                self._decoder.kept_bytes(info, spec)):
            image = self._decoder.to_keep(data, info, spec)
            if image is not None:
                self._images.put(index, scale, image)
                return self._decoder.cut_kept(pixels, image, scale, info, spec, draw_spec)
        # no more of it than the crop needs
        return self._decoder(pixels, data, info, spec, draw_spec)

    def _note(self, batch: HostBatch, row: int, index: int, error: BadImageError | DataError) -> None:
        """Mark a row as damaged; the loader counts the problems when it takes the batch."""
        problem = error if isinstance(error, DataError) else self._source.problem(index, str(error))
        # Rows of different threads: each writes its own elements, and a list append is atomic.
        batch.good[row] = False
        batch.pixels[row] = 0
        # an extra row, only there to be mixed with, is counted by the process that it belongs to
        if row < max(batch.num_valid, 1):
            batch.problems.append((index, problem))


def _to_info(values: list[int]) -> ImageInfo:
    """Return a row of the table of headers as the `ImageInfo` that it was written from."""
    height, width, height_offset, block_height, is_jpeg, has_restarts, _ = values
    return ImageInfo(height, width, height_offset, block_height, bool(is_jpeg), bool(has_restarts))
