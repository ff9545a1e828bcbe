"""Files of torch.save, `.pth`: checked before torch opens one, so that it takes no more memory than the file.

`weights_only` keeps torch from running code of a file. It does not bound the memory: an archive may be
compressed a thousandfold (torch's own never are), a pickle may name a tensor of any size, and a view of one
number may have a billion elements. `check` refuses those, and everything that is no state_dict; it needs no
torch, allocates no memory by a size that the file names, and is called by
`pretrained/torchvision_weights.py`.

    archive   a zip, all of it stored: ROOT/data.pkl, ROOT/data/KEY for each storage, and some small files
    legacy    until torch 1.5: pickles of a magic number, a version, the system, the weights, the order of the
              storages; the storages
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats import pickles
from imgcls.storage.paths import to_local_path
from imgcls.storage.reading import open_regular

#: what torch takes for an archive, and everything else for a legacy file
ARCHIVE_MAGIC = b"PK\x03\x04"
#: the pickles of the magic number and of the version 1001, as every legacy file begins
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
#: the names, shapes and strides of 100,000 tensors take less
_MAX_PICKLE_BYTES = 32 << 20

# from PKWARE's APPNOTE 4.3: the records at the end, the directory's entries, and the header in
# front of each file
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_ENTRY = struct.Struct("<4s5H3L2H")
# stands for a number that does not fit in 32 bits: it is in the zip64 field then
_IN_EXTRA = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_STORED = 0

#: torch's storages that weights can have -> bytes of an element
_ITEM_BYTES = {"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2,
               "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
               # complex and quantised ones are left out: no network of ours has such weights
               "BoolStorage": 1}


def check(path: str | os.PathLike[str]) -> None:
    """Raise DataError unless the file is a state_dict whose tensors are no larger than the file."""
    file = to_local_path(path)
    try:
        # opened once and read through this handle: by a second opening the path could name another file
        with open(file, "rb", opener=open_regular) as stream:
            size = os.fstat(stream.fileno()).st_size
            magic = stream.read(len(_LEGACY_MAGIC))
            if magic.startswith(ARCHIVE_MAGIC):
                _check_archive(stream, size, path)
            elif magic == _LEGACY_MAGIC:
                _check_legacy(stream, size, path)
            else:
                # also where torch would take it for a tar of its first versions, which unpickles freely
                raise DataError(path, "it begins with other bytes")
    except OSError as error:
        raise DataError(path, reason(error)) from error
    except DataError as error:
        raise DataError(path, f"not weights in torch's format: {error.reason}") from error


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return whether torch takes the file for an archive, and not for a legacy file."""
    with open(path, "rb", opener=open_regular) as stream:
        return stream.read(len(ARCHIVE_MAGIC)) == ARCHIVE_MAGIC


# ---- the archive


@dataclass(frozen=True)
class _Entry:
    """A file inside the archive: where its header begins, and the bytes of its content."""

    offset: int
    size: int


def _check_archive(stream: BinaryIO, size: int, path: object) -> None:
    entries = _read_directory(stream, size, path)
    pickles_of_roots = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    # torch takes the first root that it meets; with two of them this check and torch could look
    # at different pickles
    if len(pickles_of_roots) != 1:
        raise DataError(path, "an archive without a data.pkl")
    pickle_name = pickles_of_roots[0]
    root = pickle_name.removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise DataError(path, "a program of TorchScript; weights are what state_dict() returns, saved by "
                              "torch.save")
    entry = entries[pickle_name]
    if entry.size > _MAX_PICKLE_BYTES:
        raise DataError(path, f"data.pkl has {entry.size} bytes")
    stream.seek(entry.offset)
    # the local header has a name and an extra field of its own length: torch pads it, so that
    # storages begin at multiples of 64 bytes
    header = _LOCAL_ENTRY.unpack(_exactly(stream, _LOCAL_ENTRY.size, path))
    _exactly(stream, header[-2] + header[-1], path)
    storages = _Storages(path)
    value, _ = pickles.load_first(_exactly(stream, entry.size, path), storages.names, path, encoding="bytes",
                                  persistent=storages.storage)
    _check_state_dict(value, path)
    for key, num_bytes in storages.sizes.items():
        stored = entries.get(f"{root}data/{key}")
        if stored is None or stored.size != num_bytes:
            have = stored.size if stored else 0
            raise DataError(path, f"storage {verbatim(key[:40])} has {have} bytes, not {num_bytes}")


def _read_directory(stream: BinaryIO, size: int, path: object) -> dict[str, _Entry]:
    """Return the files of the archive by name; DataError where torch might find others, or compressed ones.

    torch's reader (miniz) and Python's find the directory in different ways, so only the form that torch
    writes is accepted: the directory, its end records and nothing behind them.
    """
    end_offset = size - _END.size
    if end_offset < 0:
        raise DataError(path, "the archive is cut short")
    stream.seek(end_offset)
    end = _END.unpack(_exactly(stream, _END.size, path))
    # a comment may contain a second end record, and readers differ in which of the two they use
    if end[0] != b"PK\x05\x06" or end[-1]:
        raise DataError(path, "the archive is cut short, or something stands behind it")
    count, length, offset = end[4], end[5], end[6]
    directory_end = end_offset
    locator_offset = end_offset - _END64_LOCATOR.size
    stream.seek(max(locator_offset, 0))
    locator = _END64_LOCATOR.unpack(_exactly(stream, _END64_LOCATOR.size, path))
    if locator[0] == b"PK\x06\x07":
        directory_end = locator[2]
        if directory_end + _END64.size != locator_offset:
            raise DataError(path, "the archive's directory is not where it should be")
        stream.seek(directory_end)
        end64 = _END64.unpack(_exactly(stream, _END64.size, path))
        if end64[0] != b"PK\x06\x06":
            raise DataError(path, "the archive's directory is not where it should be")
        count, length, offset = end64[7:]
    if offset + length != directory_end or length > _MAX_PICKLE_BYTES or count * _ENTRY.size > length:
        raise DataError(path, "the archive's directory is not where it should be")
    stream.seek(offset)
    entries = _parse_directory(_exactly(stream, length, path), count, path)
    # entries that overlap could each be as large as the file: a small file of terabytes
    if sum(entry.size for entry in entries.values()) > size or any(
            entry.offset + entry.size > offset for entry in entries.values()):
        raise DataError(path, "the files of the archive are larger than it is")
    return entries


def _parse_directory(directory: bytes, count: int, path: object) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory):
            raise DataError(path, "the archive's directory is cut short")
        fields = _ENTRY.unpack_from(directory, position)
        name_length, extra_length, comment_length = fields[10:13]
        begin = position + _ENTRY.size
        extra = directory[begin + name_length:begin + name_length + extra_length]
        # of the four numbers that a zip64 entry may have here, those that did not fit into 32 bits
        packed, unpacked, offset = _wide(extra, fields[8], fields[9], fields[16])
        name = directory[begin:begin + name_length].decode("utf-8", "replace")
        position = begin + name_length + extra_length + comment_length
        if fields[0] != b"PK\x01\x02" or position > len(directory):
            raise DataError(path, "the archive's directory is damaged")
        # compressed or encrypted
        if fields[4] != _STORED or fields[3] & 1 or packed != unpacked:
            raise DataError(path, "the archive is compressed, which torch never writes: unpack it and save "
                                  "it again")
        entries[name] = _Entry(offset, unpacked)
    # torch looks names up whatever their case
    if len({name.lower() for name in entries}) != count or position != len(directory):
        raise DataError(path, "the archive has two files of one name, or more than its directory says")
    return entries


def _wide(extra: bytes, packed: int, unpacked: int, offset: int) -> tuple[int, int, int]:
    """Return the sizes and the offset of an entry, those out of 32 bits from its zip64 field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64_EXTRA:
            count = min(length, len(extra) - position) // 8
            numbers = iter(struct.unpack_from(f"<{count}Q", extra, position))
            # in this order, and only those whose own field is full
            if unpacked == _IN_EXTRA:
                unpacked = next(numbers, unpacked)
            if packed == _IN_EXTRA:
                packed = next(numbers, packed)
            if offset == _IN_EXTRA:
                offset = next(numbers, offset)
            break
        position += length
    return packed, unpacked, offset


def _exactly(stream: BinaryIO, size: int, path: object) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise DataError(path, "the archive is damaged or cut short")
    return content


# ---- the legacy form


def _check_legacy(stream: BinaryIO, size: int, path: object) -> None:
    # the storages that stand behind the pickles are cut here, and never looked at
    content = stream.read(_MAX_PICKLE_BYTES)
    storages = _Storages(path)
    _system, after = pickles.load_first(content, {}, path, encoding="bytes")
    content = content[after:]
    value, after = pickles.load_first(content, storages.names, path, encoding="bytes",
                                      persistent=storages.storage)
    _check_state_dict(value, path)
    # the order of the storages, which torch unpickles as well: it would make a bytearray of any size of it
    pickles.load_first(content[after:], {}, path, encoding="bytes")
    # torch takes the memory of each before it looks for its content
    if sum(storages.sizes.values()) > size:
        raise DataError(path, "its tensors are larger than the file")


# ---- the pickle


def _check_state_dict(value: object, path: object) -> None:
    # a whole module or a dictionary of dictionaries, such as a training state, is no state_dict
    if not isinstance(value, dict) or not all(isinstance(tensor, _Tensor) for tensor in value.values()):
        raise DataError(path, "must hold tensors by name (a state_dict)")
    if not all(isinstance(name, str) for name in value):
        raise DataError(path, "must hold tensors by name (a state_dict)")


class _Dict(dict):
    """Stands for OrderedDict, which state_dict() returns with its versions as an attribute."""

    __slots__ = ()

    def __init__(self) -> None:  # no content at once: that would be a call with what stands in the file
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Ignore the attributes, which are not needed."""


class _Tensor:
    """Stands for a tensor that was found to be no larger than its storage."""

    __slots__ = ()


@dataclass(frozen=True)
class _Storage:
    """Stands for a storage: how many elements it has."""

    num_elements: int


class _StorageType:
    """Stands for torch.FloatStorage and its like, which a file names and never calls."""

    __slots__ = ("item_bytes",)

    def __init__(self, item_bytes: int) -> None:
        self.item_bytes = item_bytes

    def __call__(self, *_arguments: object) -> NoReturn:
        raise ValueError("it creates a storage itself")


class _Storages:
    """The storages that a pickle refers to, and what stands for the names in it."""

    def __init__(self, path: object) -> None:
        self._path = path
        #: key -> bytes
        self.sizes: dict[str, int] = {}
        self.names: pickles.Names = {
            ("collections", "OrderedDict"): _Dict,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            **{("torch", name): _StorageType(item_bytes) for name, item_bytes in _ITEM_BYTES.items()}}

    def storage(self, reference: object) -> _Storage:
        """Return the stand-in for ("storage", type, key, device, number of elements[, view])."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[5:] not in ((), (None,)):
            raise ValueError("it refers to something that is no storage")
        word, kind, key, _device, num_elements = reference[:5]
        # bytes: Python 2 wrote the word so
        if word not in ("storage", b"storage") or not isinstance(kind, _StorageType):
            raise ValueError("it refers to something that is no storage")
        if not isinstance(key, (str, bytes)) or type(num_elements) is not int or num_elements < 0:
            raise ValueError("it refers to a storage without a size")
        name = key.decode("latin-1") if isinstance(key, bytes) else key
        num_bytes = num_elements * kind.item_bytes
        # shared weights refer to one storage twice, which is fine as long as they agree
        if self.sizes.setdefault(name, num_bytes) != num_bytes:
            raise ValueError("it refers to one storage by two sizes")
        return _Storage(num_elements)


def _rebuild_tensor(storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None,
                    *_more: object) -> _Tensor:
    """Stand for torch._utils._rebuild_tensor_v2: check that the tensor is inside of its storage."""
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    # type and not isinstance: True is an int
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("it has a tensor without storage, size or stride")
    if len(size) != len(stride) or not all(size):
        raise ValueError("it has a tensor without elements")
    # the number of the last element that the strides lead to
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.num_elements or math.prod(size) > storage.num_elements:
        raise ValueError("it has a tensor that is larger than its storage")
    return _Tensor()


def _rebuild_parameter(tensor: Any = None, *_more: object) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise ValueError("it has a parameter that is no tensor")
    return tensor
