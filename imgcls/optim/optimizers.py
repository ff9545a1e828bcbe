"""torch's optimizers under MXNet's names, with MXNet's rules.

Weight decay is for weights and gammas only, layers have multipliers of the learning rate, gradients are
clipped element by element. The training and the servers of dist_async step with it; when to step is not known
here. `docs/differences.md` says where torch's update differs from MXNet's in the last digits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from imgcls.config.sections import OptimizerConfig
from imgcls.errors import UsageError, unknown
from imgcls.layers import Layer

#: what MXNet offered and torch has not, with what to take instead
NOT_OFFERED = {
    "lbsgd": "sgd with `warmup_epochs`", "lbnag": "nag with `warmup_epochs`", "dcasgd": "sgd", "lars": "sgd",
    "lamb": "adamw", "ftrl": "adagrad", "ftml": "adam", "signum": "sgd", "sgld": "sgd", "ccsgd": "sgd",
    "test": "sgd",
}
#: those that torch steps with one kernel for all parameters, on the CPU and on CUDA
_FUSED = ("sgd", "nag", "adam", "adamw", "adagrad")


def build(config: OptimizerConfig, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer that `optimizer` names; `set_lr` sets its learning rate before each step.

    Parameters that do not learn (`requires_grad`) are left out. UsageError for a name that torch has not.
    """
    optimizers = _optimizers(config)
    name = config.optimizer.strip().lower()
    if name in NOT_OFFERED:
        raise UsageError(f"`optimizer` {config.optimizer}: torch has no {name}; the nearest is "
                         f"{NOT_OFFERED[name]}. There is {', '.join(optimizers)}")
    if name not in optimizers:
        raise unknown("`optimizer`", config.optimizer, optimizers)
    avoid_dynamo()
    make, options = optimizers[name]
    if name in _FUSED and device.type in ("cpu", "cuda"):
        options["fused"] = True
    return make(_groups(model, config.wd), **options)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate of this update, times its layer's own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]


def stepper(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """Return the optimizer's own step, without torch's wrappers around it; call it under no_grad."""
    # The wrappers serve hooks, the profiler and torch.compile of the optimizer, none of which is used here,
    # and the first call through them imports torch._dynamo: a second of start-up.
    step = inspect.unwrap(type(optimizer).step)
    return lambda: step(optimizer)


def clip_elements(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Limit every element of every gradient to [-limit, limit] (MXNet's clip_gradient)."""
    torch.nn.utils.clip_grad_value_(parameters, limit)


def _optimizers(config: OptimizerConfig,
                ) -> dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]]:
    """Return MXNet's name -> (torch's class, options); constants are MXNet's defaults."""
    optim = torch.optim
    return {
        "sgd": (optim.SGD, {"momentum": config.mom}),
        # torch refuses nesterov without momentum, where MXNet's nag is plain sgd
        "nag": (optim.SGD, {"momentum": config.mom, "nesterov": config.mom > 0}),
        "adam": (optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
        "adamw": (optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
        "adamax": (optim.Adamax, {"betas": (0.9, 0.999), "eps": 1e-8}),
        "nadam": (optim.NAdam, {"betas": (0.9, 0.999), "eps": 1e-8}),
        "rmsprop": (optim.RMSprop, {"alpha": 0.9, "eps": 1e-8}),
        "adagrad": (optim.Adagrad, {"eps": 1e-7}),
        "adadelta": (optim.Adadelta, {"rho": 0.9, "eps": 1e-5}),
    }


def _groups(model: nn.Module, wd: float) -> list[dict[str, Any]]:
    """Return the parameters in groups of one weight decay and one multiplier of the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        attrs = module.attrs if isinstance(module, Layer) else {}
        lr_mult = float(attrs.get("__lr_mult__", 1))  # in the symbol, so in every checkpoint
        wd_mult = float(attrs.get("__wd_mult__", 1))
        lr_mult *= float(getattr(module, "lr_mult", 1))  # set by fine-tuning, kept in no file
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                # MXNet decays names that end in _weight or _gamma (optimizer.py, set_wd_mult).
                decay = wd * wd_mult if name in ("weight", "gamma") else 0.0
                groups.setdefault((decay, lr_mult), []).append(parameter)
    return [{"params": parameters, "weight_decay": decay, "lr_mult": lr_mult, "lr": 0.0}
            for (decay, lr_mult), parameters in groups.items()]


def avoid_dynamo() -> None:
    """Let the first optimizer be made without importing torch._dynamo, about a second of start-up."""
    # torch guards a few methods against being traced by its compiler and loads the compiler to do so. They
    # are not traced here (`--compile` compiles the network, not the optimizer), so they may stand as they
    # are. Where a later torch guards them otherwise, this does nothing and only the second is lost; a test of
    # ours then fails.
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        guarded = getattr(getattr(torch.optim.Optimizer, name, None), "__wrapped__", None)
        if guarded is not None and not hasattr(guarded, "__dynamo_disable"):
            setattr(guarded, "__dynamo_disable", guarded)
