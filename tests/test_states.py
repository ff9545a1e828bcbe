"""MXNet's optimizer states: pickles that are read as data, and never run."""

from __future__ import annotations

import codecs
import contextlib
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import mxnet_file

from imgcls.errors import DataError
from imgcls.formats import params, states

BRIDGE = Path(__file__).parent / "fixtures" / "bridge"


def test_states_of_adam() -> None:
    loaded, arrays = states.load(BRIDGE / "adam.states"), params.load(BRIDGE / "small-0001.params")
    names = [name for name in arrays if name.startswith("arg:")]
    assert sorted(loaded, key=int) == list(range(len(names)))
    for index, name in enumerate(names):
        mean, variance = loaded[index]  # type: ignore[misc]
        assert mean.shape == variance.shape == arrays[name].shape
        if name != "arg:bn1_gamma":  # it is fixed
            np.testing.assert_allclose(variance, mean**2 / 10, rtol=1e-4, atol=1e-12)
            assert mean.any()


class Ndarray:
    """Pickles as MXNet's NDArray does."""

    def __init__(self, array: bytes) -> None:
        self.array = array

    def __reduce__(self) -> tuple:
        return Ndarray, (None,), {"handle": bytearray(self.array)}


def pickled(value: object, protocol: int) -> bytes:
    """As if our stand-in were MXNet's class; text opcodes and length-prefixed ones both name it."""
    data = pickle.dumps(value, protocol, fix_imports=True)
    if protocol >= 4:
        old, new = ((len(text.encode()).to_bytes(1, "little") + text.encode()) for text in (
            __name__, "mxnet.ndarray.ndarray"))
        data = data.replace(b"\x8c" + old, b"\x8c" + new).replace(b"\x8c\x07Ndarray", b"\x8c\x07NDArray")
        at = data.index(b"\x95")  # one frame, which is now of another length
        return data[:at] + data[at + 9:]
    return data.replace(f"c{__name__}\nNdarray\n".encode(), b"cmxnet.ndarray.ndarray\nNDArray\n")


def one_array(tmp_path: Path, array: np.ndarray) -> bytes:
    params.save(tmp_path / "one", [array])
    return (tmp_path / "one").read_bytes()[24:-8]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle(protocol: int, tmp_path: Path) -> None:
    array = Ndarray(one_array(tmp_path, np.arange(3.0)))
    again = Ndarray(one_array(tmp_path, np.ones((2, 2), np.float16)))
    value = {0: array, 1: None, 2: (array, None), "weight": ((array, again), again), 300: again, 70000: None}
    loaded = states.loads(pickled(value, protocol))
    assert list(loaded) == list(value)
    assert loaded[0].tolist() == [0, 1, 2]
    assert loaded[1] is None
    assert loaded["weight"][0][1].tolist() == [[1, 1], [1, 1]]  # type: ignore[index]


class Hostile:
    def __reduce__(self) -> tuple:
        return print, ("this must never be run",)


class Decoding:
    def __reduce__(self) -> tuple:
        return codecs.decode, (b"x", "latin1")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Hostile(), {0: Hostile()}, {0: Decoding()}, {0: np.ones(3)}, {0: {1}},
                                   ({0: None}, Path("x"))])
def test_everything_else_is_refused_and_not_run(value: object, protocol: int,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError,
                       match=r"not allowed|more than hold arrays|not optimizer states|a state is a"):
        states.loads(pickle.dumps(value, protocol), "x.states")
    assert capsys.readouterr().out == ""


def test_an_optimizer_inside_gets_a_hint() -> None:
    data = pickle.dumps(({0: None}, Hostile()), 2).replace(b"c__builtin__\nprint\n",
                                                           b"cmxnet.optimizer\nSGD\n")
    with pytest.raises(DataError, match="dump_optimizer"):
        states.loads(data)


@pytest.mark.parametrize("data", [
    b"\x80\x04}.", b"\x80\x02}q\x00.",
], ids=["4", "2"])
def test_no_states_at_all(data: bytes) -> None:
    assert states.loads(data) == {}


@pytest.mark.parametrize("data", [
    b"", b"\x80\x04", b"\x80\x04N.", b"\x80\x04].", b"\x80\x04}K\x00.", b"\x80\x04}K\x00K\x01s.",
    b"t.", b"h\x05.",
    b"\x80\x04r\xff\xff\xff\x7f.", b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fx.", b"\x80\x04}()Ns.",
    b"\x80\x04}NNs.", b"\x80\x02}K\x00(NNNNNts.", b"\x80\x02N\x85\x85\x85K\x01.",
    b"I" + b"9" * 10000 + b"\n.",
])
def test_damaged_files(data: bytes) -> None:
    with pytest.raises(DataError):
        states.loads(data)


def test_shared_tuples_do_not_multiply() -> None:
    doubled = b"N\x94" + b"".join(bytes([ord("h"), i, ord("h"), i, 0x86, 0x94]) for i in range(60))
    # value, key
    for data in (b"\x80\x04" + doubled + b"}K\x00h\x3cs.", b"\x80\x04" + doubled + b"}h\x3cNs."):
        with pytest.raises(DataError):
            states.loads(data)


def test_shared_arrays_are_read_once(tmp_path: Path) -> None:
    array = Ndarray(one_array(tmp_path, np.zeros(100_000, np.float32)))
    loaded = states.loads(pickled(dict.fromkeys(range(1000), (array, array)), 2))
    assert len({id(array_of_state) for state in loaded.values()
                for array_of_state in state}) == 1  # type: ignore[union-attr]


def test_no_damage_ends_in_anything_but_a_data_error() -> None:
    content = (BRIDGE / "adam.states").read_bytes()
    generator = random.Random(0)
    for end in range(len(content)):
        with pytest.raises(DataError):
            states.loads(content[:end])
    for _ in range(2000):
        data = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        with contextlib.suppress(DataError):
            states.loads(bytes(data))


def same(actual: object, expected: object) -> bool:
    if isinstance(expected, list):
        return isinstance(actual, tuple) and len(actual) == len(expected) and all(map(same, actual, expected))
    if isinstance(expected, dict):
        return (isinstance(actual, np.ndarray) and actual.dtype == expected["dtype"]
                and np.array_equal(actual,
                                   np.array(expected["values"], actual.dtype).reshape(expected["shape"])))
    return actual is None and expected is None


def test_outside_fixtures() -> None:
    folder = mxnet_file("states")
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in manifest["files"]:
        loaded = states.load(folder / file["file"])
        assert {str(key) for key in loaded} == set(file["states"])
        assert all(same(loaded[int(key)], expected) for key, expected in file["states"].items()), file["file"]
    with pytest.raises(DataError, match="print"):
        states.load(folder / "hostile.states")


@pytest.mark.slow
def test_a_run_resumes_with_mxnets_momentum(tmp_path: Path) -> None:
    """States written as MXNet writes them resume a run as our own states do."""
    from imgcls.cli import train
    from imgcls.training import checkpoint

    def command(*flags: object) -> list[str]:
        return ["--dataset", "digits", "--network", "mlp", "--batch-size", "500", "--num-epochs",
                *map(str, flags)]

    assert train.main(command(2, "--model-prefix", tmp_path / "whole", "--lr", 0.1)) == 0
    assert train.main(command(1, "--model-prefix", tmp_path / "part", "--lr", 0.1)) == 0
    saved = checkpoint.load(str(tmp_path / "part"), "1")
    assert saved
    assert saved.optimizer
    names = [name.removeprefix("arg:") for name in saved.arrays if name.startswith("arg:")]
    value = {index: Ndarray(one_array(tmp_path, -0.1 * saved.optimizer[f"{name}/momentum_buffer"].numpy()))
             for index, name in enumerate(names)}
    (tmp_path / "part-0001.states").write_bytes(pickled(value, 2))
    assert train.main(command(2, "--model-prefix", tmp_path / "part", "--lr", 0.1, "--load-epoch", 1)) == 0
    uninterrupted, resumed = (params.load(tmp_path / f"{name}-0002.params") for name in ("whole", "part"))
    for name, array in uninterrupted.items():
        np.testing.assert_allclose(resumed[name], array, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_mxnets_states_of_another_network_are_refused(tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    from imgcls.cli import train

    command = ["--dataset", "digits", "--network", "mlp", "--batch-size", "500",
               "--model-prefix", str(tmp_path / "net")]
    assert train.main([*command, "--num-epochs", "1"]) == 0
    array = Ndarray(one_array(tmp_path, np.ones(3)))
    for value, message in (({9: array}, "has a state for parameter 9, and this network has 6"),
                           ({0: array}, "does not fit this network")):
        (tmp_path / "net-0001.states").write_bytes(pickled(value, 2))
        assert train.main([*command, "--num-epochs", "2", "--load-epoch", "1"]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error
        assert ".states" in error or ".params" in error


@pytest.mark.parametrize("key", ["\u00b2", "\u0663", "1" * 5000, 10**12, -1, "fc9_weight"])
def test_a_state_of_no_parameter_is_one_error(key: int | str) -> None:
    from imgcls.training.checkpoint.mxnet_states import _parameter_name

    names = [f"fc{number}_weight" for number in range(4)]
    assert _parameter_name(3, names, "x") == _parameter_name("fc3_weight", names, "x") == "fc3_weight"
    with pytest.raises(DataError, match=r"net-0001\.states: has a state for parameter"):
        _parameter_name(key, names, "net-0001.params")
