"""A file of imgcls-export in the place of a checkpoint: the same answers, and a line for what it cannot do."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

import imgcls
from imgcls.cli import export, finetune, predict, score
from imgcls.errors import DataError, UsageError
from imgcls.formats import params
from imgcls.inference.export import pt2_graph, safetensors_file
from imgcls.inference.export.run import FORMATS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporters warn of their own future


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a grey and a colour network, export them, and write photographs of two classes."""
    import cv2

    folder = tmp_path_factory.mktemp("models")
    random = np.random.default_rng(0)
    for name, shape in (("grey", (1, 28, 28)), ("colour", (3, 20, 24))):
        images = random.integers(0, 256, (32, *shape), np.uint8)
        imgcls.fit((images, np.arange(32) % 2), network="lenet", num_epochs=1, batch_size=32, lr=0.01,
                   model_prefix=str(folder / name), rgb_mean=(120.0,), rgb_std=(60.0,))
        meta = folder / f"{name}-meta.json"
        content = json.loads(meta.read_text())
        content["preprocessing"]["val_resize"] = 32 if name == "colour" else 0
        meta.write_text(json.dumps(content | {"class_names": ["cat", "dog"]}))
        for kind in ("onnx", "pt2", "safetensors"):
            command = ["--model", str(folder / name), "--format", kind, "--output", str(folder / f"{name}.{kind}")]
            assert export.main(command) == 0
    for number in range(6):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (4, 5, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (50 + 9 * number, 40)))
    return folder


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
@pytest.mark.parametrize("name", ["grey", "colour"])
def test_it_answers_as_its_checkpoint(name: str, kind: str, crops: int, folder: Path) -> None:
    photos = sorted(str(path) for path in folder.glob("photos/*/*.jpg"))
    wanted = imgcls.Predictor(folder / name, crops=crops)(photos)
    found = imgcls.Predictor(folder / f"{name}.{kind}", crops=crops)(photos)
    assert [[label for label, _ in ranking] for ranking in found] == [
        [label for label, _ in ranking] for ranking in wanted]
    assert np.allclose([[value for _, value in ranking] for ranking in found],
                       [[value for _, value in ranking] for ranking in wanted], atol=1e-6)


def test_it_is_scored_as_its_checkpoint(folder: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for name in ("colour", "colour.onnx", "colour.safetensors"):
        assert score.main(["--model", str(folder / name), "--data-val", str(folder / "photos"), "--val-ratio",
                           "0", "--batch-size", "4", "--report", str(tmp_path / name)]) == 0
        found.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy")])
    assert found[0] == found[1] == found[2]
    pages = [(tmp_path / name / "report.html").read_text() for name in ("colour", "colour.onnx")]
    assert ["Grad-CAM" in page for page in pages] == ["Most confident mistakes" in pages[0], False]
    assert ("Most confident mistakes" in pages[0]) == ("Most confident mistakes" in pages[1])


@pytest.mark.parametrize(("flags", "message"), [
    (["--layer", "flatten0_output"], "--layer: .*gives probabilities and nothing of its layers"),
    (["--explain", "looked"], "--explain: .*gives probabilities and nothing of its layers"),
    (["--rgb-mean", "1"], "--rgb-mean: is part of .*onnx"),
    (["--image-shape", "3,28,28"], "--image-shape: is part of .*onnx"),
    (["--load-epoch", "3"], "--load-epoch 3: .*holds one network"),
])
def test_what_an_export_cannot_do(flags: list[str], message: str, folder: Path, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--model", str(folder / "colour.onnx"), *flags, str(folder / "photos")]
    assert predict.main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, last), last
    assert not list(tmp_path.iterdir())


def test_safetensors_have_layers(folder: Path) -> None:
    name = folder / "colour.safetensors"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), np.uint8)
    found = [next(imgcls.Predictor(path).predict(pixels, layer="flatten0_output"))
             for path in (name, folder / "colour")]
    assert np.array_equal(found[0].features, found[1].features)  # type: ignore[union-attr]


def test_a_mean_image_comes_with_the_file(folder: Path, tmp_path: Path) -> None:
    mean = np.random.default_rng(0).uniform(80, 150, (3, 20, 24)).astype(np.float32)
    params.save(tmp_path / "mean.bin", {"mean_img": mean})
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    wanted = imgcls.Predictor(folder / "colour", mean_image=str(tmp_path / "mean.bin"))(pixels)
    for kind in ("onnx", "safetensors"):
        output = str(tmp_path / f"a.{kind}")
        assert export.main(["--model", str(folder / "colour"), "--mean-image", str(tmp_path / "mean.bin"),
                            "--format", kind, "--output", output]) == 0
        assert np.allclose(dict(imgcls.Predictor(output)(pixels))["cat"], dict(wanted)["cat"], atol=1e-6)


def test_it_is_not_trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main(["--pretrained-model", str(folder / "colour.onnx"), "--data-train",
                          str(folder / "photos")]) == 2
    assert "give the checkpoint" in capsys.readouterr().err.splitlines()[-1]


def _changed_pt2(source: Path, target: Path, change: Callable[[str, dict], None], **how: Any) -> Path:
    """Write a copy of a .pt2 with `change(name, content)` applied to each JSON file in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".json"):
                content = json.loads(data)
                change(name, content)
                data = json.dumps(content).encode()
            new.writestr(name, data)
    return target


def _set_target(target: str) -> Callable[[str, dict], None]:
    def change(name: str, content: dict) -> None:
        if name.endswith("models/model.json"):
            content["graph_module"]["graph"]["nodes"][-1]["target"] = target
    return change


@pytest.mark.parametrize("target", ["torch.ops.aten.from_file.default", "os.system", "_operator.mul",
                                    "torch.ops.aten.relu.__class__", "torch.ops.aten.relu.default.__init__"])
def test_a_pt2_calls_only_what_computes(target: str, folder: Path, tmp_path: Path) -> None:
    path = _changed_pt2(folder / "grey.pt2", tmp_path / "a.pt2", _set_target(target))
    with pytest.raises(DataError, match="which no network"):
        imgcls.Predictor(path)


def test_a_pt2_is_not_unpickled_nor_unpacked(folder: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def use_pickle(name: str, content: dict) -> None:
        if name.endswith("model_weights_config.json"):
            for entry in content["config"].values():
                entry["use_pickle"] = True

    def expression(name: str, content: dict) -> None:
        if name.endswith("models/model.json"):  # torch.export.load would evaluate it
            for value in content["graph_module"]["graph"]["sym_int_values"].values():
                value["as_expr"]["expr_str"] = "__import__('os').mkdir('hacked')"

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="holds the pickle"):
        imgcls.Predictor(_changed_pt2(folder / "grey.pt2", tmp_path / "a.pt2", use_pickle))
    with pytest.raises(DataError, match="is compressed"):
        imgcls.Predictor(_changed_pt2(folder / "grey.pt2", tmp_path / "b.pt2", lambda *_: None,
                                      compression=zipfile.ZIP_DEFLATED))
    imgcls.Predictor(_changed_pt2(folder / "grey.pt2", tmp_path / "c.pt2", expression))
    assert not (tmp_path / "hacked").exists()


def test_a_pt2_does_not_take_more_memory_than_there_is(folder: Path, tmp_path: Path) -> None:
    def count_far(name: str, content: dict) -> None:
        if name.endswith("models/model.json"):
            content["graph_module"]["graph"]["nodes"][-1] |= {
                "target": "torch.ops.aten.arange.default",
                "inputs": [{"name": "end", "arg": {"as_int": 10**15}, "kind": 1}]}

    def stand_still(name: str, content: dict) -> None:
        if name.endswith("model_weights_config.json"):
            for entry in content["config"].values():
                entry["tensor_meta"] |= {"sizes": [{"as_int": 10**15}], "strides": [{"as_int": 0}]}

    # it is tried with one image when it is read
    with pytest.raises(DataError, match=r"a tensor needs .* of memory"):
        imgcls.Predictor(_changed_pt2(folder / "grey.pt2", tmp_path / "a.pt2", count_far))
    with pytest.raises(UsageError, match=r"a tensor needs .* of memory"):
        imgcls.Predictor(_changed_pt2(folder / "grey.pt2", tmp_path / "b.pt2", stand_still))


@pytest.mark.parametrize(("name", "arguments", "num_bytes"), [
    ("arange", [2 * 10**10], 16 * 10**10), ("arange", [4, 10, 2], 24), ("arange", [0.0, 1e18, 1e-3], 8e21),
    ("arange", [10**399], 8 * 2.0**63), ("arange", [1, 2, 0], 0), ("arange", [], 0),
    ("expand", ["3x1", [-1, 10**10]], 24 * 10**10), ("expand", ["3x1", [5, -1, -1]], 120),
    ("constant_pad_nd", ["1x1x2x2", [0, 10**5, -1, 10**5], 0.0], 4 * (10**5 + 2) * (10**5 + 1)),
    ("constant_pad_nd", ["1x1x2x2", [-9, 0, -9, 0], 0.0], 0), ("pad", ["2x2", [1, 1], "constant"], 32),
    ("cat", [["4x1", "2x3"], 0], 40), ("stack", [["2x2", "2x2"]], 32),
    ("split_with_sizes", ["8x8", [2] * 40, 1], 0), ("view", ["4x1", [-1]], 0),
    ("upsample_nearest2d", ["1x3x2x2", None, [1e5, 1e5]], 48 * 1e10),
    ("upsample_nearest2d", ["1x3x2x2", [4, 4]], 4 * 48),
    ("adaptive_avg_pool2d", ["1x3x2x2", [10**5, 10**5]], 12 * 10**10), ("full", [[10**6, 10**6], 1.0], 8 * 10**12),
])
def test_how_large_results_of_a_pt2_are_known_to_be(name: str, arguments: list, num_bytes: float) -> None:
    torch = pytest.importorskip("torch")

    def made(value: Any) -> Any:
        if isinstance(value, list):
            return [made(each) for each in value]
        is_shape = isinstance(value, str) and "x" in value
        return torch.zeros([int(size) for size in value.split("x")]) if is_shape else value

    assert pt2_graph._result_bytes(name, made(arguments)) == pytest.approx(num_bytes)


@pytest.mark.parametrize("name", ["grey.onnx", "grey.pt2", "grey.safetensors"])
def test_damage_is_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    content = (folder / name).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / name
    for number in range(30):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[int(random.integers(len(damaged))):]
        else:  # at the front, where the structure is
            for place in random.integers(0, 3000, 4):
                damaged[place] = int(random.integers(256))
        path.write_bytes(damaged)
        with contextlib.suppress(DataError, UsageError):  # each is one line; nothing else may come
            imgcls.Predictor(path)(np.zeros((28, 28), np.uint8))


def test_a_full_disk_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    def save_file(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors_file, "save_file", save_file)
    assert export.main(["--model", str(folder / "grey"), "--format", "safetensors", "--output",
                        str(tmp_path / "a.safetensors")]) == 1
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_a_limit_of_the_size_of_files_is_one_line(kind: str, folder: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # what a full disk is, for one process
    try:
        status = export.main(["--model", str(folder / "grey"), "--format", kind, "--output",
                              str(tmp_path / f"a.{kind}")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "cannot write the temporary export in" in last
    assert "file too large" in last
    assert "traceback" not in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
def test_changed_bytes_are_found(kind: str, folder: Path, tmp_path: Path) -> None:
    content = (folder / f"colour.{kind}").read_bytes()
    path = tmp_path / f"a.{kind}"
    # weights, in the middle of all of them, and the class names, which are damage as well
    for place in (len(content) // 3, len(content) // 2, content.index(b'cat')):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        with pytest.raises(DataError, match=r"its checksum is another|CRC"):
            imgcls.Predictor(path)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(kind: str, number: signal.Signals, folder: Path, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    def write(_: Any, path: Path) -> list[Path]:
        path.write_bytes(b"half of it")
        signal.raise_signal(number)
        return [path]

    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    monkeypatch.setattr(FORMATS[kind], "write", write)
    assert export.main(["--model", str(folder / "grey"), "--format", kind, "--output",
                        str(tmp_path / f"a.{kind}")]) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1].startswith("imgcls-export: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["aside"]


def test_anybody_can_check_the_checksum(folder: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    (program,) = re.findall(r"```python\n(import hashlib.*?)```", page, re.DOTALL)
    for kind in ("onnx", "safetensors"):
        exec(program.replace("pets.onnx", str(folder / f"grey.{kind}")))


def test_no_file_of_this_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        imgcls.Predictor(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(UsageError, match="folder"):
        imgcls.Predictor(tmp_path / "b.onnx")


def test_a_runtime_takes_no_more_threads_than_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from imgcls.inference.export.onnx_file import Runner

    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")  # as OpenMP has it for nested loops
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        session = Runner(folder / "grey.onnx")._session
    finally:
        torch.set_num_threads(before)
    assert session.get_session_options().intra_op_num_threads == 1


def test_a_description_of_pixels_is_of_images() -> None:
    from imgcls.inference.export.exported import Description

    good = {"network": "mlp", "class_names": [], "num_classes": 2, "image_shape": [784], "takes_pixels": False,
            "preprocessing": {}, "note": ""}
    assert Description.from_json(json.dumps(good), "x.onnx").image_shape == [784]
    with pytest.raises(DataError, match="of another kind"):
        Description.from_json(json.dumps(good | {"takes_pixels": True}), "x.onnx")
