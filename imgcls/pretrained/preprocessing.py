"""The preprocessing that a network was trained with, as the default of scoring and fine-tuning it."""

from __future__ import annotations

from collections.abc import Sequence

from imgcls.config.resolve import Config
from imgcls.pretrained.reference import PretrainedRef

#: setting -> its key in `PretrainedRef.preprocessing`
_NOTED_AS = {"image_shape": "image_shape", "rgb_mean": "mean", "rgb_std": "std",
             "interpolation": "interpolation"}


def with_preprocessing(config: Config, ref: PretrainedRef) -> Config:
    """Return the configuration with shape, mean, std and sizes of the network's training as defaults."""
    noted = ref.preprocessing
    config = config.with_defaults(
        **{setting: noted[key] for setting, key in _NOTED_AS.items() if noted.get(key)})
    if noted.get("val_resize") and config.network.image_shape == tuple(noted.get("image_shape") or ()):
        # it goes with the crop of the training: beside a crop of another size it means nothing
        config = config.with_defaults(val_resize=noted["val_resize"])
    return config


def describe_preprocessing(config: Config, ref: PretrainedRef) -> str:
    """Return a line for what the network is given, and where that comes from."""
    # A mean image takes the place of a mean colour.
    augment = config.augment
    mean = augment.mean_image or _join(augment.rgb_mean)
    source = f"as {ref.origin} has it" if ref.preprocessing else (
        f"the data set's: nothing tells what {ref.name} was trained with")
    settings = ("image_shape", "rgb_mean", "rgb_std", "mean_image", "val_resize")
    explicit = [f"`{setting}`" for setting in settings if config.is_explicit(setting)]
    if explicit:
        source += f", but for {', '.join(explicit)}"
    shape = _join(config.network.image_shape)
    return f"images: {shape}, mean {mean}, std {_join(augment.rgb_std)} ({source})"


def _join(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
