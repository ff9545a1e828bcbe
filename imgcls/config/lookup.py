"""A name on the command line is a file in a folder: `--network lenet` is `networks/lenet.py`.

Adding a network, a data set or a command is adding a file; there is no registry to keep in step.
Files that start with `_` are helpers and have no name here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from imgcls.errors import unknown


def names(package: str) -> list[str]:
    """The names that `imgcls/<package>/` offers, sorted, in the command line's spelling (`inception-bn`)."""
    folder = Path(__file__).parents[1] / package
    return sorted(f.stem.replace("_", "-") for f in folder.glob("*.py") if not f.stem.startswith("_"))


def module(package: str, name: str, flag: str) -> ModuleType:
    """Import `imgcls.<package>.<name>`; an unknown name is a UsageError that lists the known, nearest first."""
    spelled = name.strip().lower().replace("_", "-")
    if spelled not in names(package):
        raise unknown(flag, name, names(package))
    return importlib.import_module(f"imgcls.{package}.{spelled.replace('-', '_')}")
