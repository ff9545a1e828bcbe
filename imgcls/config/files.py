"""Configuration files: YAML in, YAML out. Imported only where one is read or printed, since yaml takes its time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from imgcls.errors import UsageError, reason


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of a --config file, or of the meta.json of a checkpoint, by name with underscores."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)  # JSON is YAML
    except OSError as error:
        raise UsageError(f"`config` {path}: {reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"`config` {path}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if content is None:
        return {}
    if isinstance(content, dict) and isinstance(content.get("config"), dict) and "imgcls" in content:
        content = content["config"]
    if not isinstance(content, dict):
        raise UsageError(f"`config` {path}: must hold settings, one per line, such as lr: 0.1")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def format_settings(groups: Iterable[tuple[str | None, Mapping[str, Any]]]) -> str:
    """Return YAML with the title of each group of settings as a comment."""
    lines = []
    for title, values in groups:
        lines += [f"# {title}", yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)]
    return "\n".join(lines)
