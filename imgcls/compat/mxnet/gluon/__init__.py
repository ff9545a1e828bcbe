"""`mx.gluon`: `SymbolBlock`, which runs exported networks, their parameters, and `data`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# For editors and type checkers, which cannot follow `__getattr__`.
if TYPE_CHECKING:
    from imgcls.compat.mxnet.gluon import block, data, parameter
    from imgcls.compat.mxnet.gluon.block import SymbolBlock
    from imgcls.compat.mxnet.gluon.parameter import Parameter, ParameterDict

__all__ = ["Parameter", "ParameterDict", "SymbolBlock", "block", "data", "parameter"]

#: MXNet's own names of single things -> the part that has them
_NAMES = {"SymbolBlock": "block", "Parameter": "parameter", "ParameterDict": "parameter"}


# Data sets are read without loading what runs networks.
def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"imgcls.compat.mxnet.gluon.{_NAMES[name]}"), name)
    if name in ("block", "data", "parameter"):
        return importlib.import_module(f"imgcls.compat.mxnet.gluon.{name}")
    from imgcls.compat.mxnet._registration import missing

    raise missing("mxnet.gluon", name, __all__)
