"""Caffe's LMDB of Datum messages: keys and labels read once, then each image by its key."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Sequence

import numpy as np

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats import array_cache
from imgcls.formats.array_cache import Arrays
from imgcls.formats.datum import DATA_FILE, LmdbReader
from imgcls.formats.lmdb_index import index_lmdb
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import open_read, version_of
from imgcls.storage.remote import RemotePath

#: increased whenever the rules of labels change
_VERSION = 1


class LmdbImages:
    """The images of a database in the order of their keys; a Container.

    Keys and labels are kept in the user's cache folder for a database of the same path, size and time: to
    learn the labels, a page of every image is read. Planes of pixels (B, G, R) are given as RGB.
    """

    class_names: Sequence[str] = ()
    label_names: Sequence[str] = ()

    def __init__(self, path: AnyPath, cache_gb: float | None = None) -> None:
        """Open the folder of a database or its file; a remote one's copy. `lmdb` missing is a UsageError."""
        # a database is known by its folder
        self.path = path.parent if path.name == DATA_FILE else path
        file = path / DATA_FILE if not path.name.endswith("mdb") or path.is_dir() else path
        try:
            # held open: the copy of a remote file is not removed meanwhile
            stream = open_read(file, cache_gb=cache_gb)
            status = os.fstat(stream.fileno())
        except OSError as error:
            raise DataError(file, reason(error)) from error
        self._file = file
        # a container has no `close`: its file is closed when it is collected
        weakref.finalize(self, stream.close)
        local = stream.name if isinstance(path, RemotePath) else str(path)
        version = os.path.basename(local) if isinstance(path, RemotePath) else str(status.st_mtime_ns)
        # before the process that reads the database: a missing package has an error of its own
        LmdbReader.check_package()
        arrays: Arrays
        arrays, _ = array_cache.load_or_make(
            "lmdb", path.name, json.dumps([_VERSION, os.path.realpath(local), status.st_size, version]),
            lambda: index_lmdb(local, self.path))
        self._keys = arrays["keys"].tobytes()
        self._key_ends = arrays["key_ends"]
        problems: list[DataError] = []
        # what is no Datum is a problem, and no sample
        labels = arrays["labels"]
        is_datum = np.isfinite(labels)
        self._rows = np.flatnonzero(is_datum)
        self.labels = labels[is_datum]
        for row in np.flatnonzero(~is_datum).tolist():
            problems.append(DataError(self.path, f"key {self._name(row)} is no Datum of an image"))
        self.problems: Sequence[DataError] = problems
        self._reader = LmdbReader(local)

    def read(self, number: int) -> bytes | np.ndarray:
        """Return the encoded image of an entry, or its pixels, uint8 (H, W, C)."""
        key = self._key(self._rows.item(number))
        try:
            datum = self._reader.read(key)
            # the bytes of a JPEG or PNG
            if datum.is_encoded:
                return datum.data
            pixels = datum.pixels()
        except ValueError as error:
            raise self.problem(number, str(error)) from error
        if pixels.shape[2] not in (1, 3):
            raise self.problem(number, f"has {pixels.shape[2]} channels, 1 or 3 are images")
        # Datums have blue first
        return np.ascontiguousarray(pixels[:, :, ::-1])

    def problem(self, number: int, reason: str) -> DataError:
        """Return the error that names an entry by its key."""
        return DataError(self.path, f"key {self._name(self._rows.item(number))} {reason}")

    def version(self) -> str:
        """Return a text that changes when the database is changed or replaced."""
        return version_of(self._file)

    def _name(self, row: int) -> str:
        return verbatim(self._key(row).decode("ascii", "backslashreplace"))

    def _key(self, row: int) -> bytes:
        begin = self._key_ends.item(row - 1) if row else 0
        return self._keys[begin:self._key_ends.item(row)]
