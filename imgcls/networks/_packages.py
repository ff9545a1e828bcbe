"""`--network torchvision:NAME` and `timm:NAME`: networks of other packages, imported only when one is named.

Their layers are not MXNet's: they initialise themselves, and a checkpoint of one keeps a prefix-network.json
in place of the symbol.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import nn

from imgcls.config.flags import show
from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError, first_line, nearest
from imgcls.layers.padded_weights import replace_torchs
from imgcls.networks._options import check_options, image_shape

#: what errors offer: nearly all networks of both packages run at it
IMAGE_SHAPE = (3, 224, 224)
#: networks of torchvision that would also give the logits of an auxiliary head, and warn about how they
#: initialise
_WITH_AUXILIARY_HEAD = ("googlenet", "inception_v3")


def build_from_package(package: str, name: str, config: NetworkConfig, drop_path: float = 0.0) -> nn.Module:
    """Return the network `name` of `package`, untrained: float (N, *image_shape) -> logits (N, num_classes).

    UsageError for a `drop_path` above 0 and a network of timm without stochastic depth.
    Call `make_trial` before: what is wrong with the name or the shape ends there.
    """
    module = _import(package, name)
    # torchvision's have their layers for it in any case, and `training.dropout` sets them
    if package != "timm" or not drop_path:
        return replace_torchs(_MAKERS[package](module, name, config))
    try:
        return replace_torchs(_make_timm(module, name, config, drop_path_rate=drop_path))
    except TypeError:
        raise UsageError(f"`drop_path` {drop_path:g}: timm:{name} has no stochastic depth") from None


def make_trial(package: str, name: str, config: NetworkConfig) -> nn.Module:
    """Return the network without values, on the meta device, once an image has gone through it.

    UsageError for a package that is not known or not installed, a name it has not, a shape that will not do.
    """
    if package not in _MAKERS:
        raise UsageError(f"`network` {package}:{name}: other networks come from {' and '.join(_MAKERS)}")
    check_options(config, ())  # none of our settings reaches them
    image_shape(config, IMAGE_SHAPE)
    # It costs as long as building once more, and saves a traceback out of the first batch.
    with torch.device("meta"):
        trial = _MAKERS[package](_import(package, name), name, config)
    _check_trial(trial, f"{package}:{name}", config)
    return trial


def _make_torchvision(module: ModuleType, name: str, config: NetworkConfig) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    # module=models: its classification networks, without those of detection and video
    _check_name("torchvision", name, models.list_models(module=models))
    if config.image_shape[0] != 3:
        raise UsageError(f"`image_shape` {show(config.image_shape)}: torchvision's take 3 channels")
    options = {"aux_logits": False, "init_weights": True} if name in _WITH_AUXILIARY_HEAD else {}
    if not config.zero_init_residual:
        return models.get_model(name, weights=None, num_classes=config.num_classes, **options)
    try:
        return models.get_model(name, weights=None, num_classes=config.num_classes, **options,
                                zero_init_residual=True)
    except TypeError:
        raise UsageError(f"`zero_init_residual` 1: torchvision:{name} has no such option; its resnets and "
                         "resnexts have") from None


def _make_timm(module: ModuleType, name: str, config: NetworkConfig, **options: float) -> nn.Module:
    _check_name("timm", name, module.list_models())
    if config.zero_init_residual:
        raise UsageError(f"`zero_init_residual` 1: timm:{name} begins as timm has it (its resnets: so)")
    return module.create_model(name, pretrained=False, num_classes=config.num_classes,
                               in_chans=config.image_shape[0], **options)


#: package -> what makes its networks
_MAKERS = {"torchvision": _make_torchvision, "timm": _make_timm}


def _import(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        asked = f"`network` {package}:{name}"
        if error.name not in (None, package):  # it is there, but something it needs is not
            raise UsageError(f"{asked}: {package} cannot be imported: {error}") from None
        raise UsageError(f"{asked}: {package} is not installed: pip install {package}") from None


def _check_name(package: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UsageError(f"`network` {package}:{name}: {package} has no such network; nearest of its "
                         f"{len(names)}: {', '.join(nearest(name, names)[:3])}")


def _check_trial(trial: nn.Module, name: str, config: NetworkConfig) -> None:
    """Put one image through the network on the meta device; what comes out must be logits."""
    shape = show(config.image_shape)
    try:
        with torch.no_grad():
            logits = trial.eval()(torch.empty(1, *config.image_shape, device="meta"))
    except NotImplementedError:  # an operator without a meta form: the first batch will show whether it runs
        return
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        channels = config.image_shape[0]
        raise UsageError(f"`image_shape` {shape}: {name} cannot run at it: {first_line(error)}; try "
                         f"{show((channels, *IMAGE_SHAPE[1:]))}") from None
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (1, config.num_classes):
        raise UsageError(f"`network` {name}: gives no logits of {config.num_classes} classes")
