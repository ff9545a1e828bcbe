"""MXNet's optimizer states, `prefix-0001.states`: read without ever unpickling.

These files are pickles, and a pickle is a program that may call anything. So nothing here loads one: a small
interpreter walks the opcodes and knows only what MXNet's files are made of (numbers, text, bytes, tuples,
dicts and `NDArray`); whatever else a file asks for makes it a DataError, and nothing of it is run. Our own
states are safetensors and written by `checkpoint`. Needs numpy, not torch.
"""

from __future__ import annotations

import os
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from imgcls import storage
from imgcls.errors import DataError
from imgcls.formats import params

#: None (plain SGD), one array (momentum), or a tuple of them (Adam's mean and variance; state and float32
#: weight)
State = None | np.ndarray | tuple[Any, ...]

#: ((mean, variance), weight) is as deep as MXNet goes, (n, g, delta) as long
MAX_DEPTH, MAX_PARTS = 2, 4

NDARRAY = ("mxnet.ndarray.ndarray", "NDArray")
BYTEARRAYS = (("builtins", "bytearray"), ("__builtin__", "bytearray"))
ENCODE = ("_codecs", "encode")
ALLOWED = {NDARRAY, *BYTEARRAYS, ENCODE}
#: opcodes whose argument is a value
VALUES = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINUNICODE", "SHORT_BINUNICODE",
          "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
          "BINBYTES8", "BYTEARRAY8")


def load(path: str | os.PathLike[str]) -> dict[int | str, State]:
    """States by the position of their parameter (arguments without data and label, in the symbol's order).

    A file that holds anything but arrays is a DataError: above all one saved with `dump_optimizer=True`,
    which has MXNet's optimizer object in it. The file does not say which optimizer it is of, nor how many
    updates were done.
    """
    try:
        data = storage.local(path).read_bytes()
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
    return loads(data, path)


def loads(data: bytes, path: object = "states") -> dict[int | str, State]:
    """`load` of bytes in memory; `path` is what errors call them."""
    value = _Interpreter(path).run(data)
    if not isinstance(value, dict):
        raise DataError(path, "not optimizer states: they are a dictionary from positions to arrays")
    return {key: _state(state, path, MAX_DEPTH) for key, state in value.items()}


def _state(value: object, path: object, depth: int) -> State:
    if value is None:
        return None
    if isinstance(value, _NDArray) and value.handle is not None:
        return params.load_one(value.handle, path)
    if isinstance(value, tuple) and depth and len(value) <= MAX_PARTS:
        return tuple(_state(part, path, depth - 1) for part in value)
    kind = type(value).__name__.strip("_")
    raise DataError(path, f"a state is a {kind}, not an array or a short tuple of arrays")


class _NDArray:
    """What stands for MXNet's class: it can be given the bytes of an array, and nothing else."""

    handle: bytes | bytearray | None = None


class _Mark:
    """The opcode MARK, on the stack."""


class _RefusedError(Exception):
    """What the file asks for is not allowed; the text says what."""


class _Interpreter:
    """The stack machine of a pickle, with the few opcodes and the four names that MXNet's states need."""

    def __init__(self, path: object) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME"), lambda arg: None),
            **dict.fromkeys(VALUES, self.stack.append),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self.put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda arg: self.stack.append(self.memo[arg])),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), self.call),
            "NONE": lambda arg: self.stack.append(None),
            "MARK": lambda arg: self.stack.append(_Mark()),
            "MEMOIZE": lambda arg: self.put(len(self.memo)),
            "EMPTY_DICT": lambda arg: self.stack.append({}),
            "EMPTY_TUPLE": lambda arg: self.stack.append(()),
            "TUPLE": lambda arg: self.stack.append(tuple(self.since_mark())),
            "TUPLE1": lambda arg: self.stack.append(self.pop(1)),
            "TUPLE2": lambda arg: self.stack.append(self.pop(2)),
            "TUPLE3": lambda arg: self.stack.append(self.pop(3)),
            "DICT": self.dictionary,
            "SETITEM": lambda arg: self.set_items(list(self.pop(2))),
            "SETITEMS": lambda arg: self.set_items(self.since_mark()),
            "GLOBAL": lambda arg: self.name(*arg.split(" ", 1)),
            "STACK_GLOBAL": lambda arg: self.name(*self.pop(2)),
            "BUILD": self.build,
        }

    def run(self, data: bytes) -> object:
        """The value that the pickle describes."""
        offset = 0
        try:
            for opcode, argument, position in pickletools.genops(data):
                offset = position or 0
                if opcode.name == "STOP":
                    return self.pop(1)[0]
                if opcode.name not in self.actions:
                    deed = opcode.name.lower()
                    raise _RefusedError(f"the file does more than hold arrays ({deed}); it was not run")
                self.actions[opcode.name](argument)
        except _RefusedError as error:
            raise DataError(self.path, str(error), offset) from error
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
            raise DataError(self.path, "not optimizer states, or a damaged file", offset) from error
        raise DataError(self.path, "not optimizer states: the file has no end", offset)

    def pop(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count or any(isinstance(value, _Mark) for value in self.stack[-count:]):
            raise ValueError("stack underflow")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def since_mark(self) -> list[Any]:
        place = max(i for i, value in enumerate(self.stack) if isinstance(value, _Mark))
        values = self.stack[place + 1:]
        del self.stack[place:]
        return values

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def dictionary(self, argument: None) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        keys = items[::2]
        if not isinstance(target, dict) or len(items) % 2 or any(type(key) not in (int, str) for key in keys):
            raise ValueError("keys are numbers or text")
        target.update(zip(keys, items[1::2], strict=True))

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is text")
        if (module, name) not in ALLOWED:
            optimizer = module.startswith("mxnet.optimizer")
            hint = " (saved with dump_optimizer=True? save it without)" if optimizer else ""
            raise _RefusedError(f"the file wants {module}.{name}, which is not allowed{hint}; it was not run")
        self.stack.append((module, name))

    def call(self, argument: None) -> None:
        """`NDArray(None)`, `bytearray(bytes)`, `encode(text, "latin1")`; imitated, not called."""
        function, arguments = self.pop(2)
        if function == NDARRAY and arguments == (None,):
            self.stack.append(_NDArray())
        elif function in BYTEARRAYS and (not arguments or isinstance(arguments[0], (bytes, bytearray))):
            self.stack.append(arguments[0] if arguments else b"")
        elif (function == ENCODE or function in BYTEARRAYS) and isinstance(arguments[0], str):
            if arguments[1:] not in (("latin1",), ("latin-1",)):
                raise ValueError("text in another encoding")
            self.stack.append(arguments[0].encode("latin-1"))
        else:
            raise ValueError("a call that MXNet does not write")

    def build(self, argument: None) -> None:
        """Give an NDArray its bytes."""
        target, state = self.pop(2)
        if not isinstance(target, _NDArray) or not isinstance(state, dict) or set(state) != {"handle"}:
            raise ValueError("only arrays have a state")
        if not isinstance(state["handle"], (bytes, bytearray, type(None))):
            raise ValueError("an array's state is its bytes")
        target.handle = state["handle"]
        self.stack.append(target)
