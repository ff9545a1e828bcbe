"""CIFAR-10: 50,000 + 10,000 colour photographs, 32 x 32, of which networks are given crops of 28 x 28.

Krizhevsky 2009; MXNet train_cifar10.py. Read from the binary or the Python files, archived or not, from
the record files that MXNet's script downloaded, or from folders of images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from imgcls.config.sections import DataConfig
from imgcls.data import sources
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import ArraySource, Source, Splits
from imgcls.datasets import _folders
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import cifar
from imgcls.storage import download, folders
from imgcls.storage.paths import AnyPath

#: MXNet train_cifar10.py 0.9.1 to 1.9.1, but for the network: that of the first scripts, whose accuracy the
#: README of that time shows. With `num_layers` it is the later resnet, whose 110 layers are its default for
#: small images anyway. Crop and mirror are on, as up to 1.2: later versions had them off, and networks
#: overfitted.
DEFAULTS: dict[str, object] = {
    "network": "inception-bn", "num_classes": 10, "image_shape": (3, 28, 28),
    "batch_size": 128, "num_epochs": 300, "disp_batches": 20,
    "lr": 0.05, "lr_factor": 0.1, "lr_step_epochs": "200,250",
    "pad_size": 4, "random_crop": True, "random_mirror": True,
    "rgb_mean": (123.68, 116.779, 103.939), "rgb_std": (1.0,),
}

#: those of the settings about files that are read here
SETTINGS = ("data_dir", "data_train", "data_val", "val_ratio", "data_train_idx", "data_val_idx", "on_bad",
            "cache_gb")

#: number of samples of an epoch under `benchmark`
NUM_EXAMPLES = 50_000

#: what to put into the folder, for messages
FILES = "cifar-10-binary.tar.gz or cifar-10-python.tar.gz (or what they hold)"

#: in the order of the labels (batches.meta.txt)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# the binary version: it has no pickles; its hash is checked before it is unpacked
_URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_BYTES = 170_052_171

#: names of the record files, for training and for testing: MXNet's up to v0.7 and since
_RECORD_FILES = (("train.rec", "test.rec"), ("cifar10_train.rec", "cifar10_val.rec"))
#: folders with a folder of images per class, as CIFAR-10 is also distributed
_FOLDERS = (("train", "test"), ("train", "val"))


def load(config: DataConfig) -> Splits:
    """Return images uint8 (N, 3, 32, 32) RGB, or encoded ones from record files or folders, and labels int64.

    Record files are what `data_train` and `data_val` name or `data_dir` holds; the latter may hold folders of
    images instead, train and test (or val), with a folder per class. Otherwise the data set's own
    files are looked for in `data_dir`, and downloaded there where they are missing.
    """
    train, val = _records(config)
    if train:
        opened = sources.open_splits(config, train, val)
        return dataclasses.replace(opened, train=_named(opened.train), val=opened.val and _named(opened.val))
    if val:
        raise UsageError(f"`data_val` {verbatim(val)}: goes with `data_train`, which is missing; CIFAR-10 "
                         "itself brings its own test images")
    splits = cifar.read_splits(folders.data_folder(config.data_dir, "cifar10"))
    if splits is None:
        folder = _folders.download_folder(config, "cifar10", "CIFAR-10", "all of its files")
        archive = download.fetch(
            _URLS, folder / "cifar-10-binary.tar.gz", sha256=_SHA256, max_bytes=_BYTES, collection="cifar10",
            advice=f"put {FILES} into {folder} (or name their folder with `data_dir`), "
                   "or train on `dataset` digits, which needs no files")
        splits = cifar.read_splits(folder)
        if splits is None:
            # read right after the download: reached only if files are deleted meanwhile
            raise DataError(archive, "vanished while it was read")
    train, test = splits.train, splits.test
    return Splits(ArraySource(train.images, train.labels, CLASSES, f"{splits.path} (train)"),
                  _test_source(test, splits.path))


def load_val(config: DataConfig, class_names: Sequence[str] = ()) -> Source | None:
    """Return the test images alone; the files of the training images need not be there."""
    # `class_names` are those of the model. The classes of CIFAR-10 are fixed, so there is nothing to compare.
    val = config.data_val or _records(config)[1] or _test_records(config)
    if source := sources.open_val(config, val):
        return _named(source)
    found = cifar.read_test(folders.data_folder(config.data_dir, "cifar10"))
    return _test_source(*found) if found else load(config).val


def _test_source(test: cifar.CifarBatch, path: AnyPath) -> ArraySource:
    return ArraySource(test.images, test.labels, CLASSES, f"{path} (test)")


def _test_records(config: DataConfig) -> str:
    """Return the record file of the test images in `data_dir`, where that of the training is not beside it.
    """
    paths = [folders.data_folder(config.data_dir, "cifar10") / val for _, val in _RECORD_FILES]
    return next((str(path) for path in paths if config.data_dir and path.is_file()), "")


def _records(config: DataConfig) -> tuple[str, str]:
    """Return paths for training and testing, of record files or folders; both empty where there are none."""
    if config.data_train or config.data_val:
        return config.data_train, config.data_val
    if config.data_dir:
        folder = folders.data_folder(config.data_dir, "cifar10")
        for train, val in _RECORD_FILES:
            if (folder / train).is_file():
                return str(folder / train), str(folder / val)
        for train, val in _FOLDERS:
            if all((folder / part / CLASSES[0]).is_dir() for part in (train, val)):
                return str(folder / train), str(folder / val)
    return "", ""


def _named(source: Source) -> Source:
    """Give record files without class names those of the data set, whose order they have."""
    # MXNet's files have none. A label above 9 means that other data were packed under this name.
    if isinstance(source, RecordSource) and not source.class_names and source.labels.max() < len(CLASSES):
        source.class_names = CLASSES
    return source
