"""The sections together: built-in defaults < data set < --config files < IMGCLS_* < flags.

`parse` is what the commands call; `--help`, `--print-config` and every mistake end here, before torch, a file or a
device is touched. Flags follow from the fields of `sections.py`: their spelling, their type, their help.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from imgcls.config import lookup, rules, sections
from imgcls.errors import UsageError, as_flag, as_keyword, unknown

EXIT_STATUS = """exit status:
  0 done   1 the run failed   2 wrong usage
  130 interrupted and 143 told to stop: the position was saved, --load-epoch auto goes on from there

Every flag is also a key of --config files (lr: 0.1) and an environment variable (IMGCLS_LR=0.1); a flag may be cut
short as long as it is clear (--num-epoch), and be written with _ for -."""

#: environment variables that begin like a setting but are none
OTHER_VARIABLES = ("IMGCLS_AGENT", "IMGCLS_LAUNCHER", "IMGCLS_CACHE", "IMGCLS_MIRROR")

#: settings that name a file which somebody may have from Caffe
NETWORK_FILES = ("model", "pretrained_model", "model_prefix", "save_model_prefix", "mean_image")

#: what other toolkits call our flags
OTHER_WORDS = {"--learning-rate": "--lr", "--epochs": "--num-epochs", "--momentum": "--mom", "--weight-decay": "--wd",
               "--workers": "--data-nthreads", "--arch": "--network", "--model-name": "--network", "--device": "--gpus",
               "--resume": "--load-epoch auto", "--amp": "--dtype bfloat16", "--opt": "--optimizer",
               "--sched": "--lr-schedule"}


@dataclass(frozen=True)
class Config:
    """All sections of one run, and where each value came from."""

    data: sections.DataConfig
    augment: sections.AugmentConfig
    network: sections.NetworkConfig
    train: sections.TrainConfig
    schedule: sections.ScheduleConfig
    optimizer: sections.OptimizerConfig
    device: sections.DeviceConfig
    distributed: sections.DistributedConfig
    checkpoint: sections.CheckpointConfig
    report: sections.ReportConfig
    #: setting -> where the user set it (a flag, a file, a variable); defaults are not in it
    explicit: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: the command's own section, for commands that have one
    own: Any = None

    #: how messages spell a setting: as flags where a command line was parsed, as keywords where Python code asks
    spelling: Callable[[str], str] = as_keyword

    def is_explicit(self, *names: str) -> bool:
        """Whether the user set one of these, in whatever way."""
        return any(name in self.explicit for name in names)

    def with_defaults(self, **values: Any) -> Config:
        """Return the configuration with these values (text or typed) in place of defaults; what the user set stays.

        For what only the data or a checkpoint can tell: it stands above the data set's defaults and below the user.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            # data_shape S is image_shape 3,S,S
            if not self.is_explicit(name, *(("data_shape",) if name == "image_shape" else ())):
                changes.setdefault(SECTION_OF[name], {})[name] = convert(FIELDS[name], value)
        return dataclasses.replace(self, **{section: dataclasses.replace(getattr(self, section), **changed)
                                            for section, changed in changes.items()})

    @property
    def fields(self) -> dict[str, dataclasses.Field[Any]]:
        """Every flag of the command, its own among them."""
        return _fields_of(type(self.own) if self.own else None)

    def values(self) -> dict[str, Any]:
        """field name -> value, in the order of the sections."""
        return {f.name: getattr(getattr(self, section), f.name)
                for section, cls in sections.SECTIONS.items() for f in sections.flags(cls)}


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for cls in sections.SECTIONS.values()
                                             for f in sections.flags(cls)}
#: setting -> the section that holds it
SECTION_OF = {f.name: section for section, cls in sections.SECTIONS.items() for f in sections.flags(cls)}


def parse(argv: Sequence[str], *, prog: str, examples: str, dataset: str = "mnist", own: type | None = None,
          used: Sequence[str] = (), defaults: Mapping[str, Any] | None = None) -> Config:
    """The configuration that the command line means; `dataset` is the script's default for --dataset.

    Without --dataset, `--data-train` or `--data-val` means photographs like those of imagenet. `own` is a section of
    the command's own, whose fields stand in place of shared ones of the same name; `used` limits the shared flags to
    those that make sense for the command; `defaults` are the command's, above the data set's. Raises UsageError for
    whatever is wrong; `--help` and `--print-config` print and leave with status 0.
    """
    fields = _fields_of(own, used)
    words = _parser(prog, fields).parse_args(expand(argv, prog, fields))
    flags = {name: value for name, value in vars(words).items() if name in fields}
    layers = [(f"--config {path}", _read_file(path, fields)) for path in words.config or ()]
    layers.append(("the environment", _environment(fields)))
    layers.append(("the command line", flags))
    raw: dict[str, Any] = {}
    explicit: dict[str, str] = {}
    for where, layer in layers:
        for name, value in layer.items():
            if name in fields:  # a file shared with another command may hold what this one does not use
                raw[name], explicit[name] = value, where
    named = (raw.get("data_train") or raw.get("data_val")) and dataset == "mnist"
    chosen = str(raw.get("dataset", "imagenet" if named else dataset))
    module = lookup.module("datasets", chosen, "--dataset")
    defaults = {**module.DEFAULTS, **(defaults or {}), "dataset": chosen}
    if words.help:
        print(_help(prog, examples, defaults, own, fields), end="")
        raise SystemExit(0)
    config = dataclasses.replace(build(defaults, raw, explicit, own), spelling=as_flag)
    if words.print_config:
        print(dump(config, own, fields), end="")
        raise SystemExit(0)
    return config


def build(defaults: Mapping[str, Any], raw: Mapping[str, Any], explicit: Mapping[str, str] | None = None,
          own: type | None = None) -> Config:
    """A Config from a data set's `defaults` and the user's `raw` values (text or already typed).

    A value that does not fit its field, or whose feature is not there yet, is a UsageError that names it.
    """
    explicit = dict.fromkeys(raw, "an argument") if explicit is None else explicit
    known = _fields_of(own)
    for name in raw:
        if name not in known:
            raise unknown("setting", name, known)
    values = {**defaults, **raw}
    if "data_shape" in raw and "image_shape" not in raw:
        side = convert(FIELDS["data_shape"], raw["data_shape"])
        values["image_shape"] = (3, side, side) if side else values["image_shape"]
    parts: dict[str, Any] = {}
    for section, cls in (sections.SECTIONS | ({"own": own} if own else {})).items():
        fields = {f.name: f for f in sections.flags(cls)}
        typed = {name: convert(f, values[name]) for name, f in fields.items() if name in values}
        for name, value in typed.items():
            later = fields[name].metadata["later"]
            if later and name in explicit and value != fields[name].default:
                raise UsageError(f"{spell(name)} {_show(value)}: {later}")
            if name in NETWORK_FILES and value:
                from imgcls.formats import caffe  # brings numpy along, which --help does without

                caffe.refuse_model(name, value)
        parts[section] = cls(**typed)
    parts["augment"] = rules.resolve_augmentation(parts["augment"], explicit)
    first_generation = any(known[name].metadata["since"] == "g1" for name in explicit if name in FIELDS)
    decay = rules.resolve_decay(parts["schedule"], explicit, num_epochs=parts["train"].num_epochs,
                                is_first_generation=first_generation)
    parts["schedule"] = dataclasses.replace(parts["schedule"], decay=decay)
    return Config(**parts, explicit=explicit)


def dump(config: Config, own: type | None = None, fields: Mapping[str, Any] | None = None) -> str:
    """The configuration as YAML that --config reads back to the same run.

    Of --lr-step-epochs and --lr-factor-epoch only the one that holds is written: in a file all settings count as given
    by the user, and those two decide the schedule.
    """
    import yaml

    values, lines = settings(config), []
    if own:
        values |= dataclasses.asdict(config.own)
    for cls in _sections_of(own):
        shown = {f.name: values[f.name] for f in sections.flags(cls)
                 if f.name in values and (fields or _fields_of(own)).get(f.name) is f}
        if shown:
            lines += [f"# {cls.__doc__}", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)]
    return "\n".join(lines)


def settings(config: Config) -> dict[str, Any]:
    """name -> plain value (a tuple as text with commas) of everything that makes the run what it is."""
    values = {name: _show(value) if isinstance(value, tuple) else value for name, value in config.values().items()}
    every_epochs = config.schedule.decay.every_epochs
    values["lr_factor_epoch"] = every_epochs
    del values["lr_step_epochs" if every_epochs else "lr_factor_epoch"]
    return values


def spell(name: str) -> str:
    """lr_factor -> --lr-factor"""
    return "--" + name.replace("_", "-")


def expand(argv: Sequence[str], prog: str, fields: Mapping[str, dataclasses.Field[Any]] = FIELDS) -> list[str]:
    """The words with every flag spelled out: `_` becomes `-` and an unambiguous beginning the whole name.

    A beginning is looked up among MXNet's later flags first, then its first ones, then ours, so that no flag of ours
    ever makes an old command ambiguous.
    """
    words: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            raise UsageError(f"{' '.join(argv[position + 1:]) or '--'}: {prog} takes flags only")
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        words.append(_whole(name.replace("_", "-"), fields) + equals + value)
    return words


def convert(field: dataclasses.Field[Any], value: Any) -> Any:
    """`value`, text or typed, as the type of the field; UsageError if it does not fit."""
    kind, flag = str(field.type), spell(field.name)
    if value is None or (isinstance(value, str) and value.lower() == "none" and "None" in kind):
        if "None" in kind:
            return None
        if field.default == "":
            return ""
        raise UsageError(f"{flag}: needs a value")
    try:
        typed = _CONVERTERS[kind.replace(" | None", "")](value)
    except (ValueError, TypeError, OverflowError):
        raise UsageError(f"{flag} {_show(value)}: must be {_WANTED[kind.replace(' | None', '')]}") from None
    choices, minimum = field.metadata["choices"], field.metadata["minimum"]
    if choices and typed not in choices:
        raise unknown(flag, str(value), choices)
    if minimum is not None and isinstance(typed, (int, float)) and typed < minimum:
        raise UsageError(f"{flag} {typed:g}: must be at least {minimum:g}")
    return typed


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(value)
    return int(value)


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def _integers(value: Any) -> tuple[int, ...]:
    parts = value.strip(" ()[]").split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    numbers = tuple(_integer(part) for part in parts if str(part).strip())
    if not numbers or min(numbers) < 1:
        raise ValueError(value)
    return numbers


def _numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        value = [value]
    parts = value.strip(" ()[]").split(",") if isinstance(value, str) else value
    numbers = tuple(_number(part) for part in parts if str(part).strip())
    if not numbers:
        raise ValueError(value)
    return numbers


def _string(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    if isinstance(value, Mapping):
        raise TypeError(value)
    return str(value)


_CONVERTERS = {"int": _integer, "float": _number, "str": _string, "bool": _boolean, "tuple[int, ...]": _integers,
               "tuple[float, ...]": _numbers}
_WANTED = {"int": "a whole number", "float": "a number", "str": "text", "bool": "1 or 0 (true or false)",
           "tuple[int, ...]": "whole numbers above 0, such as 3,224,224",
           "tuple[float, ...]": "numbers, such as 123.68,116.779,103.939"}


def _sections_of(own: type | None) -> list[type]:
    return [*([own] if own else ()), *sections.SECTIONS.values()]


def _fields_of(own: type | None, used: Sequence[str] = ()) -> dict[str, dataclasses.Field[Any]]:
    """The flags of a command: its own, and the shared ones (those in `used`, or all)."""
    found = {f.name: f for f in sections.flags(own)} if own else {}
    return found | {name: f for name, f in FIELDS.items() if (not used or name in used) and name not in found}


def _whole(name: str, fields: Mapping[str, dataclasses.Field[Any]]) -> str:
    """The one flag that begins with `name`; UsageError where there is none or more than one."""
    known = {spell(field): f.metadata["since"] for field, f in fields.items()}
    known |= {"--config": "new", "--print-config": "new", "--help": "new"}
    if name in known:
        return name
    for tier in (("g2", "g3"), ("g1",), ("new",)):
        found = [flag for flag, since in known.items() if since in tier and flag.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{name} could be {', '.join(sorted(found))}: write one of them out")
    raise unknown("flag", name, known, OTHER_WORDS.get(name))


class Parser(argparse.ArgumentParser):
    """Raises a UsageError where argparse would print its usage and leave; `hint` ends every such line."""

    hint = ""

    def error(self, message: str) -> NoReturn:
        flag, found, _ = message.removeprefix("argument ").partition(": expected")
        raise UsageError((f"{flag}: needs a value" if found else message) + self.hint)


def _parser(prog: str, fields: Mapping[str, dataclasses.Field[Any]]) -> Parser:
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, field in fields.items():
        switch: dict[str, Any] = {"nargs": "?", "const": "1"} if field.type == "bool" else {}
        parser.add_argument(spell(name), **switch)
    parser.add_argument("--config", action="append", default=None)
    parser.add_argument("--print-config", action="store_true", default=False)
    parser.add_argument("-h", "--help", action="store_true", default=False)
    return parser


def _read_file(path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A --config file: a flat mapping of settings, or the meta.json of a checkpoint."""
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except OSError as error:
        raise UsageError(f"--config {path}: {(error.strerror or str(error)).lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"--config {path}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if content is None:
        return {}
    if isinstance(content, dict) and isinstance(content.get("config"), dict) and "imgcls" in content:
        content = content["config"]
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: must hold settings, one per line, such as lr: 0.1")
    found = {str(key).replace("-", "_"): value for key, value in content.items()}
    for name in found:
        if name not in fields and name not in FIELDS:
            raise unknown(f"--config {path}: key", name, fields)
    return found


def _environment(fields: Mapping[str, Any]) -> dict[str, str]:
    """The settings among the environment variables: IMGCLS_LR is --lr."""
    found = {}
    for variable, value in os.environ.items():
        if not variable.startswith("IMGCLS_") or variable in OTHER_VARIABLES:
            continue
        name = variable.removeprefix("IMGCLS_").lower()
        if name not in fields and name not in FIELDS:
            raise unknown("environment variable", variable, [f"IMGCLS_{field.upper()}" for field in fields])
        found[name] = value
    return found


def _help(prog: str, examples: str, defaults: Mapping[str, Any], own: type | None, used: Mapping[str, Any]) -> str:
    """The help screen: examples first, then the flags in groups with this data set's defaults."""
    lines = [f"usage: {prog} [--flag value ...]", "", examples.strip(), ""]
    for cls in _sections_of(own):
        fields = [field for field in sections.flags(cls) if used.get(field.name) is field]
        if fields:
            lines.append(f"{cls.__doc__}:")
            for field in fields:
                lines += _help_of(field, defaults.get(field.name, field.default))
            lines.append("")
    lines += ["Configuration:",
              *_columns("--config FILE", "settings as YAML; may be given again, later files win"),
              *_columns("--print-config", "print the settings of this command as YAML, ready for --config, and stop"),
              *_columns("-h, --help", "this text"), "", EXIT_STATUS, ""]
    return "\n".join(lines)


def _help_of(field: dataclasses.Field[Any], default: Any) -> list[str]:
    kind = str(field.type).replace(" | None", "")
    choices = "{" + ",".join(field.metadata["choices"]) + "}" if field.metadata["choices"] else ""
    metavar = choices or field.metadata["metavar"] or {"int": "N", "float": "X", "bool": "[1]"}.get(kind, "TEXT")
    text = field.metadata["help"]
    if field.metadata["later"]:
        text += " (not yet)"
    elif not (default in ("", None) or default is False):
        text += f" ({_show(default)})"
    return _columns(f"{spell(field.name)} {metavar}", text)


def _columns(left: str, right: str, width: int = 34) -> list[str]:
    import shutil
    import textwrap

    room = min(max(shutil.get_terminal_size((114, 24)).columns, 80), 114)
    wrapped = textwrap.wrap(right, room - width)
    first = [f"  {left}"] if len(left) > width - 4 else []
    lines = [f"{'' if first else '  ' + left:<{width}}{wrapped[0]}"] + [" " * width + line for line in wrapped[1:]]
    return first + lines


def _show(value: Any) -> str:
    """A value as one would write it on the command line, exactly."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(_show, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def format_namespace(config: Config) -> str:
    """Return the line `start with arguments Namespace(...)` of MXNet's logs."""
    return "start with arguments Namespace(" + ", ".join(f"{k}={v!r}" for k, v in config.values().items()) + ")"


def dataset_module(config: Config) -> ModuleType:
    """The file of imgcls/datasets that --dataset names."""
    return lookup.module("datasets", config.data.dataset, "--dataset")
