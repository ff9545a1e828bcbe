"""A trained network under a new head, with parts of it frozen or learning more slowly: what fine-tuning does to it.

`cli/finetune.py` uses it. `new_head` takes what `zoo.read` gives and makes the network for other classes; its report
says what became of each weight. `freeze` and `learning_rates` mark the parts for the trainer and for `optim.build`.
`head_of` finds the head of a network that was fine-tuned before. Nothing here trains or reads files.
"""

from __future__ import annotations

import dataclasses
import types
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from imgcls import graph
from imgcls.config.sections import NetworkConfig
from imgcls.errors import DataError, UsageError, nearest
from imgcls.formats import symbol as symbols
from imgcls.formats.symbol import Node, NodeOutput, Symbol
from imgcls.layers import FullyConnected, Layer
from imgcls.networks import _init, build_network
from imgcls.pretrained.zoo import Pretrained, head_keys

FLAG = "`layer_before_fullc`"
#: operators that hand on what they are given, value by value or in another shape
_PASSING = (*graph.TRANSPARENT, "Dropout", "Cast", "_mul_scalar", "_div_scalar", "clip")
_RESHAPING = ("Flatten", "Reshape", "squeeze")
#: how many layers are offered where it is not clear which one the head begins behind
_CANDIDATES = 6


@dataclass(frozen=True)
class LoadSummary:
    """What became of the weights, by MXNet's names (torch's, where no symbol expresses the network)."""

    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    #: the layer whose output goes into the new head; "" where the network's own head was replaced
    layer: str = ""
    #: what a person should know about the choice of that layer, or ""
    note: str = ""

    def lines(self) -> list[str]:
        """The same in words: how many, and which, by name where they are few and by layer where they are many."""
        return [f"weights {what}: {len(names)}{f' ({grouped(names)})' if names else ''}" for what, names in (
            ("loaded", self.loaded), ("new (initialised)", self.new), ("dropped", self.dropped))]


def new_head(pretrained: Pretrained, config: NetworkConfig, *, layer: str = "", seed: int = 0,
             ) -> tuple[nn.Module, LoadSummary]:
    """The network with its weights, and a head of config.num_classes for config.image_shape, initialised from `seed`.

    `layer` names the layer whose output goes into the head (MXNet's --layer-before-fullc); without it the one before
    the last fully connected layer. UsageError for a layer that is not there, where it is not clear which one it is, or
    for a shape that the network cannot take; DataError for weights that do not fit the network.
    """
    if isinstance(pretrained.network, NetworkConfig):
        if layer:
            raise UsageError(f"{FLAG} {layer}: {pretrained.network.network} has a head of its own, which is replaced; "
                             "leave the flag out")
        return _replaced(pretrained, pretrained.network, config, seed)
    entry, note = find_cut(pretrained.network, layer, pretrained.symbol_path or pretrained.path)
    model = _body(pretrained, pretrained.network, entry, config.image_shape)
    loaded = list(dict.fromkeys(graph.parameter_names(model).values()))
    new = _add_head(model, config, seed)
    dropped = [name for name in map(_bare, pretrained.arrays) if name not in set(loaded)]
    return model, LoadSummary(loaded, new, dropped, pretrained.network.nodes[entry.node].name, note)


def find_cut(symbol: Symbol, layer: str, path: object) -> tuple[NodeOutput, str]:
    """The output that goes into the new head, and what to say about it: that of `layer`, or without it what goes into
    the last fully connected layer."""
    if not layer:
        try:
            found, candidates = _automatic(symbol, path)
        except DataError as error:  # several outputs
            raise UsageError(f"{FLAG}: {error}; name the layer whose output goes into the new classifier") from error
        if found is None:
            raise UsageError(f"{FLAG}: it is not clear where the classifier of {path} begins; name the layer whose "
                             f"output goes into the new one, from the end: {', '.join(candidates)}")
        return found, ""
    operators = {node.name: i for i, node in enumerate(symbol.nodes) if not node.is_variable}
    name = layer if layer in operators else layer.removesuffix("_output")
    try:
        found, _ = _automatic(symbol, path)
    except DataError:  # several outputs: then the layer that is named decides
        found = None
    own = symbol.nodes[found.node].name if found is not None else ""
    if name not in operators:
        close = [one for one in nearest(name, operators) if one != own]
        there = [*([f"{own} (found by itself)"] if own else []), *close]
        raise UsageError(f"{FLAG} {layer}: {path} has no such layer; {'there is ' if there else ''}{', '.join(there)}")
    entry = NodeOutput(operators[name])
    if found is None or found.node == entry.node:
        return entry, ""
    return entry, (f"{FLAG} {layer} is not what goes into the network's last layer, that is {own}: whatever stands "
                   "between them goes, too")


def head_of(model: nn.Module, config: NetworkConfig) -> list[str]:
    """The parameters of the last layer, by their keys in the state_dict, of a network that `new_head` made (and that
    was saved and read since); `config` are its settings where no symbol expresses it."""
    if not isinstance(model, fx.GraphModule):
        return head_keys(config)
    path = str(_last_call(model).target)
    return [f"{path}.{name}" for name in model.get_submodule(path).state_dict(keep_vars=True)]


def freeze(model: nn.Module, until: str, head: Iterable[str]) -> int:
    """Let the parameters up to the layer `until` (inclusive) stay as they are, with "body" all but the head's (keys of
    the state_dict), with "nothing" none. A frozen normalisation keeps its statistics and uses them. Returns how many
    numbers are frozen; UsageError for a layer that is not there, or where nothing would be left to train.
    """
    if until in ("", "nothing", "none"):
        return 0
    owners = _body_modules(model, head) if until == "body" else _modules_until(model, until)
    for module in owners:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if hasattr(module, "moving_mean") or hasattr(module, "running_mean"):
            module.eval()
            module.train = types.MethodType(_stay, module)  # type: ignore[method-assign]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"`freeze` {until}: nothing would be left to train; `freeze` body leaves the new head")
    return sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)


def learning_rates(model: nn.Module, head: Iterable[str], *, body_mult: float, head_mult: float) -> None:
    """Mark each layer with what its learning rate is multiplied by (`optim.build` reads it); no file keeps this."""
    owners = {key.rpartition(".")[0] for key in head}
    for path, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.lr_mult = head_mult if path in owners else body_mult  # type: ignore[assignment]


def grouped(names: Sequence[str], few: int = 6, groups: int = 8) -> str:
    """Names where they are few, else how many of each layer or stage there are: `stage1 38, stage2 50, bn1 4`."""
    if len(names) <= few:
        return ", ".join(names)
    counts = Counter(_group(name) for name in names)
    said = [f"{name} {count}" for name, count in counts.items()]
    if len(said) > groups:
        rest = sum(list(counts.values())[groups - 1:])
        said = [*said[:groups - 1], f"others {rest}"]
    return ", ".join(said)


def _group(name: str) -> str:
    """stage1_unit2_conv1_weight -> stage1, layer1.0.conv1.weight -> layer1, fc1_weight -> fc1"""
    return name.partition("." if "." in name else "_")[0]


def _bare(name: str) -> str:
    return name[4:] if name.startswith(("arg:", "aux:")) else name


# Networks with a symbol


def _automatic(symbol: Symbol, path: object) -> tuple[NodeOutput | None, list[str]]:
    """What goes into the classifier, or None and the layers that it could be."""
    _, entry = graph.find_logits(symbol, path)
    node = symbol.nodes[entry.node]
    candidates: list[str] = []
    reshaped = False
    while not node.is_variable and node.inputs:
        source = symbol.nodes[node.inputs[0].node]
        if node.op == "FullyConnected" and not candidates:
            return node.inputs[0], []
        if node.op == "Convolution" and reshaped and source.op == "Pooling" and not candidates and (
                source.attrs.get("global_pool", "").lower() in ("true", "1")):
            return node.inputs[0], []  # a 1x1 convolution of a single pixel is a fully connected layer
        if node.op in _RESHAPING and not candidates:
            reshaped = True
        elif node.op not in _PASSING or candidates:
            candidates.append(f"{node.name} ({node.op})")
        if len(candidates) == _CANDIDATES:
            break
        node = source
    return None, candidates


def _body(pretrained: Pretrained, symbol: Symbol, cut: NodeOutput, shape: Sequence[int]) -> fx.GraphModule:
    """The network up to `cut`, with its weights."""
    nodes, heads = symbols.post_order(symbol.nodes, [cut])
    body, path = Symbol(nodes, heads), pretrained.path
    try:
        return graph.from_symbol(body, pretrained.arrays, input_shape=tuple(shape), path=path,
                                 symbol_path=pretrained.symbol_path)
    except DataError as error:
        try:
            graph.from_symbol(body, pretrained.arrays, path=path)
        except DataError:
            raise error from None
        raise UsageError(f"`image_shape` {','.join(map(str, shape))}: the pretrained network cannot take it "
                         f"({error.reason})") from error


def _add_head(model: fx.GraphModule, config: NetworkConfig, seed: int) -> list[str]:
    """Put a fully connected layer `fc` and a softmax behind the network; returns the names of its parameters."""
    training = model.training
    try:
        with torch.no_grad():
            units = model.eval()(torch.zeros(1, *config.image_shape)).numel()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"`image_shape` {','.join(map(str, config.image_shape))}: the pretrained network cannot take "
                         f"it ({str(error).splitlines()[0]})") from error
    model.train(training)
    layer = FullyConnected(units, config.num_classes)
    _init.initialize(nn.Sequential(layer), config.initializer, config.network, seed)
    taken = {*graph.parameter_names(model).values(), *dict(model.named_modules())}
    name = "fc"
    while name in taken or f"{name}_weight" in taken:
        name += "_new"
    model.add_module(name, layer)
    output = _output(model)
    with model.graph.inserting_before(output):
        call = model.graph.call_module(name, (output.args[0],))
    output.args = (call,)
    model.recompile()
    data = model.meta["head"].data
    behind = [Node("null", "softmax_label"), Node("SoftmaxOutput", "softmax", {}, [NodeOutput(-1), NodeOutput(0)])]
    model.meta["head"] = graph.GraphHead(data, behind, NodeOutput(1))
    return [f"{name}_weight", f"{name}_bias"]


def _output(model: fx.GraphModule) -> fx.Node:
    return next(node for node in model.graph.nodes if node.op == "output")


def _last_call(model: fx.GraphModule) -> fx.Node:
    call = _output(model).args[0]
    assert isinstance(call, fx.Node)
    return call


# Networks of other packages


def _replaced(pretrained: Pretrained, settings: NetworkConfig, config: NetworkConfig, seed: int,
              ) -> tuple[nn.Module, LoadSummary]:
    """The network built anew for the classes; what the number of classes shapes is its head, and stays new."""
    settings = dataclasses.replace(settings, num_classes=config.num_classes, image_shape=config.image_shape)
    head = set(head_keys(settings))
    model = build_network(settings, seed)
    kept = {name: array for name, array in pretrained.arrays.items() if _bare(name) not in head}
    report = graph.load_arrays(model, kept, path=pretrained.path, strict=False)
    wrong = [*(name for name in report.missing if name not in head), *(name for name, _, _ in report.mismatched)]
    if wrong:
        raise DataError(pretrained.path, f"not the weights of {settings.network}: missing or of another shape are "
                                         f"{grouped(wrong)}")
    return model, LoadSummary(report.loaded, [name for name in report.missing if name in head],
                         [*(_bare(name) for name in pretrained.arrays if _bare(name) in head), *report.unexpected])


# Freezing


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What `train` of a frozen normalisation is: it stays in evaluation."""
    return module


def _body_modules(model: nn.Module, head: Iterable[str]) -> list[nn.Module]:
    owners = {key.rpartition(".")[0] for key in head}
    return [module for path, module in model.named_modules() if path not in owners]


def _modules_until(model: nn.Module, until: str) -> list[nn.Module]:
    """The modules that the layer `until` is computed from, and itself. Where there is no symbol: those that the
    network lists before it."""
    modules = dict(model.named_modules())
    if not isinstance(model, fx.GraphModule):
        names = [path for path in modules if path]
        inside = [i for i, path in enumerate(names) if path == until or path.startswith(f"{until}.")]
        if not inside:
            raise _no_layer(until, names)
        above = {until.rsplit(".", count)[0] for count in range(1, until.count(".") + 1)}
        return [modules[path] for path in names[:inside[-1] + 1] if path not in above]
    calls = {str(call.target): call for call in model.graph.nodes if call.op == "call_module"}
    named = {graph.node_name(path, module): path for path in calls if isinstance(module := modules[path], Layer)}
    if until not in named:
        raise _no_layer(until, named)
    wanted, found = [calls[named[until]]], []
    seen: set[fx.Node] = set()
    while wanted:
        call = wanted.pop()
        if call not in seen:
            seen.add(call)
            wanted += call.all_input_nodes
            found += [modules[str(call.target)]] if call.op == "call_module" else []
    return found


def _no_layer(until: str, names: Iterable[str]) -> UsageError:
    names = list(names)
    close = nearest(until, names) or names[-3:]
    return UsageError(f"`freeze` {until}: must be nothing, body (all but the new head) or a layer; the network has "
                      f"{', '.join(close)}, ...")
