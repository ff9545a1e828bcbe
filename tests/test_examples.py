"""The scripts of examples/ run as they stand, and do what their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *args: object) -> str:
    """Run an example in a process of its own and return what it prints."""
    done = subprocess.run([sys.executable, str(ROOT / "examples" / script), *map(str, args)], text=True,
                          capture_output=True, timeout=300, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"train_on_arrays.py", "record_file.py", "mxnet_checkpoint.py", "draw_classes.py",
                     "draw_ilsvrc12.py", "cifar10_records.py"}


@pytest.mark.slow
def test_training_on_arrays_and_its_checkpoint(tmp_path: Path) -> None:
    printed = run("train_on_arrays.py", tmp_path / "net").splitlines()
    assert float(printed[0].split()[-1]) > 0.85
    assert printed[-1] == f"it is a {printed[1].split()[0]}"
    assert (tmp_path / "net-0004.params").exists()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((28, 28), np.uint8))
    assert len(run("mxnet_checkpoint.py", tmp_path / "net", tmp_path / "a.png").splitlines()) == 5


def test_a_record_file(tmp_path: Path) -> None:
    printed = run("record_file.py", tmp_path / "new" / "digits.rec")
    assert "100 records; record 7 is a " in printed
    assert "[10 10 10 10 10 10 10 10 10 10]" in printed
    assert (tmp_path / "new" / "digits.idx").read_text().count("\n") == 100


def test_a_checkpoint_of_mxnet() -> None:
    printed = run("mxnet_checkpoint.py")
    assert float(printed.split()[-1]) < 1e-5

@pytest.mark.slow
def test_the_full_imagenet_of_the_tutorial_with_its_lines_and_with_ours(tmp_path: Path) -> None:
    """300 classes in a tar of tars: the script itself compares lists, records and weights."""
    done = subprocess.run(["bash", str(ROOT / "examples" / "full_imagenet.sh"), str(tmp_path / "work")], text=True,
                          capture_output=True, timeout=300, check=False,
                          env={**os.environ, "PYTHON": sys.executable, "CLASSES": "300"})
    assert done.returncode == 0, done.stderr
    assert "190 classes: the same bytes" in done.stdout
    assert done.stdout.endswith("the same weights\n")
