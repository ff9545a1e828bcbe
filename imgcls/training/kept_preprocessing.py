"""A resumed run prepares its images as before: what the checkpoint notes is the default of its settings.

Called by `run` before the loaders are made. The user's own settings win, with a warning where they differ:
weights that were trained with one mean are of no use with another, and only the accuracy would show it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from imgcls.config.flags import convert, show
from imgcls.config.resolve import FIELDS, Config
from imgcls.distributed.process_group import Worker
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.storage.paths import to_path
from imgcls.training import checkpoint, metadata
from imgcls.training.checkpoint import Saved
from imgcls.training.reporter import Reporter

#: setting -> its key in the meta data
_NOTED_AS = {"image_shape": "image_shape", "rgb_mean": "mean", "rgb_std": "std", "val_resize": "val_resize",
             "interpolation": "interpolation"}


def keep_preprocessing(config: Config, saved: Saved | None, worker: Worker, reporter: Reporter) -> Config:
    """Return the configuration with the preprocessing of the checkpoint that the run resumes from.

    MXNet's checkpoints note none, and change nothing. DataError for values that no setting can have.
    """
    if saved is None:
        return config
    prefix = checkpoint.prefix_of(saved.path)
    noted = read_noted(saved, worker).get("preprocessing") or {}
    before: dict[str, Any] = {}
    try:
        for setting, key in _NOTED_AS.items():
            if noted.get(key) is not None:
                before[setting] = convert(FIELDS[setting], noted[key])
    except UsageError as error:
        raise DataError(f"{prefix}-meta.json", f"not the preprocessing of a network: {error}") from error
    if config.is_explicit("resize"):
        before.pop("val_resize", None)  # follows `resize`, as it did then
    if noted.get("mean_image"):
        before.pop("rgb_mean", None)  # the image took its place
        config = _with_mean_image(config, prefix, noted["mean_image"])
    new = {name: value for name, value in before.items()
           if not config.is_explicit(name) and show(value) != show(config.values()[name])}
    new_texts = [f"`{name}` {show(value)}" for name, value in new.items() if name != "val_resize"]
    if noted.get("mean_image") and not config.is_explicit("mean_image", "rgb_mean"):
        new_texts.append(f"`mean_image` {verbatim(config.augment.mean_image)}")
    if new_texts:
        reporter.info(f"note: images are prepared as until now: {', '.join(new_texts)}")
    config = config.with_defaults(**new)
    for warning in _changes(config, before, noted):
        reporter.warn(f"{warning} until now")
    return config


def read_noted(saved: Saved, worker: Worker) -> Mapping[str, Any]:
    """Return the meta data of the resumed run, {} if it has none; the same in all processes."""
    return _agreed(checkpoint.read_meta(checkpoint.prefix_of(saved.path)), worker)


def _changes(config: Config, before: Mapping[str, Any], noted: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, each setting of the user that differs from what the run was trained with."""
    now = config.values()
    for setting, value in before.items():
        if config.is_explicit(setting) and show(value) != show(now[setting]):
            yield f"`{setting}` {show(now[setting])}: the run was trained with {show(value)}"
    mean_image = config.augment.mean_image
    if not noted.get("mean_image"):
        if mean_image and "mean_image" in noted:
            yield f"`mean_image` {verbatim(mean_image)}: the run was trained without one"
    elif not mean_image:
        yield f"`rgb_mean` {show(config.augment.rgb_mean)}: the run was trained with a mean image"
    elif not _is_same_image(config, noted["mean_image"]):
        yield f"`mean_image` {verbatim(mean_image)}: the run was trained with another one"


def _is_same_image(config: Config, noted: Mapping[str, Any]) -> bool:
    content = metadata.pack_mean_image(config)
    # Of the repacked array, so that a Caffe mean and the MXNet file made of it are one image.
    return not content or hashlib.sha256(content).hexdigest() == noted.get("sha256")


def _agreed(noted: Mapping[str, Any], worker: Worker) -> Mapping[str, Any]:
    """Return what the first process read, in all of them: the others may be on machines without the file."""
    worker = dataclasses.replace(worker, is_async=False)
    if not worker.is_synchronous:
        return noted
    return json.loads(worker.broadcast(json.dumps(noted).encode() if not worker.rank else None, 0))


def _with_mean_image(config: Config, prefix: str, noted: Mapping[str, Any]) -> Config:
    """Return the configuration with the checkpoint's mean image where the user gives no mean.

    Also where the file that the user names is gone: making another one of the data might give another image.
    """
    named = config.augment.mean_image
    path = checkpoint.mean_image_path(prefix)
    if named and not to_path(named, "`mean_image`").exists() and to_path(path).exists():
        return dataclasses.replace(config, augment=dataclasses.replace(config.augment, mean_image=path))
    if config.is_explicit("mean_image", "rgb_mean"):
        return config
    return config.with_defaults(mean_image=metadata.check_mean_image(path, noted, prefix))
