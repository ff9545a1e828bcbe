"""`find_batch_size`: which size is taken, where the search ends, and that nothing else is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_digits

from imgcls.cli import train as command
from imgcls.config import resolve
from imgcls.data.loaders.batch import Batch
from imgcls.storage import memory
from imgcls.training import find_batch_size
from imgcls.training.find_batch_size import Measurement, expected_bytes, rate_for, repeated, suggest

CPU = torch.device("cpu")
MIB = 1 << 20
#: as fast as it gets at 64
FOUND = [Measurement(8, 100, 510 * MIB), Measurement(16, 180, 520 * MIB), Measurement(32, 300, 540 * MIB),
         Measurement(64, 390, 580 * MIB), Measurement(128, 400, 660 * MIB)]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(find_batch_size, "_SECONDS", 0.01)
    (tmp_path / "data").mkdir()
    return write_digits(tmp_path / "data")


def find(folder: Path, picture: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--network", "mlp", "--batch-size", "32", "--lr", "0.1",
                         "--find-batch-size", str(picture), *map(str, flags)])


def test_the_smallest_that_is_as_good_as_the_fastest_is_taken() -> None:
    assert suggest(FOUND, 1e9, 100_000)[0] == 64, "95 % of the most"
    size, why = suggest(FOUND, 250, 100_000)
    assert size == 32, "the loader gives no more"
    assert "the loader gives 250" in why
    size, why = suggest(FOUND, 1e9, 330)
    assert size == 32, "ten updates an epoch"
    assert "10 updates an epoch" in why
    assert suggest(FOUND, 1e9, 20)[0] == 8, "the smallest there is, where none has ten"


def test_the_rate_goes_with_the_batch() -> None:
    def rate(size: int, **settings: object) -> float:
        return rate_for(size, resolve.build({"batch_size": 128, "lr": 0.1}, settings))[0]

    assert rate(256) == 0.2
    assert rate(32) == 0.025
    assert rate(512, optimizer="adamw") == 0.2
    assert "warmup_epochs" in rate_for(512, resolve.build({"batch_size": 128}, {}))[1]


def test_it_ends_before_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(size: int, num_samples: int = 10**6) -> str:
        found = [one for one in FOUND if one.size < size]
        return find_batch_size._reason_to_end(found, size, num_samples, CPU)

    monkeypatch.setattr(memory, "resident_bytes", lambda: 500 * MIB)
    monkeypatch.setattr(memory, "available_bytes", lambda: 150 * MIB)
    assert expected_bytes(FOUND[:4], 128) == 660 * MIB, "along the line through the last two"
    assert "150 are free" in reason(128)
    monkeypatch.setattr(memory, "available_bytes", lambda: 500 * MIB)
    assert not reason(128)
    assert "no faster" in find_batch_size._reason_to_end([*FOUND, Measurement(256, 399, 0)], 512, 10**6, CPU)
    assert "40 images" in reason(64, 40)
    slow = [Measurement(8, 1.0, MIB)]
    assert "would take more than 10 s" in find_batch_size._reason_to_end(slow, 16, 10**6, CPU)


def test_a_batch_is_repeated_in_the_order_of_the_loaders_memory() -> None:
    images = torch.arange(3 * 2 * 2 * 2.0).reshape(3, 2, 2, 2)
    batch = Batch(images, torch.tensor([0, 1, 2]), 2, 2, partners=torch.tensor([1, 0]))
    bigger = repeated(batch, 5)
    assert bigger.labels.tolist() == [0, 1, 0, 1, 0], "padding is not repeated"
    assert torch.equal(bigger.images, images[[0, 1, 0, 1, 0]])
    assert bigger.images.is_contiguous(memory_format=torch.channels_last)
    assert (bigger.num_valid, bigger.global_size, len(bigger.partners)) == (5, 5, 5)


def test_only_the_picture_is_written(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "model" / "m"
    assert command.main(["--data-dir", str(digits), "--network", "mlp", "--num-epochs", "1", "--batch-size", "80",
                         "--model-prefix", str(prefix)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    picture = tmp_path / "b.svg"
    assert find(digits, picture, "--model-prefix", prefix, "--mixup", "0.2") == 0
    said = capsys.readouterr().out
    assert "--batch-size " in said
    assert "--lr " in said
    assert picture.read_text().count("<svg") == 5, "one around two charts"
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.pop(picture)
    assert after == before
    assert find(digits, tmp_path / "b.png") == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_memory_that_runs_out_ends_it(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    real = find_batch_size._measure_size

    def measure_size(trainer: object, batch: Batch, updates: object) -> Measurement:
        if len(batch.images) > 16:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:115] . DefaultCPUAllocator: can't allocate memory")
        return real(trainer, batch, updates)

    monkeypatch.setattr(find_batch_size, "_measure_size", measure_size)
    assert find(digits, tmp_path / "b.svg") == 0
    assert "ended at 32: memory ran out" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [
    (["--find-lr", "lr.svg"], "one after the other"), (["--find-batch-size", "x.gif"], ".svg or .png")])
def test_what_it_does_not_go_with(digits: Path, tmp_path: Path, flags: list[str], message: str,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert find(digits, tmp_path / "b.svg", *flags) == 2
    assert message in capsys.readouterr().err
