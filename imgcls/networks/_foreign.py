"""`--network torchvision:NAME` and `timm:NAME`: networks of other packages, imported only when asked for.

Their layers are not MXNet's: they initialise themselves, and a checkpoint of one keeps a prefix-network.json
in place of the symbol.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError, nearest
from imgcls.networks._blocks import check_options, image_shape, shape_text

#: package -> the extra of this project that installs it
EXTRAS = {"torchvision": "zoo", "timm": "timm"}
IMAGE_SHAPE = (3, 224, 224)


def build_foreign(kind: str, name: str, config: NetworkConfig) -> nn.Module:
    """The network `name` of package `kind`, untrained, with config.num_classes logits for config.image_shape.

    UsageError for a package that is not known or not installed, a name it has not, a shape that will not do.
    """
    if kind not in EXTRAS:
        raise UsageError(f"`network` {kind}:{name}: other networks come from {' and '.join(EXTRAS)}")
    check_options(config, ())
    image_shape(config, IMAGE_SHAPE)
    package = _package(kind, f"`network` {kind}:{name}")
    make = _torchvision if kind == "torchvision" else _timm
    with torch.device("meta"):  # a trial without memory: does it run at this shape?
        trial = make(package, name, config)
    _try(trial, f"{kind}:{name}", config)
    return make(package, name, config)


def _torchvision(package: ModuleType, name: str, config: NetworkConfig) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    _check_name("torchvision", name, models.list_models(module=models))
    if config.image_shape[0] != 3:
        raise UsageError(f"`image_shape` {shape_text(config.image_shape)}: torchvision's take 3 channels")
    # these two would also give the logits of an auxiliary head, and warn about how they initialise
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=config.num_classes, **options)


def _timm(package: ModuleType, name: str, config: NetworkConfig) -> nn.Module:
    _check_name("timm", name, package.list_models())
    return package.create_model(name, pretrained=False, num_classes=config.num_classes,
                                in_chans=config.image_shape[0])


def _package(kind: str, flag: str) -> ModuleType:
    try:
        return importlib.import_module(kind)
    except ImportError as error:
        if error.name not in (None, kind):  # it is there, but something it needs is not
            raise UsageError(f"{flag}: {kind} cannot be imported: {error}") from None
        raise UsageError(f"{flag}: {kind} is not installed: pip install 'imgcls[{EXTRAS[kind]}]'") from None


def _check_name(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UsageError(f"`network` {kind}:{name}: {kind} has no such network; nearest of its {len(known)}: "
                         f"{', '.join(nearest(name, known)[:3])}")


def _try(trial: nn.Module, name: str, config: NetworkConfig) -> None:
    """One image through the network on the meta device; what comes out must be logits."""
    shape = shape_text(config.image_shape)
    try:
        with torch.no_grad():
            logits = trial.eval()(torch.empty(1, *config.image_shape, device="meta"))
    except NotImplementedError:  # an operator that knows no meta device: the first batch will tell
        return
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        channels = config.image_shape[0]
        raise UsageError(f"`image_shape` {shape}: {name} cannot run at it: {reason}; try "
                         f"{shape_text((channels, *IMAGE_SHAPE[1:]))}") from None
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (1, config.num_classes):
        raise UsageError(f"`network` {name}: gives no logits of {config.num_classes} classes")
