"""The state of optimizers by MXNet's names of the parameters: it can be read after our modules change."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from imgcls import graph
from imgcls.errors import DataError
from imgcls.optim.rules import Rule
from imgcls.training.checkpoint.position import Saved

#: torch's class that had a name of MXNet's before our own rule -> that rule, torch's word -> the rule's
_FORMER = {"RMSprop": ("RMSProp", {"square_avg": "n"}), "Adagrad": ("AdaGrad", {"sum": "history"}),
           "Adadelta": ("AdaDelta", {"square_avg": "acc_g", "acc_delta": "acc_delta"})}

#: torch's class -> all that it keeps of a parameter after the first step; sgd may keep nothing
_OF_TORCH = {"Adam": frozenset(("step", "exp_avg", "exp_avg_sq")),
             "AdamW": frozenset(("step", "exp_avg", "exp_avg_sq")),
             "Adamax": frozenset(("step", "exp_avg", "exp_inf")),
             "NAdam": frozenset(("step", "mu_product", "exp_avg", "exp_avg_sq"))}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return "MXNET_NAME/kind" -> tensor on the CPU, for everything the optimizer remembers of `model`."""
    # kind is torch's word: momentum_buffer, exp_avg, step, ...
    names = graph.parameter_names(model)
    # sgd without momentum remembers None
    return {f"{names[key]}/{kind}": _to_cpu(value) for key, p in model.named_parameters()
            for kind, value in optimizer.state.get(p, {}).items() if value is not None}


def in_words_of_today(saved: Saved) -> Saved:
    """Return `saved` with the state of an optimizer that was torch's then and is our own rule now."""
    if saved.optimizer_class not in _FORMER:
        return saved
    rule, words = _FORMER[saved.optimizer_class]
    tensors = {}
    for path, tensor in (saved.optimizer or {}).items():
        name, _, kind = path.rpartition("/")
        if kind in words:  # our rules do not count their updates
            tensors[f"{name}/{words[kind]}"] = tensor
    return dataclasses.replace(saved, optimizer=tensors, optimizer_class=rule)


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Saved) -> None:
    """Give a fresh optimizer of `model` the state that `saved` holds; DataError where they do not belong
    together.

    The state of another kind of optimizer means nothing to this one: the caller checks `optimizer_class`.
    """
    names = graph.parameter_names(model)
    parameters = {names[key]: p for key, p in model.named_parameters()}
    by_parameter: dict[nn.Parameter, dict[str, Tensor]] = {}
    for path, tensor in (saved.optimizer or {}).items():
        name, _, kind = path.rpartition("/")
        # a step count has no dimensions, whatever the parameter has
        if name not in parameters or (tensor.ndim and tensor.shape != parameters[name].shape):
            raise DataError(saved.path, f"the optimizer state of {name} does not fit this network")
        if tensor.ndim:  # in the memory order of the weights: fused steps walk both side by side
            tensor = torch.empty_like(parameters[name], dtype=tensor.dtype).copy_(tensor)
        by_parameter.setdefault(parameters[name], {})[kind] = tensor.detach()
    # what lacks one of its tensors would be found by torch, as a KeyError at the first step
    needed = _OF_TORCH.get(type(optimizer).__name__, frozenset())
    is_whole = all(kinds.keys() == optimizer.kinds(p) if isinstance(optimizer, Rule)
                   else needed <= kinds.keys() for p, kinds in by_parameter.items())
    if not is_whole:
        raise DataError(saved.path, f"the optimizer state is not that of {type(optimizer).__name__}")
    # torch numbers parameters through its groups, whose order need not be that of the network
    state = optimizer.state_dict()
    order = [p for group in optimizer.param_groups for p in group["params"]]
    state["state"] = {index: by_parameter[p] for index, p in enumerate(order) if p in by_parameter}
    optimizer.load_state_dict(state)


def _to_cpu(value: object) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensor.detach().cpu()
