"""formats/pickles: plain data is read, and everything else that a pickle can do is refused."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from imgcls.errors import DataError
from imgcls.formats import pickles


class Box:
    """A stand-in that keeps the bytes it is given."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: bytes | None = None

    def __setstate__(self, state: object) -> None:
        if type(state) is not bytes:
            raise ValueError("it has a box without bytes")
        self.content = state


def make(content: bytes = b"") -> bytes:
    """A function among the names: states given to it could change what it does for ever."""
    return content


def load(data: bytes, encoding: str = "latin-1") -> object:
    names: dict[tuple[str, str], Callable[..., object]] = {
        ("box", "Box"): Box, ("box", "make"): make, ("_codecs", "encode"): pickles.encoder(len(data))}
    return pickles.load(data, names, "a.pickle", encoding=encoding)


def refusal(data: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        load(data)
    message = str(caught.value)
    assert message.startswith("a.pickle")
    assert message.isprintable()
    assert len(message) < 300
    return caught.value


def text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(content)]) + content


def frame(size: int) -> bytes:
    return b"\x95" + struct.pack("<Q", size)


BOX, MAKE = b"cbox\nBox\n", b"cbox\nmake\n"

@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_through(protocol: int) -> None:
    row = ["one", "\u00e9\u4e2d"]
    value = {"numbers": [0, 1, 255, 65535, -1, 2**31 - 1, -2**31], "texts": (row, row, "x" * 300),
             b"key": b"\x00\xff" * 200, 7: (), "none": (None, True, False), "nested": {"a": [[1, (2,)], {}]},
             "four": (1, 2, 3, 4)}
    loaded = load(pickle.dumps(value, protocol))
    assert loaded == value
    assert loaded["texts"][0] is loaded["texts"][1]  # type: ignore[index]


@pytest.mark.parametrize("protocol", range(1, 6))
def test_floats_and_long_lists(protocol: int) -> None:
    value = [0.5, list(range(3000)), {i: str(i) for i in range(3000)}]
    assert load(pickle.dumps(value, protocol)) == value


def test_byte_strings_of_python_2() -> None:
    data = b"\x80\x02U\x02\xe9aq\x00."
    assert load(data) == "\u00e9a"
    assert load(data, "bytes") == b"\xe9a"


@pytest.mark.parametrize("name", [BOX, text("box") + b"\x94" + text("Box") + b"\x94\x93"])
def test_stand_ins_are_made_and_get_their_state(name: bytes) -> None:
    loaded = load(b"\x80\x04" + name + b")RC\x03abcb.")
    assert isinstance(loaded, Box)
    assert loaded.content == b"abc"


# What the file wants


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [len, pickle.loads])
def test_other_names_are_refused_where_they_stand(protocol: int, function: Callable[..., object]) -> None:
    data = pickle.dumps([1, function], protocol)
    error = refusal(data)
    assert f"{function.__name__}, which is not allowed; it was not run" in str(error)
    offsets = [at for opcode, _, at in pickletools.genops(data) if "GLOBAL" in opcode.name]
    assert error.offset == offsets[0]


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("box", "Box.__class__"), ("Box", "box"),
                                              ("a\nb\x1b[2J\u202e", "c" * 200), ("\ud800", "x")])
def test_a_strange_name_does_not_spoil_the_message(module: str, name: str) -> None:
    assert "the file wants" in str(refusal(b"\x80\x04" + text(module) + text(name) + b"\x93."))


@pytest.mark.parametrize(("before", "code", "name"), [
    (b"", b"P1\n", "PERSID"), (b"N", b"Q", "BINPERSID"), (b"", b"\x82\x01", "EXT1"),
    (b"", b"\x83\x01\x00", "EXT2"),
    (b"", b"\x84\x01\x00\x00\x00", "EXT4"), (b"(", b"ibox\nBox\n", "INST"), (b"(" + BOX, b"o", "OBJ"),
    (BOX + b")", b"\x81", "NEWOBJ"), (BOX + b")}", b"\x92", "NEWOBJ_EX"), (b"", b"\x8f", "EMPTY_SET"),
    (b"(", b"\x91", "FROZENSET"), (b"N", b"2", "DUP"), (b"N", b"0", "POP"), (b"(", b"1", "POP_MARK"),
    (b"", b"\x97", "NEXT_BUFFER"), (b"N", b"\x98", "READONLY_BUFFER"),
])
def test_other_instructions_are_refused(before: bytes, code: bytes, name: str) -> None:
    error = refusal(b"\x80\x05]" + before + code + b"a.")
    assert f"the instruction {name} is not allowed; it was not run" in str(error)
    assert error.offset == 3 + len(before)


STATE = b"}" + text("__defaults__") + b"C\x01x\x85s"  # sets the default of `make`


@pytest.mark.parametrize("body", [
    MAKE + STATE + b"b", MAKE + b"N" + STATE + b"\x86b", BOX + STATE + b"b",
    MAKE + b"\x94" + STATE + b"bh\x00b",
    b"]" + STATE + b"b", b")Nb", b"K\x01Nb", MAKE + b"C\x01xb",
])
def test_only_created_objects_get_a_state(body: bytes) -> None:
    assert "a state for something that has none" in str(refusal(b"\x80\x04" + body + b"."))
    assert make.__defaults__ == (b"",)


@pytest.mark.parametrize("body", [
    b"N)R", b"])R", text("box") + b")R", BOX + b")R)R", MAKE + b"N\x85R\x94h\x00)R", BOX + b"]R",
    BOX + BOX + b"R"])
def test_only_names_are_called(body: bytes) -> None:
    assert "it calls something that is no function" in str(refusal(b"\x80\x04" + body + b"."))


@pytest.mark.parametrize(("body", "message"), [
    (BOX + b")RK\x01b", "it has a box without bytes"),
    (BOX + b"K\x01\x85R", "its parts do not fit together"),
    (b"c_codecs\nencode\n" + text("a") + text("zip") + b"\x86R", "other than latin-1"),
    (b"c_codecs\nencode\nC\x01a" + text("latin1") + b"\x86R", "other than latin-1"),
    (b"c_codecs\nencode\n" + text("\u4e2d") + text("latin1") + b"\x86R", "can't encode"),
    (BOX + b")R(K\x01K\x02u", "damaged"),
    (BOX + b")RK\x01a", "damaged"),
])
def test_states_that_stand_ins_refuse(body: bytes, message: str) -> None:
    assert message in str(refusal(b"\x80\x04" + body + b"."))


def test_the_unpickler_itself_knows_the_names_only() -> None:
    """Should the walk over the instructions ever miss one, the second line holds."""
    for data in (b"cos\nsystem\n.", b"Vid\nQ.", b"Pid\n."):
        with pytest.raises((KeyError, ValueError)):
            pickles._Unpickler(data, {}, "latin-1").load()


# Bombs


DEEP = b")" + b"\x85" * 200_000
WIDE = b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60))


@pytest.mark.parametrize(("body", "message"), [
    (b"}" + DEEP + b"Ns.", "dict key"),                                     # its hash overflows the C stack
    (b"}(NN)Nu.", "dict key"),
    (b"()Nd.", "dict key"),
    (b"})\x94h\x00Nst.", "damaged"),
    (b"](K\x01t\x94a}(Nh\x00h\x00Nu\x86.", "dict key"),
    (b"}(K\x01tNs.", "dict key"),
    # the memo is an array of that length
    (b"Nr\xff\xff\xff\xff.", "more than 32 bits"),
    (b"Nr\xff\xff\xff\x7f.", "memoizes more"),
    (b"Np9999999\n.", "memoizes more"),
    (b"Np-1\n.", "memoizes more"),
    (b"\x8e" + struct.pack("<Q", 1 << 40), "damaged"),
    (b"\x8d" + struct.pack("<Q", 1 << 40), "damaged"),
    (b"\x96" + struct.pack("<Q", 1 << 40), "damaged"),
    (frame(1 << 40) + b"N.", "more than 32 bits"),
    (frame(1 << 30) + b"N.", "do not fit"),
    # numbers whose hashes can be chosen
    (b"\x8a\x09" + b"\xff" * 8 + b"\x00.", "more than 32 bits"),
    (b"I" + b"9" * 100 + b"\n.", "more than 32 bits"),
    (text("a" * 250) + b"\x94(" + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R") * 100 + b"t\x86.",
     "more encoded text than it holds"),
])
def test_bombs_do_not_go_off(body: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        load(b"\x80\x04" + body)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_shared_tuples_as_keys_do_not_multiply() -> None:
    assert "dict key" in str(refusal(b"\x80\x04}(" + WIDE + b"Nu."))


def test_too_many_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps([1] * 100, 2)
    load(data)
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 100)
    assert "too many instructions" in str(refusal(data))


# What the walk sees is what the unpickler does


@pytest.mark.parametrize("data", [
    # The unpickler drops the bytes of a half instruction at a frame's end, and goes on after the frame.
    b"\x80\x04" + frame(2) + b"J\x01" + b"\x00\x00\x00N.",
    b"\x80\x04" + frame(1) + b"C\x01a.",
    b"\x80\x04" + frame(11) + b"N" + frame(3) + b"K\x01K\x02\x86\x86.",
    b"\x80\x04" + frame(5) + b"cbox\nBox\n.",
])
def test_a_frame_that_cuts_an_instruction_is_refused(data: bytes) -> None:
    assert "a frame ends inside an instruction" in str(refusal(data))


def test_what_a_cut_frame_would_hide() -> None:
    """One file, two readings: bytes for the walk, a name for the unpickler, which is one byte ahead.

    Should this fail one day, the rule above can go.
    """
    data = b"\x80\x04" + frame(2) + b"J\x00" + b"\x00\x00\x00" + b"Uc" + b"os\nsystem\n.".ljust(99) + b"\x86."
    assert [opcode.name for opcode, _, _ in pickletools.genops(data)][2:] == [
        "BININT", "SHORT_BINSTRING", "TUPLE2", "STOP"]
    assert pickles._Unpickler(data, {("os", "system"): make}, "latin-1").load() is make
    assert "a frame ends inside an instruction" in str(refusal(data))


@pytest.mark.parametrize("body", [
    b"", b"N", b".", b"t.", b"(.", b"N(.", b"(N.", b"NN.", b"a.", b"]a.", b"](a.", b"h\x00.",
    b"}Ns.", b"}(Nu.",
    b"}(NNNu.", b"NNs.", b")N\x93.", b"q\x00.", b"(q\x00t.", b"R.", b"b.", b"N\x93.", b"\xff.",
    b"cbox\n", b"I1x\n.",
    b"V\\u12\n.", b"S'a\n.", b"S'\\z'\n", b"c\\z\n\\777\n."])
def test_damage(body: bytes) -> None:
    for data in (body, b"\x80\x04" + body):
        refusal(data)


def test_random_damage_ends_in_data_or_a_data_error() -> None:
    value = {"a": [1, (2, None)], "b": ("text", {"c": [300, 70000]}), 5: b"bytes"}
    box = BOX + b")RC\x01xb"
    wholes = [pickle.dumps(value, protocol) for protocol in range(6)] + [b"\x80\x02](" + box + MAKE + b")Re."]
    generator = random.Random(0)
    likely = b"(tedsuRbq.h}])\x85\x94"
    for _ in range(6000):
        data = bytearray(generator.choice(wholes))
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.choice((generator.randrange(256), *likely))
        with contextlib.suppress(DataError):
            load(bytes(data))


def test_what_follows_the_end_is_not_read() -> None:
    assert load(b"\x80\x04N.cos\nsystem\n") is None
