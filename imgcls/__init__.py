"""MXNet's image-classification tools on PyTorch. The commands are in `cli`; this is what Python code uses.

Names are imported on first use: `import imgcls` costs nothing, and torch is loaded when work begins.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgcls.api import Predictor, fit, load_model
    from imgcls.config.version import __version__

#: name -> the module that it is imported from
_HOME = {"fit": "imgcls.api", "load_model": "imgcls.api", "Predictor": "imgcls.api",
         "__version__": "imgcls.config.version"}

__all__ = ["Predictor", "__version__", "fit", "load_model"]


def __getattr__(name: str) -> Any:
    # called for names that are not here: not for those that the import of a submodule has left here
    if name not in _HOME:
        raise AttributeError(f"module 'imgcls' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
