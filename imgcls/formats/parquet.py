"""Images in parquet files as Hugging Face's `datasets` writes them.

A column of structures {bytes, path} (or of plain bytes) holds encoded images, another one whole numbers; the
names of the classes stand in the schema's metadata under `huggingface`. The package `pyarrow` (the extra
parquet) reads and writes them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from imgcls.errors import DataError, RunError, UsageError, verbatim
from imgcls.formats import json_text

#: what the columns are called in the data sets of the hub
_IMAGE_NAMES = ("image", "img", "jpg")
_LABEL_NAMES = ("label", "labels", "cls", "fine_label")
#: rows that are in memory at a time
_ROWS_AT_ONCE = 64
#: rows of a group: what a reader must take at once
_GROUP_ROWS = 100
#: where `datasets` keeps its features in a schema
_METADATA_KEY = b"huggingface"


class ParquetReader:
    """The (image bytes, label) rows of a file, in order or a group of rows at a time."""

    def __init__(self, path: str | os.PathLike[str], shown: object = None) -> None:
        """Open it; a DataError for a file that is damaged or has no image and label columns.

        `shown` is what messages call it.
        """
        self.path = os.fspath(path)
        self._shown = self.path if shown is None else shown
        self._arrow, self._parquet = _packages()
        with self._reading("is no parquet file"):
            self._file = self._parquet.ParquetFile(self.path)
            schema = self._file.schema_arrow
            self._columns = [self._column(schema, _IMAGE_NAMES, "images"),
                             self._column(schema, _LABEL_NAMES, "labels")]
            #: of each label, () where the file names none
            self.class_names = self._class_names(schema)
        # the number of rows is only claimed by the file, and arrays of that length will be made
        if not 0 <= len(self) <= os.path.getsize(self.path):
            raise DataError(self._shown, f"claims {len(self)} rows, which is more than it has bytes")

    def _column(self, schema: Any, names: Sequence[str], what: str) -> str:
        found = next((name for name in names if name in schema.names), None)
        if found is None:
            raise DataError(self._shown, f"has no column of {what} ({', '.join(names)}): it has "
                                         f"{verbatim(', '.join(schema.names))}")
        return found

    def _class_names(self, schema: Any) -> tuple[str, ...]:
        text = (schema.metadata or {}).get(_METADATA_KEY, b"")
        try:
            about = json_text.loads(text, self.path, "features")
            names = about["info"]["features"][self._columns[1]]["names"]
        except (DataError, ValueError, KeyError, TypeError):
            return ()
        is_good = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return tuple(names) if is_good else ()

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield the rows in order; a DataError at one without an image or label, and at damage."""
        row = 0
        try:
            for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=self._columns):
                for image, label in zip(batch.column(self._columns[0]), batch.column(self._columns[1]),
                                        strict=True):
                    yield self._row(row, image.as_py(), label.as_py())
                    row += 1
        # the same as in `_reading`; a `path` that is no UTF-8 is a ValueError
        except (self._arrow.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            raise DataError(self._shown, f"row {row}: {_first_line(error)}") from error

    def labels(self) -> tuple[np.ndarray, list[str]]:
        """Return (float64 (N,), names): the labels, and where the column holds text, the names they number.

        The names are in the order in which they first occur, [] for a column of numbers. A row without a
        label has nan. DataError for labels of another kind.
        """
        arrow = self._arrow
        with self._reading("its labels cannot be read"):
            column = self._file.read(columns=[self._columns[1]]).column(0)
            # pandas writes categories so
            if arrow.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
                # each name once, and its number for each row
                encoded = column.dictionary_encode().combine_chunks()
                if isinstance(encoded, arrow.ChunkedArray):  # of no rows
                    return np.zeros(0), []
                numbers = encoded.indices.cast(arrow.float64()).to_numpy(zero_copy_only=False)
                return numbers, encoded.dictionary.to_pylist()
            if arrow.types.is_integer(column.type) or arrow.types.is_floating(column.type):
                return column.cast(arrow.float64(), safe=False).to_numpy(), []
        raise DataError(self._shown, f"its column {self._columns[1]} holds {verbatim(column.type)}: labels "
                                     "are whole numbers or names")

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what pyarrow raises of a damaged file into a DataError."""
        try:
            yield
        # names that are no text are a ValueError, columns that are not there a KeyError or IndexError
        except (self._arrow.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            raise DataError(self._shown, f"{what}: {_first_line(error)}") from error

    def group_rows(self) -> np.ndarray:
        """Return int64 (G,): the number of rows of each group."""
        metadata = self._file.metadata
        return np.array([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)],
                        np.int64)

    def group_bytes(self) -> np.ndarray:
        """Return int64 (G,): the bytes that the images of each group take in memory, as the file claims."""
        metadata = self._file.metadata
        # a structure has a column for each of its fields
        sizes = []
        with self._reading("its groups of rows are damaged"):
            for group in range(metadata.num_row_groups):
                about = metadata.row_group(group)
                columns = [about.column(i) for i in range(about.num_columns)]
                sizes.append(sum(column.total_uncompressed_size for column in columns
                                 if column.path_in_schema.split(".")[0] == self._columns[0]))
        return np.array(sizes, np.int64)

    def read_group(self, group: int) -> Any:
        """Return the images of a group: a sequence whose items have `as_buffer()`; from any thread.

        DataError for damage. The caller bounds `group_bytes` before.
        """
        arrow = self._arrow
        with self._reading(f"row group {group}"):
            # a reader of its own: they are not made for threads, and the metadata are read already
            file = self._parquet.ParquetFile(self.path, metadata=self._file.metadata)
            # of a structure {bytes, path} the bytes alone: `path` may name any file of this machine
            field = self._file.schema_arrow.field(self._columns[0])
            is_struct = arrow.types.is_struct(field.type)
            column = file.read_row_group(
                group, columns=[f"{self._columns[0]}.bytes" if is_struct else self._columns[0]]).column(0)
            images = column.combine_chunks()
            if isinstance(images, arrow.ChunkedArray):  # more than 2 GB, whatever was claimed
                raise ValueError("it holds more bytes than it claims")
            images = images.field("bytes") if is_struct else images
            # a wrong offset would be a read behind the end
            images.validate(full=True)
        if not (arrow.types.is_binary(images.type) or arrow.types.is_large_binary(images.type)):
            raise DataError(self._shown, f"its column {self._columns[0]} holds {verbatim(images.type)}: "
                                         "images are binary, or structures with a field 'bytes' of that kind")
        return images

    def _row(self, row: int, image: Any, label: Any) -> tuple[bytes, int]:
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes):
            # `path` may name any file of this machine: it is never opened
            raise DataError(self._shown, f"row {row} holds no image bytes")
        if not isinstance(label, int):
            raise DataError(self._shown, f"row {row}: the label {verbatim(repr(label)[:60])} is no whole "
                                       f"number")
        return data, label


class ParquetWriter:
    """Writes rows to an open file, with the metadata that Hugging Face's `datasets` reads."""

    def __init__(self, stream: IO[bytes], class_names: Sequence[str]) -> None:
        arrow, parquet = _packages()
        self._arrow = arrow
        label: dict[str, Any] = {"dtype": "int64", "_type": "Value"}
        if class_names:
            label = {"names": list(class_names), "_type": "ClassLabel"}
        about = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        image_type = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        self._schema = arrow.schema([("image", image_type), ("label", arrow.int64())],
                                    metadata={_METADATA_KEY: json.dumps(about).encode()})
        # encoded images hold no more redundancy
        self._writer = parquet.ParquetWriter(stream, self._schema, compression="none", use_dictionary=False,
                                             write_statistics=False)
        self._rows: list[dict[str, Any]] = []

    def write(self, name: str, image: bytes, label: int) -> None:
        """Append a row."""
        self._rows.append({"image": {"bytes": image, "path": name}, "label": label})
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the end."""
        self._flush()
        self._writer.close()

    def discard(self) -> None:
        """Give up a file that could not be completed; after `close` it has no effect."""
        # else pyarrow writes the end when the object is collected, to a file that is closed by then
        self._writer.is_open = False

    def _flush(self) -> None:
        # some readers fail at an empty group
        if self._rows:
            try:
                self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
            except self._arrow.ArrowException as error:
                raise RunError(f"cannot write parquet: {_first_line(error)}") from error
            self._rows.clear()


def _packages() -> tuple[Any, Any]:
    try:
        # by name: an extra, which the type checker need not find
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("parquet needs the package pyarrow: pip install 'imgcls[parquet]'") from None


def _first_line(error: BaseException) -> str:
    return verbatim(str(error).split("\n")[0][:200])
