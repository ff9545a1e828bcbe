"""`import imgcls.compat.mxnet as mx` in place of `import mxnet as mx`, for inference and small trainings.

MXNet's names, arguments and results, over torch. Parts are imported on first use, and torch when something is
computed. What is not there is an AttributeError that says what there is instead; `docs/compat.md` lists both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Our errors derive from it: `except mx.MXNetError` in an old script catches them.
from imgcls.compat.mxnet.base import MXNetError

# For editors and type checkers, which cannot follow `__getattr__`.
if TYPE_CHECKING:
    from imgcls.compat.mxnet import (
        attribute,
        context,
        executor,
        gluon,
        image,
        io,
        name,
        nd,
        recordio,
        symbol,
    )
    from imgcls.compat.mxnet.attribute import AttrScope
    from imgcls.compat.mxnet.context import Context, cpu, cpu_pinned, current_context, gpu, num_gpus

__all__ = ["AttrScope", "Context", "MXNetError", "attribute", "context", "cpu", "cpu_pinned",
           "current_context", "executor", "gluon", "gpu", "image", "io", "name", "nd", "num_gpus", "recordio",
           "symbol"]

#: the version of MXNet whose results these are
# Scripts compare it to choose between APIs, so it is not the version of this package.
__version__ = "1.9.1"

#: the names of MXNet for its parts, and where they are here
_PARTS = {
    **{name: name for name in (
        "attribute", "autograd", "base", "callback", "context", "executor", "gluon", "image", "initializer",
        "io", "lr_scheduler", "metric", "model", "module", "name", "nd", "optimizer", "random", "recordio",
        "symbol", "test_utils", "util", "visualization")},
    "img": "image", "init": "initializer", "mod": "module", "ndarray": "nd", "opt": "optimizer",
    "rnd": "random", "sym": "symbol", "viz": "visualization",
}
#: MXNet's own names of single things -> the part that has them
_NAMES = {"AttrScope": "attribute", "Context": "context", "cpu": "context", "cpu_pinned": "context",
          "gpu": "context", "num_gpus": "context", "current_context": "context", "install": "_alias"}


# Python calls this for a name that the module does not define: `import ... as mx` loads only the parts used.
def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"imgcls.compat.mxnet.{_PARTS[name]}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"imgcls.compat.mxnet.{_NAMES[name]}"), name)
    from imgcls.compat.mxnet._registration import missing

    raise missing("mxnet", name, [*_PARTS, *_NAMES])
