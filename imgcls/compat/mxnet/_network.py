"""`Network`, a graph that can be computed: its operators in order, each with a layer of `imgcls.layers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from imgcls.compat.mxnet._shapes import Inferred
from imgcls.compat.mxnet._training_layers import MovingBatchNorm
from imgcls.compat.mxnet.base import MXNetError
from imgcls.errors import first_line
from imgcls.formats.symbol import NodeOutput, Symbol
from imgcls.layers import Layer


# Prepared once, as each forward pass goes through all of them.
class _Step(NamedTuple):
    """One operator: its node's index and name, its layer, and where its inputs come from."""

    index: int
    name: str
    layer: Layer
    data: list[NodeOutput]
    #: torch attribute -> the source of the values
    parameters: dict[str, NodeOutput]
    #: values that no later operator needs
    finished: list[NodeOutput]


class Network:
    """The operators of a graph whose shapes are all known."""

    def __init__(self, graph: Symbol, inferred: Inferred) -> None:
        self.graph = graph
        # Versions matter in files only: as keys, versions 0 and 1 of one output would be two values.
        self.heads = [head._replace(version=0) for head in graph.heads]
        self.variables = {NodeOutput(index): node.name for index, node in enumerate(graph.nodes)
                          if node.is_variable}
        last_use: dict[NodeOutput, int] = {}
        for index, node in enumerate(graph.nodes):
            last_use |= {source._replace(version=0): index for source in node.inputs}
        self.steps = [self._step(index, inferred.layers[index], last_use)
                      for index, node in enumerate(graph.nodes) if not node.is_variable]

    def _step(self, index: int, layer: Layer, last_use: Mapping[NodeOutput, int]) -> _Step:
        inputs = [source._replace(version=0) for source in self.graph.nodes[index].inputs]
        slots = layer.parameter_slots()
        num_data = len(inputs) - len(slots)
        for slot in slots:  # the values come from the executor: `run` sets them as plain attributes
            layer._parameters.pop(slot, None)
            layer._buffers.pop(slot, None)
        finished = [source for source in set(inputs) if last_use[source] == index
                    and source not in self.heads and source not in self.variables]
        return _Step(index, self.graph.nodes[index].name, layer, inputs[:num_data],
                     dict(zip(slots, inputs[num_data:], strict=True)), finished)

    # Values are dropped as soon as they are not needed: in inference that is most of the memory.
    def run(self, variables: Mapping[str, Tensor], is_train: bool) -> list[Tensor]:
        """Return the outputs for these values of all variables."""
        values = {output: variables[name] for output, name in self.variables.items()}
        for step in self.steps:
            layer = step.layer
            # Set directly: layer.train() goes through all submodules, for each operator of each batch.
            layer.training = is_train
            for slot, source in step.parameters.items():
                # not by setattr: torch would require a Parameter
                layer.__dict__[slot] = values[source]
            try:
                result = layer.forward(*[values[source] for source in step.data])
            except (RuntimeError, ValueError, IndexError) as error:
                where = f"error in operator {step.name} ({layer.op})"
                raise MXNetError(f"{where}: {first_line(error)}") from error
            if isinstance(result, Tensor):
                values[NodeOutput(step.index)] = result
            else:
                values |= {NodeOutput(step.index, output): tensor for output, tensor in enumerate(result)}
            for source in step.finished:
                del values[source]
        return [values[head] for head in self.heads]

    # MXNet writes the 1 into the caller's array; so does the executor.
    def fixed_gammas(self) -> list[str]:
        """Return the names of the gammas that are taken as 1 (`fix_gamma`)."""
        return [self.variables[step.parameters["gamma"]] for step in self.steps
                if isinstance(step.layer, MovingBatchNorm) and step.layer.fix_gamma
                and step.parameters["gamma"] in self.variables]

    @torch.no_grad()
    # From the current values: each backward pass moves them once more.
    def moved_statistics(self, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the running statistics after the last batch in training, by name."""
        moved = {}
        for step in self.steps:
            if isinstance(step.layer, MovingBatchNorm) and step.layer.batch_statistics is not None:
                names = [self.variables[step.parameters[slot]] for slot in ("moving_mean", "moving_var")]
                means = step.layer.moved(variables[names[0]], variables[names[1]])
                moved |= dict(zip(names, means, strict=True))
        return moved
