"""Optimizers under MXNet's names: torch's where torch has the rule, else the files of this package.

Weight decay is for weights and gammas only, layers have multipliers of the learning rate, gradients are
clipped element by element or by their norm. The training and the servers of dist_async take steps with them,
and decide when. `docs/differences.md` says where torch's update differs from MXNet's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from imgcls.config.sections import OPTIMIZERS, OptimizerConfig
from imgcls.errors import UsageError, unknown, verbatim
from imgcls.layers import Layer
from imgcls.optim.adadelta import AdaDelta
from imgcls.optim.adagrad import AdaGrad
from imgcls.optim.dcasgd import DCASGD
from imgcls.optim.ftml import FTML
from imgcls.optim.ftrl import Ftrl
from imgcls.optim.fused_sgd import direct_step
from imgcls.optim.group_adagrad import GroupAdaGrad
from imgcls.optim.lamb import LAMB
from imgcls.optim.lars import LARS
from imgcls.optim.lbsgd import LBSGD
from imgcls.optim.muon import Muon, split_groups
from imgcls.optim.rmsprop import RMSProp
from imgcls.optim.rules import Rule
from imgcls.optim.schedule_free import ScheduleFree, ScheduleFreeAdamW
from imgcls.optim.sgld import SGLD
from imgcls.optim.signum import SignSGD, Signum

#: what MXNet's registry or scripts name and nothing can be trained with, and why
NOT_OFFERED = {
    "lbnag": "MXNet's script offered it and MXNet had none; take nag with `warmup_epochs`",
    "test": "an internal test of MXNet's, which ascends the gradient; take sgd",
}
#: those that torch steps with one kernel for all parameters, on the CPU and on CUDA
_FUSED = ("sgd", "ccsgd", "lbsgd", "nag", "adam", "adamw")
#: what `beta1`, `beta2` and `epsilon` are called by the rules that call them otherwise
_OTHER_WORDS = {"rmsprop": {"beta2": "gamma1"}, "adadelta": {"beta2": "rho"}}
#: our own rules, by the name that a checkpoint notes: torch does not have them, or computes them otherwise
OWN: Mapping[str, type[Rule]] = {rule.__name__: rule for rule in (
    AdaDelta, AdaGrad, DCASGD, FTML, Ftrl, GroupAdaGrad, LAMB, LARS, LBSGD, Muon, RMSProp, ScheduleFree,
    ScheduleFreeAdamW, SGLD, SignSGD, Signum)}


def build(config: OptimizerConfig, model: nn.Module, device: torch.device, seed: int = 0, *,
          lars_batch_size: int = 0) -> torch.optim.Optimizer:
    """Return the optimizer that `optimizer` names; `set_lr` sets its learning rate before each step.

    Parameters that do not learn (`requires_grad`) are left out. `seed` is for sgld's noise, `lars_batch_size`
    the samples of a batch for lbsgd's strategy lars, 0 for its others. UsageError for a name that is not
    known, or that nothing can be trained with.
    """
    name = config.name
    if name in NOT_OFFERED:
        raise UsageError(f"`optimizer` {name}: {NOT_OFFERED[name]}. There is {', '.join(OPTIMIZERS)}")
    if name not in OPTIMIZERS:
        raise unknown("`optimizer`", config.optimizer, OPTIMIZERS)
    avoid_dynamo()
    make = _CLASSES[name]
    options: dict[str, Any] = {}
    if "mom" in OPTIMIZERS[name]:
        options["momentum"] = config.mom
    if name == "nag":  # torch refuses nesterov without momentum, where MXNet's nag is plain sgd
        options["nesterov"] = config.mom > 0
    if name == "signum" and not config.mom:  # as in MXNet, whose rule then is another
        make, options = SignSGD, {}
    if name == "lbsgd" and lars_batch_size:
        make, options["batch_size"] = LBSGD, lars_batch_size
    if name == "sgld":
        options["seed"] = seed
    options |= _constants(config)
    if name in _FUSED and make is not LBSGD and device.type in ("cpu", "cuda"):
        options["fused"] = True
    groups = _groups(model, config)
    if name == "muon":
        groups = split_groups(groups, model.parameters())
    return make(groups, **options)


def _constants(config: OptimizerConfig) -> dict[str, Any]:
    """Return the betas and the epsilon of the rule, those that the user gives in place of MXNet's."""
    name = config.name
    words = _OTHER_WORDS.get(name, {})
    given = {setting: value for setting in ("beta1", "beta2", "epsilon")
             if (value := getattr(config, setting)) is not None and setting in OPTIMIZERS[name]}
    if name in ("adam", "adamw", "adamax", "nadam"):  # torch has both betas in one
        return {"betas": (given.get("beta1", 0.9), given.get("beta2", 0.999)),
                "eps": given.get("epsilon", 1e-8)}
    return {words.get(setting, "eps" if setting == "epsilon" else setting): value
            for setting, value in given.items()}


def find_class(name: str) -> type[torch.optim.Optimizer] | None:
    """Return the class, torch's or ours, that a checkpoint or a dist_async worker names; None for no such."""
    if name in OWN:
        return OWN[name]
    # the name comes from outside: nothing but an optimizer may be called
    member = getattr(torch.optim, name, None)
    return member if inspect.isclass(member) and issubclass(member, torch.optim.Optimizer) else None


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Whether each number changes by itself, so that servers of dist_async may hold parts of a parameter."""
    return not isinstance(optimizer, Rule) or optimizer.is_elementwise


def set_lr(optimizer: torch.optim.Optimizer, lr: float, wd: float | None = None) -> None:
    """Give every group the learning rate of this update, times its layer's own multiplier.

    With `wd` the weight decay too, times the layer's multiplier of that.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
        if wd is not None:
            group["weight_decay"] = wd * group["wd_mult"]


def stepper(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """Return the optimizer's own step, without torch's wrappers around it; call it under no_grad."""
    # The wrappers serve hooks, the profiler and torch.compile of the optimizer, none of which is used here,
    # and the first call through them imports torch._dynamo: a second of start-up.
    step = inspect.unwrap(type(optimizer).step)
    return direct_step(optimizer, lambda: step(optimizer))


def clip_elements(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Limit every element of every gradient to [-limit, limit] (MXNet's clip_gradient)."""
    torch.nn.utils.clip_grad_value_(parameters, limit)


def clip_norm(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale all gradients by one factor where their norm together is above `limit` (Pascanu et al. 2013)."""
    torch.nn.utils.clip_grad_norm_(parameters, limit)


#: optimizer -> its class; the constants are MXNet's defaults
_CLASSES: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    # lbsgd is sgd, its steps fewer and its rates higher: see `schedules.MacroBatch`
    "sgd": torch.optim.SGD, "ccsgd": torch.optim.SGD, "lbsgd": torch.optim.SGD, "nag": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax, "nadam": torch.optim.NAdam,
    "rmsprop": RMSProp, "adagrad": AdaGrad, "groupadagrad": GroupAdaGrad, "adadelta": AdaDelta, "ftrl": Ftrl,
    "ftml": FTML, "signum": Signum, "signsgd": SignSGD, "lamb": LAMB, "lars": LARS, "dcasgd": DCASGD,
    "sgld": SGLD, "muon": Muon, "schedule-free-sgd": ScheduleFree,
    "schedule-free-adamw": ScheduleFreeAdamW,
}


def _multipliers(module: nn.Module, name: str) -> tuple[float, float]:
    """Return the multipliers of the learning rate and of the weight decay that a symbol has for a parameter.

    MXNet looks at the variable: its own attributes, where it was read from a file, else those of its layer.
    UsageError for a multiplier that is no finite number.
    """
    if not isinstance(module, Layer):
        return 1.0, 1.0
    attrs = module.variables[name].attrs if name in module.variables else module.attrs
    texts = attrs.get("__lr_mult__", "1"), attrs.get("__wd_mult__", "1")
    try:
        lr_mult, wd_mult = map(float, texts)
    except ValueError:
        lr_mult = wd_mult = math.nan
    if not (math.isfinite(lr_mult) and math.isfinite(wd_mult)):
        found = verbatim(" and ".join(texts))
        raise UsageError(f"the network has {found} as multipliers of learning rate and weight decay for the "
                         f"{name} of a {module.op}: they must be numbers")
    return lr_mult, wd_mult


def _groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the parameters in groups of one multiplier of the weight decay and one of the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # a weight that two layers share is stepped once, with the multipliers of the first
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                # in the symbol, so in every checkpoint; fine-tuning's own is kept in no file
                lr_mult, wd_mult = _multipliers(module, name)
                lr_mult *= float(getattr(module, "lr_mult", 1))
                # MXNet decays names that end in _weight or _gamma (optimizer.py, set_wd_mult).
                decays = wd_mult if name in ("weight", "gamma") else 0.0
                # what normalisations of other packages call weight has one dimension as well
                if not config.norm_wd and parameter.ndim <= 1:
                    decays = 0.0
                mult = lr_mult * (config.bias_lr_mult if name in ("bias", "beta") else 1)
                groups.setdefault((decays, mult), []).append(parameter)
    return [{"params": parameters, "weight_decay": config.wd * decays, "wd_mult": decays, "lr_mult": lr_mult,
             "lr": 0.0} for (decays, lr_mult), parameters in groups.items()]


def avoid_dynamo() -> None:
    """Let the first optimizer be made without importing torch._dynamo, about a second of start-up."""
    # torch guards a few methods against being traced by its compiler and loads the compiler to do so. They
    # are not traced here (`--compile` compiles the network, not the optimizer), so they need no guard.
    # Where a later torch guards them otherwise, this does nothing and only the second is lost; a test of
    # ours then fails.
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        guarded = getattr(getattr(torch.optim.Optimizer, name, None), "__wrapped__", None)
        if guarded is not None and not hasattr(guarded, "__dynamo_disable"):
            setattr(guarded, "__dynamo_disable", guarded)
