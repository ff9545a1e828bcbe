"""`mx.gluon`: networks in Python, their parameters, losses, data sets, and the networks of the model zoo."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# For editors and type checkers, which cannot follow `__getattr__`.
if TYPE_CHECKING:
    from imgcls.compat.mxnet.gluon import block, data, loss, model_zoo, nn, parameter, trainer, utils
    from imgcls.compat.mxnet.gluon.block import Block
    from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
    from imgcls.compat.mxnet.gluon.parameter import Constant, Parameter
    from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict
    from imgcls.compat.mxnet.gluon.symbol_block import SymbolBlock
    from imgcls.compat.mxnet.gluon.trainer import Trainer

__all__ = ["Block", "Constant", "HybridBlock", "Parameter", "ParameterDict", "SymbolBlock", "Trainer",
           "block", "data", "loss", "model_zoo", "nn", "parameter", "trainer", "utils"]

#: MXNet's own names of single things -> the part that has them
_NAMES = {"Block": "block", "HybridBlock": "hybrid_block", "SymbolBlock": "symbol_block",
          "Constant": "parameter", "Parameter": "parameter", "ParameterDict": "parameter_dict",
          "Trainer": "trainer"}


# Data sets are read without loading what runs networks.
def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"imgcls.compat.mxnet.gluon.{_NAMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"imgcls.compat.mxnet.gluon.{name}")
    from imgcls.compat.mxnet._registration import missing

    raise missing("mxnet.gluon", name, __all__)
