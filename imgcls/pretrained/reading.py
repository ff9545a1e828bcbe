"""Read the files that a reference names, and build the network that was trained."""

from __future__ import annotations

from torch import nn

import imgcls.pretrained.checkpoint_files as checkpoint_files
import imgcls.pretrained.torchvision_weights as torchvision_weights
from imgcls import graph
from imgcls.formats.symbol import Symbol
from imgcls.networks import build_network
from imgcls.pretrained.reference import Pretrained, PretrainedRef


def read(ref: PretrainedRef) -> Pretrained:
    """Read the files of a reference; a torchvision network's weights are downloaded only here.

    Raises DataError for damaged files, UsageError for an epoch that is not there.
    """
    if ref.torchvision:
        return torchvision_weights.read(ref)
    arrays, path = checkpoint_files.read_weights(ref)
    return checkpoint_files.read_network(ref.prefix, arrays, path)


def build(pretrained: Pretrained) -> nn.Module:
    """Return the network as it was trained, in evaluation mode: float (N, C, H, W) -> logits (N, classes)."""
    if isinstance(pretrained.network, Symbol):
        return graph.from_symbol(pretrained.network, pretrained.arrays, path=pretrained.path,
                                 symbol_path=pretrained.symbol_path).eval()
    # The seed does not matter: every weight is overwritten.
    model = build_network(pretrained.network, seed=0)
    graph.load_arrays(model, pretrained.arrays, path=pretrained.path)
    return model.eval()
