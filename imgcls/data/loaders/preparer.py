"""The encoded bytes of some samples -> their pixels, in rows of a batch.

Called by the prefetcher, from many threads at a time: a preparer keeps nothing but what the headers of the
samples say. What it writes is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

import numpy as np

from imgcls.data import image_header
from imgcls.data.crops import CropSampler, CropSpec, Size
from imgcls.data.decode import Decoder
from imgcls.data.image_header import BadImageError, ImageInfo
from imgcls.data.loaders.host_batch import HostBatch
from imgcls.data.sources import Source
from imgcls.errors import DataError

Data = bytes | memoryview | np.ndarray


class SamplePreparer:
    """Reads, crops and decodes samples of a source."""

    def __init__(self, source: Source, crops: CropSampler, decoder: Decoder) -> None:
        self._source = source
        self._crops = crops
        self._decoder = decoder
        # What the headers say of every sample, as far as they were looked at: 0 in the last column where not.
        # 28 bytes a sample, against a walk through its header in every epoch.
        self._infos = np.zeros((len(source), 7), np.int32)

    def prepare(self, batch: HostBatch, first: int, end: int, epoch: int) -> None:
        """Fill rows first .. end-1 of the batch. A damaged sample is noted, and its row made black."""
        # read all, draw for all, then decode: the draws need the sizes, and decoding needs the draws
        indices, drawn = batch.indices[first:end], batch.drawn[first:end]
        samples = [self._read(batch, row, index) for row, index in enumerate(indices.tolist(), first)]
        # The crops of all images whose size is known are drawn in one go: a call costs more than its numbers.
        sizes = np.array([info[:2] for _, info in samples], np.int64)
        has_size = np.flatnonzero(sizes[:, 0] > 0)
        specs = iter(self._crops.specs(epoch, drawn[has_size], sizes[has_size]) if len(has_size) else ())
        if (erased := self._crops.erased(epoch, drawn)) is not None:
            batch.erased[first:end] = erased
        rows = batch.pixels[first:end].numpy()
        for i, (data, info) in enumerate(samples):
            spec = next(specs) if info.height else None
            if data is not None:
                self._decode(batch, first + i, rows[i], data, info, spec, epoch)

    def info(self, index: int, data: Data) -> ImageInfo:
        """Return what the header of sample `index`, `data`, says; looked at once. Raises BadImageError."""
        row = self._infos[index]
        if row[6]:
            height, width, height_offset, block_height, is_jpeg, has_restarts, _ = row.tolist()
            return ImageInfo(height, width, height_offset, block_height, bool(is_jpeg), bool(has_restarts))
        info = ImageInfo(*data.shape[:2]) if isinstance(data, np.ndarray) else image_header.inspect(data)
        row[:6] = info
        row[6] = 1  # last: another thread may be looking
        return info

    def _read(self, batch: HostBatch, row: int, index: int) -> tuple[Data | None, ImageInfo]:
        """Return a sample and what its header says; None for the sample where it is damaged."""
        try:
            # A lost server is a RunError, not caught here: it is no damage of the sample.
            data = self._source.read(index)
            return data, self.info(index, data)
        except (BadImageError, DataError) as error:
            self._note(batch, row, index, error)
            return None, ImageInfo()

    def _decode(self, batch: HostBatch, row: int, pixels: np.ndarray, data: Data, info: ImageInfo,
                spec: CropSpec | None, epoch: int) -> None:
        """Fill `pixels`, row `row` of the batch, from the sample and the spec that was drawn for it."""
        index, drawn = int(batch.indices[row]), batch.drawn[row:row + 1]

        # For an image whose header did not tell its size, or lied. The same crop as the whole job would draw.
        def draw_spec(size: Size) -> CropSpec:
            return self._crops.specs(epoch, drawn, np.array([size], np.int64))[0]

        try:
            spec = self._decoder(pixels, data, info, spec, draw_spec)
            batch.mirrored[row] = spec.mirror
            batch.enlarged[row] = spec.enlarge is not None
        except BadImageError as error:
            self._note(batch, row, index, error)

    def _note(self, batch: HostBatch, row: int, index: int, error: BadImageError | DataError) -> None:
        """Mark a row as damaged; the loader counts the problems when the batch is its turn."""
        problem = error if isinstance(error, DataError) else self._source.problem(index, str(error))
        # Rows of different threads: each writes its own elements, and a list append is atomic.
        batch.good[row] = False
        batch.pixels[row] = 0
        # a row more, to be mixed with: the process that it belongs to counts it
        if row < max(batch.num_valid, 1):
            batch.problems.append((index, problem))
