"""A name on the command line is a file in a folder: `--network lenet` is `networks/lenet.py`.

Adding a network, a data set or a command is adding a file; there is no registry to keep in step. Files that
start with `_` are helpers and have no name here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from imgcls.errors import unknown


def names(package: str) -> list[str]:
    """Return the names that `imgcls/<package>/` offers, sorted, as on the command line (inception-bn)."""
    # a listing imports nothing: --help shows all names in no time, and a broken file breaks its own name only
    stems = [file.stem for file in (Path(__file__).parents[1] / package).glob("*.py")]
    return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_"))


def module(package: str, name: str, setting: str) -> ModuleType:
    """Import `imgcls.<package>.<name>`; for an unknown name raise a UsageError that lists the known ones.

    `setting` is what the message calls the name: "command", or "`network`" where it is a setting's value.
    """
    # MXNet's files are named with - and with _ (resnet-v1, alexnet_fp16)
    spelled = name.strip().lower().replace("_", "-")
    if spelled not in names(package):
        raise unknown(setting, name, names(package))
    return importlib.import_module(f"imgcls.{package}.{spelled.replace('-', '_')}")
