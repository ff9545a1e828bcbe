"""MXNet's optimizer states, `prefix-0001.states`: read without running what they hold.

These files are pickles, and a pickle is a program that may call anything. So `formats/pickles` reads them,
with stand-ins for the three things that MXNet's files mention (`NDArray`, `bytearray`, `encode`); a file that
names anything else is a DataError. The checkpoint reads them when it resumes MXNet's training; our own states
are safetensors. Needs numpy, not torch.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgcls.errors import DataError, reason
from imgcls.formats import params, pickles
from imgcls.storage.paths import to_path
from imgcls.storage.reading import read_all

#: None (plain SGD), one array (momentum), or a tuple (Adam's mean and variance; state and float32 weight)
State = None | np.ndarray | tuple[Any, ...]

#: MXNet's deepest state is ((mean, variance), weight), its longest (n, g, delta)
MAX_DEPTH = 2
MAX_PARTS = 4


def load(path: str | os.PathLike[str]) -> dict[int | str, State]:
    """Return states by their key: the position of the parameter (arguments without data and label, in the
    symbol's order), or its name.

    A file that holds anything but arrays is a DataError: above all one saved with `dump_optimizer=True`,
    which has MXNet's optimizer object in it. The file does not say which optimizer it is of, nor how many
    updates were done.
    """
    try:
        data = read_all(to_path(path))
    except OSError as error:
        raise DataError(path, reason(error)) from error
    return loads(data, path)


def loads(data: bytes, path: object = "states") -> dict[int | str, State]:
    """Return what `load` does from bytes in memory; `path` is what errors call them."""
    try:
        # latin-1 keeps the bytes of Python 2's strings, which held the arrays there.
        value = pickles.load(data, _allowed_names(len(data)), path, encoding="latin-1")
    except DataError as error:
        has_optimizer = b"mxnet.optimizer" in data
        hint = " (saved with dump_optimizer=True? save it without)" if has_optimizer else ""
        raise DataError(path, f"not optimizer states: {error.reason}{hint}", error.offset) from error
    if not isinstance(value, dict) or any(type(key) not in (int, str) for key in value):
        raise DataError(path, "not optimizer states: they are a dictionary from positions to arrays")
    # One for the whole file, since arrays may be shared between parameters.
    arrays: dict[int, np.ndarray] = {}
    return {key: _read_state(state, path, MAX_DEPTH, arrays) for key, state in value.items()}


def dumps(states: Mapping[int | str, State]) -> bytes:
    """Return the bytes of a file that MXNet reads: a pickle with its NDArrays, written without MXNet.

    It is put together from a few instructions of protocol 3: Python's own pickler would have to import the
    class that it mentions. Keys are int or str; a tuple has one to three parts.
    """
    parts = [b"\x80\x03}"]  # protocol, empty dictionary
    for key, state in states.items():
        # J is an int of 32 bits, X a text in UTF-8 behind its length
        text = str(key).encode()
        parts.append(struct.pack("<ci", b"J", key) if isinstance(key, int)
                     else struct.pack("<cI", b"X", len(text)) + text)
        parts += [_pickled(state), b"s"]  # set the item
    return b"".join([*parts, b"."])


def _pickled(state: State) -> bytes:
    if state is None:
        return b"N"  # the instruction for None
    if isinstance(state, tuple):
        # an instruction each for tuples of one, two and three
        return b"".join(map(_pickled, state)) + b"\x85\x86\x87"[len(state) - 1:len(state)]
    content = params.dumps_array(state)
    # NDArray(None), given the state {"handle": bytearray(content)}
    handle = struct.pack("<cI", b"X", 6) + b"handle"
    array = b"cbuiltins\nbytearray\n" + struct.pack("<cI", b"B", len(content)) + content + b"\x85R"
    return b"cmxnet.ndarray.ndarray\nNDArray\nN\x85R}" + handle + array + b"sb"


def _read_state(value: object, path: object, depth: int, arrays: dict[int, np.ndarray]) -> State:
    """Return one parameter's state; tuples may stand `depth` deep in it.

    `arrays` has those read so far by the id of their bytes: the same bytes can be named a thousand times.
    """
    if value is None:
        return None
    if isinstance(value, _NDArray) and value.handle is not None:
        # The same bytes may be named a thousand times: they are read once.
        if id(value.handle) not in arrays:
            arrays[id(value.handle)] = params.loads_array(value.handle, path)
        return arrays[id(value.handle)]
    if isinstance(value, tuple) and depth and len(value) <= MAX_PARTS:
        return tuple(_read_state(item, path, depth - 1, arrays) for item in value)
    kind = type(value).__name__.strip("_")
    raise DataError(path, f"a state is a {kind}, not an array or a short tuple of arrays")


class _NDArray:
    """Stands for MXNet's class: it can be given the bytes of an array, and nothing else."""

    # No __dict__, so that a state cannot set what no one expects.
    __slots__ = ("handle",)

    def __init__(self, handle: None) -> None:
        if handle is not None:
            raise ValueError("it has an array that MXNet does not write")
        self.handle: bytes | bytearray | None = None

    def __setstate__(self, state: Any) -> None:
        """Take what MXNet's own takes: {"handle": bytes}, see NDArray.__getstate__."""
        if type(state) is not dict or set(state) != {"handle"}:
            raise ValueError("it has an array with more than its bytes")
        if not isinstance(state["handle"], (bytes, bytearray, type(None))):
            raise ValueError("it has an array without its bytes")
        self.handle = state["handle"]


def _allowed_names(num_bytes: int) -> pickles.Names:
    """Return the names that a file of `num_bytes` may mention, and what stands for them."""
    encode = pickles.encoder(num_bytes)

    def as_bytes(content: str | bytes = b"", *encoding: str) -> bytes:
        """Stand for bytearray; makes no copy."""
        if isinstance(content, bytes) and not encoding:
            return content  # it is only read, and may be as large as the file
        return encode(content, *encoding)  # type: ignore[arg-type]

    return {
        ("mxnet.ndarray.ndarray", "NDArray"): _NDArray,
        ("_codecs", "encode"): encode,
        ("builtins", "bytearray"): as_bytes,
        ("__builtin__", "bytearray"): as_bytes,  # Python 2's name of it
    }
