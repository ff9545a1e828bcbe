"""MXNet's operators as torch modules: `Layer`, and the layers that our own networks are built from.

A network calls its layers as modules (`self.relu1(self.fc1(x))`), also for an addition or a concatenation, so
that a trace of it is its symbol. `graph` writes that symbol, and reads a symbol.json back into these modules.
Operators that only other people's networks are made of are in `foreign_*.py`, which is imported with
`operators.py`, the table of all.
"""

# Only what our own networks are made of: they need none of the foreign operators, which are a hundred more.
from imgcls.layers.base import Layer, OpSpec, Shape, Size
from imgcls.layers.convolution import Convolution
from imgcls.layers.elementwise import (
    Activation,
    Clip,
    Dropout,
    ElementwiseAdd,
    Identity,
    LeakyReLU,
    MulScalar,
)
from imgcls.layers.fully_connected import FullyConnected
from imgcls.layers.normalization import LRN, BatchNorm
from imgcls.layers.pooling import Pooling
from imgcls.layers.shape import Concat, Flatten
from imgcls.layers.spatial_transformer import SpatialTransformer

__all__ = ["LRN", "Activation", "BatchNorm", "Clip", "Concat", "Convolution", "Dropout", "ElementwiseAdd",
           "Flatten", "FullyConnected", "Identity", "Layer", "LeakyReLU", "MulScalar", "OpSpec", "Pooling",
           "Shape", "Size", "SpatialTransformer"]
