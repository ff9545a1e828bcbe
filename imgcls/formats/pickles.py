"""Pickles of plain data from untrusted files: `cifar_pickle`, `states` and `torch_file` read theirs here.

A pickle is a program that may call anything. So all its instructions are checked first, without running any:
only those that make data are allowed, names must be among the caller's, nothing else is called, and the
memory that it takes is bounded. Then Python's own unpickler runs it, with the caller's stand-ins in place of
what it names: nothing is imported or looked up anywhere else.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from imgcls.errors import DataError, verbatim

Names = Mapping[tuple[str, str], Callable[..., object]]

#: CIFAR-100 rewritten by Python 3 takes half a million; each takes at most some 100 bytes of memory
MOST_INSTRUCTIONS = 2_000_000

# Left out are names from elsewhere (EXT, PERSID), calls of classes (INST, OBJ, NEWOBJ: REDUCE is enough for
# the stand-ins), buffers out of band, numbers of any length, and what no writer of such files uses.
_ALLOWED = frozenset((
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "PROTO", "FRAME", "STOP",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"))
_CONTAINERS = (pickletools.pytuple, pickletools.pylist, pickletools.pydict)
# What the walk keeps of a value: its text, its kind as `pickletools` names it, or one of these two.
#: one of the caller's names
_NAMED = object()
#: what the call of one has made
_MADE = object()
#: a name that stands for a subclass of dict, and what its call has made
_NAMED_DICT = object()
_MADE_DICT = object()


def load(data: bytes, names: Names, path: object, *, encoding: str) -> object:
    """Return what a pickle describes: dict, list, tuple, numbers, text, bytes, and what `names` makes.

    `names` maps (module, name) to what stands for it: a class with `__slots__` and `__setstate__`, or a
    function that makes bytes or such an object. They check their arguments, and raise ValueError, whose text
    the user sees. `encoding` is what Python 2's byte strings become: "bytes", or text in that encoding.
    Anything else in the file, and any damage, is a DataError.
    """
    return load_first(data, names, path, encoding=encoding)[0]


def load_first(data: bytes, names: Names, path: object, *, encoding: str,
               persistent: Callable[[object], object] | None = None) -> tuple[object, int]:
    """Return what the pickle at the beginning of `data` describes, as `load` does, and the byte behind it.

    A subclass of dict among `names` stands for a dict that the file fills. `persistent` returns the stand-in
    for a reference to an object outside of the pickle (torch's storages); without it there may be none.
    """
    walk = _Walk(data, names, path, has_references=persistent is not None)
    walk.run()
    try:
        return _Unpickler(data, names, encoding, persistent).load(), walk.stream.tell()
    except Exception as error:  # what a damaged file does to stand-ins and unpickler is not foreseeable
        problem = verbatim(error) if isinstance(error, ValueError) else "its parts do not fit together"
        raise DataError(path, f"the pickle is refused: {problem}") from error


def encoder(limit: int) -> Callable[[str, str], bytes]:
    """Return a stand-in for `_codecs.encode`, with which protocols 0 to 2 write bytes: as text that is
    latin-1.

    It makes at most `limit` bytes in all its calls: one text encoded a thousand times would be a bomb. Beyond
    that, and for any other encoding, it raises ValueError.
    """
    num_left = limit

    def encode(text: str, encoding: str) -> bytes:
        nonlocal num_left
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("it has bytes in an encoding other than latin-1")
        num_left -= len(text)
        if num_left < 0:
            raise ValueError("it has more encoded text than it holds")
        return text.encode("latin-1")

    return encode


class _Unpickler(pickle.Unpickler):
    """Python's own, which finds only what is in `names`. `_Walk` has checked that nothing else is named."""

    def __init__(self, data: bytes, names: Names, encoding: str,
                 persistent: Callable[[object], object] | None = None) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._names = names
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        return self._names[module, name]

    def persistent_load(self, pid: object) -> object:
        if self._persistent is None:
            raise ValueError("it refers to an external object")
        return self._persistent(pid)


class _Walk:
    """Goes through the instructions as `pickletools.dis` does: with the kinds of values in place of values.

    From the kinds it checks what the unpickler would not: that only stand-ins are called and given states (a
    state can set attributes of anything, functions too), and that no dict key is a tuple (hashing a tuple of
    tuples of tuples ... overflows the C stack, or takes for ever).
    """

    def __init__(self, data: bytes, names: Names, path: object, *, has_references: bool) -> None:
        self.allowed = _ALLOWED | {"BINPERSID"} if has_references else _ALLOWED
        self.stream = io.BytesIO(data)
        self.names = names
        self.path = path
        #: byte where the instruction begins, and where the frame ends that it is in
        self.position = 0
        self.frame_end = 0
        #: the kinds of the values that the unpickler would have on its stack
        self.stack: list[object] = []
        #: how high the stack was at each mark
        self.marks: list[int] = []
        #: what PUT and its like have remembered, by number
        self.memo: dict[int, object] = {}

    def run(self) -> None:
        """Go through the whole pickle; raise DataError at the first instruction that is not allowed."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self.stream)):
                number = argument if isinstance(argument, int) else 0
                if opcode.name not in self.allowed:
                    self.refuse(f"the instruction {opcode.name} is not allowed; it was not run")
                if count >= MOST_INSTRUCTIONS:
                    self.refuse("it has too many instructions")
                if not -1 << 31 <= number < 1 << 31:
                    self.refuse("it has a number of more than 32 bits")
                # The unpickler's memo is an array: one huge number would take gigabytes.
                if opcode.name.endswith("PUT") and not 0 <= number <= count:
                    self.refuse("it memoizes more values than it holds")
                self.check_frame(opcode.name, number)
                self.step(opcode, argument)
                self.position = self.stream.tell()
        # Python warns of "\\z" in text, which may be set to be an error.
        except (ValueError, IndexError, KeyError, OverflowError, MemoryError, Warning) as error:
            raise DataError(self.path, "the pickle is damaged or cut short", self.position) from error

    def refuse(self, reason: str) -> NoReturn:
        """Raise DataError at the instruction."""
        raise DataError(self.path, f"the pickle is refused: {reason}", self.position)

    def check_frame(self, name: str, size: int) -> None:
        """Refuse a frame that ends inside an instruction."""
        # The unpickler drops the bytes of half an instruction and reads on behind them, at bytes not checked.
        end = self.stream.tell()
        if self.position < self.frame_end and (name == "FRAME" or end > self.frame_end):
            self.refuse("a frame ends inside an instruction")
        if name == "FRAME":
            self.frame_end = end + size

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take from the stack what the instruction takes, and push the kind of what it makes."""
        taken = self.take(opcode.stack_before)
        made: list[Any] = opcode.stack_after
        keys: list[object] = []
        match opcode.name:
            case "MARK":
                self.marks.append(len(self.stack))
                made = []
            case "BINUNICODE" | "SHORT_BINUNICODE":
                made = [argument]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = taken[0]
                made = taken
            case "GET" | "BINGET" | "LONG_BINGET":
                made = [self.memo[argument]]
            case "GLOBAL":
                made = [self.name(*argument.split(" ", 1))]
            case "STACK_GLOBAL":
                made = [self.name(*taken)]
            case "REDUCE":  # a call
                if taken[0] not in (_NAMED, _NAMED_DICT) or taken[1] is not pickletools.pytuple:
                    self.refuse("it calls something that is no function")
                made = [_MADE if taken[0] is _NAMED else _MADE_DICT]
            case "BUILD":  # __setstate__
                if taken[0] not in (_MADE, _MADE_DICT):
                    self.refuse("it has a state for something that has none")
                made = taken[:1]
            case "SETITEM" | "SETITEMS" if taken[0] is _MADE_DICT:
                keys = taken[1::2]
                made = taken[:1]
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS" if taken[0] is not made[0]:
                raise ValueError("neither list nor dict")
            case "SETITEM" | "SETITEMS":
                keys = taken[1::2]
            case "DICT":
                keys = taken[::2]
            case "STOP" if self.stack or self.marks:
                raise ValueError("more than one value")
        # Before the unpickler hashes them, which may overflow the C stack.
        if any(key in _CONTAINERS for key in keys):
            self.refuse("it has a dict key that is no number and no text")
        self.stack.extend(made)

    def take(self, before: list[pickletools.StackObject]) -> list[object]:
        """Return what an instruction takes off the stack: fixed values, or all down to the last mark."""
        if pickletools.markobject in before:
            start = self.marks.pop() - before.index(pickletools.markobject)
        else:
            start = len(self.stack) - len(before)
        # Values below the mark that is still open are not this instruction's.
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("not enough values")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def name(self, module: object, name: object) -> object:
        """Return the kind of a name; one that is not among the caller's is refused."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is text")
        if (module, name) not in self.names:
            shown = repr(f"{module}.{name}"[:100])[1:-1]
            self.refuse(f"the file wants {shown}, which is not allowed; it was not run")
        stand_in = self.names[module, name]
        return _NAMED_DICT if isinstance(stand_in, type) and issubclass(stand_in, dict) else _NAMED
