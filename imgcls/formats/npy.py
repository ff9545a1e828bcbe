"""Arrays of numbers in numpy's own file format (`.npy`): mean images, and what Theano's scripts save.

Files are not trusted: the header is bounded and must describe exactly the bytes behind it, and arrays that
would have to be unpickled are refused. `npy_image.py` reads images that are stored decoded.
"""

from __future__ import annotations

import io
import math
import os

import numpy as np

from imgcls.errors import DataError, reason
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_local_path
from imgcls.storage.reading import read_bounded

SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
#: numpy's own bound of a header that it reads
_MAX_HEADER_BYTES = 10_000
#: floats, whole numbers of either sign, booleans
_KINDS = "fiub"


def is_npy(path: str | os.PathLike[str]) -> bool:
    """Return whether the name is that of numpy's array files."""
    return os.fspath(path).lower().endswith(SUFFIX)


def load(path: str | os.PathLike[str], max_bytes: int) -> np.ndarray:
    """Return the array in a file of at most `max_bytes`, in its own dtype. A DataError for any other file."""
    try:
        data = read_bounded(to_local_path(path), max_bytes)
    except (OSError, ValueError) as error:  # ValueError: a larger file
        raise DataError(path, reason(error)) from error
    return loads(data, path)


def save(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array, atomically."""
    # through memory: numpy writes into a file directly, and does not report that the disk is full
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_bytes(path, stream.getbuffer())


def loads(data: bytes | bytearray, path: object = "array") -> np.ndarray:
    """Return the array that the bytes hold, a view of them; `path` is what errors call them."""
    if not data.startswith(_MAGIC):
        raise DataError(path, f"is no array of numpy's (it does not start with {_MAGIC[1:].decode()})", 0)
    stream = io.BytesIO(bytes(data[:_MAX_HEADER_BYTES + 16]))
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                       (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read_header(stream, max_header_size=_MAX_HEADER_BYTES)
    except KeyError:
        raise DataError(path, "is of a version of numpy's format other than 1.0 and 2.0") from None
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(path, "the header is not one that numpy writes", len(_MAGIC)) from error
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise DataError(path, f"holds values of type {dtype}, which are no numbers")
    begin = stream.tell()
    size = math.prod(shape) * dtype.itemsize
    # before any use of the numbers: they are only claimed
    if size != len(data) - begin:
        raise DataError(path, f"{len(data) - begin} bytes do not make an array of "
                              f"{'x'.join(map(str, shape)) or 'one'} {dtype}", begin)
    flat = np.frombuffer(data, dtype, offset=begin)
    try:
        return flat.reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, TypeError, OverflowError) as error:  # sizes below 0, a hundred axes, True as a size
        raise DataError(path, f"no array has the shape {str(shape)[:100]}", begin) from error
