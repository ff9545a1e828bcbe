"""The settings of a run, resolved: defaults < data set < --recipe < --config files < IMGCLS_* < flags.

`parse` is what the commands that train and score call, `build` what Python code does; both return a `Config`
of plain sections. `--help`, `--print-config` and every mistake end here, before torch is imported and data or
a device is touched. `Config.explicit` says what the user set, and where; `rules` and `Config.with_defaults`
use it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass
from types import ModuleType
from typing import Any

from imgcls.config import command_line, files, lookup, recipes, rules, sections
from imgcls.config.flags import convert, flag, flag_spelling, flags_of, show
from imgcls.config.help import Group, help_flag, help_screen
from imgcls.errors import UsageError, as_keyword, unknown, verbatim

EXIT_STATUS = """exit status:
  0 done   1 the run failed   2 wrong usage
  130 interrupted (SIGINT), 143 terminated (SIGTERM), 129 hangup (SIGHUP), 141 broken pipe (SIGPIPE): \
the position was saved, --load-epoch auto resumes there

Every flag is also a key of --config files (lr: 0.1) and an environment variable \
(IMGCLS_LR=0.1); a flag may be cut short as long as it is clear (--num-epoch), and be written with _ for -."""

#: environment variables that begin like a setting but are none: any other is refused as a typing error
OTHER_VARIABLES = ("IMGCLS_AGENT", "IMGCLS_LAUNCHER", "IMGCLS_CACHE", "IMGCLS_MIRROR", "IMGCLS_TRACEBACK",
                   "IMGCLS_SCREEN")

#: settings that name a file which may be one of Caffe's
NETWORK_FILES = ("model", "pretrained_model", "model_prefix", "save_model_prefix", "mean_image")

FIELDS: dict[str, Field[Any]] = {
    name: field for section in sections.SECTIONS.values() for name, field in flags_of(section).items()}
#: setting -> the section that holds it
SECTION_OF = {setting: name for name, section in sections.SECTIONS.items() for setting in flags_of(section)}


@dataclass(frozen=True)
class FileFlags:
    """Configuration"""

    config: tuple[str, ...] = flag((), "settings as YAML; may be given again, later files win",
                                   metavar="FILE", takes="each")
    recipe: str = flag("", "settings that come with the package, by name; list: print the names. Files, "
                       "variables and flags win", metavar="NAME")
    print_config: bool = flag(False, "print the settings of this command as YAML, ready for --config, and "
                              "stop", takes="none")
    help: str = help_flag()


@dataclass(frozen=True)
class Config:
    """All sections of one run, and where each value came from."""

    data: sections.DataConfig
    augment: sections.AugmentConfig
    network: sections.NetworkConfig
    regularization: sections.RegularizationConfig
    distillation: sections.DistillationConfig
    train: sections.TrainConfig
    schedule: sections.ScheduleConfig
    optimizer: sections.OptimizerConfig
    device: sections.DeviceConfig
    distributed: sections.DistributedConfig
    checkpoint: sections.CheckpointConfig
    early_stopping: sections.EarlyStoppingConfig
    find: sections.FindConfig
    report: sections.ReportConfig
    #: the command's own section, for commands that have one
    own: Any = None
    #: setting -> where the user set it (the command line, a file, ...); defaults are not in it
    explicit: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: whether epochs, batch size and learning rate may be chosen by the size of the data; scripts with
    #: MXNet's names keep MXNet's values
    may_choose: bool = False
    #: factor on a learning rate that is chosen, as pretrained weights need it (`pretrained.lr_scale`)
    lr_scale: float = 1.0
    #: the name of its recipe, "" for none
    recipe: str = ""
    #: setting -> value of what was chosen by the size of the data
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: how messages spell a setting: as a flag where a command line was parsed, else as a keyword of Python
    spelling: Callable[[str], str] = as_keyword

    def is_explicit(self, *names: str) -> bool:
        """Return whether the user set one of these settings, in whatever way."""
        return any(name in self.explicit for name in names)

    @property
    def is_trial(self) -> bool:
        """Return whether nothing is to be written: a dry run, or a search for a rate or a batch size."""
        return self.train.dry_run or bool(self.find.find_lr or self.find.find_batch_size)

    def with_defaults(self, **values: Any) -> Config:
        """Return the configuration with these values (text or typed) in place of defaults; what the user set
        stays.

        For values that follow from the data or a checkpoint: they override the data set's defaults, but not
        the user's settings.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            # data_shape is another way to set image_shape
            if not self.is_explicit(name, *(("data_shape",) if name == "image_shape" else ())):
                changes.setdefault(SECTION_OF[name], {})[name] = convert(FIELDS[name], value)
        return dataclasses.replace(self, **{section: dataclasses.replace(getattr(self, section), **changed)
                                            for section, changed in changes.items()})

    @property
    def fields(self) -> dict[str, Field[Any]]:
        """Return setting -> field of the command's own flags and of all shared ones."""
        return _fields_of(type(self.own) if self.own else None)

    def values(self) -> dict[str, Any]:
        """Return setting -> value, in the order of the sections."""
        return {setting: getattr(getattr(self, section), setting) for setting, section in SECTION_OF.items()}


def parse(argv: Sequence[str], *, prog: str, examples: str, dataset: str = "mnist", own: type | None = None,
          used: Sequence[str] = (), defaults: Mapping[str, Any] | None = None,
          recipes_of: str = "", common: Sequence[str] = ()) -> Config:
    """Return the configuration that a command line means; `dataset` is the script's default for --dataset.

    Without --dataset, `--data-train` or `--data-val` means photographs like those of imagenet. `own` is a
    section of the command's own, whose fields stand in place of shared ones of the same name; `used` limits
    the shared flags to those that make sense for the command; `defaults` are the command's, above the data
    set's; `recipes_of` is the command whose recipes it takes, if any; `common` are the settings that -h
    shows, () for all. Raises UsageError for what is wrong; `--help`, `--print-config` and `--recipe list`
    print and raise SystemExit(0).
    """
    fields = _fields_of(own, used)
    # values are text or of YAML's types here: `build` converts all, so a mistake has one message everywhere
    texts = command_line.read(argv, fields | _file_flags(recipes_of), prog=prog)
    if texts.get("recipe") == recipes.LIST and "help" not in texts:
        print(recipes.listing(recipes_of), end="")
        raise SystemExit(0)
    # help is shown even where the recipe's name is wrong
    wants_recipe = texts.get("recipe") and "help" not in texts
    recipe = recipes.find(texts["recipe"], recipes_of) if wants_recipe else None
    raw: dict[str, Any] = {}
    explicit: dict[str, str] = {}
    for source, values in _layers(texts, fields, recipe):
        for name, value in values.items():
            if name not in fields:  # a file shared with another command may hold what this one does not use
                continue
            # `val_resize: null`, which --print-config writes for what is not set, does not set it
            if fields[name].default is None and str(value).lower() == "none":
                raw.pop(name, None)
                explicit.pop(name, None)
            else:
                raw[name] = value
                explicit[name] = source
    # files that are named without a data set are photographs, unless the script's own data set is another
    names_files = (raw.get("data_train") or raw.get("data_val")) and dataset == "mnist"
    dataset = str(raw.get("dataset", "imagenet" if names_files else dataset))
    module = lookup.module("datasets", dataset, "`dataset`")
    defaults = {**module.DEFAULTS, **(defaults or {}), "dataset": dataset}
    # the defaults shown are those of the data set on the command line
    if "help" in texts:
        # a flag of the command's own has its own default, whatever the data set's is for a shared one
        defaults = {name: value for name, value in defaults.items() if not own or name not in flags_of(own)}
        groups = [*_titled_flags(own, fields), (FileFlags.__doc__, _file_flags(recipes_of))]
        print(help_screen(texts["help"], f"{prog} [--flag value ...]{_positionals(fields)}", examples, groups,
                          common=common, notes=EXIT_STATUS, defaults=defaults), end="")
        raise SystemExit(0)
    config = build(defaults, raw, explicit, own)
    if texts.get("print_config"):
        print(dump(config, own, fields), end="")
        raise SystemExit(0)
    # `build` cannot know that there was a command line
    return dataclasses.replace(config, spelling=spelling_of(own), recipe=recipe.name if recipe else "")


def _shape_setting(explicit: Mapping[str, str]) -> tuple[str, ...]:
    return ("image_shape",) if "data_shape" in explicit else ()  # another way to set it


def spelling_of(*own: type | None) -> Callable[[str], str]:
    """Return how a command spells settings, given the sections of its own: as its flags."""
    return flag_spelling(*sections.SECTIONS.values(), FileFlags, *filter(None, own))


def _file_flags(recipes_of: str) -> dict[str, Field[Any]]:
    """Return the flags for settings from files, without that of recipes for a command that has none."""
    return {name: field for name, field in flags_of(FileFlags).items() if recipes_of or name != "recipe"}


def _layers(texts: Mapping[str, Any], fields: Mapping[str, Field[Any]],
            recipe: recipes.Recipe | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (source, its settings as they are written there), the least important source first."""
    if recipe:
        yield f"--recipe {recipe.name}", recipe.settings()
    for path in texts.get("config", ()):
        settings = files.read_settings(path)
        for name in settings:
            if name not in fields and name not in FIELDS:
                raise unknown(f"`config` {verbatim(path)}: key", name, fields)
        yield f"--config {path}", settings
    # IMGCLS_* above files: they are how a job or a container differs from others with the same file
    yield "the environment", _environment(fields)
    yield "the command line", texts


def _environment(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings among the environment variables: IMGCLS_LR is --lr."""
    settings = {}
    for variable, text in os.environ.items():
        # a typing error here would go unnoticed for ever: an unknown IMGCLS_ name is refused
        if not variable.startswith("IMGCLS_") or variable in OTHER_VARIABLES:
            continue
        name = variable.removeprefix("IMGCLS_").lower()
        if name not in fields and name not in FIELDS:
            raise unknown("environment variable", variable, [f"IMGCLS_{field.upper()}" for field in fields])
        settings[name] = text
    return settings


def build(defaults: Mapping[str, Any], raw: Mapping[str, Any], explicit: Mapping[str, str] | None = None,
          own: type | None = None) -> Config:
    """Return a Config of a data set's `defaults` and the user's `raw` values (text or already typed).

    A value that does not fit its field, or whose feature is not there yet, is a UsageError that names it.
    """
    # where Python code calls, all settings are the user's; a command says where each came from
    explicit = dict.fromkeys(raw, "an argument") if explicit is None else explicit
    fields = _fields_of(own)
    for name in raw:
        if name not in fields:
            raise unknown("setting", name, fields)
    values = {**defaults, **raw}
    if "data_shape" in raw and "image_shape" not in raw:
        side = convert(FIELDS["data_shape"], raw["data_shape"])
        # 0 is the default, which a file that --print-config wrote holds as well
        values["image_shape"] = (3, side, side) if side else values["image_shape"]
    built = {name: _section(section, values, explicit) for name, section in sections.SECTIONS.items()}
    if own:  # a data set's default is for the shared setting, not for a command's own of the same name
        built["own"] = _section(own, raw, explicit)
    # the last use of `explicit` on the sections: their values do not show which of them the user set
    built["network"] = rules.resolve_network(built["network"], {*explicit, *_shape_setting(explicit)})
    built["augment"] = rules.resolve_augmentation(built["augment"], explicit)
    is_first_generation = any(FIELDS[name].metadata["since"] == "g1" for name in explicit if name in FIELDS)
    decay = rules.resolve_decay(built["schedule"], explicit, num_epochs=built["train"].num_epochs,
                                is_first_generation=is_first_generation)
    built["schedule"] = dataclasses.replace(built["schedule"], decay=decay)
    return Config(**built, explicit=explicit)


def _section(section: type, values: Mapping[str, Any], explicit: Mapping[str, str]) -> Any:
    """Return one section with the values that belong to it, typed and checked."""
    fields = flags_of(section)
    typed = {name: convert(field, values[name]) for name, field in fields.items() if name in values}
    for name, value in typed.items():
        later = fields[name].metadata["later"]
        # a file that --print-config wrote holds these too, at their defaults
        if later and name in explicit and value != fields[name].default:
            raise UsageError(f"`{name}` {verbatim(show(value))}: {later}")
        if name in NETWORK_FILES and value:
            from imgcls.formats import caffe  # imports numpy, which --help does not need

            caffe.refuse_model(name, value)
    return section(**typed)


def dump(config: Config, own: type | None = None, fields: Mapping[str, Any] | None = None) -> str:
    """Return the configuration as YAML that --config reads back to the same run.

    Of --lr-step-epochs and --lr-factor-epoch only the one that holds is written: in a file all settings count
    as set by the user, and those two decide the schedule.
    """
    values = settings(config)
    if own:
        values |= {name: _plain(getattr(config.own, name)) for name in flags_of(own)}
    titled = [(title, {name: values[name] for name in flags if name in values})
              for title, flags in _titled_flags(own, fields or _fields_of(own))]
    return files.format_settings((title, group) for title, group in titled if group)


def _plain(value: Any) -> Any:
    """Return a value as a file holds it: numbers with commas as text, names as a list."""
    if not isinstance(value, tuple):
        return value
    return list(value) if any(isinstance(part, str) for part in value) else show(value)


def settings(config: Config) -> dict[str, Any]:
    """Return setting -> plain value (numbers with commas as text) of everything that the run depends on."""
    values = {name: _plain(value) for name, value in config.values().items()}
    # of the two flags that contradict each other, the one that decided
    every_epochs = config.schedule.decay.every_epochs
    values["lr_factor_epoch"] = every_epochs
    del values["lr_step_epochs" if every_epochs else "lr_factor_epoch"]
    return values


def format_namespace(config: Config) -> str:
    """Return the line `start with arguments Namespace(...)` of MXNet's logs."""
    # argparse's own repr, which parse_log.py and its like look for
    values = ", ".join(f"{name}={value!r}" for name, value in config.values().items())
    return f"start with arguments Namespace({values})"


def dataset_module(config: Config) -> ModuleType:
    """Return the file of imgcls/datasets that --dataset names."""
    return lookup.module("datasets", config.data.dataset, "`dataset`")


def _fields_of(own: type | None, used: Sequence[str] = ()) -> dict[str, Field[Any]]:
    """Return the flags of a command: its own, and the shared ones (those in `used`, or all)."""
    # the command's own come first, and hide shared ones of the same name (load_epoch of imgcls-finetune)
    fields = flags_of(own) if own else {}
    return fields | {name: field for name, field in FIELDS.items()
                     if (not used or name in used) and name not in fields}


def _titled_flags(own: type | None, fields: Mapping[str, Field[Any]]) -> list[Group]:
    """Return (title, flags) of each section, without the flags that the command lacks or replaces by its own.
    """
    titled = []
    for section in [*([own] if own else ()), *sections.SECTIONS.values()]:
        flags = {name: field for name, field in flags_of(section).items() if fields.get(name) is field}
        if flags:
            titled.append((section.__doc__, flags))
    return titled


def _positionals(fields: Mapping[str, Field[Any]]) -> str:
    """Return how the words without a flag are written behind the flags, for the first line of the help."""
    words = []
    for field in fields.values():
        name = field.metadata["metavar"]
        if field.metadata["is_positional"]:
            # one or more where it takes several; any other may be left out
            several = f"{name} [{name} ...]" if field.metadata["takes"] == "several" else f"[{name}]"
            words.append(f" {several}")
    return "".join(words)
