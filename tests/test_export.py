"""imgcls-export as a user runs it: each file is run in its own runtime and compared with the checkpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import imgcls
from imgcls import graph
from imgcls.cli import export
from imgcls.config.sections import AugmentConfig, NetworkConfig
from imgcls.data.loaders.make import make_loader
from imgcls.errors import DataError, UsageError
from imgcls.formats import params
from imgcls.inference.export import onnx_file, safetensors_file
from imgcls.inference.export.compare import Comparison
from imgcls.inference.export.exported import Description, Exported, Servable
from imgcls.inference.export.pictures import Pictures, make_pictures
from imgcls.inference.export.preprocessing import Preprocessing
from imgcls.inference.export.run import FORMATS, describe
from imgcls.networks import build_network
from imgcls.pretrained.reference import Pretrained

NAMES = ["naïve «chat»", 'quote " back\\slash', "two\nlines", "`model`", "猫 🐈", "", "x" * 300, "\x1b[31m",
         "<b>", "last"]
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporters warn of their own future


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Train three networks for one step; return network -> prefix."""
    folder = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(0)
    found = {}
    for network, shape, settings in (("lenet", (1, 28, 28), {}), ("resnet", (3, 28, 28), {"num_layers": 20}),
                                     ("inception-bn", (3, 28, 28), {})):
        images = random.integers(0, 256, (32, *shape), np.uint8)
        imgcls.fit((images, np.arange(32) % 10), network=network, num_epochs=1, batch_size=32, image_shape=shape,
                   model_prefix=str(folder / network), lr=0.01, rgb_mean=(120.0,), rgb_std=(60.0,), **settings)
        meta = folder / f"{network}-meta.json"
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"class_names": NAMES}))
        found[network] = str(folder / network)
    return found


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 28), (3, 64, 96)])
@pytest.mark.parametrize("val_resize", [0, 20, 32, 100])
@pytest.mark.parametrize("interpolation", ["bilinear", "antialias"])
def test_preprocessing_gives_the_pixels_of_validation(shape: tuple[int, int, int], val_resize: int,
                                                      interpolation: str) -> None:
    config = AugmentConfig(val_resize=val_resize, interpolation=interpolation, rgb_mean=(9.0, 20.0, 30.0),
                           rgb_std=(2.0, 3.0, 4.0))
    if interpolation == "antialias" and 0 < val_resize < max(shape):
        with pytest.raises(UsageError, match="resized twice"):
            Preprocessing(shape, config)
        return
    module = Preprocessing(shape, config)
    random = np.random.default_rng(0)
    for size in ((28, 28), (37, 211), (160, 120), (200, 200), (17, 9), (1, 1)):
        image = random.integers(0, 256, (*size, 3), np.uint8)
        loader = make_loader(Pictures([image], "one"), batch_size=1, image_shape=shape, augment_config=config,
                             train=False, seed=0, device=torch.device("cpu"), threads=0, on_bad="stop")
        wanted = next(iter(loader.epoch(0))).images
        levels = ((module(torch.from_numpy(image)[None]) - wanted) / module.scale).abs()
        # bilinear is OpenCV's to the bit; antialias may be a level beside torch's, in few pixels
        assert levels.max() <= (0 if interpolation == "bilinear" else 1.01)
        assert (levels > 0.5).float().mean() <= (0 if interpolation == "bilinear" else 0.05)


@pytest.mark.parametrize("network", ["lenet", pytest.param("resnet", marks=pytest.mark.slow),
                                     pytest.param("inception-bn", marks=pytest.mark.slow)])
def test_onnx_names_images_as_the_checkpoint(network: str, prefixes: dict[str, str], tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    assert export.main(["--model", prefixes[network], "--format", "onnx", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}\n"
    assert "32 of 32 labels equal" in err
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    runner = onnx_file.Runner(path)
    assert runner.description.class_names == NAMES
    metadata = runner._session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == NAMES
    lines = metadata["synset"].split("\n")  # for programs without a parser of JSON
    assert len(lines) == len(NAMES)
    assert lines[0] == NAMES[0]
    assert lines[2] == "two\\nlines"
    predict = imgcls.Predictor(prefixes[network], top=10)
    for size in ((28, 28), (50, 31)):
        batch = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
        for probabilities, image in zip(runner.run(batch), batch, strict=True):
            ranking = dict(predict(image))
            assert np.abs(probabilities - [ranking[name] for name in NAMES]).max() < 1e-4


@pytest.mark.slow
def test_without_preprocessing(prefixes: dict[str, str], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    monkeypatch.setenv("OMP_NUM_THREADS", "1,1")  # OpenMP takes a number for each level
    assert export.main(["--model", prefixes["resnet"], "--format", "onnx", "--no-preprocessing",
                        "--output", str(path)]) == 0
    runner = onnx_file.Runner(path)
    assert runner.description.input_shape == [None, 3, 28, 28]
    images = np.random.default_rng(0).normal(0, 1, (5, 3, 28, 28)).astype(np.float32)
    model = imgcls.load_model(prefixes["resnet"])
    with torch.no_grad():
        wanted = model(torch.from_numpy(images)).softmax(1).numpy()
    assert np.abs(runner.run(images) - wanted).max() < 1e-5


def test_what_differs_is_not_kept(prefixes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "net.safetensors"
    right = safetensors_file.Runner.run
    monkeypatch.setattr(safetensors_file.Runner, "run", lambda self, images: right(self, images)[:, ::-1])
    assert export.main(["--model", prefixes["lenet"], "--format", "safetensors", "--output", str(path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "is not kept" in last
    assert "another label" in last
    assert not list(path.parent.iterdir())


def test_compares_on_the_users_pictures(prefixes: dict[str, str], tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.{'jpg' if number % 2 else 'png'}"), image)
    output = str(tmp_path / "a.safetensors")
    command = ["--model", prefixes["lenet"], "--format", "safetensors", "--output", output, "--images"]
    assert export.main([*command, str(tmp_path / "photos"), "--num-images", "3"]) == 0
    assert "3 of 3 labels equal" in capsys.readouterr().err
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert export.main([*command, str(tmp_path / "photos")]) == 1
    assert "broken.jpg" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("network", ["lenet", "resnet"])
def test_large_photographs_that_imgcls_decodes_smaller(network: str, prefixes: dict[str, str], tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    """Such a decoding is no difference of the export: it is told, and the file is kept."""
    random = np.random.default_rng(1)
    for number in range(12):
        # of noise every tenth pixel is something else than the mean of ten
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), random.integers(0, 256, (300, 400, 3), np.uint8))
    argv = ["--model", prefixes[network], "--format", "pt2", "--output", str(tmp_path / "a.pt2"),
            "--val-resize", "28", "--images", str(tmp_path)]
    assert export.main(argv) == 0
    told = capsys.readouterr()
    assert "12 of 12 labels equal" in told.out + told.err
    assert "note: imgcls decodes 12 of them at a half or less" in told.err


@pytest.mark.parametrize(("flags", "message"), [
    ([], "required: --model, --format, --output"),
    (["--model", "nowhere/net", "--format", "onnx", "--output", "a.onnx"], "nowhere/net-0001.params"),
    (["--model", "x", "--format", "tflite", "--output", "a"], "--format tflite"),
    (["--model", "x", "--format", "onnx", "--output", "a.pt2"], "--format onnx must end in .onnx"),
    (["--model", "LENET", "--format", "onnx", "--output", "a.onnx", "--interpolation", "area"], "--preprocessing 0"),
    (["--model", "LENET", "--format", "onnx", "--output", "a.onnx", "--images", "nowhere"], "--images nowhere"),
])
def test_wrong_usage(flags: list[str], message: str, prefixes: dict[str, str], tmp_path: Path,
                     monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert export.main([prefixes["lenet"] if flag == "LENET" else flag for flag in flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 50])
def test_a_damaged_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.onnx"):
        onnx_file.Runner(path)


def test_a_model_of_somebody_elses(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [None, 3, 8, 8])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["probabilities"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "a.onnx"
    onnx.save(model, path)
    with pytest.raises(DataError, match="is no export of imgcls"):
        onnx_file.Runner(path)
    for text in ("[]", "{}", '{"class_names": 5}'):
        del model.metadata_props[:]
        entry = model.metadata_props.add()
        entry.key, entry.value = "imgcls", text
        onnx.save(model, path)
        with pytest.raises(DataError, match="not the description of an export"):
            onnx_file.Runner(path)
    entry.value = Description("x", [], 3, [3, 8, 8], True).to_json()
    onnx.save(model, path)
    with pytest.raises(DataError, match="other tensors"):
        onnx_file.Runner(path)


def test_made_images_are_said_to_be_made() -> None:
    pictures = make_pictures((3, 20, 30), 10)
    assert len({pictures.pixels(index, 3).shape for index in range(10)}) > 5
    line = describe(Comparison(10, 9, 0.25, 1.0, [3]), pictures, "ONNX Runtime")
    assert "10 generated images" in line
    assert "9 of 10 labels equal" in line


@pytest.mark.parametrize("network", ["lenet", pytest.param("resnet", marks=pytest.mark.slow),
                                     pytest.param("inception-bn", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "name"), [("pt2", "a.pt2"), ("safetensors", "a.safetensors"), ("mxnet", "a")])
def test_other_formats(network: str, kind: str, name: str, prefixes: dict[str, str], tmp_path: Path,
                       capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / name
    assert export.main(["--model", prefixes[network], "--format", kind, "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert "32 of 32 labels equal" in err
    assert sorted(out.splitlines()) == sorted(str(path) for path in tmp_path.iterdir())
    if kind != "mxnet":
        assert FORMATS[kind].Runner(output).description.class_names == NAMES
        return
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    copied = imgcls.Predictor(str(output))
    assert copied.class_names == NAMES
    assert copied(image) == imgcls.Predictor(prefixes[network])(image)


@pytest.mark.parametrize(("kind", "name"), [("safetensors", "a.safetensors"), ("mxnet", "a")])
def test_a_network_of_torchvision_with_a_mean_image(kind: str, name: str, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    config = NetworkConfig(network="torchvision:mobilenet_v3_small", image_shape=(3, 32, 32), num_classes=7)
    (tmp_path / "tv-network.json").write_text(json.dumps(asdict(config)))
    params.save(tmp_path / "tv-0001.params", graph.arrays(build_network(config, seed=0)))
    mean = np.random.default_rng(0).uniform(80, 150, (3, 32, 32)).astype(np.float32)
    params.save(tmp_path / "mean.bin", {"mean_img": mean})
    (tmp_path / "new").mkdir()
    output = tmp_path / "new" / name
    assert export.main(["--model", str(tmp_path / "tv"), "--mean-image", str(tmp_path / "mean.bin"), "--rgb-std",
                        "60", "--format", kind, "--output", str(output)]) == 0
    assert "32 of 32 labels equal" in capsys.readouterr().err
    if kind == "mxnet":
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
        first = imgcls.Predictor(str(tmp_path / "tv"), mean_image=str(tmp_path / "mean.bin"), rgb_std=(60.0,))
        assert imgcls.Predictor(str(output))(image) == first(image)


def test_a_mean_image_is_subtracted_in_the_graph(tmp_path: Path) -> None:
    mean = np.random.default_rng(0).uniform(80, 150, (3, 20, 24)).astype(np.float32)
    params.save(tmp_path / "mean.bin", {"mean_img": mean})
    module = Preprocessing((3, 20, 24), AugmentConfig(val_resize=0, mean_image=str(tmp_path / "mean.bin")))
    images = torch.randint(0, 256, (2, 20, 24, 3), dtype=torch.uint8)
    assert torch.equal(module(images), images.permute(0, 3, 1, 2).float() - torch.from_numpy(mean))


def test_a_prefix_that_has_a_checkpoint_is_left_alone(prefixes: dict[str, str],
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    prefix = prefixes["lenet"]
    assert export.main(["--model", prefix, "--format", "mxnet", "--output", prefix]) == 2
    assert "choose another" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b'\x02\0\0\0\0\0\0\0{}'])
def test_damaged_safetensors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.safetensors"):
        safetensors_file.Runner(path)


@pytest.mark.slow
def test_executorch(prefixes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # not in the test extra: it brings coremltools, pandas and scikit-learn along
    pytest.importorskip("executorch.runtime", reason="no ExecuTorch here")
    output = tmp_path / "a.pte"
    assert export.main(["--model", prefixes["lenet"], "--format", "pte", "--output", str(output)]) == 0
    assert "32 of 32 labels equal" in capsys.readouterr().err
    runner = FORMATS["pte"].Runner(output)
    assert runner.description.class_names == NAMES
    # the images of the caller are used where they are: the largest that are allowed would be 755 MB
    assert not runner._method.metadata.input_tensor_meta(0).is_memory_planned()


@pytest.mark.slow
def test_executorch_with_gammas_that_are_fixed(tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime", reason="no ExecuTorch here")
    config = NetworkConfig(network="mobilenet", image_shape=(3, 32, 32), num_classes=5, multiplier=0.25)
    network = build_network(config, seed=0).eval().requires_grad_(False)
    for name, values in network.named_buffers():
        if name.endswith("gamma"):
            values.fill_(3)  # a file may have anything there: it is taken as 1
    description = Description("mobilenet", [], 5, [3, 32, 32], False)
    servable = Servable(network, None)
    source = Pretrained(config, {}, "")
    FORMATS["pte"].write(Exported(servable, description, source, ""), tmp_path / "a.pte")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = FORMATS["pte"].Runner(tmp_path / "a.pte").run(images.numpy())
    assert np.abs(found - servable(images).numpy()).max() < 1e-5
    assert all((values == 3).all() for name, values in network.named_buffers() if name.endswith("gamma"))


@pytest.mark.parametrize(("kind", "package", "advice"), [("pte", "executorch", "pip install executorch"),
                                                         ("onnx", "onnx", "pip install 'imgcls[export]'")])
def test_what_is_missing_is_one_line(kind: str, package: str, advice: str, monkeypatch: pytest.MonkeyPatch,
                                     tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    flags = ["--model", "nowhere", "--format", kind, "--output", str(tmp_path / f"a.{kind}")]
    assert export.main(flags) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert advice in err


def test_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert export.main(["--model", "nowhere", "--format", "aot", "--output", str(tmp_path / "a.pt2")]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err
