"""imgcls-export --int8: what it loses is measured, reported, written into the file and bounded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import imgcls
from imgcls.cli import export
from imgcls.inference.export import executorch_file, int8, onnx_file
from imgcls.inference.export.compare import Comparison
from imgcls.inference.export.exported import Description
from imgcls.inference.export.pictures import Pictures

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporters warn of their own future


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on bright and dark pictures, and write some more of them, a folder for each class."""
    import cv2

    folder = tmp_path_factory.mktemp("int8")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 100, (64, 3, 28, 28)).astype(np.uint8) + 150 * (np.arange(64) % 2)[
        :, None, None, None].astype(np.uint8)
    imgcls.fit((pixels, np.arange(64) % 2), network="lenet", num_epochs=3, batch_size=16, lr=0.05,
               model_prefix=str(folder / "net"), rgb_mean=(120.0,), rgb_std=(60.0,))
    (folder / "synset.txt").write_text("dark\nbright\n")
    for number in range(20):
        path = folder / "photos" / ("dark", "bright")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels[number].transpose(1, 2, 0)[:, :26 + number % 4])
    return folder


def _command(folder: Path, output: Path, *more: str) -> list[str]:
    return ["--model", str(folder / "net"), "--synset", str(folder / "synset.txt"), "--format",
            output.suffix[1:], "--int8", "--output", str(output), "--images", str(folder / "photos"), *more]


def test_onnx_tells_what_it_loses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net.onnx"
    assert export.main(_command(folder, output, "--num-calibration", "6")) == 0
    out, err = capsys.readouterr()
    assert out == f"{output}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert "ranges are measured on 6 of the pictures" in err
    assert "compared in ONNX Runtime on 14 images" in err
    assert "top-1 accuracy 1.0000, the checkpoint's 1.0000: a drop of 0.0000" in err
    description = onnx_file.Runner(output).description
    assert description.dtype == "int8"
    assert description.int8["num_calibration_images"] == 6
    assert description.int8["accuracy"] == 1
    assert output.stat().st_size < (folder / "net-0003.params").stat().st_size / 3
    photo = str(folder / "photos" / "dark" / "0.png")
    assert imgcls.Predictor(output, top=1)(photo)[0][0] == "dark"


def test_too_large_a_drop_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    right = onnx_file.Runner.run
    monkeypatch.setattr(onnx_file.Runner, "run", lambda self, images: right(self, images)[:, ::-1])
    assert export.main(_command(folder, tmp_path / "net.onnx", "--max-drop", "0.9")) == 1
    assert "is not kept: int8 loses 1.0000, more than --max-drop 0.9" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _compile(program: Path) -> None:
    """Build examples/cpp/classify.cpp with the library of Python's package; its headers come separately."""
    import onnxruntime

    folders = [Path(os.environ.get("ORT_HOME", "/nowhere"), "include"), Path("/usr/include/onnxruntime"),
               Path("/usr/local/include/onnxruntime"), Path("/usr/local/include")]
    include = next((folder for folder in folders if (folder / "onnxruntime_cxx_api.h").exists()), None)
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if include is None or not libraries or not shutil.which("g++"):
        pytest.skip("no headers of ONNX Runtime (ORT_HOME), or no g++")
    # a wheel has the library under its full version only, and a program asks for the first part of it
    (program.parent / "libonnxruntime.so.1").symlink_to(libraries[0])
    source = Path(__file__).parents[1] / "examples" / "cpp" / "classify.cpp"
    subprocess.run(["g++", "-std=c++17", str(source), "-I", str(include), str(libraries[0]),
                    f"-Wl,-rpath,{program.parent}", "-o", str(program)], check=True, timeout=100)


@pytest.mark.slow
def test_the_program_in_c_names_pictures_with_both(folder: Path, tmp_path: Path) -> None:
    import cv2

    program = tmp_path / "classify"
    _compile(program)
    photo = folder / "photos" / "bright" / "1.png"
    cv2.imwrite(str(tmp_path / "photo.ppm"), cv2.imread(str(photo)))
    for name, more in (("float.onnx", []), ("small.onnx", ["--int8"])):
        command = [word for word in _command(folder, tmp_path / name) if word != "--int8"]
        assert export.main(command + more) == 0
        answer = subprocess.run([str(program), str(tmp_path / name), str(tmp_path / "photo.ppm")], check=True,
                                capture_output=True, text=True, timeout=60).stdout
        wanted = imgcls.Predictor(tmp_path / name)(str(photo))
        assert answer.splitlines() == [f"{label} (score = {value:.5f})" for label, value in wanted]


@pytest.mark.slow
def test_executorch(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("executorch.runtime", reason="no ExecuTorch here")
    output = tmp_path / "net.pte"
    assert export.main(_command(folder, output)) == 0
    assert "top-1 accuracy 1.0000" in capsys.readouterr().err
    description = executorch_file.Runner(output).description
    assert description.int8["equal_labels"] == 1
    assert description.class_names == ["dark", "bright"]


@pytest.mark.parametrize(("flags", "message"), [
    (["--format", "onnx", "--int8", "--output", "a.onnx"], "--images is missing: --int8 needs photographs"),
    (["--format", "pt2", "--int8", "--output", "a.pt2", "--images", "."], "--int8: is for --format onnx and pte"),
    (["--format", "onnx", "--output", "a.onnx", "--max-drop", "0.1"], "--max-drop: is for --int8"),
    (["--format", "onnx", "--output", "a.onnx", "--int8", "--max-drop", "2"], "--max-drop 2"),
])
def test_wrong_usage(flags: list[str], message: str, folder: Path, tmp_path: Path,
                     monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert export.main(["--model", str(folder / "net"), *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_one_picture_is_too_few(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = _command(folder, tmp_path / "a.onnx")
    command[-1] = str(folder / "photos" / "dark" / "0.png")
    assert export.main(command) == 2
    assert "needs two pictures at least" in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_package_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    assert export.main(_command(folder, tmp_path / "a.onnx")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "int8 needs the package onnxruntime" in err


def test_the_drop_without_labels_is_the_share_that_changed() -> None:
    description = Description("x", [], 3, [3, 8, 8], True)
    comparison = Comparison(10, 8, 0.1, 1.0, [3, 4], [0] * 10)
    pictures = Pictures([Path(f"photos/{number}.png") for number in range(10)], "photos")
    drop = int8.measure(comparison, np.zeros((10, 3)), pictures, description, 5)
    assert drop.accuracy is None
    assert drop.drop == pytest.approx(0.2)
    assert "20.00% of the predicted labels differ" in drop.describe()


def test_calibration_takes_half_at_most_and_none_that_is_compared() -> None:
    pictures = Pictures([Path(str(number)) for number in range(11)], "photos")
    ranges, others = int8.divide(pictures, 100)
    assert len(ranges) == 5
    assert {ranges.label(i) for i in range(5)} | {others.label(i) for i in range(6)} == {
        Path(str(number)) for number in range(11)}
