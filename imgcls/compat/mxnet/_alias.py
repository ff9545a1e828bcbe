"""`import mxnet` without MXNet: programs, and the libraries that they import, find this package instead."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_HERE = "imgcls.compat.mxnet"


# One module under two names, so that classes are the same whichever import line made them.
class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `mxnet` and `mxnet.X` as this package and its modules."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for a name that is MXNet's and exists here."""
        if fullname != "mxnet" and not fullname.startswith("mxnet."):
            return None
        # A part that is not here is Python's own ModuleNotFoundError, which names it.
        if importlib.util.find_spec(_HERE + fullname.removeprefix("mxnet")) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module under its own name."""
        module = importlib.import_module(_HERE + spec.name.removeprefix("mxnet"))
        self._specs = {**getattr(self, "_specs", {}), spec.name: module.__spec__}
        return module

    # The import system has replaced the module's `__spec__` by the one of `find_spec`: this restores it.
    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has run under its own name."""
        own: Any = self._specs.pop(module.__spec__.name if module.__spec__ else "", None)
        if own is not None:
            module.__spec__ = own


def install() -> None:
    """Let `import mxnet` and `from mxnet.gluon import nn` find this package, in this process.

    A RuntimeError where MXNet itself was imported before.
    """
    if "mxnet" in sys.modules and sys.modules["mxnet"] is not sys.modules[_HERE]:
        raise RuntimeError("mxnet is imported already: call install() before that")
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
