"""MXNet's NDArray lists: `prefix-0001.params`, `mean_img`, whatever `mx.nd.save` wrote since 2015.

`load` gives numpy arrays by name and `save` writes the bytes that MXNet 1.9.1 would. Used by the checkpoint,
`graph` and `states`. Nothing here needs torch. A file is never trusted: every size is checked against the
bytes that are left before memory is taken, and a damaged file is a `DataError` with the byte where it broke.

Layout, all little-endian, as in MXNet's src/ndarray/ndarray.cc:

    list    u64 0x112, u64 reserved, u64 count, arrays, u64 number of names (0 or count), names
    name    u64 bytes, UTF-8
    array   u32 version, ... see `_Reader.array`
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read, read_all
from imgcls.storage.remote import RemotePath

LIST_MAGIC = 0x112
#: what an array of each version begins with; one of V0 begins with its number of dimensions
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MAX_DIMENSIONS = 32  # numpy's, before 2.0
#: bytes that the smallest array takes: so many arrays fit into a file at most
SMALLEST_ARRAY = 4
#: "none" arrays that a list may have: one takes 4 bytes of the file and 60 times that in memory, and the
#: largest networks have some thousands of arrays
_MAX_NONE_ARRAYS = 100_000

# MXNet's mshadow/base.h numbers the types in this order.
_DTYPE_NAMES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool", "int16", "uint16",
                "uint32", "uint64")
#: type code in the file -> dtype, and back
DTYPES = {code: np.dtype(name).newbyteorder("<") for code, name in enumerate(_DTYPE_NAMES)}
CODES = {dtype.newbyteorder("="): code for code, dtype in DTYPES.items()}
#: numpy has no bfloat16: its bits are the upper half of a float32's, so it is read as that, without loss
BFLOAT16 = 12
#: storage types
DENSE, ROW_SPARSE, CSR = 0, 1, 2
#: the context written with every array: device type 1 (CPU), number 0
CPU = struct.pack("<ii", 1, 0)

#: sparse arrays may be filled out to this many bytes, or so many times the file: a few bytes name a huge one
_MIN_FILL_BYTES = 256 << 20
_FILL_RATIO = 100


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return all arrays of the file by name, in its order; those of a list without names are "0", "1", ...

    The arrays are dense, in C order and of the file's own dtype (bfloat16 becomes float32). Sparse ones are
    filled out with zeros; the "none" arrays that MXNet can store become float32 of shape (0,). Of two arrays
    of one name the last counts, as in MXNet. The arrays are views into one buffer that holds the whole file.
    DataError for a file that cannot be read or is damaged.
    """
    file = to_path(path)
    try:
        if isinstance(file, RemotePath):
            # As a bytearray it can be written to, as what fromfile returns.
            buffer = np.frombuffer(bytearray(read_all(file)), np.uint8)
        else:
            with open_read(file) as stream:
                buffer = np.fromfile(stream, dtype=np.uint8)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    return loads(buffer.data, path)


def loads(data: bytes | bytearray | memoryview, path: object = "parameters") -> dict[str, np.ndarray]:
    """Return what `load` does from bytes in memory, as views of these; `path` is what errors call them."""
    reader = _Reader(data, path)
    if reader.u64("the magic number") != LIST_MAGIC:
        raise DataError(path, f"not an MXNet parameter file (it does not start with {LIST_MAGIC:#x})", 0)
    reader.u64("the reserved word")  # MXNet writes 0 and does not look at it
    count = reader.count("arrays", SMALLEST_ARRAY)
    # All arrays come before all names.
    arrays = [reader.array() for _ in range(count)]
    start = reader.offset
    num_names = reader.count("names", 8)
    if num_names not in (0, count):
        raise DataError(path, f"{num_names} names for {count} arrays", start)
    names = [reader.name() for _ in range(num_names)] or [str(i) for i in range(count)]
    return dict(zip(names, arrays, strict=True))


def loads_array(data: bytes | bytearray | memoryview, path: object = "array") -> np.ndarray:
    """Return a single dense array without a list around it, as MXNet puts it into its pickles."""
    reader = _Reader(data, path)
    reader.fill_limit = 0  # a sparse one would not be MXNet's
    return reader.array()


def dumps_array(array: np.ndarray) -> bytes:
    """Return a single array without a list around it, what `loads_array` reads."""
    return b"".join(_serialize_array(array))


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> None:
    """Write what `mx.nd.save` would, atomically; a sequence is a list without names.

    Scalars and arrays without elements are written in the V3 form, which MXNet itself reads in numpy mode
    only: V2 has no such arrays. A dtype that MXNet's format does not have is a UsageError.
    """
    has_names = isinstance(arrays, Mapping)
    values = list(arrays.values()) if has_names else list(arrays)
    names = list(arrays) if has_names else []
    write_bytes(path, *serialize(names, values, path))


def serialize(names: Sequence[str], arrays: Sequence[np.ndarray],
              path: object) -> Iterable[bytes | memoryview]:
    """Return the content of the file as an iterable of chunks; arrays in C order are not copied.

    All dtypes are checked by the call itself: one that the format lacks is a UsageError that names `path`.
    """
    for i, array in enumerate(arrays):
        dtype = np.asarray(array).dtype
        if dtype.newbyteorder("=") not in CODES:
            name = names[i] if names else str(i)
            raise UsageError(f"{verbatim(path)}: array {verbatim(repr(name))} is {dtype}, which MXNet's "
                             "format does not have")
    # A generator of its own, so that the check runs now and not when the first chunk is requested.
    return _serialize_list(names, arrays)


def _serialize_list(names: Sequence[str], arrays: Sequence[np.ndarray]) -> Iterable[bytes | memoryview]:
    yield struct.pack("<QQQ", LIST_MAGIC, 0, len(arrays))
    for array in arrays:
        yield from _serialize_array(np.asarray(array))
    yield struct.pack("<Q", len(names))
    for name in names:
        text = name.encode("utf-8")
        yield struct.pack("<Q", len(text)) + text


def _serialize_array(array: np.ndarray) -> Iterable[bytes | memoryview]:
    code = CODES[array.dtype.newbyteorder("=")]
    # A V2 array of no dimensions is "none", one that is not there, and V2 has none without elements.
    version = V2 if array.size and array.ndim else V3
    shape = struct.pack(f"<IiI{array.ndim}q", version, DENSE, array.ndim, *array.shape)
    yield shape + CPU + struct.pack("<i", code)
    if array.size:
        # bfloat16 is never written: numpy has none to be saved.
        flat = np.ascontiguousarray(array, DTYPES[code]).reshape(-1)
        yield flat.view(np.uint8).data


class _Reader:
    """A cursor over the file's bytes. Sizes are Python integers, so none can overflow."""

    def __init__(self, data: bytes | bytearray | memoryview, path: object) -> None:
        self.data = memoryview(data)  # slices of it are no copies
        self.path = path
        self.offset = 0
        #: bytes that sparse arrays may still take when they are filled out
        self.fill_limit = max(_MIN_FILL_BYTES, _FILL_RATIO * len(self.data))
        #: "none" arrays so far
        self.num_none = 0

    def take(self, size: int, what: str) -> int:
        """Step over `size` bytes that hold `what`; return where they start."""
        start = self.offset
        if size > len(self.data) - start:
            raise DataError(self.path, f"the file ends in the middle of {what} "
                            f"({size} bytes wanted, {len(self.data) - start} left)", start)
        self.offset = start + size
        return start

    def unpack(self, layout: str, what: str) -> tuple[int, ...]:
        """Return the numbers that stand here; `layout` is a format of `struct` without the byte order."""
        return struct.unpack_from("<" + layout, self.data, self.take(struct.calcsize("<" + layout), what))

    def u64(self, what: str) -> int:
        """Return one unsigned number of 8 bytes."""
        return self.unpack("Q", what)[0]

    def count(self, what: str, smallest: int) -> int:
        """Return how many of something follow, each of at least `smallest` bytes."""
        start = self.offset
        count = self.u64(f"the number of {what}")
        # A list of so many would be made before the first one turned out to be missing.
        if count > (len(self.data) - self.offset) // smallest:
            raise DataError(self.path, f"{count} {what} cannot fit into the bytes that are left", start)
        return count

    def name(self) -> str:
        """Return one name of the list at the end."""
        length = self.u64("a name's length")
        start = self.take(length, "a name")
        try:
            return bytes(self.data[start:self.offset]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(self.path, "a name is not UTF-8", start + error.start) from error

    def array(self) -> np.ndarray:
        """Return one array of any version.

            V3      u32, i32 storage (0), shape, context, dtype, data
            V2      u32, i32 storage, [shape of the stored values if sparse], shape, context, dtype,
                    [dtype and shape of each index array if sparse], data, [index arrays]
            V1      u32, shape, context, dtype, data
            V0      u32 dimensions, u32 sizes, context, dtype, data
        """
        start = self.offset
        version = self.unpack("I", "an array")[0]
        storage_type = DENSE
        stored_shape = None
        if version in (V2, V3):
            storage_type = self.unpack("i", "an array's storage type")[0]
            if storage_type not in ((DENSE,) if version == V3 else (DENSE, ROW_SPARSE, CSR)):
                raise DataError(self.path, f"unknown storage type {storage_type}", start + 4)
            if storage_type != DENSE:
                stored_shape = self.shape()
        if version in (V1, V2, V3):
            shape = self.shape(none=-1 if version == V3 else 0)
        else:
            shape = self.v0_shape(version, start)
        if shape is None:
            self.num_none += 1
            if self.num_none > _MAX_NONE_ARRAYS:
                raise DataError(self.path, f"more than {_MAX_NONE_ARRAYS} arrays that hold nothing", start)
            return np.empty((0,), np.float32)
        self.take(8, "an array's context")  # the device that the array was on when it was saved
        code = self.dtype_code()
        if stored_shape is not None:
            return self.sparse(storage_type, shape, stored_shape, code)
        return self.values(shape, code)

    def shape(self, none: int | None = None) -> tuple[int, ...] | None:
        """Return i32 dimensions, i64 sizes; `none` is the number of dimensions that says "no array here"."""
        start = self.offset
        ndim = self.unpack("i", "an array's shape")[0]
        if none is not None and ndim == none:
            return None
        if not 0 <= ndim <= MAX_DIMENSIONS:
            raise DataError(self.path, f"an array of {ndim} dimensions", start)
        shape = self.unpack(f"{ndim}q", "an array's shape")
        if any(size < 0 for size in shape):
            raise DataError(self.path, f"a negative size in the shape {shape}", start)
        return shape

    def v0_shape(self, ndim: int, start: int) -> tuple[int, ...] | None:
        """Return the shape of a V0 array, which begins at `start` with its number of dimensions."""
        if ndim == 0:
            return None
        # V0 has no version number: whatever is no other version ends here, so the error is about versions.
        if ndim > MAX_DIMENSIONS:
            raise DataError(self.path, f"{ndim:#x} starts no array of any known version", start)
        return self.unpack(f"{ndim}I", "an array's shape")

    def dtype_code(self) -> int:
        """Return the number that stands for the dtype."""
        start = self.offset
        code = self.unpack("i", "an array's dtype")[0]
        if code not in DTYPES and code != BFLOAT16:
            raise DataError(self.path, f"unknown dtype code {code}", start)
        return code

    def values(self, shape: tuple[int, ...], code: int) -> np.ndarray:
        """Return the raw elements; a view of the file, but for bfloat16."""
        dtype = DTYPES.get(code, np.dtype("<u2"))  # bfloat16, as bits
        count = math.prod(shape)
        start = self.take(count * dtype.itemsize, f"the data of an array of shape {shape}")
        # A view: the arrays of a ResNet are 100 MB that would otherwise be copied once more.
        array = np.frombuffer(self.data, dtype, count, start) if count else np.empty(0, dtype)
        if code == BFLOAT16:
            array = (array.astype("<u4") << 16).view("<f4")
        try:
            return array.reshape(shape)
        except ValueError as error:  # no element, but sizes beyond what numpy can multiply
            raise DataError(self.path, f"impossible shape {shape}", start) from error

    def sparse(self, storage_type: int, shape: tuple[int, ...], stored_shape: tuple[int, ...],
               code: int) -> np.ndarray:
        """Return a row_sparse or csr array, filled out."""
        start = self.offset
        num_index_arrays = 1 if storage_type == ROW_SPARSE else 2
        index_heads = [(self.dtype_code(), self.shape()) for _ in range(num_index_arrays)]
        if any(index is None or len(index) != 1 for _, index in index_heads) or not shape:
            raise DataError(self.path, "the indices of a sparse array are not lists", start)
        sizes = [index[0] for _, index in index_heads if index]
        # The stored shape may be stale (zeros) in files that MXNet wrote before the work on the array was
        # done; the true one then follows from the index arrays.
        if 0 in stored_shape:
            stored_shape = (sizes[0], *shape[1:]) if storage_type == ROW_SPARSE else (sizes[1],)
        values = self.values(stored_shape, code)
        indices = [self.values((size,), kind) for size, (kind, _) in zip(sizes, index_heads, strict=True)]
        # Only now are both numbers known; the dense array is what takes the memory.
        self.check_dense_size(shape, values, start)
        fill = _fill_rows if storage_type == ROW_SPARSE else _fill_csr
        try:
            return fill(shape, values, *indices)
        except (ValueError, IndexError, TypeError, MemoryError, OverflowError) as error:
            raise DataError(self.path, f"the indices of a sparse array do not fit its shape {shape}",
                            start) from error

    def check_dense_size(self, shape: tuple[int, ...], values: np.ndarray, start: int) -> None:
        """Raise DataError unless all sparse arrays together stay in proportion to the file."""
        # One limit for the whole file: a thousand arrays, each below the limit, are as bad as one above it.
        self.fill_limit -= math.prod(shape) * values.itemsize
        if self.fill_limit < 0:
            raise DataError(self.path, f"a sparse array of shape {shape} is too large for this file", start)


def _fill_rows(shape: tuple[int, ...], values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # numpy would take a negative index from the end.
    if len(rows) and (rows.min() < 0 or rows.max() >= shape[0]):
        raise IndexError(rows)
    dense = np.zeros(shape, values.dtype)
    dense[rows] = values
    return dense


def _fill_csr(shape: tuple[int, ...], values: np.ndarray, starts: np.ndarray,
              columns: np.ndarray) -> np.ndarray:
    num_rows, num_columns = shape
    # Row i has the values starts[i] .. starts[i + 1] - 1, in the columns of the same numbers.
    counts = np.diff(starts.astype(np.int64))
    if len(counts) != num_rows or (counts < 0).any() or starts[0] != 0 or starts[-1] != len(columns):
        raise IndexError(starts)
    if len(columns) and (columns.min() < 0 or columns.max() >= num_columns):
        raise IndexError(columns)
    dense = np.zeros(shape, values.dtype)
    dense[np.repeat(np.arange(num_rows), counts), columns] = values
    return dense
