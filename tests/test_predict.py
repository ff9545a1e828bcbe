"""imgcls-predict as a user runs it, on a checkpoint of drawn digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import imgcls
from imgcls.cli import predict
from imgcls.config.sections import DataConfig
from imgcls.datasets import digits


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train a mlp on the digits and write three pictures beside it; return its prefix."""
    import cv2

    folder = tmp_path_factory.mktemp("predict")
    splits = digits.load(DataConfig(dataset="digits"))
    assert splits.val is not None
    train, val = splits.train, splits.val
    imgcls.fit((train.images, train.labels), network="mlp", num_epochs=3,
               model_prefix=str(folder / "net"))  # type: ignore[attr-defined]
    for digit in (3, 7):
        number = int(np.argmax(val.labels == digit))
        cv2.imwrite(str(folder / f"{digit}.png"), val.images[number, 0])  # type: ignore[attr-defined]
    (folder / "none.png").write_bytes(b"")
    return str(folder / "net")


def test_names_and_scores(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(prefix).parent
    assert predict.main(["--model", prefix, str(folder / "7.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("7 (score = 0.")
    scores = [float(line.split("= ")[1].rstrip(")")) for line in lines]
    assert scores == sorted(scores, reverse=True)


def test_several_pictures_and_a_bad_one(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(prefix).parent
    files = [str(folder / name) for name in ("3.png", "none.png", "7.png")]
    assert predict.main(["--model", prefix, "--top", "1", *files]) == 1
    out, err = capsys.readouterr()
    assert [line.split(" (")[0] for line in out.splitlines()] == [f"{files[0]}: 3", f"{files[2]}: 7"]
    assert err.splitlines()[-1] == f"imgcls-predict: error: {files[1]}: is empty"


@pytest.mark.parametrize(("flags", "message"), [
    ([], "required"), (["--model", "nowhere/net", "a.png"], "there is no nowhere/net-0001.params"),
    (["--model", "x", "--top", "0", "a.png"], "--top 0"),
])
def test_wrong_usage(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
