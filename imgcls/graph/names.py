"""What MXNet calls layers and parameters, and what arrays in a .params file are called."""

from __future__ import annotations

from torch import nn

from imgcls.formats.symbol import STATISTICS_INIT, Node
from imgcls.layers import Layer


def node_name(path: str, layer: Layer) -> str:
    """Return what MXNet calls the layer at `path` ("stage1.conv" -> "stage1_conv")."""
    # node_name is set where a file's name cannot be an attribute of a module
    return layer.node_name or path.replace(".", "_")


def variable_node(name: str, layer: Layer, slot: str) -> Node:
    """Return the variable of a parameter: the torch attribute `slot` of the layer that MXNet calls `name`.

    MXNet copies an operator's attributes onto the variables that it makes itself.
    """
    if slot in layer.variables:
        variable = layer.variables[slot]
        return Node("null", variable.name, dict(variable.attrs))
    # `variables` has those that were read from a file, which may be called anything.
    suffix = layer.PARAMETER_NAMES[slot]
    initial = {"__init__": STATISTICS_INIT[suffix]} if suffix in STATISTICS_INIT else {}
    return Node("null", f"{name}_{suffix}" if suffix else name, layer.attrs | initial)


def parameter_names(model: nn.Module) -> dict[str, str]:
    """Return key of the state_dict -> MXNet's name, without prefix; outside of `Layer`s the key itself."""
    # keep_vars: only the keys are requested, no detached tensor for each
    layers = {path: module for path, module in model.named_modules() if isinstance(module, Layer)}
    names = {}
    for key in model.state_dict(keep_vars=True):
        path, _, slot = key.rpartition(".")
        layer = layers.get(path)
        names[key] = variable_node(node_name(path, layer), layer, slot).name if layer is not None else key
    return names


def without_prefix(name: str) -> str:
    """Return the name of an array without its "arg:" or "aux:"."""
    return name[4:] if name.startswith(("arg:", "aux:")) else name
