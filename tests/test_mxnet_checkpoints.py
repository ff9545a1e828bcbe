"""Score and predict with checkpoints that say nothing of their images and classes, MXNet's among them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import imgcls
from imgcls import networks, pretrained
from imgcls.cli import im2rec, predict, score
from imgcls.config.sections import NetworkConfig
from imgcls.data.sources import ArraySource, open_source
from imgcls.errors import DataError, UsageError
from imgcls.formats import params
from imgcls.inference.matching import match_classes
from imgcls.pretrained import PretrainedRef
from imgcls.pretrained.class_names import ClassNames, find_class_names
from imgcls.pretrained.input_shape import find_input_shape


def make(prefix: Path, shape: tuple[int, int, int], num_classes: int = 3, network: str = "mlp") -> str:
    """Write a symbol and weights, and nothing else, as MXNet does."""
    images = np.random.default_rng(0).integers(0, 255, (6, *shape), dtype=np.uint8)
    imgcls.fit((images, np.arange(6) % num_classes), network=network, num_classes=num_classes, num_epochs=1,
               batch_size=6, lr=0.001, model_prefix=str(prefix))
    arrays = params.load(f"{prefix}-0001.params")  # small ones: pixels up to 255 must not saturate the softmax
    params.save(f"{prefix}-0001.params", {name: array / 20 for name, array in arrays.items()})
    for end in ("meta.json", "0001.states", "metrics.jsonl"):
        Path(f"{prefix}-{end}").unlink()
    return str(prefix)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four pictures of 90 x 90, as MXNet's records of 300 x 300 are for a crop of 224."""
    folder, chance = tmp_path_factory.mktemp("mxnet"), np.random.default_rng(1)
    for name in ("c", "a", "b"):
        (folder / "val" / name).mkdir(parents=True)
        for count in range(4):
            image = chance.integers(0, 255, (90, 90, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "val" / name / f"{count}.png"), image)
    assert im2rec.main(["--list", "--recursive", str(folder / "packed"), str(folder / "val")]) == 0
    assert im2rec.main(["--pass-through", str(folder / "packed"), str(folder / "val")]) == 0
    return folder


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("colour") / "net", (3, 64, 64))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("grey") / "net", (1, 28, 28))


def run(capsys: pytest.CaptureFixture[str], main: object, *flags: object) -> tuple[str, str]:
    capsys.readouterr()
    status = main([str(flag) for flag in flags])  # type: ignore[operator]
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def centre_loss(prefix: str, photos: Path, mean: float) -> float:
    """Return what MXNet's iterator and network give: the centre as it is stored, less the mean."""
    model, losses = imgcls.load_model(prefix), []
    for path in sorted(photos.glob("val/*/*.png")):
        image = cv2.imread(str(path))
        assert image is not None
        pixels = image[13:77, 13:77, ::-1].astype(np.float32) - mean
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
        losses.append(-logits.log_softmax(1)[0, "abc".index(path.parent.name)].item())
    return float(np.mean(losses))


@pytest.mark.parametrize("mean", [0, 120])
def test_the_number_of_mxnets_score_py(mean: int, colour: str, photos: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rgb-mean", f"{mean},{mean},{mean}"] if mean else []
    expected = centre_loss(colour, photos, mean)
    for data in ("packed.rec", "val"):
        out, err = run(capsys, score.main, "--model", colour, "--data-val", photos / data, "--loss", "ce", *flags)
        loss = float(re.findall(r"cross-entropy=(\S+)", out)[0])
        assert loss == pytest.approx(expected, rel=1e-4)
    lines = err.splitlines()
    assert lines[0].startswith("images: 3,64,64 cut as stored, mean ")
    assert f"(the preprocessing of {colour} is not known: as in MXNet's score.py" in lines[0]
    note = [line for line in lines if line.startswith("note: the centre 64x64 is cut as MXNet does it")]
    assert "--val-resize 73 would shrink them to a short edge of 73 first" in note[0]
    out, err = run(capsys, score.main, "--model", colour, "--data-val", photos / "val", "--loss", "ce", *flags,
                   "--val-resize", "73")
    assert f"cross-entropy={loss:f}" not in out
    assert "cut from a short edge of 73" in err
    assert "cut as MXNet does it" not in err


def test_predict_takes_the_same_flags(colour: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted(photos.glob("val/*/*.png"))
    for flags in ([], ["--rgb-mean", "100,110,120", "--rgb-std", "50,60,70"], ["--val-resize", "70"],
                  ["--dataset", "cifar10", "--image-shape", "3,64,64"]):
        out, err = run(capsys, predict.main, "--model", colour, "--top", "1", *flags, *paths)
        names = [int(name) for name in re.findall(r": (\d) \(score", out)]
        data = ["--data-val", photos / "val"]
        out, score_err = run(capsys, score.main, "--model", colour, *flags, *data)
        num_right = sum("abc"[name] == path.parent.name for name, path in zip(names, paths, strict=True))
        assert f"accuracy={num_right / len(paths):f}" in out
        assert score_err.splitlines()[0] == err.splitlines()[0]


def test_resize_is_another_word(colour: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next(photos.glob("val/*/*.png"))
    outs = [run(capsys, predict.main, "--model", colour, *flags, picture)
            for flags in ([], ["--resize", "70"], ["--val-resize", "70"], ["--resize", "9", "--val-resize", "70"])]
    assert outs[0][0] != outs[1][0] == outs[2][0] == outs[3][0]
    assert "3,64,64 cut from a short edge of 70, " in outs[1][1]


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not numbers"), (np.inf, "not numbers")])
def test_a_mean_image_that_is_none(value: float, message: str, colour: str, photos: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mean.bin"
    params.save(path, {"mean_img": np.full((3, 64, 64), value, np.float32)})
    picture = str(next(photos.glob("val/*/*.png")))
    assert predict.main(["--model", colour, "--mean-image", str(path), picture]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    path.unlink()
    os.mkfifo(path)
    assert predict.main(["--model", colour, "--mean-image", str(path), picture]) == 1
    assert "is a pipe and no file" in capsys.readouterr().err.splitlines()[-1]


def test_one_channel(grey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.full((28, 28), 200, np.uint8))
    _, err = run(capsys, predict.main, "--model", grey, tmp_path / "0.png")
    assert err.splitlines()[0] == (
        f"images: 1,28,28 cut as stored, mean 0, std 255 (the preprocessing of {grey} is not known: as in "
        "MXNet's train_mnist.py)")
    assert err.splitlines()[1] == (
        f"note: the class names of {grey} are not known, classes are shown as numbers; --synset FILE "
        "gives names, one a line")
    _, err = run(capsys, predict.main, "--model", grey, "--rgb-std", "1", tmp_path / "0.png")
    assert "std 1 (the preprocessing of" in err
    assert "but for --rgb-std)" in err


def test_score_does_not_take_mnist_for_the_data_of_photographs(colour: str,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["--model", colour]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--data-val is missing: give the data to score on")


@pytest.mark.parametrize(("network", "shape", "preferred", "expected"), [
    ("lenet", (1, 28, 28), (3, 224, 224), (1, 28, 28)),
    ("lenet", (3, 40, 40), (3, 224, 224), (3, 40, 40)),
    ("mlp", (3, 20, 20), (3, 224, 224), (3, 20, 20)),
    ("mlp", (1, 28, 28), (1, 28, 28), (1, 28, 28)),
    ("alexnet", (3, 227, 227), (3, 224, 224), (3, 227, 227)),
    ("resnet", (3, 28, 28), (3, 224, 224), (3, 224, 224)),  # of any size: the default
    ("resnet", (3, 28, 28), (3, 28, 28), (3, 28, 28)),
    ("resnet", (1, 28, 28), (3, 224, 224), (1, 28, 28)),
])
def test_the_shape_follows_from_the_layers(network: str, shape: tuple[int, ...], preferred: tuple[int, ...],
                                           expected: tuple[int, ...]) -> None:
    config = NetworkConfig(network=network, image_shape=shape, num_layers=20 if network == "resnet" else None)
    assert find_input_shape(networks.build_network(config, 0).eval(), preferred) == expected


# ---- names


def reference(**kwargs: object) -> PretrainedRef:
    return PretrainedRef(name="old/net", network="net", prefix="old/net", **kwargs)  # type: ignore[arg-type]


def test_names_of_a_synset_file(colour: str, photos: Path, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    synset = tmp_path / "synset.txt"
    synset.write_text("n00000001 kit fox, Vulpes\nn00000002 tench\nn00000003 crane\n\n")
    picture = next(photos.glob("val/*/*.png"))
    out, err = run(capsys, predict.main, "--model", colour, "--synset", synset, picture)
    assert {line.split(" (")[0] for line in out.splitlines()} == {"kit fox, Vulpes", "tench", "crane"}
    assert "are called" not in err
    for text, message in (("a\nb\n", "names 2 classes, and "), ("a\nb\nc\nd", "names 4 classes, and "),
                          ("", "names 0 classes, and "), ("a", "names 1 class, and ")):
        synset.write_text(text)
        for main, rest in ((predict.main, [picture]), (score.main, ["--data-val", photos / "val"])):
            assert main(["--model", colour, "--synset", str(synset), *map(str, rest)]) == 2
            assert message in capsys.readouterr().err.splitlines()[-1]
    synset.write_bytes(b"\xff\xfe\0")
    assert predict.main(["--model", colour, "--synset", str(synset), str(picture)]) == 1
    assert "is no text" in capsys.readouterr().err.splitlines()[-1]
    assert predict.main(["--model", colour, "--synset", str(tmp_path / "none"), str(picture)]) == 2
    assert "--synset" in capsys.readouterr().err.splitlines()[-1]


def test_names_of_imagenet() -> None:
    pytest.importorskip("torchvision.models")
    known = find_class_names(reference(is_imagenet=True), "", 1000)
    assert (len(known.names), known.names[0], known.note) == (1000, "tench", "")
    assert find_class_names(reference(), "imagenet", 1000).names == known.names
    other = find_class_names(reference(is_imagenet=True), "", 11)
    assert (other.names, "`synset` FILE gives names" in other.note) == ((), True)
    assert "`synset` imagenet those of ImageNet" in find_class_names(reference(), "", 1000).note


def test_names_of_a_local_pth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = pytest.importorskip("torchvision.models")
    # under the name of torchvision's download its classes are ImageNet's
    file = tmp_path / models.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(models.squeezenet1_1().state_dict(), file)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((40, 40, 3), np.uint8))
    name = f"torchvision:squeezenet1_1:{file}"
    out, err = run(capsys, predict.main, "--model", name, "--top", "1000", tmp_path / "0.png")
    assert re.search(r"^tench \(score = 0\.\d+\)$", out, re.M)
    assert err.startswith("images: 3,224,224 cut from a short edge of 256, mean 123.675,116.28,103.53, std ")
    # a file of one's own may have 1000 other classes
    file.rename(tmp_path / "w.pth")
    name = f"torchvision:squeezenet1_1:{tmp_path / 'w.pth'}"
    out, err = run(capsys, predict.main, "--model", name, "--top", "1000", tmp_path / "0.png")
    assert "tench" not in out
    assert "and --synset imagenet those of ImageNet" in err


def test_names_that_do_not_go_with_the_network(tmp_path: Path) -> None:
    names = find_class_names(reference(class_names=list("abcd"), origin="old/net-meta.json"), "", 3)
    assert (names.names, "names 4 classes and the network has 3" in names.note) == ((), True)
    names = find_class_names(reference(class_names=list("ab"), origin="old/net-meta.json"), "", 3)
    assert (names.names, "names 2 of 3 classes" in names.note) == (("a", "b"), True)
    (tmp_path / "s.txt").write_text("x\ny\nz")
    ref = reference(class_names=list("abc"), origin="old/net-meta.json")
    given = find_class_names(ref, str(tmp_path / "s.txt"), 3)
    assert (given.names, "names the classes in place of old/net-meta.json" in given.note) == (("x", "y", "z"), True)


# ---- the classes of the data


def data(*names: str) -> ArraySource:
    return ArraySource(np.zeros((len(names), 1, 2, 2), np.uint8), np.arange(len(names)), names)


def test_classes_in_another_order_are_matched_by_name() -> None:
    source, note = match_classes(data("tench", "crane"), ClassNames(("crane", "fox", "tench")), "net", 3)
    assert (source.labels.tolist(), "'tench' is class 2 of net" in note) == ([2, 0], True)
    ids = ClassNames(("crane", "fox", "tench"), ("n1", "n2", "n3"))
    assert match_classes(data("n2", "n3"), ids, "net", 3)[0].labels.tolist() == [1, 2]
    source, note = match_classes(data("crane", "fox"), ids, "net", 3)
    assert (source.labels.tolist(), note) == ([0, 1], "")


class OwnSource:
    """What the file of a data set of one's own may return: labels that nobody can set."""

    description, class_names = "own", ("tench", "crane")

    @property
    def labels(self) -> np.ndarray:
        return np.array([0, 1, 5])

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> bytes:
        return bytes([index])

    def problem(self, index: int, reason: str) -> DataError:
        return DataError("own", f"{index} {reason}")


def test_sources_of_all_kinds_are_matched_and_stay_as_they_are(photos: Path) -> None:
    for path in (photos / "val", photos / "packed.lst", photos / "packed.rec"):
        source = open_source(str(path), "data_val", root=str(photos / "val") if path.suffix == ".lst" else "",
                             class_names=("a", "b", "c"))
        before = np.array(source.labels)
        matched, _ = match_classes(source, ClassNames(("c", "b", "a")), "net", 3)
        assert matched.labels.tolist() == (2 - before).tolist(), path
        assert source.labels.tolist() == before.tolist()
        assert matched.read(5) == source.read(5)
    own = OwnSource()
    matched, _ = match_classes(own, ClassNames(("crane", "tench")), "net", 2)
    assert matched.labels.tolist() == [1, 0, -1]
    assert (len(matched), matched.read(2), str(matched.problem(2, "is odd"))) == (3, b"\2", "own: 2 is odd")


def test_classes_that_cannot_be_matched() -> None:
    with pytest.raises(UsageError, match="'dog' is no class of net, but others are"):
        match_classes(data("tench", "dog"), ClassNames(("crane", "tench")), "net", 2)
    with pytest.raises(UsageError, match="'crane' is several classes of net"):
        match_classes(data("tench", "crane"), ClassNames(("crane", "tench", "crane")), "net", 3)
    source, note = match_classes(data("cat", "dog"), ClassNames(("crane", "tench", "fox")), "net", 3)
    assert (source.labels.tolist(), "2 classes and the network 3, of other names" in note) == ([0, 1], True)
    _, note = match_classes(data("cat", "dog"), ClassNames(), "net", 3)
    assert "net has no names of its 3 classes: class k of the 2 classes of the data" in note
    assert match_classes(data("0", "1"), ClassNames(), "net", 3)[1] == ""
    # names are counted once, and not searched for in lists: 400 million comparisons
    start = time.process_time()
    match_classes(data(*map(str, range(1, 20_001))), ClassNames([f"c{i}" for i in range(20_000)]), "net", 20_000)
    assert time.process_time() - start < 20

def test_the_folders_of_a_network_with_synset_names(colour: str, photos: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """Class c is the network's first: the number is that of its order, not of the folders' own."""
    (tmp_path / "synset.txt").write_text("c\na\nb\n")
    predictor = imgcls.Predictor(colour, top=1, synset=str(tmp_path / "synset.txt"))
    paths = sorted(photos.glob("val/*/*.png"))
    num_right = sum(predictor(path)[0][0] == path.parent.name for path in paths)
    for name in ("val", "packed.rec"):
        out, err = run(capsys, score.main, "--model", colour, "--data-val", photos / name, "--synset",
                       tmp_path / "synset.txt")
        assert f"accuracy={num_right / len(paths):f}" in out
        assert "matched by name: 'a' is class 1 of" in err


def test_labels_and_classes_that_do_not_fit(photos: Path, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    two = make(tmp_path / "two", (3, 64, 64), num_classes=2)
    assert score.main(["--model", two, "--data-val", str(photos / "val")]) == 2
    assert "go from 0 to 2, and " in capsys.readouterr().err.splitlines()[-1]
    assert score.main(["--model", two, "--data-val", str(photos / "val"), "--top-k", "5"]) == 2
    out, _ = run(capsys, predict.main, "--model", two, "--top", "9", next(photos.glob("val/*/*.png")))
    assert len(out.splitlines()) == 2


def test_a_checkpoint_without_its_meta_data_is_built_once(colour: str) -> None:
    assert pretrained.locate(colour).preprocessing == {}
    assert imgcls.Predictor(colour).image_shape == (3, 64, 64)
