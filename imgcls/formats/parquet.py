"""Images in parquet files as Hugging Face's `datasets` writes them.

A column of structures {bytes, path} (or of plain bytes) holds encoded images, another one whole numbers; the
names of the classes stand in the schema's metadata under `huggingface`. The package `pyarrow` (the extra
parquet) reads and writes them.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

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
    """The (image bytes, label) rows of a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it; a DataError for a file that is damaged or has no image and label columns."""
        self.path = os.fspath(path)
        self._arrow, parquet = _packages()
        try:
            self._file = parquet.ParquetFile(self.path)
            schema = self._file.schema_arrow
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(self.path, f"is no parquet file: {_first_line(error)}") from error
        self._columns = [self._column(schema, _IMAGE_NAMES, "images"),
                         self._column(schema, _LABEL_NAMES, "labels")]
        #: of each label, () where the file names none
        self.class_names = self._class_names(schema)

    def _column(self, schema: Any, names: Sequence[str], what: str) -> str:
        found = next((name for name in names if name in schema.names), None)
        if found is None:
            raise DataError(self.path, f"has no column of {what} ({', '.join(names)}): it has "
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
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(self.path, f"row {row}: {_first_line(error)}") from error

    def _row(self, row: int, image: Any, label: Any) -> tuple[bytes, int]:
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes):
            # `path` may name any file of this machine: it is never opened
            raise DataError(self.path, f"row {row} holds no image bytes")
        if not isinstance(label, int):
            raise DataError(self.path, f"row {row}: the label {verbatim(repr(label)[:60])} is no whole "
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

    def _flush(self) -> None:
        # an empty group would be one that some readers stumble over
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
