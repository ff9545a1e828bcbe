"""A pickled batch of CIFAR: its pixels and labels, read without running what the pickle holds.

A pickle is a program, so `formats/pickles` reads it, which runs nothing but what makes plain data and, here,
arrays of bytes: stand-ins take the place of the few names of numpy that such a file mentions. Only `cifar.py`
calls this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.errors import DataError
from imgcls.formats import pickles


def unpickle_batch(content: bytes, name: str, keys: Sequence[str], num_pixels: int,
                   dataset: str) -> list[np.ndarray]:
    """Return [pixels uint8 (N, num_pixels), the int64 (N,) labels under each of `keys`].

    `name` is what errors call the file, `dataset` what they call its kind.
    """
    allowed = {**_NAMES, ("_codecs", "encode"): pickles.encoder(len(content))}
    # "bytes": Python 2's strings hold the pixels, which are no text.
    value = pickles.load(content, allowed, name, encoding="bytes")
    if not isinstance(value, dict):
        raise DataError(name, f"not a {dataset} batch: the pickle holds no dict")
    # Python 2 wrote the keys as byte strings, Python 3 writes text.
    batch = {key.decode("latin-1") if isinstance(key, bytes) else key: item for key, item in value.items()}
    data = batch.get("data")
    if not isinstance(data, _Array) or data.shape[1:] != (num_pixels,):
        raise DataError(name, f"not a {dataset} batch: no uint8 array 'data' of (N, {num_pixels})")
    pixels = data.to_numpy()
    return [pixels, *(_label_array(batch.get(key), key, len(pixels), name) for key in keys)]


def _label_array(values: object, key: str, count: int, name: str) -> np.ndarray:
    # type, not isinstance: True is an int too, and numpy would make numbers of text.
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise DataError(name, f"no list of numbers '{key}' in the pickle")
    if len(values) != count:
        raise DataError(name, f"{count} pictures but {len(values)} {key}")
    return np.array(values, np.int64)


class _Array:
    """Stands for a numpy.ndarray of uint8 while a pickle is read: its shape and its bytes, no more."""

    # No __dict__, so that a state cannot set what no one expects.
    __slots__ = ("content", "is_fortran", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.is_fortran = False
        self.content = b""

    def __setstate__(self, state: Any) -> None:
        """Take what numpy's own takes: (version, shape, dtype, is_fortran, bytes)."""
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise ValueError("it has an array that is not of bytes")
        if type(shape) is not tuple or [type(side) for side in shape] != [int, int] or min(shape) < 0:
            raise ValueError("it has an array that is not of two dimensions")
        # Python's numbers do not overflow, so no huge shape passes here.
        if shape[0] * shape[1] != len(content):
            raise ValueError(f"it has an array of {shape} with {len(content)} bytes")
        self.shape = shape
        self.is_fortran = bool(is_fortran)
        self.content = content

    def to_numpy(self) -> np.ndarray:
        """Return uint8 of the pickled shape, contiguous and writable."""
        flat = np.frombuffer(self.content, np.uint8)
        return np.array(flat.reshape(self.shape, order="F" if self.is_fortran else "C"), order="C")


class _DType:
    """Stands for numpy.dtype; only uint8 is allowed, above all no objects."""

    __slots__ = ()

    def __init__(self, name: str | bytes, *_flags: object) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            shown = repr(name[:20]) if isinstance(name, str | bytes) else "of unknown kind"
            raise ValueError(f"it has an array of dtype {shown}, only uint8 is read")

    def __setstate__(self, state: object) -> None:
        """Pass over the byte order and the like, which mean nothing for bytes."""


def _reconstruct(kind: object, *_rest: object) -> _Array:
    """Stand for the function with which numpy's pickles make an empty array."""
    if kind is not _Array:
        raise ValueError("it has an array of unknown kind")
    return _Array()


#: the names that a batch may mention, and what stands for them
_NAMES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    # numpy 2 renamed its module.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}
