"""What an image record holds: `ImageHeader`, the labels behind it where there are several, the image.

The reader, the packer and `imgcls.compat` pack and unpack with it. Nothing here decodes an image.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

#: the header as it stands in the file, 24 bytes: `ImageRecordIO::Header` of MXNet's image_recordio.h
HEADER_DTYPE = np.dtype([("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])

# The same for a single header, which struct unpacks several times as fast as numpy.
_HEADER = struct.Struct("<IfQQ")
assert _HEADER.size == HEADER_DTYPE.itemsize


class ImageHeader(NamedTuple):
    """In front of every image. `flag` labels (f32) follow it; with flag 0 the one label stands in `label`."""

    flag: int
    #: a number, or for `pack` a sequence
    label: Any
    #: the number of the image in its list
    id: int
    #: 0 in the files of MXNet's tools
    id2: int = 0


def pack(header: ImageHeader, image: bytes) -> bytes:
    """Return the payload of an image record.

    A number as `header.label` is written into the header (flag 0), a sequence behind it (flag = its length,
    also for a sequence of one). `header.flag` is ignored, as in MXNet's recordio.pack.
    """
    # Not by `flag`: MXNet's own callers leave it 0 for labels of every kind.
    if isinstance(header.label, (int, float, np.number)):
        return _HEADER.pack(0, header.label, header.id, header.id2) + image
    labels = np.asarray(header.label, np.float32).ravel()
    return _HEADER.pack(len(labels), 0.0, header.id, header.id2) + labels.astype("<f4").tobytes() + image


def unpack(payload: bytes | memoryview) -> tuple[ImageHeader, np.ndarray, memoryview]:
    """Return an image record's header, its labels (float32, at least one) and its image bytes (not copied).

    A payload that is too short for its header and labels is a ValueError; callers add the file's name.
    """
    view = memoryview(payload)
    if len(view) < _HEADER.size:
        raise ValueError(f"is no image record: {len(view)} bytes, its header alone needs {_HEADER.size}")
    header = ImageHeader(*_HEADER.unpack_from(view))
    # `flag` is any u32 in a damaged file: compared as a Python integer, which cannot overflow.
    end = _HEADER.size + 4 * header.flag
    if end > len(view):
        raise ValueError(f"is no image record: it says {header.flag} labels but has {len(view)} bytes in all")
    if header.flag == 0:  # the commonest: one label, inside the header
        return header, np.array([header.label], np.float32), view[end:]
    return header, np.frombuffer(view[_HEADER.size:end], "<f4").astype(np.float32), view[end:]
