"""Load the teacher of knowledge distillation, and adapt it to the images and classes of the run.

The commands and `imgcls.fit` pass `make_teacher` to `training/run.py`, which calls it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from imgcls.config.flags import show
from imgcls.config.resolve import Config
from imgcls.data.normalize import per_channel
from imgcls.errors import UsageError, verbatim
from imgcls.pretrained.locating import locate
from imgcls.pretrained.preprocessing import for_evaluation
from imgcls.pretrained.reading import build, read
from imgcls.training.distillation import Teacher
from imgcls.training.precision import Precision


def make_teacher(config: Config, class_names: Sequence[str], device: torch.device) -> Teacher | None:
    """Return the network that `teacher` names, on the device; None without one.

    `class_names` are those of the training data. UsageError for a network of other classes or images.
    """
    name = config.distillation.teacher
    if not name:
        return None
    what = f"`teacher` {verbatim(name)}"
    ref = locate(name, "auto", setting="teacher")
    model = build(read(ref))
    # the user's settings are for the student; the teacher is preprocessed as its own training noted
    evaluation = for_evaluation(dataclasses.replace(config, explicit={}), ref, model)
    if evaluation.num_classes != config.network.num_classes:
        raise UsageError(f"{what}: has {evaluation.num_classes} classes, the data "
                         f"{config.network.num_classes}")
    own, other = config.network.image_shape, evaluation.config.network.image_shape
    if len(own) != len(other) or own[0] != other[0]:
        raise UsageError(f"{what}: takes images of {show(other)}, `image_shape` is {show(own)}")
    if config.augment.mean_image or evaluation.config.augment.mean_image:
        raise UsageError(f"{what}: a teacher goes with mean colours (`rgb_mean`), not with a mean image")
    scale, shift = _affine(config, evaluation.config, device)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(model, config.distillation,
                   Precision(config.device.dtype, device), scale=scale, shift=shift,
                   size=other[1:] if len(other) == 3 else None,
                   order=_order(what, class_names, ref.class_names, device))


def _affine(own: Config, other: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift that turn images normalised for `own` into images normalised for `other`."""
    channels = own.network.image_shape[0]
    if len(own.network.image_shape) != 3:
        channels = 1  # flat rows have one mean
    (mean, std), (other_mean, other_std) = (
        (torch.tensor(per_channel(augment.rgb_mean, channels, "`rgb_mean`"), device=device),
         torch.tensor(per_channel(augment.rgb_std, channels, "`rgb_std`"), device=device))
        for augment in (own.augment, other.augment))
    # x is (pixel - mean) / std, so (pixel - other_mean) / other_std is x * scale + shift
    scale, shift = std / other_std, (mean - other_mean) / other_std
    return (scale, shift) if channels == 1 else (scale[:, None, None], shift[:, None, None])


def _order(what: str, names: Sequence[str], teachers: Sequence[str], device: torch.device) -> Tensor | None:
    """Return the teacher's index of each class, int64 (classes,); None if both have the same order.

    UsageError where their classes differ.
    """
    # where either side has no names, the same order is assumed
    if not names or not teachers or list(names) == list(teachers):
        return None
    if sorted(names) != sorted(teachers):
        missing = sorted(set(names) - set(teachers))
        raise UsageError(f"{what}: knows other classes than the data, not {verbatim(', '.join(missing[:3]))}")
    # backwards: of a name that occurs twice the first index stays
    index_of = {name: index for index, name in reversed(list(enumerate(teachers)))}
    return torch.tensor([index_of[name] for name in names], device=device)
