"""Photographs of many classes, ImageNet (Russakovsky et al. 2014) or any other.

Record files, class folders or lists (MXNet train_imagenet.py). With `data_train` and no `dataset` this is the
data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from imgcls.config.sections import DataConfig
from imgcls.data import sources
from imgcls.data.sources import Source, Splits
from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.storage.paths import to_path

#: MXNet train_imagenet.py 0.9.1 to 1.9.1, and the crop and mirror that photographs are trained with: MXNet
#: had stronger augmentation up to 1.2 and by oversight none from 1.3 on.
DEFAULTS: dict[str, object] = {
    "network": "resnet", "num_classes": 1000, "image_shape": (3, 224, 224),
    "batch_size": 128, "num_epochs": 80, "disp_batches": 20,
    "lr": 0.1, "lr_factor": 0.1, "lr_step_epochs": "30,60",
    "random_resized_crop": True, "min_random_area": 0.08, "max_random_area": 1.0,
    "min_random_aspect_ratio": 3 / 4, "max_random_aspect_ratio": 4 / 3, "random_mirror": True,
    "rgb_mean": (123.68, 116.779, 103.939), "rgb_std": (1.0,),
}

#: number of samples of an epoch under `benchmark`
NUM_EXAMPLES = 1_281_167

#: printed whatever is missing: the two ways to name data are short enough for one message
ADVICE = ("name the data with `data_train` X.rec `data_val` Y.rec (or folders with a folder of images per "
          "class), or with `data_dir` a folder that holds train.rec and val.rec, or train and val")


def load(config: DataConfig) -> Splits:
    """Return sources of encoded images, labels int64, for `data_train` and `data_val`, or for `data_dir`."""
    train = config.data_train or _in_folder(config, "train", config.train_dataset)
    if not train:
        raise UsageError(f"`data_train` is missing: {ADVICE}")
    val = config.data_val or _in_folder(config, "val", config.val_dataset)
    splits = sources.open_splits(config, train, val)
    splits = dataclasses.replace(splits, notes=[*splits.notes, *sources.names_note(splits.train)])
    if val or not config.data_dir:
        return splits
    # not an error, as in MXNet: a run without validation may be meant
    note = (f"{verbatim(config.data_dir)} holds no validation data, neither {verbatim(config.val_dataset)} "
            "nor val")
    return dataclasses.replace(splits, notes=[*splits.notes, note])


def load_val(config: DataConfig, class_names: Sequence[str] = ()) -> Source | None:
    """Return the validation data alone, None where none is named; it must agree with `class_names`."""
    path = config.data_val or _in_folder(config, "val", config.val_dataset)
    return sources.open_val(config, path, class_names)


def _in_folder(config: DataConfig, split: str, file: str) -> str:
    """Return the record file or folder of a split in `data_dir`, or ""; no training data is a UsageError."""
    if not config.data_dir:
        return ""
    folder = to_path(config.data_dir, "`data_dir`")
    # record files first: where both are there, the folder is what they were packed from
    for path in (folder / file, folder / split):
        try:
            if path.exists():
                return str(path)
        except OSError as error:
            raise DataError(path, f"cannot be read: {reason(error)}") from error
    if split == "train":
        problem = f"it holds neither {file} nor a folder {split}"
        if not folder.is_dir():
            problem = "there is no such folder"
        raise UsageError(f"`data_dir` {verbatim(config.data_dir)}: {problem}; {ADVICE}")
    return ""
