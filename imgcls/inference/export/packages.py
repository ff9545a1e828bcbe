"""Packages that only some formats need: one that is missing is reported in one line, with the pip command."""

from __future__ import annotations

import importlib
from types import ModuleType

from imgcls.errors import UsageError


def require(name: str, install: str, purpose: str) -> ModuleType:
    """Return the imported package; UsageError where it is not installed, with what to `install`."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise UsageError(f"{purpose} needs the package {missing.split('.')[0]}, which is not installed "
                         f"(pip install {install})") from error
    except ImportError as error:  # built for another Python or torch
        raise UsageError(f"{purpose} needs the package {name}, which cannot be loaded: {error} "
                         f"(pip install {install})") from error
