"""`recompute_activations`: activation checkpointing, which MXNet called mirroring (Chen et al. 2016, arXiv
1604.06174).

The forward pass keeps what lies between the parts of the network, and the backward pass computes a part again
when it comes to it. A network of n layers is cut into about sqrt(n) parts, so that the outputs of about
2 sqrt(n) layers are in memory and not of n, at the price of a second forward pass. Gradients are the same,
bit for bit, dropout included.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from imgcls.config.resolve import Config
from imgcls.errors import UsageError
from imgcls.layers import BatchNorm

#: MXNet's switch for all networks of a process
MIRROR_VARIABLE = "MXNET_BACKWARD_DO_MIRROR"
#: a part of fewer nodes keeps more at its borders than it saves inside
_MIN_NODES = 4


def recompute_activations(model: nn.Module, config: Config, env: Mapping[str, str] = os.environ) -> str:
    """Have a model on its device compute its activations again where that is requested; return a note, or "".

    Call it after anything that copies the model. UsageError where it does not go with another setting, and
    for a network without parts.
    """
    # the variable "0" switches it off in MXNet as well
    if not config.device.recompute_activations and env.get(MIRROR_VARIABLE, "0") in ("", "0"):
        return ""
    # a graph and a compiled step record one forward pass; a second one inside the backward pass
    # would not be in the record, and sync_bn would wait for processes twice
    if (config.device.cuda_graphs or config.device.compile or config.network.model_parallel > 1
            or config.distributed.sync_bn):
        raise UsageError("`recompute_activations`: does not go with `compile`, `cuda_graphs`, `sync_bn` and "
                         "`model_parallel`")
    num_parts = _cut_graph(model) if isinstance(model, fx.GraphModule) else _cut_blocks(model)
    if not num_parts:
        raise UsageError("`recompute_activations`: this network has no parts to compute again; "
                         "`micro_batches` takes less memory too")
    return f"activations are computed again in the backward pass, in {num_parts} parts"


def _cut_graph(model: fx.GraphModule) -> int:
    """Cut a graph of layers into parts of equally many nodes; return how many parts."""
    nodes = [node for node in model.graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    # sqrt(n) parts of sqrt(n) nodes: what is kept between parts and what is computed inside of
    # one are then about as large, which is the least of their sum
    num_parts = math.isqrt(len(nodes))
    if len(nodes) < 2 * _MIN_NODES:
        return 0
    # rounded up: the last part may be shorter, and none is left over
    size = -(-len(nodes) // num_parts)
    parts = [_Part(model, nodes[start:start + size]) for start in range(0, len(nodes), size)]
    model.forward = _GraphForward(model, parts, model.forward)  # type: ignore[method-assign]
    return len(parts)


class _Part:
    """Consecutive nodes of a graph as a function of the values that they take from before them."""

    def __init__(self, model: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
        # a value that is used behind the part must leave it: torch's checkpoint frees whatever is
        # inside
        inside = set(nodes)
        self._nodes = nodes
        # collecting would free values after their last use in the whole graph, and a part does not
        # see all of it
        self._interpreter = fx.Interpreter(model, garbage_collect_values=False)
        self.inputs = list(dict.fromkeys(value for node in nodes for value in node.all_input_nodes
                                         if value not in inside))
        self.outputs = [node for node in nodes if any(user not in inside for user in node.users)]
        modules = [model.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"]
        self.context = functools.partial(_contexts, modules)

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        env = dict(zip(self.inputs, values, strict=True))
        self._interpreter.env = env
        try:
            for node in self._nodes:
                env[node] = self._interpreter.run_node(node)
        finally:
            # torch ends a second pass by an exception when it has what it needs, and memory may run out: the
            # activations must not stay here
            self._interpreter.env = {}
        return tuple(env[node] for node in self.outputs)


class _GraphForward:
    """The forward pass of a graph, part after part; the original one where no gradient is needed."""

    def __init__(self, model: fx.GraphModule, parts: Sequence[_Part], forward: Callable[..., Any]) -> None:
        self._placeholders = [node for node in model.graph.nodes if node.op == "placeholder"]
        self._constants = [node for node in model.graph.nodes if node.op == "get_attr"]
        self._interpreter = fx.Interpreter(model)
        self._result = next(node for node in model.graph.nodes if node.op == "output").args[0]
        self._parts = parts
        self._forward = forward

    def __call__(self, *images: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*images)
        values: dict[fx.Node, Any] = dict(zip(self._placeholders, images, strict=True))
        for node in self._constants:
            values[node] = self._interpreter.run_node(node)
        for part in self._parts:
            # use_reentrant=False is torch's own advice: the other form needs inputs with gradients,
            # which images do not have
            given = checkpoint(part, *(values[node] for node in part.inputs), use_reentrant=False,
                               context_fn=part.context)
            values.update(zip(part.outputs, given, strict=True))
        return map_arg(self._result, lambda node: values[node])


def _cut_blocks(model: nn.Module) -> int:
    """Make every block of a network of torchvision's or timm's a part; return how many."""
    # a block is a module of a Sequential that has at least two layers of its own
    blocks = [block for module in model.modules() if isinstance(module, nn.Sequential)
              for block in module if len(list(block.children())) > 1 and not isinstance(block, nn.Sequential)]
    inner = {id(part) for block in blocks for part in block.modules() if part is not block}
    blocks = [block for block in blocks if id(block) not in inner]
    for block in blocks:
        # the method is kept and not wrapped in a module: names of parameters, and so checkpoints,
        # stay
        forward = block.forward
        context = functools.partial(_contexts, list(block.modules()))
        block.forward = functools.partial(_block_forward, forward, context)  # type: ignore[method-assign]
    return len(blocks)


def _block_forward(forward: Callable[..., Any], context: Any, *values: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*values)
    return checkpoint(forward, *values, use_reentrant=False, context_fn=context)


def _contexts(modules: Sequence[nn.Module],
              ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and of the second forward pass of a part."""
    # without this each batch would move the running statistics twice, and validation would
    # differ
    return contextlib.nullcontext(), _unmoved_statistics(modules)


@contextlib.contextmanager
def _unmoved_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Keep the running statistics of normalisations as they are: the first pass has moved them already."""
    norms: list[Any] = [module for module in modules
                        if isinstance(module, (BatchNorm, _BatchNorm)) and module.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        # MXNet's momentum is the share of the old value, torch's that of the new
        norm.momentum = 1.0 if isinstance(norm, BatchNorm) else 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None:
                # torch counts the second pass too; with momentum None the mean would be of twice as
                # many batches
                norm.num_batches_tracked.sub_(1)
