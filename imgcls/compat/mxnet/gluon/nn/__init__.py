"""`mx.gluon.nn`: the layers of networks that are written in Python."""

from typing import Any

from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.gluon.block import Block
from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
from imgcls.compat.mxnet.gluon.nn.activations import ELU, GELU, SELU, Activation, LeakyReLU, PReLU, Swish
from imgcls.compat.mxnet.gluon.nn.basic import Dense, Dropout, Embedding, Flatten
from imgcls.compat.mxnet.gluon.nn.containers import HybridLambda, HybridSequential, Lambda, Sequential
from imgcls.compat.mxnet.gluon.nn.convolution import Conv2D, Conv2DTranspose
from imgcls.compat.mxnet.gluon.nn.normalization import (
    BatchNorm,
    BatchNormReLU,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
)
from imgcls.compat.mxnet.gluon.nn.pooling import (
    AvgPool2D,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    MaxPool2D,
    ReflectionPad2D,
)
from imgcls.compat.mxnet.gluon.symbol_block import SymbolBlock

__all__ = ["ELU", "GELU", "SELU", "Activation", "AvgPool2D", "BatchNorm", "BatchNormReLU", "Block",
           "Conv2D", "Conv2DTranspose", "Dense", "Dropout", "Embedding", "Flatten", "GlobalAvgPool2D",
           "GlobalMaxPool2D", "GroupNorm", "HybridBlock", "HybridLambda", "HybridSequential",
           "InstanceNorm", "Lambda", "LayerNorm", "LeakyReLU", "MaxPool2D", "PReLU", "ReflectionPad2D",
           "Sequential", "Swish", "SymbolBlock"]


def __getattr__(name: str) -> Any:
    raise missing("mxnet.gluon.nn", name, __all__)
