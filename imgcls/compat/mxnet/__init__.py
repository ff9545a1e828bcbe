"""`import imgcls.compat.mxnet as mx` in place of `import mxnet as mx`, for code that only reads data with it.

`mx.recordio`, `mx.io`, `mx.image`, `mx.nd` and the record data sets of `mx.gluon.data`, with MXNet's names,
arguments and results. What is not there is an AttributeError that says so; `docs/compat.md` lists both. Parts
are imported on first use: only `mx.io.ImageRecordIter` needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from imgcls.errors import ImgclsError as MXNetError

# For editors and type checkers, which cannot follow `__getattr__`.
if TYPE_CHECKING:
    from imgcls.compat.mxnet import gluon, image, io, nd, recordio
    from imgcls.compat.mxnet.nd import cpu

__all__ = ["MXNetError", "cpu", "gluon", "image", "io", "nd", "recordio"]

#: the names of MXNet for its parts, and where they are here
_PARTS = {"gluon": "gluon", "image": "image", "img": "image", "io": "io", "nd": "nd", "ndarray": "nd",
          "recordio": "recordio"}


# Python asks here for what the module does not have: so `import ... as mx` loads no part that is not used.
def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"imgcls.compat.mxnet.{_PARTS[name]}")
    # Old scripts write ctx=mx.cpu(); mx.gpu() is missed here, as there is nothing that it could do.
    if name == "cpu":
        return importlib.import_module("imgcls.compat.mxnet.nd").cpu
    raise AttributeError(f"imgcls.compat.mxnet has no {name}: it stands in for MXNet's data reading alone, "
                         f"that is for {', '.join(sorted(_PARTS))} (docs/compat.md)")
