"""Read what ILSVRC's devkit has of MATLAB's files (version 5): numbers, texts and structures of them.

The source is "MAT-File Format" by The MathWorks. A file is a head of 128 bytes and elements, each a type, a
length and its bytes; compressed ones hold one element more. Everything is bounded by the file and by
`MAX_BYTES`; nothing is executed. What is of another kind (cells, objects, sparse matrices) comes back as
None.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from imgcls.errors import DataError

#: of a file, and of what is unpacked of it
MAX_BYTES = 256 << 20
#: structures with more elements, fields or levels are noise
MAX_ELEMENTS = 1_000_000
_MAX_DEPTH = 8
_HEAD_BYTES = 128
#: element types that hold numbers
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {16: "utf-8", 17: "utf-16-le", 18: "utf-32-le", 2: "latin-1", 4: "utf-16-le"}
_MATRIX, _COMPRESSED = 14, 15
#: classes of a matrix
_STRUCT, _CHAR = 2, 4
_NUMERIC = range(6, 16)


class _Damage(Exception):
    pass


def loads(data: bytes, path: object = "MAT-file") -> dict[str, object]:
    """Return name -> value of the variables of a MAT-file.

    A value is a float (one number), a flat float64 array (by columns), a str, a list of dicts (a structure
    array, by columns) or None. DataError for a file that is damaged, too large or of another version.
    """
    if len(data) > MAX_BYTES or len(data) < _HEAD_BYTES or data[124:128] != b"\x00\x01IM":
        raise DataError(path, "is no MAT-file of version 5 in little-endian order")
    variables: dict[str, object] = {}
    # bytes and elements that may still be taken, over all variables
    budget = [MAX_BYTES, MAX_ELEMENTS]
    try:
        # each variable is an element of its own, compressed or not
        for kind, content in _elements(memoryview(data)[_HEAD_BYTES:]):
            if kind == _COMPRESSED:
                inflated = zlib.decompressobj().decompress(bytes(content), budget[0] + 1)
                budget[0] -= len(inflated)
                if budget[0] < 0:
                    raise _Damage(f"more than {MAX_BYTES >> 20} MiB unpacked")
                kind, content = next(_elements(memoryview(inflated)))
            if kind == _MATRIX:
                name, value = _matrix(content, budget, 0)
                variables[name] = value
    except (_Damage, zlib.error, struct.error, ValueError, StopIteration, IndexError) as error:
        raise DataError(path, f"is damaged: {error or 'it ends too early'}") from None
    return variables


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, content) of the elements one behind the other."""
    offset = 0
    while offset + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, offset)
        if kind >> 16:  # four bytes or fewer stand in the head itself
            small = kind >> 16
            if small > 4:
                raise _Damage("a short element of more than four bytes")
            yield kind & 0xFFFF, data[offset + 4:offset + 4 + small]
            offset += 8
            continue
        if size > len(data) - offset - 8:
            raise _Damage(f"an element of {size} bytes, and {len(data) - offset - 8} are left")
        yield kind, data[offset + 8:offset + 8 + size]
        # compressed elements are not padded
        offset += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _matrix(data: memoryview, budget: list[int], depth: int) -> tuple[str, object]:
    """Return (name, value) of a matrix."""
    if not len(data):
        return "", np.empty(0)
    # the parts stand in this order: flags with the class, dimensions, name, content
    parts = _elements(data)
    flags = next(parts)[1]
    kind = flags[0]
    shape = np.frombuffer(next(parts)[1], "<i4")
    name = bytes(next(parts)[1]).decode("latin-1")
    count = math.prod(int(size) for size in shape)
    if not 0 <= count <= MAX_ELEMENTS * 8 or depth > _MAX_DEPTH:
        raise _Damage("a matrix of too many elements or levels")
    if kind == _STRUCT:
        return name, _structure(parts, count, budget, depth)
    if kind == _CHAR:
        element, content = next(parts)
        return name, bytes(content).decode(_TEXTS[element], "replace") if element in _TEXTS else None
    if kind in _NUMERIC:
        element, content = next(parts)
        if element not in _NUMBERS:
            return name, None
        stored = np.frombuffer(content, "<" + _NUMBERS[element])
        # before they take eight times their memory as doubles
        if len(stored) != count:
            raise _Damage(f"{len(stored)} numbers where {count} are announced")
        values = stored.astype(np.float64)
        return name, float(values[0]) if len(values) == 1 else values
    return name, None


def _structure(parts: Iterator[tuple[int, memoryview]], count: int, budget: list[int],
               depth: int) -> list[dict[str, object]]:
    """Return the elements of a structure array as dicts."""
    width = int(np.frombuffer(next(parts)[1], "<i4")[0])
    names = bytes(next(parts)[1])
    if width < 1:
        raise _Damage("field names without a length")
    # before the names are made: 256 MB of them may be a kilobyte in the file
    num_fields = -(-len(names) // width)
    budget[1] -= max(count, 1) * max(num_fields, 1)
    if budget[1] < 0:
        raise _Damage("a structure of too many elements")
    # all names have the same width, filled up with zeros
    fields = [names[i:i + width].partition(b"\0")[0].decode("latin-1") for i in range(0, len(names), width)]
    return [{field: _matrix(next(parts)[1], budget, depth + 1)[1] for field in fields} for _ in range(count)]
