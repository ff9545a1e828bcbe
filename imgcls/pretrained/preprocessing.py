"""The preprocessing of images for a trained network: its checkpoint's, MXNet's, or what the user sets.

`with_preprocessing` gives fine-tuning its defaults. `for_evaluation` decides for imgcls-score, imgcls-predict
and `imgcls.Predictor`: all three treat an image as validation in training did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from imgcls.config.flags import convert, show
from imgcls.config.resolve import FIELDS, Config
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.pretrained.input_shape import find_input_shape
from imgcls.pretrained.reference import PretrainedRef
from imgcls.training.metadata import check_mean_image
from imgcls.training.network_size import count_classes

#: setting -> its key in `PretrainedRef.preprocessing`
_NOTED_AS = {"image_shape": "image_shape", "rgb_mean": "mean", "rgb_std": "std",
             "interpolation": "interpolation"}
#: MXNet's score.py, for any network: pixels from 0 to 255, the centre cut from the image as it is stored
_SCORE_PY: dict[str, Any] = {"rgb_mean": (0.0,), "rgb_std": (1.0,), "val_resize": 0}
#: MXNet's train_mnist.py, whose networks are the only ones of MNIST_SHAPE
_TRAIN_MNIST_PY = _SCORE_PY | {"rgb_std": (255.0,)}
MNIST_SHAPE = (1, 28, 28)
#: the shape that score.py took where none was given
_SCORE_PY_SHAPE = (3, 224, 224)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How images are preprocessed for a network: `config.augment`, with a number as `val_resize`, and shape.

    `val_resize` is None only for our earliest checkpoints, which did not note it: the data set decides.
    """

    config: Config
    num_classes: int
    #: the preprocessing and where it is from, in one line, with settings between backquotes
    description: str
    #: why images are cut as they are stored, where the user did not set it; "" where they are not
    cut_by: str
    #: another note for the user, with settings between backquotes, or ""
    note: str


def with_preprocessing(config: Config, ref: PretrainedRef) -> Config:
    """Return the configuration with the network's shape, mean, std, interpolation and sizes as defaults.

    Raises DataError for a meta.json with values of a wrong type, and for a mean image that is no longer
    beside it, unless the user sets another mean.
    """
    noted = _checked(ref)
    config = config.with_defaults(
        **{setting: noted[key] for setting, key in _NOTED_AS.items() if key in noted})
    if noted.get("val_resize") and config.network.image_shape == noted.get("image_shape"):
        # it belongs to the crop of the training: for a crop of another size it means nothing
        config = config.with_defaults(val_resize=noted["val_resize"])
    if noted.get("mean_image") and not config.is_explicit("mean_image", "rgb_mean"):
        path = check_mean_image(ref.mean_image, noted["mean_image"], ref.name)
        config = config.with_defaults(mean_image=path)
    return config


def for_evaluation(config: Config, ref: PretrainedRef, model: nn.Module) -> Evaluation:
    """Return how images are preprocessed for `model`, which was built from `ref`.

    The user's settings come first, then what was noted with the network, then MXNet's own preprocessing.
    Raises what `with_preprocessing` does, and UsageError for a shape that the network cannot take.
    """
    noted = _checked(ref)
    is_given = config.is_explicit("resize", "val_resize")
    cut_by = "as MXNet does it" if "val_resize" not in noted else "as in its training"
    if noted:
        config = with_preprocessing(config, ref)
        config = config if is_given else _with_noted_resize(config, noted)
        origin = f"as {verbatim(ref.origin)} has it"
    else:
        config, origin = _as_mxnet(config, ref, model)
    if config.is_explicit("resize"):  # the same setting by another name, as in training
        config = config.with_defaults(val_resize=config.augment.resize)
    num_classes = _check_shape(config, ref, model)
    is_cut = config.augment.val_resize == 0 and not is_given
    return Evaluation(config, num_classes, describe_preprocessing(config, ref, origin),
                      cut_by if is_cut else "", ref.note)


def describe_preprocessing(config: Config, ref: PretrainedRef, origin: str) -> str:
    """Return one line with the preprocessing, where it is from (`origin`), and what the user changed."""
    noted = _checked(ref)
    changed = [_changed(name, config, noted) for name in (*_NOTED_AS, "mean_image", "val_resize", "resize")
               if config.is_explicit(name)]
    if changed:
        origin += f", but for {', '.join(changed)}"
    return f"{_describe(config)} ({origin})"


def _describe(config: Config) -> str:
    augment = config.augment
    shape = config.network.image_shape
    # A mean image replaces a mean colour.
    mean = verbatim(augment.mean_image) or show(augment.rgb_mean)
    if len(shape) != 3 or augment.val_resize is None:
        cut = ""
    elif augment.val_resize:
        cut = f" cut from a short edge of {augment.val_resize}"
    else:
        cut = " cut as stored"
    method = "" if augment.interpolation == "bilinear" else f", {augment.interpolation} interpolation"
    return f"images: {show(shape)}{cut}, mean {mean}, std {show(augment.rgb_std)}{method}"


def _as_mxnet(config: Config, ref: PretrainedRef, model: nn.Module) -> tuple[Config, str]:
    """Return the configuration for a network of which nothing was noted, and the text for its origin."""
    names_data_set = config.is_explicit("dataset")
    shape = config.network.image_shape
    if not config.is_explicit("image_shape", "data_shape"):
        # the data set's default, or that of score.py, wherever the network can take it
        shape = find_input_shape(model, shape if names_data_set else ref.image_shape or _SCORE_PY_SHAPE)
        config = config.with_defaults(image_shape=shape)
    unknown = f"the preprocessing of {verbatim(ref.name)} is not known: "
    if names_data_set:
        return config.with_defaults(val_resize=0), f"{unknown}as `dataset` {config.data.dataset}"
    if shape == MNIST_SHAPE:
        return config.with_defaults(**_TRAIN_MNIST_PY), f"{unknown}as in MXNet's train_mnist.py"
    return config.with_defaults(**_SCORE_PY), f"{unknown}as in MXNet's score.py"


def _with_noted_resize(config: Config, noted: Mapping[str, Any]) -> Config:
    """Return the configuration with the noted `val_resize`, scaled for a crop of another size."""
    if "val_resize" not in noted:  # MXNet's zoo: no script of MXNet's resized for validation
        return config.with_defaults(val_resize=0)
    resize = noted["val_resize"]
    if resize is None:
        return config
    before = max(noted.get("image_shape", ())[1:], default=0)
    crop = max(config.network.image_shape[1:], default=0)
    if before and crop != before:
        resize = round(resize * crop / before)
    return config.with_defaults(val_resize=resize)


def _check_shape(config: Config, ref: PretrainedRef, model: nn.Module) -> int:
    """Return the number of classes that the network gives for images of the configured shape.

    An error about a shape that the meta data noted is a DataError, about any other a UsageError.
    """
    try:
        return count_classes(model, config.network.image_shape)
    except UsageError as error:
        if config.is_explicit("image_shape", "data_shape") or not ref.preprocessing:
            raise
        raise DataError(ref.origin, f"is not of this network: {error.message}") from error


def _changed(setting: str, config: Config, noted: Mapping[str, Any]) -> str:
    """Return the text for a setting of the user's, with the noted value where that differs."""
    before = noted.get("val_resize" if setting == "resize" else _NOTED_AS.get(setting, setting))
    if setting == "mean_image":
        return f"`{setting}`" + (" (it has another)" if before else "")
    if setting == "rgb_mean" and noted.get("mean_image"):
        return f"`{setting}` (it has a mean image)"
    if before is None:
        return f"`{setting}`"
    is_same = show(before) == show(config.values()[setting])
    return f"`{setting}`" if is_same else f"`{setting}` (it has {show(before)})"


def _checked(ref: PretrainedRef) -> dict[str, Any]:
    """Return what was noted with a network, converted to the settings' types; DataError if that fails."""
    noted = {key: value for key, value in ref.preprocessing.items() if key in ("mean_image", "val_resize")}
    try:
        for setting, key in (*_NOTED_AS.items(), ("val_resize", "val_resize")):
            if ref.preprocessing.get(key) is not None:
                noted[key] = convert(FIELDS[setting], ref.preprocessing[key])
    except UsageError as error:
        raise DataError(ref.origin, f"not the preprocessing of a network: {error}") from error
    return noted
