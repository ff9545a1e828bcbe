"""Configuration files: YAML in, YAML out. `resolve` says what may stand in them and what it means."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar

from imgcls.errors import DataError, UsageError, first_line, reason, verbatim
from imgcls.formats import json_text

#: there are about 120 settings; PyYAML needs seconds for a megabyte, and the square of that for deep nesting
_MAX_YAML_BYTES = 1 << 20
_MAX_VALUES = 20_000
_MAX_DEPTH = 32
#: a number of YAML may be written in base 60, which takes the square of its length
_MAX_VALUE_LENGTH = 10_000


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of a --config file, or of a checkpoint's meta.json, by name with underscores."""
    # one byte more than allowed: enough to see that a file is too long
    try:
        with open(path, "rb") as stream:
            content = stream.read(json_text.MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UsageError(f"`config` {verbatim(path)}: {reason(error)}") from None
    try:
        settings = _parse(content, path)
    except DataError as error:
        raise UsageError(f"`config` {error.message}") from None
    if settings is None:
        return {}
    # meta.json: the settings of the run are one of its entries
    if isinstance(settings, dict) and isinstance(settings.get("config"), dict) and "imgcls" in settings:
        settings = settings["config"]
    if not isinstance(settings, dict):
        raise UsageError(f"`config` {verbatim(path)}: must hold settings, one per line, such as lr: 0.1")
    for key, value in settings.items():
        if isinstance(key, tuple) or _is_deep(value, 3):
            raise UsageError(f"`config` {verbatim(path)}: key {verbatim(str(key)[:80])}: must be a value or "
                             "a list of values")
    return {str(key).replace("-", "_"): value for key, value in settings.items()}


def _is_deep(value: Any, levels: int) -> bool:
    """Return whether containers are nested more than `levels` deep."""
    if not isinstance(value, (list, tuple, dict, set)):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deep(part, levels - 1) for part in parts)


def _parse(content: bytes, path: str) -> Any:
    """Return what the JSON or YAML in a file describes; DataError for what is neither."""
    # JSON is YAML too, but the JSON reader is quicker: the class names of a meta.json may be a megabyte
    if content.lstrip()[:1] == b"{":
        try:
            return json_text.loads(content, path, "settings")
        except DataError as error:
            if not isinstance(error.__cause__, json.JSONDecodeError):
                raise
    if len(content) > _MAX_YAML_BYTES:
        raise DataError(path, f"not settings: more than {_MAX_YAML_BYTES} bytes of YAML")
    yaml = _yaml()
    try:
        text = content.decode("utf-8-sig")
        _check_events(yaml.parse(text, yaml.SafeLoader), path)
        return yaml.load(text, _loader())
    except UnicodeDecodeError as error:
        raise DataError(path, "not YAML: not UTF-8", error.start) from error
    except yaml.YAMLError as error:
        # errors of the syntax have a position, those of single characters have none
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise DataError(path, f"{where}not YAML: {verbatim(problem)}") from error
    except RecursionError as error:  # an anchor inside of itself, where it is to be merged
        raise DataError(path, "not settings: nested too deeply") from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML's own, for values that are not what their tag or form says: a date of month 99, !!bool x
        raise DataError(path, "not YAML: a value is not of the type that it is written as") from error


def _check_events(events: Iterable[Any], path: str) -> None:
    """Raise DataError for YAML that takes too much time or memory: deep nesting, aliases of aliases."""
    depth = 0
    #: anchor -> how many values it stands for, all aliases written out; 0 while it is being read
    sizes: dict[str | None, int] = {}
    #: (anchor, values before it) of the collections that are open
    open_collections: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        kind = type(event).__name__
        anchor = getattr(event, "anchor", None)
        if kind == "AliasEvent":
            if not sizes.get(anchor, 1):
                raise DataError(path, "not settings: an anchor holds itself")
            total += sizes.get(anchor, 1)
        elif kind == "ScalarEvent":
            if len(event.value) > _MAX_VALUE_LENGTH:
                raise DataError(path, f"not settings: a value of {len(event.value)} characters")
            total += 1
            sizes[anchor] = 1
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            open_collections.append((anchor, total))
            sizes[anchor] = 0
            depth += 1
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, before = open_collections.pop()
            total += 1
            sizes[anchor] = total - before
            depth -= 1
        if depth > _MAX_DEPTH or total > _MAX_VALUES:
            raise DataError(path, f"not settings: more than {_MAX_DEPTH} levels or {_MAX_VALUES} values")


@functools.cache
def _loader() -> Any:
    """Return a loader that reads values as a command line would, and refuses a key that occurs twice.

    YAML 1.1 has numbers in base 60 and 8: `nnodes: 1:4` would be 64 and `load_epoch: 0010` epoch 8. What is
    no plain decimal number stays the text that was written; `flags.convert` reads it as the setting's type.
    """
    yaml = _yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined, misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:  # before `<<` merges others, which may be overridden
                name = str(key.value).replace("-", "_")
                if name in seen and name != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} occurs twice", key.start_mark)
                seen.add(name)
            return super().construct_mapping(node, deep=deep)

    tag = "tag:yaml.org,2002:"
    for kind, pattern, first in (("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
                                 ("merge", r"<<", ["<"]),
                                 ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
                                 ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?",
                                  list("-+0123456789."))):
        Loader.add_implicit_resolver(tag + kind, re.compile(f"^(?:{pattern})$"), first)
    Loader.add_constructor(f"{tag}float", lambda loader, node: _Written(node.value))
    return Loader


class _Written(float):
    """A float that str() shows as it was written: 1.10 may be a name."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


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
