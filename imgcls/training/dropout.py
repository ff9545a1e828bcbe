"""Dropout and stochastic depth of a network, as the settings say. Called by `run` before training begins.

Both are for training alone. What they drop follows from (seed, update, micro-batch): the trainer seeds
torch's generator with them before each forward pass.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from imgcls.config.resolve import Config
from imgcls.errors import UsageError, verbatim
from imgcls.layers import Dropout, LeakyReLU
from imgcls.layers.residual import residual_branches

#: stochastic depth of torchvision and of timm, which need not be installed: class -> its probability
_DROP_PATHS = {"StochasticDepth": "p", "DropPath": "drop_prob"}


def is_random(module: nn.Module) -> bool:
    """Whether a layer draws from torch's generator while it is trained."""
    # `_DropoutNd` is torch's base of all of its dropouts: networks of torchvision and timm have
    # those, our own layers are ours; rrelu draws its slopes
    return (isinstance(module, (Dropout, _DropoutNd, nn.RReLU)) or type(module).__name__ in _DROP_PATHS
            or bool(getattr(module, "drop_path", 0))
            or (isinstance(module, LeakyReLU) and module.act_type == "rrelu"))


def with_dropout(model: nn.Module, config: Config) -> nn.Module:
    """Return `model`, its layers with the probabilities of `dropout` and `drop_path` where these are given.

    Raises UsageError for a network that has no such layers.
    """
    settings = config.regularization
    network = verbatim(config.network.network)
    if settings.dropout is not None:
        # refused and not ignored: a user who asks for dropout and gets none learns nothing from the
        # run
        layers = [module for module in model.modules() if isinstance(module, (Dropout, _DropoutNd))]
        if not layers:
            raise UsageError(f"`dropout` {settings.dropout:g}: {network} has no dropout")
        for layer in layers:
            layer.p = settings.dropout
            if isinstance(layer, Dropout):  # as a symbol.json shows it
                layer.attrs["p"] = f"{settings.dropout:g}"
    if settings.drop_path:
        # the rate is that of the last branch, as timm and the paper state it
        set_drop_path(model, settings.drop_path, network)
    return model


def set_drop_path(model: nn.Module, rate: float, network: str) -> None:
    """Let residual branches be dropped: the last one at `rate`, those before it in proportion to their depth.

    Huang et al. 2016, "Deep Networks with Stochastic Depth": its linear decay. The symbol does not change.
    UsageError, which calls the model `network`, where there are no such branches.
    """
    if others := [module for module in model.modules() if type(module).__name__ in _DROP_PATHS]:
        # each package lets the rates rise to the highest in its own way: that one becomes `rate`, the others
        # follow in proportion
        rates = [float(getattr(module, _DROP_PATHS[type(module).__name__])) for module in others]
        highest = max(rates) or 1.0
        for module, own in zip(others, rates, strict=True):
            setattr(module, _DROP_PATHS[type(module).__name__], rate * own / highest)
        return
    branches = residual_branches(model)
    if not branches:
        raise UsageError(f"`drop_path` {rate:g}: {network} has no residual branches that could be left out")
    # early branches find edges, which all later ones need; the last one can be left out most often
    for number, branch in enumerate(branches, start=1):
        branch.addition.drop_path = rate * number / len(branches)
        branch.addition.branch = branch.index
