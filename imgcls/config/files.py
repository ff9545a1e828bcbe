"""Configuration files: YAML in, YAML out. `resolve` says what may stand in them and what it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from imgcls.errors import UsageError, reason, verbatim


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of a --config file, or of a checkpoint's meta.json, by name with underscores."""
    yaml = _yaml()
    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)  # JSON is YAML
    except OSError as error:
        raise UsageError(f"`config` {verbatim(path)}: {reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # errors of the text have a place in it, those of its bytes have none
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"`config` {verbatim(path)}{where}: not YAML: "
                         f"{verbatim(getattr(error, 'problem', error))}") from None
    if content is None:
        return {}
    # meta.json: the settings of the run are one of its entries
    if isinstance(content, dict) and isinstance(content.get("config"), dict) and "imgcls" in content:
        content = content["config"]
    if not isinstance(content, dict):
        raise UsageError(f"`config` {verbatim(path)}: must hold settings, one per line, such as lr: 0.1")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def format_settings(groups: Iterable[tuple[str | None, Mapping[str, Any]]]) -> str:
    """Return YAML with the title of each group of settings as a comment."""
    yaml = _yaml()
    lines = []
    for title, values in groups:
        lines += [f"# {title}", yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)]
    return "\n".join(lines)


def _yaml() -> ModuleType:
    # most commands read and print no file, and yaml is a tenth of the time that --help takes
    import yaml

    return yaml
