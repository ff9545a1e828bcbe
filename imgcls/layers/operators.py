"""`OPERATORS`, the table of all that a symbol may be made of: `graph.read` looks operators up here.

docs/operators.md lists them for readers, and a test compares the two.
"""

from __future__ import annotations

from imgcls.layers.base import Layer
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
from imgcls.layers.foreign_layers import Deconvolution, UpSampling
from imgcls.layers.foreign_normalization import BatchNormReLU, GroupNorm, InstanceNorm, LayerNorm
from imgcls.layers.fully_connected import FullyConnected
from imgcls.layers.normalization import LRN, BatchNorm
from imgcls.layers.operation import FUNCTIONS, Operation
from imgcls.layers.pooling import Pooling
from imgcls.layers.shape import Concat, Flatten
from imgcls.layers.spatial_transformer import SpatialTransformer

_CLASSES: tuple[type[Layer], ...] = (
    Convolution, Deconvolution, FullyConnected,
    BatchNorm, BatchNormReLU, InstanceNorm, LayerNorm, GroupNorm, LRN,
    Activation, LeakyReLU, Dropout, Clip, ElementwiseAdd, MulScalar, Identity,
    Pooling, UpSampling, SpatialTransformer, Flatten, Concat)

#: operator -> class, whose `read` makes the layer of a node
OPERATORS: dict[str, type[Layer]] = {
    # Classes come second: they would win over a function of the same name.
    **dict.fromkeys(FUNCTIONS, Operation),
    **{layer_class.op: layer_class for layer_class in _CLASSES},
    # Other names of the same computation: on several GPUs, by cuDNN, or from MXNet before 0.9.
    "_contrib_SyncBatchNorm": BatchNorm, "CuDNNBatchNorm": BatchNorm, "Convolution_v1": Convolution,
    "Pooling_v1": Pooling,
}
