"""Parameters of a module as the arrays of a .params file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from imgcls.errors import DataError, UsageError, first_line
from imgcls.graph.names import node_name, parameter_names, variable_node, without_prefix
from imgcls.graph.write import to_symbol
from imgcls.layers import Layer, Shape

#: how many names an error about parameters lists: the first ones show what is wrong, and it is one line
_MAX_NAMES = 3


@dataclass(frozen=True)
class ParameterMatch:
    """How the arrays of a file match the parameters of a network, by MXNet's names without prefix.

    `missing` are parameters that the file does not have, `mismatched` those that have another shape there
    (name, shape in the file, shape in the network), `unexpected` arrays that belong to no parameter.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)

    # Lists of a frozen class: `load_arrays` fills them, and no one else writes to them.

    def complaint(self) -> str:
        """Return one line about what does not fit, with up to three names."""
        faults = [f"{name} is {shape} where the network needs {needed}"
                  for name, shape, needed in self.mismatched]
        faults += [f"{name} is missing" for name in self.missing]
        num_more = len(faults) - _MAX_NAMES
        more = f"; and {num_more} more" if num_more > 0 else ""
        return f"not the parameters of this network: {'; '.join(faults[:_MAX_NAMES])}{more}"


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return all parameters as MXNet saves them: "arg:fc1_weight", ..., then "aux:bn_moving_mean", ...

    They are in the symbol's order (in the module's own where there is no symbol). On the CPU they share
    memory with the model; what numpy has no dtype for (bfloat16) comes as float32.
    """
    # A fixed gamma is a buffer here and an argument in MXNet: layers say what is auxiliary, not torch.
    names = parameter_names(model)
    auxiliary = _auxiliary_keys(model)
    state = model.state_dict(keep_vars=True)
    key_of: dict[str, str] = {}
    for key in state:
        key_of.setdefault(names[key], key)  # a parameter that two layers share is saved once
    # MXNet saves in this order: the same bytes, whichever of the two wrote the file.
    in_symbol = [name for name in _symbol_order(model) if name in key_of]
    ordered = list(dict.fromkeys([*in_symbol, *key_of]))
    keys = [key_of[name] for name in ordered]
    args = {f"arg:{names[key]}": _to_numpy(state[key]) for key in keys if key not in auxiliary}
    return args | {f"aux:{names[key]}": _to_numpy(state[key]) for key in keys if key in auxiliary}


def load_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray], *, path: object,
                strict: bool = True) -> ParameterMatch:
    """Copy arrays into the parameters of the same names (prefixes "arg:" and "aux:" or none), in place.

    With `strict` a parameter that is missing or has another shape is a DataError that names up to three, and
    nothing is copied; arrays that belong to no parameter are never an error.
    """
    # "arg:" and "aux:" only say of which kind a parameter is, as layers do; Gluon's files have no prefixes.
    given = {without_prefix(name): array for name, array in arrays.items()}
    state = model.state_dict(keep_vars=True)
    names = parameter_names(model)
    own = set(names.values())
    match = ParameterMatch(unexpected=[name for name in given if name not in own])
    # Nothing is copied before all is compared: with `strict` a network is never half loaded.
    fitting = {}
    for key, name in names.items():
        if name not in given:
            match.missing.append(name)
        elif given[name].shape != tuple(state[key].shape):
            match.mismatched.append((name, given[name].shape, tuple(state[key].shape)))
        else:
            fitting[key] = given[name]
            match.loaded.append(name)
    if strict and (match.missing or match.mismatched):
        raise DataError(path, match.complaint())
    with torch.no_grad():
        for key, array in fitting.items():
            state[key].copy_(_to_tensor(array))  # in place: optimizers and shared weights hold these tensors
    return match


def multipliers(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Return key of the state_dict -> (learning rate, weight decay) multipliers, for those that have one.

    They are `__lr_mult__` and `__wd_mult__` on a layer or on its parameter; UsageError unless it is a number.
    """
    found = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, Layer):
            continue
        for slot in layer.parameter_slots():
            attrs = variable_node(node_name(path, layer), layer, slot).attrs
            # A layer's attributes are on its own variables as well, so one place has both.
            try:
                factors = float(attrs.get("__lr_mult__", "1")), float(attrs.get("__wd_mult__", "1"))
            except ValueError as error:
                raise UsageError(f"layer {path}: {first_line(error)} as a multiplier") from error
            if factors != (1.0, 1.0):
                found[f"{path}.{slot}"] = factors
    return found


def _auxiliary_keys(model: nn.Module) -> set[str]:
    """Return the keys of auxiliary states: those that a layer names, elsewhere every buffer."""
    keys = set()
    for path, module in model.named_modules():
        buffers = {name for name, _ in module.named_buffers(recurse=False)}
        names = module.AUXILIARY if isinstance(module, Layer) else buffers
        keys.update(f"{path}.{name}" if path else name for name in names)
    return keys


def _symbol_order(model: nn.Module) -> list[str]:
    """Return the names of the variables as the symbol lists them; nothing where the module is no symbol."""
    if not any(isinstance(module, Layer) for module in model.modules()):  # saves the trace
        return []
    try:  # layers inside of a module that MXNet cannot express have names and no order
        return to_symbol(model).variables()
    except UsageError:
        return []


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()  # both are free where there is nothing to do
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _to_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor of the array's values; copied only where torch could not use the memory.

    It cannot use memory of another byte order, memory that may not be written to, or negative strides.
    """
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    return torch.from_numpy(native)
