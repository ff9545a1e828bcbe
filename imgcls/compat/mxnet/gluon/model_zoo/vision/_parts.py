"""Common to the networks of the zoo: rows of blocks, features and an output, pretrained files."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from imgcls.compat.mxnet.gluon import nn
from imgcls.compat.mxnet.gluon.model_zoo.model_store import get_model_file

_Network = TypeVar("_Network", bound=nn.HybridBlock)


def row(*blocks: Any, prefix: str = "") -> nn.HybridSequential:
    """Return a HybridSequential of blocks, by default one that adds nothing to their names."""
    made = nn.HybridSequential(prefix=prefix)
    made.add(*blocks)
    return made


class FeaturesAndOutput(nn.HybridBlock):
    """A network of `features` and `output`, the layer to replace for other classes."""

    features: nn.HybridSequential
    output: nn.HybridBlock

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return self.output(self.features(x))


def loaded(network: _Network, name: str, pretrained: bool, ctx: Any,
           root: str | os.PathLike[str] | None) -> _Network:
    """Return the network, with the weights of its file if they are requested."""
    if pretrained:
        network.load_parameters(get_model_file(name, root), ctx=ctx)
    return network
