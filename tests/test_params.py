"""MXNet's NDArray lists: every version and dtype, MXNet's own bytes back, and damage of every kind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import RECORDED_NETWORKS, mxnet_file, real_data, recorded_network

from imgcls.errors import DataError, UsageError
from imgcls.formats import params

BRIDGE = Path(__file__).parent / "fixtures" / "bridge"


def array_list(*arrays: bytes, names: tuple[str, ...] = ()) -> bytes:
    """A list of arrays that are already in MXNet's form."""
    texts = [name.encode() for name in names]
    return (struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(texts))
            + b"".join(struct.pack("<Q", len(text)) + text for text in texts))


def array_v2(shape: tuple[int, ...], dtype: int, data: bytes, *, context: tuple[int, int] = (1, 0)) -> bytes:
    return struct.pack(f"<Iii{len(shape)}qiii", 0xF993FAC9, 0, len(shape), *shape, *context, dtype) + data


@pytest.mark.parametrize("name", ["arrays.params", "small-0001.params"])
def test_mxnets_bytes_come_back(name: str, tmp_path: Path) -> None:
    arrays = params.load(BRIDGE / name)
    params.save(tmp_path / "again", arrays)
    assert (tmp_path / "again").read_bytes() == (BRIDGE / name).read_bytes()


def test_every_dtype_of_mxnet() -> None:
    arrays = params.load(BRIDGE / "arrays.params")
    dtypes = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"]
    assert list(arrays) == [f"arg:{dtype}" for dtype in dtypes] + ["aux:a:b", "arg:имя"]
    assert all(arrays[f"arg:{dtype}"].dtype == dtype and arrays[f"arg:{dtype}"].shape == (2, 3)
               for dtype in dtypes)
    assert arrays["arg:float32"].tolist() == arrays["arg:float64"].tolist()
    assert arrays["arg:int32"].tolist() == np.trunc(arrays["arg:float32"]).tolist()
    assert arrays["arg:имя"].shape == (2, 1, 2)


def test_sparse_arrays_are_filled_out() -> None:
    arrays, dense = params.load(BRIDGE / "sparse.params"), np.load(BRIDGE / "dense.npz")
    assert set(arrays) == {"rows", "csr"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, dense[name])


def test_older_and_newer_versions_in_one_list() -> None:
    values = np.arange(6, dtype="<f4")
    tail = struct.pack("<iii", 2, 3, 0) + values.tobytes()  # saved on gpu(3)
    v0 = struct.pack("<III", 2, 2, 3) + tail
    v1 = struct.pack("<Iiqq", 0xF993FAC8, 2, 2, 3) + tail
    scalar = struct.pack("<Iiiiii", 0xF993FACA, 0, 0, 1, 0, 0) + values[3:4].tobytes()
    none = struct.pack("<Iii", 0xF993FAC9, 0, 0)
    arrays = params.loads(array_list(v0, v1, array_v2((3, 2), 0, values.tobytes()), scalar, none))
    assert list(arrays) == ["0", "1", "2", "3", "4"]
    assert arrays["0"].tolist() == arrays["1"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["2"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert arrays["3"].shape == ()
    assert arrays["3"] == 3
    assert arrays["4"].shape == (0,)


def test_bfloat16_is_read_as_float32() -> None:
    data = np.array([1.0, -2.5, 0.15625], "<f4").view("<u4") >> 16
    array = params.loads(array_list(array_v2((3,), 12, data.astype("<u2").tobytes())))["0"]
    assert array.dtype == np.float32
    assert array.tolist() == [1.0, -2.5, 0.15625]


def test_a_stale_shape_of_stored_values_is_recomputed() -> None:
    """MXNet writes the shape before the work on the array is done."""
    values, rows = np.ones((2, 3), "<f4"), np.array([0, 4], "<i8")
    head = struct.pack("<Iiiqqiqq", 0xF993FAC9, 1, 2, 0, 3, 2, 5, 3) + struct.pack("<iii", 1, 0, 0)
    array = params.loads(array_list(head + struct.pack("<iiq", 6, 1, 2) + values.tobytes()
                                    + rows.tobytes()))["0"]
    assert array.sum(axis=1).tolist() == [3, 0, 0, 0, 3]


@pytest.mark.parametrize("dtype", sorted(set(params.CODES), key=str))
def test_saving_and_loading(dtype: np.dtype, tmp_path: Path) -> None:
    wide = (np.arange(24).reshape(4, 6) % 2).astype(dtype)
    saved = {"plain": wide, "strided": wide[::2, ::-1], "fortran": np.asfortranarray(wide),
             "scalar": wide[1, 1],
             "empty": wide[:, :0], "big": wide.astype(dtype.newbyteorder(">"))}
    params.save(tmp_path / "x", saved)
    arrays = params.load(tmp_path / "x")
    assert list(arrays) == list(saved)
    for name, array in arrays.items():
        assert array.shape == np.shape(saved[name])
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, saved[name])


def test_lists_without_names(tmp_path: Path) -> None:
    params.save(tmp_path / "x", [np.ones(2), np.zeros(3)])
    assert [array.tolist() for array in params.load(tmp_path / "x").values()] == [[1, 1], [0, 0, 0]]
    assert (tmp_path / "x").read_bytes().endswith(struct.pack("<Q", 0))


def test_saving_does_not_copy(tmp_path: Path) -> None:
    array = np.arange(10.0)
    pieces = list(params.serialize(["a"], [array], "x"))
    assert any(isinstance(piece, memoryview) and np.shares_memory(np.asarray(piece), array)
               for piece in pieces)


def test_what_mxnet_has_no_dtype_for_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'b' is complex128"):
        params.save(tmp_path / "x", {"a": np.ones(2), "b": np.ones(2, complex)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("data", "offset", "reason"), [
    (b"", 0, "magic number"),
    (struct.pack("<QQ", 0x113, 0), 0, "not an MXNet parameter file"),
    (struct.pack("<QQQ", 0x112, 0, 1 << 60), 16, "cannot fit"),
    (array_list(array_v2((1 << 31, 1 << 31), 0, b"")), 64, "the data of an array of shape"),
    (array_list(array_v2((1 << 62, 1 << 62, 0), 0, b"")), 72, "impossible shape"),
    (array_list(array_v2((2,), 77, bytes(8))), 52, "unknown dtype code 77"),
    (array_list(array_v2((-2,), 0, bytes(8))), 32, "negative size"),
    (array_list(struct.pack("<Iii", 0xF993FAC9, 0, 33)), 32, "33 dimensions"),
    (array_list(struct.pack("<Iii", 0xF993FAC9, 7, 1)), 28, "unknown storage type 7"),
    (array_list(struct.pack("<I", 0xDEADBEEF)), 24, "starts no array"),
    (array_list(array_v2((1,), 0, bytes(4)), names=("a", "b")), 60, "2 names for 1 arrays"),
    (array_list(array_v2((1,), 0, bytes(4)), names=("abcd",))[:-1], 76, "a name"),
    (array_list(array_v2((1,), 0, bytes(4)))[:-8] + struct.pack("<QQ", 1, 1) + b"\xff", 76, "not UTF-8"),
])
def test_damage_is_named_with_its_offset(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        params.loads(data, "file.params")
    assert caught.value.offset == offset
    assert str(caught.value).startswith(f"file.params at byte {offset}: ")


def test_no_more_empty_arrays_than_any_list_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "_MAX_NONE_ARRAYS", 3)
    kinds = [struct.pack("<I", 0), struct.pack("<Iii", 0xF993FAC9, 0, 0), struct.pack("<Ii", 0xF993FAC8, 0)]
    assert [array.shape for array in params.loads(array_list(*kinds)).values()] == [(0,)] * 3
    with pytest.raises(DataError, match="more than 3 arrays that hold nothing") as caught:
        params.loads(array_list(*kinds, kinds[0]))
    assert caught.value.offset == 48


def sparse_csr(shape: tuple[int, int], starts: list[int], columns: list[int]) -> bytes:
    head = struct.pack("<IiiqiqqiiI", 0xF993FAC9, 2, 1, len(columns), 2, *shape, 1, 0, 0)
    kinds = struct.pack("<iiqiiq", 6, 1, len(starts), 6, 1, len(columns))
    return array_list(head + kinds + bytes(4 * len(columns)) + np.array(starts, "<i8").tobytes()
                      + np.array(columns, "<i8").tobytes())


@pytest.mark.parametrize(("shape", "starts", "columns"), [
    ((2, 3), [0, 1, 2], [0, 3]), ((2, 3), [0, 1, 2], [0, -1]), ((2, 3), [0, 2, 1], [0, 1]),
    ((2, 3), [0, 1], [0]), ((2, 3), [], []), ((1 << 20, 1 << 20), [0], []),
])
def test_impossible_sparse_arrays(shape: tuple[int, int], starts: list[int], columns: list[int]) -> None:
    assert params.loads(sparse_csr((2, 3), [0, 1, 2], [0, 2]))["0"].shape == (2, 3)
    with pytest.raises(DataError):
        params.loads(sparse_csr(shape, starts, columns))


@pytest.mark.parametrize("name", ["arrays.params", "sparse.params"])
def test_no_damage_ends_in_anything_but_a_data_error(name: str) -> None:
    content = (BRIDGE / name).read_bytes()
    generator = random.Random(0)
    for end in range(len(content)):
        with pytest.raises(DataError):
            params.loads(content[:end])
    for _ in range(2000):
        data = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        with contextlib.suppress(DataError):
            params.loads(bytes(data))


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        params.load(tmp_path / "none.params")


def test_the_last_of_two_arrays_of_one_name_counts() -> None:
    data = array_list(array_v2((1,), 3, b"\1"), array_v2((1,), 3, b"\2"), names=("a", "a"))
    assert params.loads(data)["a"].tolist() == [2]


def test_outside_fixtures_read_as_mxnet_reads_them() -> None:
    folder = mxnet_file("ndarray")
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in manifest["files"]:
        arrays = list(params.load(folder / file["file"]).items())
        assert len(arrays) == len(file["arrays"])
        for (name, array), expected in zip(arrays, file["arrays"], strict=True):
            assert expected["name"] in (None, name)
            if expected.get("dtype"):
                assert array.dtype == expected["dtype"]
                assert list(array.shape) == expected["shape"]
                np.testing.assert_array_equal(array,
                                              np.array(expected["values"], array.dtype).reshape(array.shape))
    for file in manifest["damaged"]:
        if file["mxnet"].startswith("loads") and file["file"] != "huge-dims.params":
            assert len(params.load(folder / file["file"])) == 12
        else:
            with pytest.raises(DataError):
                params.load(folder / file["file"])


def test_outside_checkpoints_come_back_byte_for_byte(tmp_path: Path) -> None:
    for name in RECORDED_NETWORKS:
        recorded = recorded_network(name)
        written = Path(f"{recorded.save(tmp_path)}-0003.params")
        params.save(tmp_path / "again", params.load(written))
        assert (tmp_path / "again").read_bytes() == written.read_bytes(), name
        assert hashlib.sha256(written.read_bytes()).hexdigest() == recorded.params_sha256, name


@pytest.mark.real_data
def test_a_file_older_than_v1() -> None:
    arrays = params.load(real_data("mxnet-models", "apache-legacy", "legacy_ndarray.v0"))
    assert [array.shape for array in arrays.values()] == [(128,)] * 6
