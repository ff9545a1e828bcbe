"""MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey (LeCun, Cortes, Burges), from four idx files.

Other pictures of ten classes in the same four files do as well (Fashion-MNIST): files that are there are
taken as they are, gzip-ed or not; only what is downloaded is checked by hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from imgcls.config.sections import DataConfig
from imgcls.data.sources import ArraySource, Splits
from imgcls.datasets import _folders
from imgcls.errors import DataError, verbatim
from imgcls.formats import idx
from imgcls.storage import download, folders
from imgcls.storage.paths import AnyPath

#: MXNet train_mnist.py 0.9.1 to 1.9.1; the pixels are x / 255
DEFAULTS: dict[str, object] = {
    "network": "mlp", "num_classes": 10, "image_shape": (1, 28, 28),
    "batch_size": 64, "num_epochs": 20, "disp_batches": 100,
    "lr": 0.05, "lr_factor": 0.1, "lr_step_epochs": "10",
    "rgb_mean": (0.0,), "rgb_std": (255.0,),
}

#: those of the settings about files that are read here
SETTINGS = ("data_dir",)

#: number of samples of an epoch under `benchmark`
NUM_EXAMPLES = 60_000

#: what to put into the folder, for messages
FILES = ("train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
         "t10k-labels-idx1-ubyte.gz")

# of the gzip-ed files, as the mirrors have them
_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
# the author's own site comes last: it often refuses to serve them
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
#: the largest of the four has 9.9 MB
_MAX_BYTES = 16 << 20


def load(config: DataConfig) -> Splits:
    """Return images uint8 (N, 1, 28, 28) and labels int64 from `data_dir`; download there what is missing."""
    files = _files(config, "train", "t10k")
    # zlib releases the interpreter's lock: the small file is read at the same time as the large one
    with ThreadPoolExecutor(2) as pool:
        train, val = pool.map(lambda part: _read(files, part), ("train", "t10k"))
    return Splits(train, val)


def load_val(config: DataConfig, class_names: Sequence[str] = ()) -> ArraySource:
    """Return the test images alone; the files of the training images need not be there."""
    # `class_names` are those of the model: digits, or the classes of other pictures in these files
    return _read(_files(config, "t10k"), "t10k")


def _files(config: DataConfig, *parts: str) -> dict[str, AnyPath]:
    """Return name -> path of the files of "train", "t10k" or both, those downloaded that are missing."""
    _folders.refuse_files(config, "data_train", "data_val")
    folder = folders.data_folder(config.data_dir, "mnist")
    names = [name for name in _SHA256 if name.partition("-")[0] in parts]
    found = {name: _find(folder, name) for name in names}
    missing = next((name for name, path in found.items() if path is None), "")
    if missing:
        folder = _folders.download_folder(config, "mnist", "MNIST", missing)
    return {name: path or _fetch(folder, name) for name, path in found.items()}


def _find(folder: AnyPath, name: str) -> AnyPath | None:
    """Return the file under one of the names that it goes by; unzipped ones first, they are read faster."""
    for suffix in ("", ".gz"):
        # some archives have a dot in place of the dash
        for spelling in (name, name.replace("-idx", ".idx")):
            path = folder / (spelling + suffix)
            if path.is_file():
                return path
    return None


def _fetch(folder: AnyPath, name: str) -> AnyPath:
    """Download one file into the folder, checked by its hash."""
    return download.fetch(
        [f"{mirror}{name}.gz" for mirror in _MIRRORS], folder / f"{name}.gz", sha256=_SHA256[name],
        max_bytes=_MAX_BYTES, collection="mnist",
        advice=f"put {FILES} into {folder} (or name their folder with `data_dir`), "
               "or train on `dataset` digits, which needs no files")


def _read(files: dict[str, AnyPath], part: str) -> ArraySource:
    """Return the images and labels of "train" or "t10k"; DataError where they do not belong together."""
    images_path, labels_path = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    images, labels = idx.read_images(images_path), idx.read_labels(labels_path)
    if len(images) != len(labels):
        raise DataError(images_path, f"has {len(images)} images, but {verbatim(labels_path)} has "
                                     f"{len(labels)} labels")
    # The format allows it; training would only end in a division by zero.
    if not len(images):
        raise DataError(images_path, "holds no images")
    if labels.max() > 9:
        # such as letters (EMNIST) under these names
        worst = int(np.argmax(labels > 9))
        raise DataError(labels_path, f"label {labels[worst]} of image {worst}, not 0 to 9", 8 + worst)
    return ArraySource(images[:, None], labels.astype(np.int64), [str(digit) for digit in range(10)],
                       str(images_path))
