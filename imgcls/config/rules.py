"""Settings that decide together: which network, which augmentation, and how the learning rate falls.

Called by `resolve` with what the user set; the parts of a run are given the result. Touches no file and
imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container
from typing import Any

from imgcls.config import lookup
from imgcls.config.flags import shortened, to_integer, to_number
from imgcls.config.sections import MAX_NUMBER, AugmentConfig, Decay, NetworkConfig, ScheduleConfig
from imgcls.errors import UsageError

#: what --use-imagenet-data-augmentation 1 stands for: set_imagenet_aug of MXNet 1.3 to 1.9
IMAGENET_RECIPE: dict[str, Any] = {
    "rgb_mean": (123.68, 116.779, 103.939), "rgb_std": (58.393, 57.12, 57.375),
    "random_crop": False, "random_resized_crop": True, "random_mirror": True,
    "min_random_area": 0.08, "max_random_area": 1.0,
    "min_random_aspect_ratio": 3 / 4, "max_random_aspect_ratio": 4 / 3,
    "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "pca_noise": 0.1,
}
#: names that a network had in MXNet's first scripts -> its name and the settings that it stood for
_OTHER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "inception": ("inception-bn", {}), "inception-full": ("inception-bn-full", {}),
    "inception-bn-28-small": ("inception-bn", {}),  # at 28 pixels it is the small one by itself
    "lenet-stn": ("lenet", {"add_stn": True}),
    # MXNet 0.9 and 0.10 had files of their own for half precision; here `dtype` is for all networks
    "alexnet-fp16": ("alexnet", {}), "resnet-fp16": ("resnet", {}), "resnet-v1-fp16": ("resnet-v1", {}),
}
#: largest P of powP: with a larger one the rate would fall to nothing in the first percent of a run
_MAX_POWER = 100
#: most entries of `lr_regime`: more is a file given by mistake
_MAX_STRETCHES = 10_000
#: settings that choose another crop than that of random area
_OTHER_CROPS = ("random_crop", "max_random_scale", "min_random_scale", "max_crop_size", "min_crop_size")
#: what only the crop of random area needs; without it an aspect ratio would warp the image
_WITHOUT_RESIZED_CROP: dict[str, Any] = {"min_random_area": 1.0, "max_random_area": 1.0,
                                         "min_random_aspect_ratio": None, "max_random_aspect_ratio": 0.0}


def resolve_network(config: NetworkConfig, explicit: Container[str]) -> NetworkConfig:
    """Return the network under the name that it has here, with the settings that its other names stand for.

    A number after the name of a network that has several depths is the depth: resnet-50. A name that is not
    known stays as it is. UsageError where name and settings contradict each other.
    """
    name = config.network.strip().lower().replace("_", "-")
    # CIFAR-10's default was inception-bn in the first scripts, which has no depths, and resnet from v0.8 on
    if "network" not in explicit and name == "inception-bn" and config.num_layers is not None:
        name = "resnet"
    known = lookup.names("networks")
    changes: dict[str, Any] = {"network": name}
    if name in known:
        return dataclasses.replace(config, network=name)
    if name in _OTHER_NAMES:
        network, settings = _OTHER_NAMES[name]
        changes = {"network": network,
                   **{setting: value for setting, value in settings.items() if setting not in explicit}}
    elif (match := re.fullmatch(r"(.+)-([0-9]{1,4})", name)) and match[1] in known:
        if config.num_layers not in (None, int(match[2])):
            raise UsageError(f"`network` {name} and `num_layers` {config.num_layers} contradict each other: "
                             "give one of them")
        changes = {"network": match[1], "num_layers": int(match[2])}
    else:  # of another package, or not known: reported where it is looked up
        return config
    if name == "inception-bn-28-small" and config.image_shape[1:2] > (28,):
        if "image_shape" in explicit:
            raise UsageError(f"`network` {name}: is for images up to 28 pixels high; inception-bn is for "
                             "larger ones")
        changes["image_shape"] = (config.image_shape[0], 28, 28)
    return dataclasses.replace(config, **changes)


def resolve_augmentation(config: AugmentConfig, explicit: Container[str]) -> AugmentConfig:
    """Return the augmentation that results; what the user set (`explicit`) is never changed.

    With `use_imagenet_data_augmentation` the values of that recipe are filled in. The data set's crop of
    random area is dropped where the user chose another crop, and the other way round: the two exclude each
    other.
    """
    changes: dict[str, Any] = {}
    if config.use_imagenet_data_augmentation:
        changes = dict(IMAGENET_RECIPE)
    elif "random_resized_crop" not in explicit and any(name in explicit for name in _OTHER_CROPS):
        changes["random_resized_crop"] = False
    elif config.random_resized_crop and config.random_crop and "random_crop" not in explicit:
        # the data set's own crop is dropped, with its border, where the user chose that of random area
        changes = {"random_crop": False, "pad_size": 0}
        changes |= {name: IMAGENET_RECIPE[name] for name in _WITHOUT_RESIZED_CROP}
    if "max_random_aspect_ratio" in explicit:  # given alone, it is a change to either side of 1
        changes["min_random_aspect_ratio"] = None
    changes = {name: value for name, value in changes.items() if name not in explicit}
    # the data set's areas and aspect ratios are dropped with its crop: without it they would warp the image
    if not changes.get("random_resized_crop", config.random_resized_crop):
        changes |= {name: value for name, value in _WITHOUT_RESIZED_CROP.items() if name not in explicit}
    return dataclasses.replace(config, **changes)


def resolve_decay(config: ScheduleConfig, explicit: Container[str], *, num_epochs: int,
                  is_first_generation: bool = False) -> Decay:
    """Return how the learning rate falls, with the rule that decided it.

    `explicit` names the settings that the user set (not the data set's defaults). `is_first_generation` says
    that one of them is a flag that only MXNet before v0.8 had: its `--lr-factor` stepped every epoch, the
    later one at epochs.
    """
    every_epochs, reason = _every_epochs(config, explicit, num_epochs, is_first_generation)
    if config.lr_regime:
        if config.lr_schedule != "auto":
            raise UsageError(f"`lr_regime` and `lr_schedule` {config.lr_schedule} contradict each other: "
                             "give one of them")
        return Decay("regime", every_epochs=every_epochs, regime=_regime(config.lr_regime),
                     reason="`lr_regime`")
    # with these curves, or a factor of 1 or more, the steps have no effect, whatever they are
    if config.lr_schedule != "auto":
        return Decay(config.lr_schedule, every_epochs=every_epochs, reason="`lr_schedule`")
    if config.lr_factor >= 1:
        return Decay("constant", every_epochs=every_epochs, reason=f"`lr_factor` {config.lr_factor:g}")
    if every_epochs:
        return Decay("every", every_epochs=every_epochs, reason=reason)
    if _is_power(config.lr_step_epochs):
        power = _power(config.lr_step_epochs)
        return Decay("power", power=power, reason=f"`lr_step_epochs` {config.lr_step_epochs}")
    reason = "`lr_step_epochs`" if "lr_step_epochs" in explicit else "the data set's default steps"
    step_epochs = _step_epochs(config.lr_step_epochs)
    if not step_epochs:
        return Decay("constant", reason=f"{reason}: none")
    return Decay("steps", step_epochs=step_epochs, reason=reason)


def _every_epochs(config: ScheduleConfig, explicit: Container[str], num_epochs: int,
                  is_first_generation: bool) -> tuple[float, str]:
    """Return (epochs between steps, why) where the flags mean steps at regular intervals, else (0, "")."""
    if "lr_factor_epoch" in explicit and config.lr_factor_epoch > 0:
        if "lr_step_epochs" in explicit:
            raise UsageError("`lr_factor_epoch` and `lr_step_epochs` contradict each other: give one of them")
        return config.lr_factor_epoch, "`lr_factor_epoch`"
    if "lr_step_epochs" in explicit or "lr_factor" not in explicit:
        return 0.0, ""
    # the factor alone: MXNet before v0.8 had no --lr-step-epochs, and its --lr-factor-epoch was 1
    if is_first_generation:
        return 1.0, "`lr_factor` beside a flag of MXNet's first scripts, which decayed every epoch"
    # v0.8 and later stepped at the data set's epochs; where none of these comes before the end, the factor
    # would have no effect at all, and the user who set it wanted one
    default = config.lr_step_epochs
    if _is_power(default) or any(0 < epoch < num_epochs for epoch in _step_epochs(default)):
        return 0.0, ""
    return 1.0, f"`lr_factor`, and no default step ({default}) before the end"


def _regime(text: str) -> tuple[tuple[int, float, float | None], ...]:
    """Read EPOCH:RATE or EPOCH:RATE:DECAY, with commas between; epochs rise from 0."""
    fields = [part.split(":") for part in text.split(",") if part.strip()]
    try:
        if not fields or len(fields) > _MAX_STRETCHES or not all(len(field) in (2, 3) for field in fields):
            raise ValueError(text)
        regime = tuple((to_integer(field[0]), to_number(field[1]),
                        to_number(field[2]) if len(field) == 3 else None) for field in fields)
    except ValueError:
        raise UsageError(f"`lr_regime` {shortened(text)!r}: must be epochs with their rate and weight decay, "
                         "such as 0:0.01:0.0005,18:0.005:0") from None
    epochs = [epoch for epoch, _rate, _decay in regime]
    if epochs[0] != 0 or epochs != sorted(set(epochs)):
        raise UsageError(f"`lr_regime` {shortened(text)!r}: epochs must begin at 0 and rise")
    numbers = [number for _epoch, *pair in regime for number in pair if number is not None]
    if not all(0 <= number <= MAX_NUMBER for number in numbers):
        raise UsageError(f"`lr_regime` {shortened(text)!r}: rates and weight decays must be from 0 to "
                         f"{MAX_NUMBER}")
    return regime


def _is_power(step_epochs: str) -> bool:
    return step_epochs.strip().lower().startswith("pow")


def _power(text: str) -> float:
    """Read the P of powP; pow2, pow-2 and pow 2 are all MXNet's spellings."""
    match = re.fullmatch(r"pow[- ]?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)", text.strip().lower())
    if not match or not 0 < float(match[1]) <= _MAX_POWER:
        raise UsageError(f"`lr_step_epochs` {shortened(text)!r}: after pow comes a number above 0 and at "
                         f"most {_MAX_POWER}, such as pow2")
    return float(match[1])


def _step_epochs(text: str) -> tuple[int, ...]:
    try:
        epochs = [to_integer(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"`lr_step_epochs` {shortened(text)!r}: must be epochs such as 30,60 or a power "
                         "such as pow2") from None
    # MXNet's MultiFactorScheduler refuses the same
    if any(epoch <= 0 for epoch in epochs) or epochs != sorted(set(epochs)):
        raise UsageError(f"`lr_step_epochs` {shortened(text)!r}: epochs must be above 0 and rising, such "
                         "as 30,60")
    return tuple(epochs)
