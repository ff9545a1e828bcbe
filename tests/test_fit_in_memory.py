"""A run whose first step does not fit continues in micro-batches, with the bits of a run that has them set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_digits

from imgcls.cli import train as command
from imgcls.layers import Convolution
from imgcls.training.fit_in_memory import next_count


def test_twice_as_many_until_each_has_one_sample() -> None:
    assert [next_count(count, 48) for count in (1, 2, 32, 48)] == [2, 4, 48, 0]
    assert next_count(1, 1) == 0


def test_as_few_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_digits(tmp_path)

    def run(prefix: str, *flags: str) -> int:
        return command.main(["--data-dir", str(folder), "--network", "resnet-20", "--batch-size", "64", "--num-epochs",
                             "1", "--model-prefix", str(tmp_path / prefix), "--image-shape", "1,28,28", *flags])

    assert run("told", "--micro-batches", "4") == 0
    forward = Convolution.forward
    seen = 0

    def limited(self: Convolution, data: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += self.training
        # not in the first layers: statistics have moved by then
        if self.training and len(data) > 16 and data.shape[1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, data)

    monkeypatch.setattr(Convolution, "forward", limited)
    assert run("found") == 0
    said = capsys.readouterr().err
    assert "computed in 2 micro-batches" in said
    assert "computed in 4 micro-batches from here on" in said
    assert "--micro-batches 4 does so at once" in said
    assert (tmp_path / "told-0001.params").read_bytes() == (tmp_path / "found-0001.params").read_bytes()
    assert seen
    # who gave the number is told that it does not fit
    assert run("given", "--micro-batches", "2") == 1
    assert "memory" in capsys.readouterr().err.splitlines()[-1]
