"""datasets/: what each offers, where it looks, what it says when there is nothing; and the drawn digits."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from conftest import ROOT, real_data

from imgcls.config import lookup, sections
from imgcls.config.sections import DataConfig
from imgcls.datasets import cifar10, digits, mnist
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import idx
from imgcls.storage import download


def write_mnist(folder: Path, train: int = 6, val: int = 4, suffix: str = ".gz", dot: str = "-") -> None:
    for stem, count in (("train", train), ("t10k", val)):
        images = np.arange(count, dtype=np.uint8).repeat(28 * 28).reshape(count, 28, 28)
        idx.write_images(folder / f"{stem}-images{dot}idx3-ubyte{suffix}", images)
        idx.write_labels(folder / f"{stem}-labels{dot}idx1-ubyte{suffix}", np.arange(count) % 10)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served as IMGCLS_MIRROR; nothing else can be reached."""
    served = tmp_path / "web"
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(served), **kwargs)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("IMGCLS_MIRROR", url)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "_MIRRORS", (f"{url}/not-here/",))
    monkeypatch.setattr(cifar10, "_URLS", (f"{url}/not-here",))
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


# What all have in common


@pytest.mark.parametrize("name", lookup.names("datasets"))
def test_defaults_are_flags_and_of_their_type(name: str) -> None:
    fields = {field.name: get_type_hints(section)[field.name]
              for section in sections.SECTIONS.values() for field in dataclasses.fields(section)}
    defaults = lookup.module("datasets", name, "--dataset").DEFAULTS
    for flag, value in defaults.items():
        kind = fields[flag]
        if isinstance(value, tuple):
            assert all(type(item) is get_args(kind)[0] for item in value), flag
        else:
            assert type(value) in (kind, *get_args(kind)), flag


def test_defaults_are_those_of_mxnet() -> None:
    assert mnist.DEFAULTS.items() >= {
        "network": "mlp", "image_shape": (1, 28, 28), "batch_size": 64, "lr": 0.05, "lr_step_epochs": "10",
        "num_epochs": 20, "disp_batches": 100}.items()
    assert cifar10.DEFAULTS.items() >= {
        "network": "inception-bn", "image_shape": (3, 28, 28), "batch_size": 128, "lr": 0.05,
        "lr_step_epochs": "200,250", "num_epochs": 300, "pad_size": 4, "random_crop": True,
        "random_mirror": True}.items()


def test_no_torch_and_no_opencv_is_needed() -> None:
    code = ("import sys\n"
            "from imgcls.datasets import cifar10, digits, mnist\n"
            "from imgcls.config.sections import DataConfig\n"
            "digits.load(DataConfig())\n"
            "assert not {'torch', 'cv2', 'tqdm'} & {*sys.modules}\n")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# MNIST


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_mnist_from_a_folder(tmp_path: Path, suffix: str, dot: str) -> None:
    write_mnist(tmp_path, suffix=suffix, dot=dot)
    train, val = (splits := mnist.load(DataConfig(data_dir=str(tmp_path)))).train, splits.val
    assert val is not None
    assert (len(train), len(val)) == (6, 4)
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert train.labels.dtype == np.int64
    assert train.images.shape == (6, 1, 28, 28)  # type: ignore[attr-defined]
    assert train.images.dtype == np.uint8  # type: ignore[attr-defined]
    assert (train.read(3) == 3).all()
    assert train.class_names == list("0123456789")


def test_mnist_prefers_unzipped_files(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=3, suffix=".gz")
    write_mnist(tmp_path, train=5, suffix="")
    assert len(mnist.load(DataConfig(data_dir=str(tmp_path))).train) == 5


def test_mnist_of_different_counts(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    idx.write_labels(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(3))
    with pytest.raises(DataError) as caught:
        mnist.load(DataConfig(data_dir=str(tmp_path)))
    assert str(caught.value) == (f"{tmp_path}/t10k-images-idx3-ubyte.gz: has 4 images, but "
                                 f"{tmp_path}/t10k-labels-idx1-ubyte.gz has 3 labels")


def test_mnist_with_labels_that_are_no_digits_or_without_images(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    idx.write_labels(tmp_path / "train-labels-idx1-ubyte.gz", np.array([1, 2, 3, 10, 4, 5]))
    with pytest.raises(DataError, match=r"train-labels.* at byte 11: label 10 of image 3"):
        mnist.load(DataConfig(data_dir=str(tmp_path)))
    write_mnist(tmp_path, train=0)
    with pytest.raises(DataError, match=r"train-images.*: holds no images"):
        mnist.load(DataConfig(data_dir=str(tmp_path)))


def test_mnist_downloads_what_is_missing_and_checks_it(web: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(web / "mnist")
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (web / "mnist").iterdir()}
    monkeypatch.setattr(mnist, "_SHA256", {name[:-3]: sha256 for name, sha256 in files.items()})
    assert len(mnist.load(DataConfig()).train) == 6
    assert sorted(path.name for path in (tmp_path / "cache/mnist").iterdir()) == sorted(files)

    mine = tmp_path / "mine"
    write_mnist(mine, train=2)
    (mine / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(mnist.load(DataConfig(data_dir=str(mine))).train) == 2

    (mine / "t10k-labels-idx1-ubyte.gz").unlink()
    (web / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(RunError, match="wrong content"):
        mnist.load(DataConfig(data_dir=str(mine)))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_that_no_mirror_has(web: Path, tmp_path: Path, name: str) -> None:
    module = lookup.module("datasets", name, "--dataset")
    with pytest.raises(RunError) as caught:
        module.load(DataConfig())
    first, second, advice = str(caught.value).split("; ", 2)
    assert first.startswith("cannot download ")
    assert "404" in first
    assert "404" in second
    assert advice.startswith(f"put {module.FILES} into {tmp_path / 'cache' / name}")
    assert "data_dir" in advice
    assert "dataset digits" in advice


def test_an_unknown_url_scheme_is_one_line() -> None:
    for module in (mnist, cifar10):
        with pytest.raises(UsageError, match="data_dir s4://bucket/data: there is no s4://"):
            module.load(DataConfig(data_dir="s4://bucket/data"))


@pytest.mark.real_data
def test_real_mnist() -> None:
    splits = mnist.load(DataConfig(data_dir=str(real_data("mnist"))))
    assert splits.val is not None
    assert (len(splits.train), len(splits.val)) == (60000, 10000)
    assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    for path in real_data("mnist").glob("*.gz"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == mnist._SHA256[path.stem]


# CIFAR-10


def test_cifar10_from_the_downloaded_archive(web: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    (web / "cifar10").mkdir()
    archive = web / "cifar10/cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
            (tmp_path / name).write_bytes(bytes([number]) + b"".join(bytes([c]) * 1024 for c in range(3)))
            tar.add(tmp_path / name, f"cifar-10-batches-bin/{name}")
    monkeypatch.setattr(cifar10, "_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    for _ in range(2):
        splits = cifar10.load(DataConfig())
        assert splits.val is not None
        assert splits.train.labels.tolist() == [0, 1, 2, 3, 4]
        assert splits.val.labels.tolist() == [5]
        assert splits.train.images.shape == (5, 3, 32, 32)  # type: ignore[attr-defined]
        assert splits.train.read(0)[0, 0].tolist() == [0, 1, 2]  # type: ignore[index]
        assert splits.train.class_names[0] == "airplane"
        assert splits.train.class_names[9] == "truck"
        monkeypatch.setattr(download, "fetch", None)  # the second time it is there


# Digits


def test_digits_are_the_same_bytes_everywhere() -> None:
    """Whatever Python, numpy, OpenCV and processor: saved accuracies and checkpoints rely on it."""
    splits = digits.load(DataConfig())
    digest = hashlib.sha256()
    for source in (splits.train, splits.val):
        digest.update(source.images.tobytes())  # type: ignore[union-attr]
        digest.update(source.labels.tobytes())  # type: ignore[union-attr]
    assert digest.hexdigest() == "4efeb3233be8c36dc1ec25f53c742c964b7679efac59e3de76a7d4f38266f567"


def test_digits_are_balanced_shuffled_and_all_different() -> None:
    images, labels = digits.draw(1000, seed=5)
    assert images.shape == (1000, 1, 28, 28)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [100] * 10
    assert 50 < (np.diff(labels) == 0).sum() < 150  # as often as by chance, not class after class
    assert len({image.tobytes() for image in images}) == 1000
    assert not (digits.draw(1000, seed=6)[0] == images).all()
    assert (images.reshape(1000, -1).max(1) > 100).all()  # there is ink on every one


def test_digits_resemble_others_of_their_class() -> None:
    """A ruler that needs no training: most test digits look most like a training digit of their class."""
    splits = digits.load(DataConfig())
    train, val = (source.images.reshape(len(source), -1)
                  for source in (splits.train, splits.val))  # type: ignore
    train, val = train.astype(np.float32), val[:200].astype(np.float32)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    nearest = (val @ train.T).argmax(1)
    right = (splits.train.labels[nearest] == splits.val.labels[:200]).mean()  # type: ignore[union-attr]
    assert 0.8 < right < 0.97  # neither noise nor so easy that any method does


def test_digits_need_no_folder() -> None:
    assert not digits.load(DataConfig()).notes
    assert len(digits.load(DataConfig(data_dir="somewhere")).train) == 6000
