"""Which number type a run computes in where no setting says, and what is done with its checkpoint elsewhere."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_digits
from torch import nn

import imgcls
from imgcls.cli import export, score
from imgcls.cli import train as command
from imgcls.config import resolve
from imgcls.distributed.process_group import Worker
from imgcls.formats import params
from imgcls.training import checkpoint, precision, trainer
from imgcls.training.checkpoint import Position, Saved

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "32", "--network", "lenet", "--lr", "0.02",
                         *map(str, flags)])


def pretend(monkeypatch: pytest.MonkeyPatch, *, has_bfloat16: bool) -> None:
    """Have every device multiply bfloat16 in hardware, or none."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: has_bfloat16)


@pytest.mark.parametrize(("capabilities", "switch", "expected"), [
    ({"amx_bf16": True}, None, True),
    ({"amx_bf16": True, "avx512_bf16": True}, "", True),
    ({"avx512_bf16": True}, None, False),  # multiplies it, and is no faster
    ({}, None, False),  # another architecture
    ({"amx_bf16": True}, "AVX512_CORE_BF16", False),
    ({"amx_bf16": True}, "avx2", False),
    ({"amx_bf16": True}, "AVX512_CORE_AMX", True),
    ({"amx_bf16": True}, "AVX10_1_512_AMX", True),
    ({"amx_bf16": True}, "ALL", True),
])
def test_which_cpus_have_it(capabilities: dict[str, Any], switch: str | None, expected: bool,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if switch is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", switch)
    assert precision.has_bfloat16(CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not precision.has_bfloat16(CPU)


def decide(model: nn.Module, saved: Saved | None = None, dtype: str = "auto") -> tuple[str, dict[str, Any]]:
    config = precision.decide(resolve.build({}, {"dtype": dtype}), model, saved, Worker(CPU))
    return config.device.dtype, dict(config.chosen)


def test_what_auto_is_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    convolves, flat = nn.Sequential(nn.Conv2d(1, 2, 3)), nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    saved = {dtype: Saved("net-0001.params", {}, Position(dtype=dtype)) for dtype in (
        "", "float32", "bfloat16", "float16")}
    for has_bfloat16 in (True, False):
        pretend(monkeypatch, has_bfloat16=has_bfloat16)
        assert decide(convolves)[0] == ("bfloat16" if has_bfloat16 else "float32")
        assert decide(flat) == ("float32", {})  # slower in it
        # what the user says holds, and what was begun goes on as it was, on any machine
        assert decide(convolves, dtype="float32") == ("float32", {})
        assert decide(flat, dtype="bfloat16") == ("bfloat16", {})
        assert [decide(convolves, of)[0] for of in saved.values()] == ["float32", "float32", "bfloat16", "float32"]
    # one process of a job without it is enough
    pretend(monkeypatch, has_bfloat16=True)
    monkeypatch.setattr(Worker, "gather_at_start", lambda _worker, value: [value, 0.0])
    assert decide(convolves) == ("float32", {})


@pytest.mark.parametrize(("has_bfloat16", "noted", "expected", "words"), [
    (True, "bfloat16", "bfloat16", "computed in bfloat16, as while it was trained"),
    (False, "bfloat16", "float32", "computed in float32: it was trained in bfloat16"),
    (True, "float16", "float32", "computed in float32: it was trained in float16"),
    (True, "float32", "float32", ""),
    (True, "", "float32", ""),  # MXNet's, and ours before types were noted
])
def test_what_a_trained_network_computes_in(has_bfloat16: bool, noted: str, expected: str, words: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, has_bfloat16=has_bfloat16)
    dtype, note = precision.trained_dtype("auto", noted, CPU)
    assert dtype == expected
    assert words in note if words else not note
    assert precision.trained_dtype("float16", noted, CPU) == ("float16", "")


def test_a_run_its_rest_and_its_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """Begun where the hardware has bfloat16, stopped inside an epoch, ended where it has not: the same bits."""
    pretend(monkeypatch, has_bfloat16=True)
    whole, parts, teacher = tmp_path / "whole", tmp_path / "parts", tmp_path / "teacher"
    assert train(folder, "--num-epochs", 1, "--model-prefix", teacher) == 0
    # the teacher's type is the run's, and not this machine's
    flags = ("--num-epochs", 2, "--deterministic", 1, "--model-ema-decay", 0.9, "--teacher", teacher)
    capsys.readouterr()
    assert train(folder, *flags, "--model-prefix", whole) == 0
    text = capsys.readouterr().err
    assert re.search(r"device: +cpu .*, bfloat16 \(this CPU multiplies it in hardware; --dtype float32 has", text)
    meta = checkpoint.read_meta(str(whole))
    assert (meta["dtype"], meta["config"]["dtype"]) == ("bfloat16", "bfloat16")
    assert {array.dtype.name for array in params.load(f"{whole}-0002.params").values()} == {"float32"}
    original = trainer.Trainer.train_step

    def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
        original(self, batch, update)  # type: ignore[arg-type]
        if update == 14:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", train_step)
        assert train(folder, *flags, "--model-prefix", parts) == 143
    pretend(monkeypatch, has_bfloat16=False)
    capsys.readouterr()
    assert train(folder, *flags, "--model-prefix", parts, "--load-epoch", "auto") == 0
    text = capsys.readouterr().err
    assert "bfloat16 (as in the checkpoint; this CPU has no hardware for it, --dtype float32 may be faster)" in text
    assert Path(f"{parts}-0002.params").read_bytes() == Path(f"{whole}-0002.params").read_bytes()

    # one rule for all that use a checkpoint
    assert score.main(["--model", str(whole), "--data-dir", str(folder)]) == 0
    assert "computed in float32: it was trained in bfloat16, for which this CPU has no" in capsys.readouterr().err
    assert any("computed in float32" in note for note in imgcls.Predictor(whole).notes)
    pretend(monkeypatch, has_bfloat16=True)
    assert any("computed in bfloat16" in note for note in imgcls.Predictor(whole).notes)
    assert imgcls.Predictor(whole)._precision.name == "bfloat16"
    assert imgcls.Predictor(whole, dtype="float32")._precision.name == "float32"
    assert export.main(["--model", str(whole), "--format", "safetensors", "--output",
                        str(tmp_path / "net.safetensors")]) == 0
    assert "the export computes in float32; the checkpoint was trained in bfloat16" in capsys.readouterr().err


def test_a_perceptron_stays_in_float32(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, has_bfloat16=True)
    assert train(folder, "--network", "mlp", "--num-epochs", 1, "--model-prefix", tmp_path / "net") == 0
    assert re.search(r"device: +cpu .*, float32$", capsys.readouterr().err, re.MULTILINE)
    assert checkpoint.read_meta(str(tmp_path / "net"))["dtype"] == "float32"
