"""MXNet's image-classification tools on PyTorch. The commands are in `cli`; this is what Python code uses.

Names are imported on first use, so that `import imgcls` costs nothing and torch is only loaded when work begins.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from imgcls.config.version import __version__

if TYPE_CHECKING:
    from imgcls.api import Predictor, fit, load_model

_HOME = {"fit": "imgcls.api", "load_model": "imgcls.api", "Predictor": "imgcls.api"}

__all__ = ["Predictor", "__version__", "fit", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'imgcls' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
