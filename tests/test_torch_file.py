"""`.pth` files from strangers: refused before torch takes memory for them, and without torch's advice."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgcls.errors import DataError
from imgcls.formats import torch_file
from imgcls.pretrained import torchvision_weights


def state_dict() -> dict[str, torch.Tensor]:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict()


def saved(path: Path, value: Any, *, is_legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not is_legacy)
    return path


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("value", [
    state_dict(), dict(state_dict()), {"a": nn.Parameter(torch.ones(2, 3))}, {"a": torch.ones(3, 4).t()},
    {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(4)[1:3], "c": torch.tensor(5)},
    {name: torch.ones(5000) for name in map(str, range(300))}], ids=range(6))
def test_what_torch_saves_is_read(tmp_path: Path, value: dict[str, torch.Tensor], is_legacy: bool) -> None:
    path = saved(tmp_path / "x.pth", value, is_legacy=is_legacy)
    torch_file.check(path)
    read = torchvision_weights._read_state_dict(path, "resnet18")
    assert read.keys() == value.keys()
    assert all(torch.equal(read[name], value[name]) for name in value)


def rewritten(path: Path, target: Path, compression: int = zipfile.ZIP_STORED, **changed: bytes) -> Path:
    """Copy an archive with other content for the files whose last names are given, `data_pkl` for data.pkl."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = changed.get(name.rpartition("/")[2].replace(".", "_"), old.read(name))
            new.writestr(name, content)
    return target


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        torchvision_weights._read_state_dict(path, "resnet18")
    line = str(caught.value)
    assert "weights_only" not in line
    assert "\n" not in line
    return line


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"a": torch.zeros(30_000_000)})
    bomb = rewritten(path, tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 200_000
    assert "compressed" in refused(bomb)
    assert torch_file.check(rewritten(path, tmp_path / "same.pth")) is None


class _Call:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CALLS = {
    "bytearray": _Call(bytearray, 10**10), "tensor": _Call(torch.Tensor, 10**10), "system": _Call(print, "x"),
    "meta": _Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (10**9,), (1,), False),
    "nested": {"state_dict": {}, "epoch": 3}, "list": [1, 2], "number keys": {1: 2}, "text": "x"}


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_pickle_that_asks_for_more_than_tensors(tmp_path: Path, name: str, is_legacy: bool) -> None:
    value = CALLS[name]
    value = {"a": value} if isinstance(value, _Call) else value
    refused(saved(tmp_path / "x.pth", value, is_legacy=is_legacy))


def test_the_last_pickle_of_a_legacy_file_makes_no_bytearray(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"a": torch.ones(3)}, is_legacy=True)
    content = path.read_bytes()
    begin = content.rindex(b"\x80\x02]q\x00")  # the list of storages, behind the weights
    path.write_bytes(content[:begin] + b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
    assert "builtins.bytearray, which is not allowed" in refused(path)


class _Pickler(pickle._Pickler):  # Python's own, whose references can be anything
    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, _Reference) else None

    def save_type(self, kind: type) -> None:
        self.save_global(kind)


class _Reference:
    def __init__(self, *reference: Any) -> None:
        self.reference = reference


def tensor(storage: _Reference, size: Any, stride: Any, offset: Any = 0) -> _Call:
    return _Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(value)
    return stream.getvalue()


SMALL = _Reference("storage", torch.FloatStorage, "0", "cpu", 4)
HUGE = _Reference("storage", torch.FloatStorage, "0", "cpu", 10**9)
TENSORS = {
    "huge storage": tensor(HUGE, (10**9,), (1,)), "expanded": tensor(SMALL, (10**9,), (0,)),
    "beyond": tensor(SMALL, (5,), (1,)), "offset": tensor(SMALL, (4,), (1,), 1),
    "empty": tensor(SMALL, (10**9, 0), (1, 1)),
    "negative": tensor(SMALL, (-4,), (1,)), "bool": tensor(SMALL, (True,), (1,)), "no size": tensor(SMALL, None, (1,)),
    "rank": tensor(SMALL, (2, 2), (1,)), "no storage": tensor(_Reference("module", "x"), (4,), (1,)),
    "key": tensor(_Reference("storage", torch.FloatStorage, "../0", "cpu", 4), (4,), (1,)),
    "size": tensor(_Reference("storage", torch.FloatStorage, "0", "cpu", -4), (4,), (1,))}


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_larger_than_their_file(tmp_path: Path, name: str, is_legacy: bool) -> None:
    content = pickled({"a": TENSORS[name]})
    path = tmp_path / "bad.pth"
    if is_legacy:
        header = b"".join(pickle.dumps(part, 2) for part in (
            torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}))
        path.write_bytes(header + content + pickle.dumps(["0"], 2) + struct.pack("<q4f", 4, *[1.0] * 4))
    else:
        rewritten(saved(tmp_path / "x.pth", {"a": torch.ones(4)}), path, data_pkl=content)
    if is_legacy and name == "key":  # a name in a list here, and none of a file
        return
    refused(path)


def test_archives_that_two_readers_read_differently(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"a": torch.ones(4)})
    content = path.read_bytes()
    for name, changed in {
            "behind": content + b"x", "before": b"PK\x03\x04" + content, "cut": content[:-30], "empty": content[:4],
            "comment": content[:-2] + b"\1\0x"}.items():
        bad = tmp_path / f"{name}.pth"
        bad.write_bytes(changed)
        refused(bad)
    twice = tmp_path / "twice.pth"
    rewritten(path, twice)
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("X/DATA.PKL", b"N.")
        archive.writestr("x/DATA.pkl", b"N.")
    refused(twice)


def test_what_is_no_file_of_torch(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "text": b"hello" * 100, "html": b"<html>", "zip": b"PK\x03\x04"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        refused(path)
    with tarfile.open(tmp_path / "tar", "w") as archive:
        archive.add(tmp_path / "text", "storages")
    refused(tmp_path / "tar")
    script = tmp_path / "script.pth"
    with zipfile.ZipFile(script, "w") as program:
        program.writestr("x/data.pkl", b"N.")
        program.writestr("x/constants.pkl", b"N.")
    assert "TorchScript" in refused(script)
    damaged = saved(tmp_path / "x.pth", {"a": torch.ones(4)})
    content = bytearray(damaged.read_bytes())
    content[content.index(b"data.pkl") + 40] ^= 255
    damaged.write_bytes(content)
    refused(damaged)
