"""The records that `mx.io.ImageRecordIter` reads, as a Source of `imgcls.data` with labels of any width.

`_image_record_iter.py` gives it to the loader, which reads only encoded images from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imgcls.compat.mxnet.base import MXNetError
from imgcls.errors import DataError
from imgcls.formats import lists, recordio


class RecordSource:
    """The records of one part of the files (`num_parts`) and their labels, which need be no class numbers."""

    class_names: tuple[str, ...] = ()

    def __init__(self, args: dict[str, Any]) -> None:
        files = recordio.expand(args["path_imgrec"], "path_imgrec")
        index_file = args["path_imgidx"]
        if index_file and len(files) > 1:
            raise MXNetError(f"path_imgidx {index_file}: belongs to one record file, path_imgrec names "
                             f"{len(files)}")
        # All files are opened now: a missing one is an error before training begins.
        self._readers = [recordio.RecordReader(file, index=index_file or None) for file in files]
        # MXNet would abort at the damage during the epoch: here the first problem is raised before it begins.
        for reader in self._readers:
            for problem in [*reader.problems, *reader.header_problems().values()]:
                raise problem
        self.description = str(args["path_imgrec"])
        part = recordio.part_range(self._readers, args["num_parts"], args["part_index"],
                                   indexed=bool(index_file))
        if not len(part):
            raise MXNetError(f"part_index {args['part_index']} of num_parts {args['num_parts']}: "
                             f"{self.description} has no record for this part")
        # A sample is a record of the part; `_files` and `_rows` are its file and its index in that file.
        firsts = np.cumsum([0, *map(len, self._readers)])
        records = np.arange(part.start, part.stop)
        self._files = np.searchsorted(firsts, records, side="right") - 1
        # Vectorized: millions of records would take seconds in a loop.
        self._rows = records - firsts[self._files]
        headers = np.concatenate([reader.headers() for reader in self._readers])[part.start:part.stop]
        #: uint64 (N,): the ids in the records' headers
        self.ids = headers["id"]
        #: byte of the payload where the image begins, behind header and labels
        self._begins = 24 + 4 * headers["flag"].astype(np.int64)
        width = args["label_width"]
        #: float32 (N,) or, with `label_width` above 1, (N, label_width)
        self.all_labels = (self._list_labels(args["path_imglist"], width) if args["path_imglist"]
                           else self._record_labels(width)[part.start:part.stop])

    # The trainer's loaders take class numbers; here labels do not go through the loader, see `all_labels`.
    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), zeros: the loader needs an array, and only its pixels are used."""
        # Anything of the right length: the values are not used.
        return np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes | memoryview:
        """Return the encoded image of a sample."""
        reader = self._readers[self._files.item(index)]
        return reader.payload(self._rows.item(index))[self._begins.item(index):]

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names the sample's file and byte."""
        reader = self._readers[self._files.item(index)]
        row = self._rows.item(index)
        offset = reader.offsets.item(row)
        return DataError(reader.path, f"record {row} (id {self.ids[index]}) {reason}", offset)

    def _record_labels(self, width: int) -> np.ndarray:
        """Return float32 (N,) or (N, width) of all files."""
        return np.concatenate([reader.labels(width) for reader in self._readers])

    def _list_labels(self, path: str, width: int) -> np.ndarray:
        """Return the same for this part's samples, from the list `path_imglist`, by id."""
        # Of more than `width` labels the first ones, as in MXNet.
        # A dict of all entries even where one part is read: a list is small beside its images.
        labels_of = {entry.id: entry.labels[:width] for entry in lists.read(path).entries}
        rows = []
        for index, id_ in enumerate(self.ids.tolist()):
            labels = labels_of.get(id_)
            if labels is None or len(labels) != width:
                problem = ("is not there" if labels is None
                           else f"has {len(labels)} labels where {width} are wanted")
                raise DataError(path, f"id {id_} {problem}, which is that of record {self._rows[index]}")
            rows.append(labels)
        table = np.array(rows, np.float32)
        return table[:, 0] if width == 1 else table
