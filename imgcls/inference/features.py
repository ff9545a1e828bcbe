"""Outputs inside a network by MXNet's names: `flatten0_output`, what `symbol.get_internals()` lists.

A hook keeps a layer's output during the forward pass; the network is not changed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from imgcls.errors import UsageError, nearest, verbatim
from imgcls.graph.head import head_of
from imgcls.graph.names import node_name
from imgcls.layers import Layer

#: MXNet's ending of an output's name
_OUTPUT = "_output"
#: the images themselves, as `get_internals` lists them first
_DATA = "data"
#: names that an error lists
_NUM_LISTED = 20


class Captured:
    """The requested output for the batch that the network computed last."""

    def __init__(self, kind: str = "") -> None:
        #: "layer" for the output of one, "data" for the images, "softmax" for the probabilities, or ""
        self.kind = kind
        self.value: Tensor | None = None

    def rows(self, images: Tensor, probabilities: Tensor) -> Sequence[np.ndarray | None]:
        """Return for each image what was requested, float32 without the batch's axis, or None.

        UsageError where the output has no row for each image.
        """
        if not self.kind:
            return [None] * len(probabilities)
        value = {"data": images, "softmax": probabilities, "layer": self.value}[self.kind]
        if value is None or value.ndim < 1 or len(value) != len(probabilities):
            raise UsageError("`layer`: this output has no row for each image")
        return list(value.float().cpu().numpy())


@contextlib.contextmanager
def capture(model: nn.Module, name: str) -> Iterator[Captured]:
    """Yield a `Captured` that holds the output `name` of `model` inside the block, or nothing for "".

    The ending _output may be left out. UsageError, which lists names that exist, for an unknown one.
    """
    if not name:
        yield Captured()
        return
    short = name.removesuffix(_OUTPUT)
    if short == _DATA:
        yield Captured("data")
        return
    modules = _named_outputs(model)
    index = 0
    # of an operator with several outputs MXNet numbers them: slice0_output1
    if short not in modules and (match := re.fullmatch(rf"(.+){_OUTPUT}(\d{{1,4}})", name)):
        short, index = match[1], int(match[2])
    if short not in modules:
        if short == _softmax_name(model):
            yield Captured("softmax")
            return
        raise _unknown(name, output_names(model))
    captured = Captured("layer")
    module = modules[short]

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs = output if isinstance(output, (tuple, list)) else [output]
        if index >= len(outputs):
            raise UsageError(f"`layer` {verbatim(name)}: {verbatim(short)} has {len(outputs)} outputs, "
                             "counted from 0")
        captured.value = outputs[index].clone()  # the next layer may write over its input

    # A hook, not a network cut short: `symbol.get_internals()` in MXNet costs a second network in memory.
    handle = module.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


def output_names(model: nn.Module) -> list[str]:
    """Return the names of all outputs, from the first layer to the last, then that of the softmax."""
    names = [f"{name}{_OUTPUT}" for name in _named_outputs(model)]
    softmax = _softmax_name(model)
    return [*names, f"{softmax}{_OUTPUT}"] if softmax and f"{softmax}{_OUTPUT}" not in names else names


def _unknown(name: str, names: Sequence[str]) -> UsageError:
    """Return the error for an unknown name, with names that are like it and the last ones."""
    close = nearest(name, names)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    # features are taken near the end
    last = names[-_NUM_LISTED:]
    there = "there is" if len(last) == len(names) else f"the last of {len(names)} are"
    return UsageError(f"`layer` {verbatim(name)} is not known: {verbatim(hint)}{there} "
                      f"{verbatim(', '.join(last))}")


def _named_outputs(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module; of torchvision's networks each module by its path."""
    outputs: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, Layer):
            if module.op != "null":  # a variable
                outputs[node_name(path, module)] = module
        # not made of our layers: a network of torchvision's, containers included
        elif path and not any(isinstance(part, Layer) for part in module.modules()):
            outputs[path] = module
    return outputs


def _softmax_name(model: nn.Module) -> str:
    """Return what the symbol calls its softmax, which is no module: the network here gives logits."""
    head = head_of(model)
    if head is None:
        return "softmax"
    return head.nodes[head.output.node].name if head.nodes and head.output.node >= 0 else ""
