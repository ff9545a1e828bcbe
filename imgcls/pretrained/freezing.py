"""Parts of a network that stay as they are or learn more slowly: two marks that fine-tuning sets.

`imgcls-finetune` calls it after `transfer.new_head`. The marks are on the modules and in no file: a resumed
run sets them again.
"""

from __future__ import annotations

import types
from collections.abc import Iterable

from torch import fx, nn

from imgcls import graph
from imgcls.errors import UsageError, nearest
from imgcls.layers import Layer


def freeze(model: nn.Module, until: str, head: Iterable[str]) -> int:
    """Stop parameters from learning, and return how many values they have in all.

    `until` names the last layer to freeze, with all that it is computed from; "body" freezes all but the
    head's (`head`: keys of the state_dict); "nothing", "none" and "" freeze none. A frozen normalisation
    keeps its statistics and uses them. Raises UsageError for a layer that is not there, or where nothing
    would be left to train.
    """
    if until in ("", "nothing", "none"):
        return 0
    # Modules and not parameters: a normalisation that is frozen must also stop moving its statistics.
    modules = _body_modules(model, head) if until == "body" else _modules_until(model, until)
    for module in modules:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if hasattr(module, "moving_mean") or hasattr(module, "running_mean"):
            module.eval()
            # The trainer calls model.train() before each epoch, which would set the statistics moving again.
            module.train = types.MethodType(_stay_in_eval, module)  # type: ignore[method-assign]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"`freeze` {until}: nothing would be left to train; `freeze` body leaves the new "
                         "head")
    return sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)


def set_lr_multipliers(model: nn.Module, head: Iterable[str], *, body_mult: float, head_mult: float) -> None:
    """Set `lr_mult` of each layer, the factor of its learning rate, for `optimizers.build` to read.

    `head` are the keys of the head's parameters in the state_dict.
    """
    # Layers without parameters get no `lr_mult`, which `optimizers.build` takes for 1.
    head_modules = {key.rpartition(".")[0] for key in head}
    for path, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.lr_mult = head_mult if path in head_modules else body_mult  # type: ignore[assignment]


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replace `train` in a frozen normalisation: do nothing."""
    return module


def _body_modules(model: nn.Module, head: Iterable[str]) -> list[nn.Module]:
    head_modules = {key.rpartition(".")[0] for key in head}
    return [module for path, module in model.named_modules() if path not in head_modules]


def _modules_until(model: nn.Module, until: str) -> list[nn.Module]:
    """Return the layer `until` and all that it is computed from; without a graph, all listed before it."""
    if isinstance(model, fx.GraphModule):
        return _modules_it_needs(model, until)
    modules = dict(model.named_modules())
    paths = [path for path in modules if path]
    # Without a graph, the order in which a network lists its layers is taken as the order of computation.
    inside = [i for i, path in enumerate(paths) if path == until or path.startswith(f"{until}.")]
    if not inside:
        raise _no_such_layer(until, paths)
    # A container of the layer may hold layers behind it as well, so its own parameters stay free.
    containers = {until.rsplit(".", count)[0] for count in range(1, until.count(".") + 1)}
    return [modules[path] for path in paths[:inside[-1] + 1] if path not in containers]


def _modules_it_needs(model: fx.GraphModule, until: str) -> list[nn.Module]:
    """Walk the graph from the layer that MXNet would call `until` back to the image."""
    modules = dict(model.named_modules())
    calls = {str(call.target): call for call in model.graph.nodes if call.op == "call_module"}
    layers = {path: modules[path] for path in calls}
    paths = {graph.node_name(path, layer): path for path, layer in layers.items() if isinstance(layer, Layer)}
    if until not in paths:
        raise _no_such_layer(until, paths)
    # Backwards through all inputs, so that both branches of a residual unit are frozen.
    to_visit = [calls[paths[until]]]
    visited: set[fx.Node] = set()
    needed = []
    while to_visit:
        call = to_visit.pop()
        if call in visited:
            continue
        visited.add(call)
        to_visit += call.all_input_nodes
        if call.op == "call_module":
            needed.append(modules[str(call.target)])
    return needed


def _no_such_layer(until: str, names: Iterable[str]) -> UsageError:
    names = list(names)
    close = nearest(until, names) or names[-3:]
    return UsageError(f"`freeze` {until}: must be nothing, body (all but the new head) or a layer; the "
                      f"network has {', '.join(close)}, ...")
