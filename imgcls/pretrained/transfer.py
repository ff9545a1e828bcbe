"""Give a trained network a new head, as fine-tuning does before the training begins.

`imgcls-finetune` calls it. `new_head` takes what `pretrained.read` returns and makes the network for other
classes; a summary lists the weights that were loaded, are new or were dropped. `head_of` finds the head of a
network that was fine-tuned before. Nothing here trains or reads files.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from imgcls import graph
from imgcls.config.flags import show
from imgcls.config.sections import NetworkConfig
from imgcls.errors import DataError, UsageError, first_line, nearest, verbatim
from imgcls.formats import symbol as symbols
from imgcls.formats.symbol import Node, NodeOutput, Symbol
from imgcls.layers import FullyConnected
from imgcls.networks import _initializers, build_network
from imgcls.pretrained.reference import Pretrained
from imgcls.pretrained.torchvision_weights import head_keys

SETTING = "`layer_before_fullc`"
#: operators that work element by element, behind which a classifier's output is still one value a class ...
_PASS_VALUES = (*graph.TRANSPARENT, "Dropout", "Cast", "_mul_scalar", "_div_scalar", "clip")
#: ... and those that only change the shape
_RESHAPE = ("Flatten", "Reshape", "squeeze")
#: how many layers are listed in the error where it is not clear which one the head belongs behind
_MAX_CANDIDATES = 6


@dataclass(frozen=True)
class LoadSummary:
    """Which weights were loaded, are new or were dropped, by MXNet's names (torch's for a network without a
    symbol)."""

    #: copied from the file
    loaded: list[str] = field(default_factory=list)
    #: of the new head
    new: list[str] = field(default_factory=list)
    #: in the file and not in the network: the old head, and all layers behind the cut
    dropped: list[str] = field(default_factory=list)
    #: the layer whose output goes into the new head; "" where the network's own head was replaced
    layer: str = ""
    #: a note for the user about the choice of that layer, or ""
    note: str = ""

    def lines(self) -> list[str]:
        """Return a line each for what was loaded, is new and was dropped: how many, and which."""
        return [f"weights {what}: {len(names)}{f' ({grouped(names)})' if names else ''}" for what, names in (
            ("loaded", self.loaded), ("new (initialised)", self.new), ("dropped", self.dropped))]


def new_head(pretrained: Pretrained, config: NetworkConfig, *, layer: str = "", seed: int = 0,
             ) -> tuple[nn.Module, LoadSummary]:
    """Return the network with its weights, and a head of config.num_classes initialised from `seed`.

    It takes images of config.image_shape. `layer` names the layer whose output goes into the head (MXNet's
    --layer-before-fullc); without it, the layer before the last fully connected one. Raises UsageError for a
    layer that is not there, where it is not clear which one it is, or for a shape that the network cannot
    take; DataError for weights that do not fit the network.
    """
    if isinstance(pretrained.network, NetworkConfig):
        if layer:
            raise UsageError(f"{SETTING} {layer}: {pretrained.network.network} already has a head, which is "
                             "replaced; leave the flag out")
        return _replace_head(pretrained, pretrained.network, config, seed)
    entry, note = find_cut(pretrained.network, layer, pretrained.symbol_path or pretrained.path)
    model = _load_body(pretrained, pretrained.network, entry, config.image_shape)
    # Before the head is added, all parameters of the model are the file's.
    loaded = list(dict.fromkeys(graph.parameter_names(model).values()))
    new = _add_head(model, config, seed)
    dropped = [name for name in map(graph.without_prefix, pretrained.arrays) if name not in set(loaded)]
    return model, LoadSummary(loaded, new, dropped, pretrained.network.nodes[entry.node].name, note)


def find_cut(symbol: Symbol, layer: str, path: object) -> tuple[NodeOutput, str]:
    """Return the output that goes into the new head, and a note for the user, or "".

    It is the output of `layer` or, without one, the input of the last fully connected layer. `path` is what
    errors call the symbol; UsageError as in `new_head`.
    """
    if not layer:
        try:
            cut, candidates = _find_classifier_input(symbol, path)
        except DataError as error:  # several outputs
            raise UsageError(f"{SETTING}: {error.message}; name the layer whose output goes into the new "
                             "classifier") from error
        if cut is None:
            raise UsageError(f"{SETTING}: it is not clear where the classifier of {verbatim(path)} begins; "
                             "name the layer whose output goes into the new one, from the end: "
                             f"{', '.join(candidates)}")
        return cut, ""
    try:
        cut, _ = _find_classifier_input(symbol, path)
    except DataError:  # several outputs: then the named layer alone decides
        cut = None
    return _cut_behind(symbol, layer, cut, path)


def _cut_behind(symbol: Symbol, layer: str, automatic: NodeOutput | None,
                path: object) -> tuple[NodeOutput, str]:
    """Return the output of the layer that the user named, and a note where it is not the automatic choice."""
    operators = {node.name: i for i, node in enumerate(symbol.nodes) if not node.is_variable}
    # MXNet's own fine-tune.py takes the name of an output: flatten0_output is the one of flatten0.
    name = layer if layer in operators else layer.removesuffix("_output")
    automatic_name = symbol.nodes[automatic.node].name if automatic is not None else ""
    if name not in operators:
        offers = [f"{automatic_name} (found automatically)"] if automatic_name else []
        offers += [near for near in nearest(name, operators) if near != automatic_name]
        there_is = "there is " if offers else ""
        raise UsageError(f"{SETTING} {layer}: {verbatim(path)} has no such layer; "
                         f"{there_is}{', '.join(offers)}")
    entry = NodeOutput(operators[name])
    if automatic is None or automatic.node == entry.node:
        return entry, ""
    return entry, (f"{SETTING} {layer} is not what goes into the network's last layer, that is "
                   f"{automatic_name}: the layers between them are removed too")


def head_of(model: nn.Module, config: NetworkConfig) -> list[str]:
    """Return the keys of the last layer's parameters in the state_dict.

    `model` is what `new_head` returned, possibly saved and read since; `config` has its settings where no
    symbol expresses it.
    """
    if not isinstance(model, fx.GraphModule):
        return head_keys(config)
    # `new_head` puts its layer last, and reading removes the softmax.
    path = str(_last_call(model).target)
    return [f"{path}.{name}" for name in model.get_submodule(path).state_dict(keep_vars=True)]


def grouped(names: Sequence[str], max_names: int = 6, max_groups: int = 8) -> str:
    """Return few names as they are, many as the count of each layer or stage: `stage1 38, bn1 4`."""
    if len(names) <= max_names:
        return ", ".join(names)
    # In the order of first appearance, which is that of the network.
    counts = Counter(_group(name) for name in names)
    texts = [f"{group} {count}" for group, count in counts.items()]
    if len(texts) > max_groups:
        others = sum(list(counts.values())[max_groups - 1:])
        texts = [*texts[:max_groups - 1], f"others {others}"]
    return ", ".join(texts)


def _group(name: str) -> str:
    """stage1_unit2_conv1_weight -> stage1, layer1.0.conv1.weight -> layer1, fc1_weight -> fc1"""
    return name.partition("." if "." in name else "_")[0]


# Networks with a symbol


def _find_classifier_input(symbol: Symbol, path: object) -> tuple[NodeOutput | None, list[str]]:
    """Return (input of the classifier, []), or (None, layers that could be before it, the last one first).

    Walks back from the logits. The classifier is a fully connected layer, or a convolution behind a global
    pooling, with only operators of `_PASS_VALUES` and `_RESHAPE` behind it.
    """
    _, entry = graph.find_logits(symbol, path)
    node = symbol.nodes[entry.node]
    candidates: list[str] = []
    reshaped = False
    while not node.is_variable and node.inputs:  # the first input is the data; parameters follow it
        source = symbol.nodes[node.inputs[0].node]
        if node.op == "FullyConnected" and not candidates:
            return node.inputs[0], []
        # MobileNets that came from Caffe or Gluon: a 1x1 convolution behind a global pooling classifies.
        if node.op == "Convolution" and reshaped and _is_global_pool(source) and not candidates:
            return node.inputs[0], []
        if node.op in _RESHAPE and not candidates:
            reshaped = True
        elif node.op not in _PASS_VALUES or candidates:
            candidates.append(f"{node.name} ({node.op})")
        if len(candidates) == _MAX_CANDIDATES:
            break
        node = source
    return None, candidates


def _is_global_pool(node: Node) -> bool:
    return node.op == "Pooling" and node.attrs.get("global_pool", "").lower() in ("true", "1")


def _load_body(pretrained: Pretrained, symbol: Symbol, cut: NodeOutput,
               shape: Sequence[int]) -> fx.GraphModule:
    """Build the network up to `cut`, with its weights."""
    # Only what the cut needs: the nodes of the old head are left out.
    nodes, heads = symbols.post_order(symbol.nodes, [cut])
    body = Symbol(nodes, heads)
    path = pretrained.path
    try:
        return graph.from_symbol(body, pretrained.arrays, input_shape=tuple(shape), path=path,
                                 symbol_path=pretrained.symbol_path)
    except DataError as error:
        # Either the user's image shape does not fit, or the file. Built without a shape, only the file can be
        # wrong.
        try:
            graph.from_symbol(body, pretrained.arrays, path=path)
        except DataError:
            raise error from None
        raise _cannot_take(shape, error.reason) from error


def _cannot_take(shape: Sequence[int], reason: str) -> UsageError:
    return UsageError(f"`image_shape` {show(shape)}: the pretrained network cannot take it "
                      f"({reason})")


def _add_head(model: fx.GraphModule, config: NetworkConfig, seed: int) -> list[str]:
    """Put a fully connected layer `fc` and a softmax behind the network; return its parameters' names."""
    layer = FullyConnected(_num_features(model, config), config.num_classes)
    _initializers.initialize(nn.Sequential(layer), config.initializer, config.network, seed)
    # A layer of the body may be called fc as well: its weights must not be mistaken for the head's,
    # neither in this network nor in the files that are saved of it.
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
    graph.end_with_softmax(model)
    return [f"{name}_weight", f"{name}_bias"]


def _num_features(model: fx.GraphModule, config: NetworkConfig) -> int:
    """Return how many values the body gives for one image; UsageError for a shape that it cannot take."""
    # One image through the network: the symbol has no shapes, and the head needs the number of its inputs.
    was_training = model.training
    try:
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, *config.image_shape)).numel()
    except (RuntimeError, ValueError) as error:
        raise _cannot_take(config.image_shape, first_line(error)) from error
    model.train(was_training)
    return features


def _output(model: fx.GraphModule) -> fx.Node:
    return next(node for node in model.graph.nodes if node.op == "output")


def _last_call(model: fx.GraphModule) -> fx.Node:
    call = _output(model).args[0]
    assert isinstance(call, fx.Node)
    return call


# Networks of other packages


def _replace_head(pretrained: Pretrained, settings: NetworkConfig, config: NetworkConfig, seed: int,
                  ) -> tuple[nn.Module, LoadSummary]:
    """Build the network for the new number of classes, and load all weights but the head's."""
    settings = dataclasses.replace(settings, num_classes=config.num_classes, image_shape=config.image_shape)
    # Shapes that follow from the number of classes are the head's; all others must fit the file.
    head = set(head_keys(settings))
    model = build_network(settings, seed)
    names = {name: graph.without_prefix(name) for name in pretrained.arrays}
    body = {name: array for name, array in pretrained.arrays.items() if names[name] not in head}
    match = graph.load_arrays(model, body, path=pretrained.path, strict=False)
    wrong = [name for name in match.missing if name not in head]
    wrong += [name for name, _, _ in match.mismatched]
    if wrong:
        raise DataError(pretrained.path, f"not the weights of {settings.network}: missing or of another "
                                         f"shape are {grouped(wrong)}")
    dropped = [name for name in names.values() if name in head]
    return model, LoadSummary(match.loaded, [name for name in match.missing if name in head],
                              [*dropped, *match.unexpected])
