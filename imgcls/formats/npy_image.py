"""Images stored decoded: numpy's own file format (`.npy`, version 1.0), uint8 (h, w) or (h, w, C), RGB.

`imgcls-im2rec --encoding .npy` writes them into records, `numpy.load` reads them; MXNet does not. Only the
header that numpy writes for such an array is understood, and it must say exactly what follows it: nothing of
a file is evaluated.
"""

from __future__ import annotations

import io
import re

import numpy as np

_MAGIC = b"\x93NUMPY\x01\x00"
#: what numpy writes of an array of bytes in C order, padded with blanks
_HEADER = re.compile(rb"\{'descr': '\|u1', 'fortran_order': False, "
                     rb"'shape': \(([1-9]\d{0,8}), ([1-9]\d{0,8})(?:, ([1-4]))?\), \} *\n")
#: where the length of the header stands, and the longest that is looked at
_LENGTH_OFFSET, _MAX_HEADER_BYTES = 8, 1 << 10


def is_npy(data: bytes | memoryview) -> bool:
    """Return whether the bytes begin like numpy's array files, version 1.0."""
    return bytes(data[:8]) == _MAGIC


def view(data: bytes | memoryview) -> np.ndarray:
    """Return the pixels, a view of the bytes: uint8 (h, w) or (h, w, C), C to 4. ValueError otherwise."""
    begin = _LENGTH_OFFSET + 2
    end = begin + int.from_bytes(data[_LENGTH_OFFSET:begin], "little")
    match = _HEADER.fullmatch(bytes(data[begin:end])) if end <= _MAX_HEADER_BYTES else None
    if match is None:
        raise ValueError("is no array of bytes (height, width) or (height, width, channels)")
    shape = tuple(int(number) for number in match.groups() if number is not None)
    # before any use of the numbers: they are only claimed
    if int(np.prod(shape, dtype=object)) != len(data) - end:
        raise ValueError(f"is an array of {' x '.join(map(str, shape))} bytes that has {len(data) - end}")
    return np.frombuffer(data, np.uint8, offset=end).reshape(shape)


def pack(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels, (h, w) or (h, w, C) in RGB, as a file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(pixels, np.uint8), version=(1, 0))
    return stream.getvalue()
