"""Caffe's mean image: the `.binaryproto` that `compute_image_mean` writes, for --mean-image or to be
converted.

`load_mean` is used by `data.augment` and `cli/convert_mean.py`; `refuse_model` says in one line what to do
with the other files of Caffe, which are not read here. Nothing needs Caffe, protobuf or torch. The file is
one protobuf message, a BlobProto of caffe.proto, and is never trusted: its size is bounded, and damage is a
`DataError` with the byte where it was found.

    1 num, 2 channels, 3 height, 4 width    int32, the old form of the shape
    7 shape { 1 dim }                       int64, the new form, packed or one by one
    5 data, 8 double_data                   float32, float64, packed or one by one; planes are B, G, R
    6 diff, 9 double_diff                   not looked at
"""

from __future__ import annotations

import math
import os

import numpy as np

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_local_path
from imgcls.storage.reading import open_regular

#: a mean of 3 x 4096 x 4096 in double precision is larger than any there is
MAX_BYTES = 3 * 4096 * 4096 * 8
#: fields, and runs of values stored one by one: a good file has a dozen, and noise must be refused soon
MAX_STEPS = 20_000
#: values stored one by one that are taken at a time
MAX_RUN = 1 << 16
#: a shape of more is noise
MAX_DIMENSIONS = 32

#: fields of a BlobProto, and the one of its BlobShape
NUM, CHANNELS, HEIGHT, WIDTH, DATA, SHAPE, DOUBLE_DATA, DIM = 1, 2, 3, 4, 5, 7, 8, 1
DIFF, DOUBLE_DIFF = 6, 9
#: wire types of protobuf
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: field of values -> how one is stored, and its wire type where it has a tag of its own
VALUES = {DATA: ("<f4", FIXED32), DOUBLE_DATA: ("<f8", FIXED64)}

MEAN_SUFFIX = ".binaryproto"
MODEL_SUFFIXES = (".caffemodel", ".caffemodel.h5", ".prototxt", ".solverstate")


def is_mean(path: str | os.PathLike[str]) -> bool:
    """Return whether the name is that of a Caffe mean image."""
    return os.fspath(path).lower().endswith(MEAN_SUFFIX)


def load_mean(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the mean image, float32 (C, H, W), C 1 or 3, channels in the order R, G, B as everywhere here.

    DataError for a file that is damaged, too large, or no mean image.
    """
    file = to_local_path(path)
    try:
        with open(file, "rb", opener=open_regular) as stream:  # a pipe would keep us waiting for ever
            data = stream.read(MAX_BYTES + 1)  # one more tells a file at the bound from a longer one
    except OSError as error:
        raise DataError(path, reason(error)) from error
    if len(data) > MAX_BYTES:
        raise DataError(path, f"more than {MAX_BYTES >> 20} MiB: too large for a Caffe mean image")
    return loads_mean(data, path)


def loads_mean(data: bytes, path: object = "mean image") -> np.ndarray:
    """Return what `load_mean` does from bytes in memory; `path` is what errors call them."""
    message = _Message(data, path)
    message.read()
    # Caffe fills one of the two, by the type that it was built for.
    values = message.values[DATA] or message.values[DOUBLE_DATA]
    array = np.concatenate(values) if values else np.empty(0, np.float32)
    shape = _image_shape(message)
    if not array.size:
        raise DataError(path, "holds no values: not a Caffe mean image")
    if math.prod(shape) != array.size:
        raise DataError(path, f"{array.size} values do not make an image of {'x'.join(map(str, shape))}")
    with np.errstate(over="ignore"):
        # B, G, R -> R, G, B; one plane stays as it is
        image = np.ascontiguousarray(array.reshape(shape)[::-1], np.float32)
    # of the result: a double may be finite, and too large for float32
    if not np.isfinite(image).all():
        raise DataError(path, "holds values that are not numbers, or too large for float32")
    return image


def save_mean(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write a mean image (C, H, W), channels R, G, B, as `compute_image_mean` does: old shape, B first."""
    planes = np.ascontiguousarray(image[::-1], "<f4")
    shape = zip((NUM, CHANNELS, HEIGHT, WIDTH), (1, *planes.shape), strict=True)
    head = b"".join(_varint(number << 3) + _varint(size) for number, size in shape)
    head += _varint(DATA << 3 | LENGTH) + _varint(planes.nbytes)
    write_bytes(path, head, planes.tobytes())


def _varint(value: int) -> bytes:
    # seven bits a byte, the lowest first; the highest bit says that another byte follows
    pieces = bytearray()
    while value > 127:
        pieces.append(value & 127 | 128)
        value >>= 7
    return bytes([*pieces, value])


def refuse_model(setting: str, path: str) -> None:
    """Raise UsageError where `path`, the value of `setting`, is a file of Caffe other than a mean image.

    The message says what to do instead. `setting` is a setting's name, or a positional argument's in
    capitals.
    """
    if not path.lower().endswith(MODEL_SUFFIXES):
        return
    shown = setting if setting.isupper() else f"`{setting}`"
    if setting == "mean_image":
        raise UsageError(f"{shown} {verbatim(path)}: is not a mean image; Caffe's is a {MEAN_SUFFIX} file, "
                         "MXNet's a .bin, .nd or .params file, numpy's a .npy file")
    raise UsageError(f"{shown} {verbatim(path)}: Caffe networks are not read here; convert it once, where "
                     "MXNet 1.9.1 is installed, with its tools/caffe_converter: convert_model.py "
                     f"DEPLOY.prototxt NET.caffemodel PREFIX; then give {shown} PREFIX")


def _image_shape(message: _Message) -> tuple[int, int, int]:
    """Return (C, H, W) of the new form where it is there, else of the old one; DataError if it fits no image.
    """
    # Files of old versions have four numbers, those of newer ones a list.
    if message.dims is not None:
        dims = tuple(message.dims)
    else:
        sizes = [message.sizes.get(field, 0) for field in (NUM, CHANNELS, HEIGHT, WIDTH)]
        dims = (sizes[0] or 1, *sizes[1:])
    shown = "x".join(map(str, dims)) or "nothing"
    *more, channels, height, width = (1, 1, 1, *dims)
    if len(dims) not in (3, 4) or any(size != 1 for size in more) or min(dims) < 1:
        raise DataError(message.path, f"the shape is {shown}, a mean image is 1 x channels x height x width")
    if channels not in (1, 3):
        raise DataError(message.path, f"the shape is {shown}: a mean image has 1 or 3 channels, "
                                      f"not {channels}")
    return channels, height, width


class _Message:
    """A BlobProto, read once from beginning to end. Sizes are Python integers, so none can overflow."""

    def __init__(self, data: bytes, path: object) -> None:
        self.data = data
        self.path = path
        self.offset = 0
        #: fields and runs read so far
        self.steps = 0
        #: field -> value of the old form of the shape
        self.sizes: dict[int, int] = {}
        #: the new form; None where there is none
        self.dims: list[int] | None = None
        #: field -> runs of its values, views of the file
        self.values: dict[int, list[np.ndarray]] = {DATA: [], DOUBLE_DATA: []}

    def read(self) -> None:
        """Read every field; of a size that occurs several times the last one counts, values are concatenated.
        """
        end = len(self.data)
        while self.offset < end:
            start = self.offset
            field, kind = self.tag(end)
            if field in (NUM, CHANNELS, HEIGHT, WIDTH) and kind == VARINT:
                self.sizes[field] = self.varint(end)
            elif field in VALUES and kind == LENGTH:
                self.packed(field)
            elif field in VALUES and kind == VALUES[field][1]:
                self.offset = start  # the run begins with this tag
                self.one_by_one(field)
            elif field == SHAPE and kind == LENGTH:
                self.shape(self.length(end))
            elif field <= DOUBLE_DIFF and field not in (DIFF, DOUBLE_DIFF):
                raise DataError(self.path, f"field {field} is of kind {kind}: not a Caffe mean image", start)
            else:
                self.skip(kind, start)

    def tag(self, end: int) -> tuple[int, int]:
        """Return (field number, wire type) of the field that begins here."""
        start = self.offset
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise DataError(self.path, "far too many fields: not a Caffe mean image", start)
        tag = self.varint(end)
        # Protobuf puts the wire type into the lowest three bits.
        field = tag >> 3
        kind = tag & 7
        if not field or kind not in (VARINT, FIXED64, LENGTH, FIXED32):
            raise DataError(self.path, "no field of a message begins here: not a Caffe mean image", start)
        return field, kind

    def varint(self, end: int) -> int:
        """Return a number of seven bits a byte, the lowest first, at most ten bytes."""
        start = self.offset
        value = 0
        for shift in range(0, 70, 7):
            if self.offset >= end:
                raise DataError(self.path, "ends in the middle of a number", start)
            byte = self.data[self.offset]
            self.offset += 1
            value |= (byte & 127) << shift
            if byte < 128:  # the highest bit says that another byte follows
                return value
        raise DataError(self.path, "a number is longer than ten bytes: not a Caffe mean image", start)

    def length(self, end: int) -> int:
        """Return where the field of variable length ends that begins here with its length."""
        start = self.offset
        size = self.varint(end)
        # Before anything is taken: the length is any number in a damaged file.
        if size > end - self.offset:
            raise DataError(self.path, f"the file ends in the middle of a field ({size} bytes wanted, "
                                       f"{end - self.offset} left)", start)
        return self.offset + size

    def packed(self, field: int) -> None:
        """Read values of `field` that stand in one piece behind their length."""
        start = self.offset
        end = self.length(len(self.data))
        dtype = np.dtype(VALUES[field][0])
        count, rest = divmod(end - self.offset, dtype.itemsize)
        if rest:
            raise DataError(self.path, f"{end - self.offset} bytes are no whole number of values of "
                                       f"{dtype.itemsize} bytes", start)
        self.values[field].append(np.frombuffer(self.data, dtype, count, self.offset))
        self.offset = end

    def one_by_one(self, field: int) -> None:
        """Read up to MAX_RUN values of `field` that stand here in a row, each with a tag of its own."""
        layout, kind = VALUES[field]
        # Fields below 16 have a tag of one byte, so tag and value are pairs of a fixed size.
        pair = np.dtype([("tag", "u1"), ("value", layout)])
        count = min((len(self.data) - self.offset) // pair.itemsize, MAX_RUN)
        if not count:
            raise DataError(self.path, "ends in the middle of a value", self.offset)
        pairs = np.frombuffer(self.data, pair, count, self.offset)
        others = np.flatnonzero(pairs["tag"] != (field << 3 | kind))
        if len(others) and not others[0]:  # the tag was written with more bytes than it needs
            raise DataError(self.path, "no field of a message begins here: not a Caffe mean image",
                            self.offset)
        pairs = pairs[:others[0]] if len(others) else pairs
        self.values[field].append(pairs["value"])
        self.offset += len(pairs) * pair.itemsize

    def shape(self, end: int) -> None:
        """Read the BlobShape that ends at `end` into `dims`."""
        self.dims = []
        while self.offset < end:
            start = self.offset
            field, kind = self.tag(end)
            inner = self.length(end) if kind == LENGTH else end
            if field != DIM or kind not in (VARINT, LENGTH):
                raise DataError(self.path, f"field {field} of the shape is of kind {kind}: "
                                           "no Caffe mean image", start)
            if kind == VARINT:
                self.dims.append(self.varint(end))
            while kind == LENGTH and self.offset < inner:
                self.dims.append(self.varint(inner))
                if len(self.dims) > MAX_DIMENSIONS:
                    break
            if len(self.dims) > MAX_DIMENSIONS:
                raise DataError(self.path, f"a shape of more than {MAX_DIMENSIONS} dimensions: "
                                           "not a Caffe mean image", start)

    def skip(self, kind: int, start: int) -> None:
        """Pass over a field that is not used here."""
        end = len(self.data)
        if kind == VARINT:
            self.varint(end)
            return
        after = self.length(end) if kind == LENGTH else self.offset + (8 if kind == FIXED64 else 4)
        if after > end:
            raise DataError(self.path, "ends in the middle of a field", start)
        self.offset = after
