"""The index of a record file, `X.idx`: a line `key TAB offset` per record.

MXNet's MXIndexedRecordIO writes it so. The reader takes offsets and keys from it. Nothing here opens a
`.rec`: `scan.describe_mismatch` and `Index.describe_difference` compare an index with its file.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from imgcls.errors import DataError, reason
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read, read_all

#: a number of more digits may not fit into int64
_MAX_DIGITS = 18
_MAX_INT32 = (1 << 31) - 1
#: bytes of text that are parsed at a time
_PIECE_BYTES = 4 << 20
#: of a line that is no entry, an error shows at most this many bytes
_SHOWN_BYTES = 40


class Index(NamedTuple):
    """The lines of an `.idx`, in its order: a key and a byte offset each."""

    #: int64 or int32 (N,), or objects (int or text) where a key is no number or does not fit
    keys: np.ndarray
    #: int64 (N,)
    offsets: np.ndarray

    @classmethod
    def read(cls, path: AnyPath) -> Index:
        """Read an `.idx`. A line that is no key, tab and offset is a DataError with its number and byte."""
        try:
            with open_read(path) as stream:
                index = _parse_numbers(stream)
            return index or _parse_lines(path, read_all(path))
        except OSError as error:
            raise DataError(path, reason(error)) from error

    def restricted_to(self, offsets: np.ndarray) -> Index:
        """Return the lines whose offset is one of `offsets` (rising)."""
        is_record = np.isin(self.offsets, offsets)
        return Index(self.keys[is_record], self.offsets[is_record])

    def describe_difference(self, offsets: np.ndarray) -> str:
        """Return what is wrong with the index where the records begin at `offsets` (rising), or ""."""
        own = sort_unique(self.offsets)
        # The common case, a good index: the comparison below would take a minute for 14 million lines.
        if np.array_equal(own, offsets):
            return ""
        wrong = own[~np.isin(own, offsets)]
        if len(wrong):
            return f"{len(wrong)} of its offsets are no record's, the first is {wrong[0]}"
        num_missing = len(offsets) - len(own)
        return f"does not name {num_missing} of the {len(offsets)} records" if num_missing else ""


def index_path(path: str | os.PathLike[str]) -> AnyPath:
    """Return the path of a record file's index: `X.idx` for `X.rec`, `NAME.idx` for any other NAME."""
    # Other names keep their suffix: train.bin and train.dat would share an index.
    path = to_path(path)
    return path.with_suffix(".idx") if path.suffix == ".rec" else path.with_name(path.name + ".idx")


def sort_unique(offsets: np.ndarray) -> np.ndarray:
    """Return the offsets in rising order, each once."""
    # Those of an index mostly are already: numpy.unique would take a third of a second for a million.
    if (offsets[1:] > offsets[:-1]).all():
        return offsets
    offsets = np.sort(offsets)
    return offsets[np.append(True, offsets[1:] > offsets[:-1])]


def _parse_numbers(stream: BinaryIO) -> Index | None:
    """Return the index if it holds plain numbers only, as nearly all do; None where it holds anything else.

    Read a piece at a time: an index of 14 million lines is never in memory as text.
    """
    keys, offsets = [], []
    rest = b""
    while data := stream.read(_PIECE_BYTES):
        text, line_end, rest = (rest + data).rpartition(b"\n")
        piece = _parse_piece(text + line_end) if line_end else None
        # Without a line end in all these bytes it is no index.
        if piece is None:
            return None
        keys.append(piece.keys)
        offsets.append(piece.offsets)
    last = _parse_piece(rest + b"\n")
    if last is None:
        return None
    all_keys = np.concatenate([*keys, last.keys])
    keys.clear()  # before as much memory is taken for the offsets
    return Index(all_keys, np.concatenate([*offsets, last.offsets]))


def _parse_piece(text: bytes) -> Index | None:
    """Return the index of some whole lines; None unless each is two numbers of at most `_MAX_DIGITS` digits.
    """
    # Some come from Windows, some end without a line end, some with several.
    text = text.replace(b"\r\n", b"\n").strip(b"\n") + b"\n"
    if text == b"\n":
        return Index(np.zeros(0, np.int32), np.zeros(0, np.int64))
    codes = np.frombuffer(text, np.uint8)
    # Every byte that is no digit has to be a tab or a line end, by turns: so two numbers stand in each line.
    breaks = np.flatnonzero(codes < ord("0"))
    if len(breaks) % 2 or (codes > ord("9")).any():
        return None
    num_digits = np.diff(breaks, prepend=-1) - 1
    if (codes[breaks[::2]] != ord("\t")).any() or (codes[breaks[1::2]] != ord("\n")).any():
        return None
    if num_digits.min() < 1 or num_digits.max() > _MAX_DIGITS:
        return None
    keys, offsets = np.fromstring(text, np.int64, sep=" ").reshape(-1, 2).T
    # Keys count records, mostly: half the memory holds them.
    return Index(keys.astype(np.int32 if keys.max() <= _MAX_INT32 else np.int64), offsets.copy())


def _parse_lines(path: AnyPath, text: bytes) -> Index:
    text = text.replace(b"\r\n", b"\n").strip(b"\n") + b"\n"
    keys: list[Any] = []
    offsets: list[int] = []
    position = 0
    for number, line in enumerate(text.split(b"\n"), 1):
        # The last tab divides: a key of MXNet's users may hold tabs itself.
        key, _, offset = line.rpartition(b"\t")
        is_blank = not line.strip()
        if not is_blank and not (offset.strip().isdigit() and len(offset) <= _MAX_DIGITS):
            shown = line[:_SHOWN_BYTES].decode("utf-8", "replace")
            raise DataError(path, f"line {number} is no key, tab and offset: {shown!r}", position)
        if not is_blank:
            keys.append(_parse_key(key))
            offsets.append(int(offset))
        position += len(line) + 1
    fits = all(isinstance(key, int) and abs(key) < 1 << 63 for key in keys)
    # fromiter, since np.array would make a table of keys that are all text of one length.
    key_array = np.array(keys, np.int64) if fits else np.fromiter(keys, object, len(keys))
    return Index(key_array, np.array(offsets, np.int64))


def _parse_key(text: bytes) -> int | str:
    """Return a key as MXNet's users wrote it: mostly a number (int), else the text."""
    try:
        return int(text)
    except ValueError:
        return text.decode("utf-8", "surrogateescape")
