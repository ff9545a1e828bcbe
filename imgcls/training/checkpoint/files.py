"""The names under a prefix, and the JSON files among them. Reads nothing else and writes nothing."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from imgcls.errors import DataError, UsageError, verbatim
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import RemotePath


def parse_epoch(text: str) -> int:
    """Return the number of an epoch: 8, 0008 and 0000 are epochs. UsageError for anything else."""
    if not text.strip().isdigit():
        raise UsageError(f"`load_epoch` {verbatim(text)}: must be an epoch such as 8 or 0008, or auto")
    return int(text)


def newest_epoch(prefix: str) -> int | None:
    """Return the highest epoch whose weights are there, or None."""
    return max(numbered_epochs(os.fspath(to_path(prefix)), "params"), default=None)


def numbered_epochs(prefix: str, suffix: str) -> list[int]:
    """Return the epochs e for which PREFIX-eeee.suffix exists, in no order."""
    # four digits or more: MXNet writes %04d, so an epoch over 9999 has five
    pattern = re.compile(rf"{re.escape(to_path(prefix).name)}-(\d{{4,}})\.{suffix}")
    return [int(match[1]) for match in map(pattern.fullmatch, _names_beside(prefix)) if match]


def remote_positions(prefix: str) -> list[AnyPath]:
    """Return the files of all positions under a URL, whether PREFIX-latest.json still names them or not."""
    start = f"{to_path(prefix).name}-position-"
    return [to_path(f"{folder(prefix)}/{name}") for name in _names_beside(prefix)
            if name.startswith(start) and name.endswith(".states")]


def folder(prefix: str) -> str:
    """Return the folder of a prefix, a path or a URL."""
    return str(to_path(prefix).parent)


def read_meta(prefix: str) -> dict[str, Any]:
    """Return PREFIX-meta.json, or {} for a checkpoint that has none (MXNet's own)."""
    return _read_json(to_path(f"{to_path(prefix)}-meta.json"), "the meta data of a checkpoint")


def read_latest(prefix: str) -> dict[str, Any]:
    """Return PREFIX-latest.json, or {} where there is none."""
    return _read_json(to_path(f"{prefix}-latest.json"), "what tells of the newest checkpoint")


def _names_beside(prefix: str) -> list[str]:
    """Return the names of all files in the folder of the prefix, as it is now."""
    parent = to_path(prefix).parent
    # asked each time: another process may have written since, and a listing is one request
    if isinstance(parent, RemotePath):
        return [path.name for path in parent.iterdir()]
    return os.listdir(parent) if parent.is_dir() else []


def _read_json(path: AnyPath, purpose: str) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is none; `purpose` says what it should have been."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    # ValueError: not JSON, or not UTF-8
    except (OSError, ValueError) as error:
        raise DataError(path, f"not {purpose}: {verbatim(error)}") from error
    # whoever reads it asks for keys
    if not isinstance(content, dict):
        raise DataError(path, f"not {purpose}: must be a JSON object")
    return content
