"""imgcls-predict as a user runs it, on a checkpoint of drawn digits."""

from __future__ import annotations

import csv
import functools
import http.server
import io
import json
import shlex
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imgcls
from imgcls.cli import predict
from imgcls.config.sections import DataConfig
from imgcls.datasets import digits
from imgcls.errors import DataError, UsageError
from imgcls.formats.recordio import ImageHeader, RecordWriter, pack


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
    assert err.splitlines()[-2:] == [f"imgcls-predict: error: {files[1]}: is empty",
                                     "imgcls-predict: 1 of 3 images could not be read"]


@pytest.mark.parametrize(("flags", "message"), [
    ([], "required"), (["--model", "nowhere/net", "a.png"], "there is no nowhere/net-0001.params"),
    (["--model", "x", "--top", "0", "a.png"], "--top 0"),
])
def test_wrong_usage(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def run(capfd: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, list[str]]:
    """Return status, stdout and the lines of stderr but for what is said of the preprocessing and the names."""
    status = predict.main([str(word) for word in argv])
    out, err = capfd.readouterr()
    return status, out, [line for line in err.splitlines() if not line.startswith(("images: ", "note: "))]


@pytest.fixture
def photos(prefix: str, tmp_path: Path) -> Path:
    """Return a folder with the pictures 3.png and 7.png, one of them in a folder inside."""
    (tmp_path / "inside").mkdir()
    shutil.copy(Path(prefix).parent / "3.png", tmp_path / "3.png")
    shutil.copy(Path(prefix).parent / "7.png", tmp_path / "inside" / "7.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._3.png").write_bytes(b"what another system keeps beside a picture")
    return tmp_path


def test_folders_patterns_and_records(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected = [f"{photos}/3.png: 3", f"{photos}/inside/7.PNG: 7"]
    for words in ([photos], [photos / "*.png", photos / "inside" / "?.PNG"], [photos / "**" / "[0-9].*"],
                  [photos / "**"]):
        status, out, err = run(capfd, "--model", prefix, "--top-k", "1", *words)
        assert (status, err) == (0, [])
        assert [line.split(" (")[0] for line in out.splitlines()] == expected
    with RecordWriter(photos / "x.rec") as writer:
        for number, path in ((30, "3.png"), (70, "inside/7.PNG")):
            # a label that is no class: nobody asks for it here
            writer.write(pack(ImageHeader(0, -1.5, number, 0), (photos / path).read_bytes()))
    status, out, err = run(capfd, "--model", prefix, "--top", "1", photos / "x.rec")
    assert (status, err) == (0, [])
    assert [line.split(" (")[0] for line in out.splitlines()] == [f"{photos}/x.rec:30: 3", f"{photos}/x.rec:70: 7"]


def test_each_folder_once_whatever_links_lead_to_it(prefix: str, photos: Path,
                                                    capfd: pytest.CaptureFixture[str]) -> None:
    (photos / "inside" / "up").symlink_to(photos)
    (photos / "linked").symlink_to(Path(prefix).parent)
    status, out, err = run(capfd, "--model", prefix, "--top", "1", photos)
    assert [line.split(" (")[0].removeprefix(f"{photos}/") for line in out.splitlines()] == [
        "3.png: 3", "inside/7.PNG: 7", "linked/3.png: 3", "linked/7.png: 7"]
    assert (status, len(err)) == (1, 2)  # none.png is empty


def test_devices_and_number_types(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    picture = Path(prefix).parent / "7.png"
    exact, rough = (imgcls.Predictor(prefix, dtype=dtype)(picture) for dtype in ("float32", "bfloat16"))
    assert exact != rough
    assert exact[0][0] == rough[0][0]
    assert rough[0][1] == pytest.approx(exact[0][1], abs=0.02)
    assert imgcls.Predictor(prefix)(picture) == exact  # auto, on a CPU
    assert predict.main(["--model", prefix, "--dtype", "bfloat16", "--top", "1", str(picture)]) == 0
    assert capsys.readouterr().out == f"7 (score = {rough[0][1]:.5f})\n"
    for device in ("cuda:99", "nonsense", "meta", ""):
        with pytest.raises(UsageError, match=f"device {device}: this machine has no such device"):
            imgcls.Predictor("nowhere", device=device)
    with pytest.raises(UsageError, match="dtype int8 is not known"):
        imgcls.Predictor("nowhere", dtype="int8")
    if not torch.cuda.is_available():
        assert predict.main(["--model", prefix, "--gpus", "0", str(picture)]) == 2
        assert "--gpus 0: no GPU was found on this machine" in capsys.readouterr().err


def test_weights_that_are_no_numbers(prefix: str) -> None:
    import torch

    predictor = imgcls.Predictor(prefix)
    with torch.no_grad():
        next(predictor.model.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="the network's output for it is not a number"):
        predictor(np.zeros((28, 28), np.uint8))


def test_a_file_that_is_called_as_a_pattern_is_meant(prefix: str, photos: Path,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    (photos / "3.png").rename(photos / "[a]*.png")
    status, out, _ = run(capfd, "--model", prefix, "--top", "1", photos / "[a]*.png")
    assert (status, out[:2]) == (0, "3 ")


def test_a_list_on_stdin(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str],
                         monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"{photos}/3.png\r\n\n{photos}/gone.png\n{photos}/inside\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    status, out, err = run(capfd, "--model", prefix, "--top", "1", "-")
    assert status == 1
    assert [line.split(" (")[0] for line in out.splitlines()] == [f"{photos}/3.png: 3", f"{photos}/inside/7.PNG: 7"]
    assert err == [f"imgcls-predict: error: {photos}/gone.png: no such file or directory",
                   "imgcls-predict: 1 of 3 images could not be read"]


def test_an_image_of_a_server(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(photos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        status, out, _ = run(capfd, "--model", prefix, "--top", "1", f"{url}/3.png", f"{url}/gone.png")
        server.shutdown()
    assert (status, out.split(" (")[0]) == (1, f"{url}/3.png: 3")


def test_formats(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def written(name: str, *more: object) -> str:
        status, out, err = run(capfd, "--model", prefix, "--top", "2", "--format", name, *more, photos)
        assert (status, err) == (0, [])
        return out

    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [(row["image"], row["rank"], row["class"]) for row in rows[::2]] == [
        (f"{photos}/3.png", "1", "3"), (f"{photos}/inside/7.PNG", "1", "7")]
    objects = [json.loads(line) for line in written("jsonl").splitlines()]
    assert [found["predictions"][0]["class"] for found in objects] == [3, 7]
    assert float(rows[0]["score"]) == pytest.approx(objects[0]["predictions"][0]["score"], abs=1e-6)
    assert written("lst").splitlines() == [f"0\t3.000000\t{photos}/3.png", f"1\t7.000000\t{photos}/inside/7.PNG"]
    table = written("table").splitlines()
    assert [len(table), table[0].split()] == [5, ["image", "score", "class"]]
    assert written("csv", "--output", photos / "new" / "x.csv") == ""
    assert list(csv.DictReader((photos / "new" / "x.csv").read_text().splitlines())) == rows


def test_odd_names_in_formats(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    odd = photos / 'a,"b"\n\udcff.png'
    (photos / "3.png").rename(odd)
    _, out, _ = run(capfd, "--model", prefix, "--top", "1", "--format", "jsonl", odd)
    assert json.loads(out)["image"] == str(odd)
    run(capfd, "--model", prefix, "--top", "1", "--format", "csv", "-o", photos / "x.csv", odd)
    with open(photos / "x.csv", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        assert next(csv.DictReader(stream))["image"] == str(odd)
    status, out, err = run(capfd, "--model", prefix, "--format", "lst", odd)
    assert (status, out, len(err)) == (1, "", 1)
    assert "a list cannot hold" in err[0]


def test_views(prefix: str) -> None:
    """Ten views are the centre, the corners and their mirror images; their probabilities' mean is told."""
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8)

    def of(image: np.ndarray, **settings: object) -> np.ndarray:
        predictor = imgcls.Predictor(prefix, top=10, **settings)  # type: ignore[arg-type]
        return np.array([probability for _, probability in sorted(predictor(image))])

    places = [(6, 11), (0, 0), (0, 22), (12, 0), (12, 22)]
    cuts = [pixels[top:top + 28, left:left + 28] for top, left in places]
    each = [of(cut) for cut in cuts]
    mirrored = [of(np.ascontiguousarray(cut[:, ::-1])) for cut in cuts]
    assert of(pixels) == pytest.approx(each[0], abs=1e-6)
    assert of(pixels, crops=5) == pytest.approx(np.mean(each, 0), abs=1e-6)
    assert of(pixels, crops=10) == pytest.approx(np.mean(each + mirrored, 0), abs=1e-6)
    assert of(pixels, flip=True) == pytest.approx(np.mean([each[0], mirrored[0]], 0), abs=1e-6)
    padded = np.pad(cuts[0], ((1, 1), (1, 1), (0, 0)), "reflect")
    moved = [padded[:28, :28], padded[2:, 2:]]
    shifted = (each[0] + np.mean([of(np.ascontiguousarray(view)) for view in moved], 0)) / 2
    mirrors = np.mean([of(np.ascontiguousarray(view[:, ::-1])) for view in moved], 0)
    assert of(pixels, shift=1) == pytest.approx(shifted, abs=1e-6)
    six = (shifted + (mirrored[0] + mirrors) / 2) / 2  # mirrored after they are shifted, as in the paper
    assert of(pixels, shift=1, flip=True) == pytest.approx(six, abs=1e-6)
    with pytest.raises(UsageError, match=r"shift 28: must be smaller than the images, which are 28x28"):
        imgcls.Predictor(prefix, shift=28)
    ok, data = cv2.imencode(".png", pixels)
    assert ok
    assert of(data.tobytes(), crops=10) == pytest.approx(of(pixels, crops=10), abs=1e-6)  # type: ignore[arg-type]


def test_a_predictor_takes_paths_bytes_and_pixels(prefix: str) -> None:
    predictor = imgcls.Predictor(prefix, top=1)
    path = Path(prefix).parent / "7.png"
    import cv2

    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    rankings = predictor([path, str(path), path.read_bytes(), pixels, bytearray(path.read_bytes())] * 9)
    assert len(rankings) == 45
    assert {name for ((name, _),) in rankings} == {"7"}
    assert predictor(path)[0][1] == pytest.approx(rankings[-1][0][1], abs=1e-6)
    assert predictor([]) == []
    with pytest.raises(DataError, match=r"^image: is empty"):
        predictor(b"")
    with pytest.raises(DataError, match=r"^image 1: is no image"):
        predictor([path, b"no image"])
    for wrong in (1, None, np.zeros((2, 2))):
        with pytest.raises(UsageError, match="an image must be"):
            predictor(wrong)  # type: ignore[call-overload]


def test_the_output_of_a_layer(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    (photos / "none.png").write_bytes(b"")
    target = photos / "features.npz"
    status, out, err = run(capfd, "--model", prefix, "--layer", "fc2_output", "-o", target, photos)
    assert (status, out, len(err)) == (1, f"{target}\n", 2)
    with np.load(target) as kept:
        features, images = kept["features"], kept["images"].tolist()
        assert kept["layer"] == "fc2_output"
    assert images == [f"{photos}/3.png", f"{photos}/inside/7.PNG"]
    predictor = imgcls.Predictor(prefix, top=10)
    (data, hidden), = [(first.features, second.features) for first, second in zip(  # type: ignore[union-attr]
        predictor.predict(images[:1], layer="data"), predictor.predict(images[:1], layer="fc2"),
        strict=True)]
    assert hidden == pytest.approx(features[0], abs=1e-6)
    with torch.no_grad():  # from the images on, the layers behind the one that was asked for give the logits
        logits = predictor.model(torch.from_numpy(data[None]))
    probabilities = dict(predictor(images[0]))
    softmax = next(predictor.predict(images[:1], layer="softmax_output")).features  # type: ignore[union-attr]
    assert softmax == pytest.approx(logits.softmax(1)[0].numpy(), abs=1e-6)
    assert [probabilities[str(index)] for index in range(10)] == pytest.approx(softmax, abs=1e-6)
    status, _, err = run(capfd, "--model", prefix, "--layer", "flatten9_output", photos)
    assert (status, len(err)) == (2, 1)
    assert "--layer flatten9_output is not known: did you mean flatten0_output" in err[0]


def test_where_the_network_looked(prefix: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import cv2

    shutil.copy(photos / "3.png", photos / "inside" / "3.jpeg")
    status, _, err = run(capfd, "--model", prefix, "--explain", photos / "looked", photos / "3.png", photos / "inside")
    assert (status, err) == (0, [])
    assert sorted(path.name for path in (photos / "looked").iterdir()) == ["3-2.png", "3.png", "7.png"]
    picture = cv2.imread(str(photos / "looked" / "7.png"))
    assert picture is not None
    assert picture.shape[:2] == (224 + 24, 2 * 224 + 4)
    status, _, err = run(capfd, "--model", prefix, "--explain", photos / "3.png", photos)
    assert (status, err) == (2, [f"imgcls-predict: error: --explain {photos}/3.png: is no folder"])


def strange_files(folder: Path) -> list[tuple[str, int]]:
    """Write files that are no pictures, or unusual ones; return their names and the status for each."""
    import cv2

    grey = np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"this is a text file, and no picture")
    png = cv2.imencode(".png", grey)[1].tobytes()
    (folder / "cut.png").write_bytes(png[:60])
    # a bomb: a header that claims 65000 x 65000 pixels
    size = struct.pack(">II", 65000, 65000)
    header = b"IHDR" + size + png[24:29]
    (folder / "bomb.png").write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    cv2.imwrite(str(folder / "deep.png"), grey.astype(np.uint16) * 256)
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([grey] * 4))
    cv2.imwrite(str(folder / "color.webp"), np.dstack([grey] * 3))
    return [("empty.jpg", 1), ("text.png", 1), ("cut.png", 1), ("bomb.png", 1), ("deep.png", 0), ("alpha.png", 0),
            ("color.webp", 0), ("nowhere.png", 1), ("no*.png", 1), ("folder", 1), ("empty.rec", 1)]


def test_strange_input_is_one_line(prefix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.rec").write_bytes(b"")
    files = strange_files(tmp_path)
    for name, expected in files:
        status, out, err = run(capfd, "--model", prefix, "--top", "1", tmp_path / name)
        assert (name, status, len(err), len(out.splitlines())) == (name, expected, expected, 1 - expected)
    status, out, err = run(capfd, "--model", prefix, "--top", "1", *(tmp_path / name for name, _ in files))
    assert (status, len(out.splitlines())) == (1, 3)
    assert err[-1] == "imgcls-predict: 8 of 11 images could not be read"
    assert len(err) == 9


@pytest.mark.parametrize(("name", "fixture"), [("cmyk", "cmyk.jpg"), ("animated", "animated.gif")])
def test_pictures_of_other_programs(prefix: str, name: str, fixture: str, tmp_path: Path,
                                    capfd: pytest.CaptureFixture[str]) -> None:
    """What OpenCV decodes is named, the first picture of several; what it does not is one line."""
    pillow = pytest.importorskip("PIL.Image")
    frames = [pillow.new("CMYK" if name == "cmyk" else "P", (32, 32), 3 * number) for number in range(3)]
    more = {"save_all": True, "append_images": frames[1:]} if name == "animated" else {}
    frames[0].save(tmp_path / fixture, **more)
    status, out, err = run(capfd, "--model", prefix, "--top", "1", tmp_path / fixture)
    assert (status, len(out.splitlines()) + len(err)) in ((0, 1), (1, 1))


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(prefix: str, photos: Path) -> None:
    """As `imgcls-predict ... | head -1`: no traceback, no word."""
    command = [sys.executable, "-m", "imgcls", "predict", "--model", prefix, *[str(photos / "3.png")] * 400]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        lines = [line for line in process.stderr.read().splitlines() if not line.startswith(("images: ", "note: "))]
        assert process.wait(60) == 1
    assert lines == []


@pytest.mark.slow
def test_a_bar_on_a_terminal_only(prefix: str, photos: Path) -> None:
    command = shlex.join([sys.executable, "-m", "imgcls", "predict", "--model", prefix, str(photos)])
    if not shutil.which("script"):
        pytest.skip("no script, which makes a terminal")
    on_terminal = f"stty cols 80 rows 24; {command} > /dev/null"
    shown = subprocess.run(["script", "-qec", on_terminal, "/dev/null"], capture_output=True, text=True,
                           timeout=60, check=True, stdin=subprocess.DEVNULL).stdout
    assert "0/2" in shown
    plain = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60, check=True)
    assert "/2" not in plain.stderr


def test_outputs_by_number() -> None:
    """Operators with several outputs have a name for each, as in MXNet's get_internals."""
    import torch

    from imgcls import graph
    from imgcls.formats.symbol import Node, NodeOutput, Symbol
    from imgcls.inference import features

    nodes = [Node("null", "data"), Node("Flatten", "flat", {}, [NodeOutput(0)]),
             Node("SliceChannel", "cut", {"num_outputs": "2"}, [NodeOutput(1)]),
             Node("elemwise_add", "sum", {}, [NodeOutput(2, 0), NodeOutput(2, 1)])]
    model = graph.from_symbol(Symbol(nodes, [NodeOutput(3)]), {}, input_shape=(1, 2, 2))
    assert features.output_names(model) == ["flat_output", "cut_output", "sum_output"]
    images = torch.arange(4.0).reshape(1, 1, 2, 2)
    for name, expected in (("cut_output1", [2, 3]), ("cut_output0", [0, 1]), ("cut", [0, 1]), ("sum_output", [2, 4])):
        with features.capture(model, name) as captured:
            answer = model(images)
        row, = captured.rows(images, answer)
        assert row is not None
        assert row.tolist() == expected
    with pytest.raises(UsageError, match="cut has 2 outputs"), features.capture(model, "cut_output2"):
        model(images)


def test_an_output_that_cannot_be_written_is_refused_at_once(prefix: str, photos: Path, monkeypatch: pytest.MonkeyPatch,
                                                             capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(imgcls.Predictor, "predict", None)
    picture = str(photos / "3.png")
    (photos / "file").write_text("")
    for output, status in ((photos / "inside", 2), (picture, 2), (photos / "file" / "x.csv", 1)):
        assert run(capfd, "--model", prefix, "-o", output, picture)[0] == status
        assert run(capfd, "--model", prefix, "--layer", "flatten0", "-o", output, picture)[0] == status


@pytest.mark.parametrize("name", ["csv", "table"])
def test_predictions_before_an_interruption_are_kept(name: str, prefix: str, photos: Path,
                                                     monkeypatch: pytest.MonkeyPatch,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    original = imgcls.Predictor.predict

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield next(original(*args, **kwargs))
        raise KeyboardInterrupt

    def before_the_first(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    output = photos / "x"
    output.write_text("of an earlier run")
    flags = ["--model", prefix, "--top", "1", "--format", name, "-o", output, photos]
    monkeypatch.setattr(imgcls.Predictor, "predict", before_the_first)
    assert run(capfd, *flags)[0] == 130
    assert not list(photos.glob("*x.*"))
    monkeypatch.setattr(imgcls.Predictor, "predict", interrupted)
    status, _, err = run(capfd, *flags)
    assert (status, err[-2]) == (130, f"imgcls-predict: 1 prediction made so far: {output}.partial")
    assert len((photos / "x.partial").read_text().splitlines()) == 2  # below the header
    assert output.read_text() == "of an earlier run"
    assert not list(photos.glob(".x*"))


def test_names_of_explained_pictures(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from imgcls.inference.explanation_writer import ExplanationWriter

    predictor: Any = SimpleNamespace(model=None)
    writer = ExplanationWriter(predictor, str(tmp_path))
    names = [writer._file_name(name) for name in ("a/x.jpg", "b/X.png", "x-2.jpg", "x.gif")]
    assert names == ["x", "X-2", "x-2-2", "x-3"]
    # 80 characters of three bytes: the temporary name beside it must fit into 255 bytes
    assert len(f".{writer._file_name('猫' * 80 + '.jpg')}.png.12345678.tmp".encode()) < 255
    start = time.process_time()
    assert len({writer._file_name(f"train.rec:{number}") for number in range(30_000)}) == 30_000
    assert time.process_time() - start < 20


def test_a_list_without_line_breaks_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 1_000_000 + b"\na.jpg\n")))
    assert [len(line) for line in predict._stdin()] == [1 << 16, 6]
