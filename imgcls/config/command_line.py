"""Read a command line into settings: long and short flags, spellings of all generations, positionals.

Every command is read here: a command that has only settings of its own calls `parse`; `resolve` calls `read`
and adds what files and the environment set. Written for what argparse cannot do: `--list PREFIX` must not
take PREFIX for the value of the switch, and an abbreviated flag means what it meant in MXNet before it can
mean one of ours. Values stay text here; `flags.convert` converts them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from typing import Any

from imgcls.config.flags import (
    FALSE_WORDS,
    TRUE_WORDS,
    convert,
    flags_of,
    long_flag,
    show,
    spelled,
    to_boolean,
)
from imgcls.config.help import help_flag, help_screen
from imgcls.errors import UsageError, unknown, verbatim

#: what other toolkits call our flags
OTHER_WORDS = {
    "--learning-rate": "--lr", "--epochs": "--num-epochs", "--momentum": "--mom", "--weight-decay": "--wd",
    "--workers": "--data-nthreads", "--arch": "--network", "--model-name": "--network", "--device": "--gpus",
    "--resume": "--load-epoch auto", "--amp": "--dtype bfloat16", "--opt": "--optimizer",
    "--sched": "--lr-schedule"}
#: generations of MXNet's scripts, in the order in which an abbreviated flag is looked up: most people have
#: the later scripts in their shell's history, and no flag of ours makes an old command ambiguous
_GENERATIONS = (("g2", "g3"), ("g1",), ("new",))
#: -1 and -.5 are values; no flag begins with a digit
_NEGATIVE_NUMBER = re.compile(r"-\.?\d")


@dataclass(frozen=True)
class HelpFlag:
    """Help"""

    help: str = help_flag()


def parse(argv: Sequence[str], *sections: type, prog: str, usage: str, examples: str, notes: str = "",
          hint: str = "", takes_prefixes: bool = True, common: Sequence[str] = ()) -> tuple[Any, ...]:
    """Return the sections of a command as the arguments fill them; UsageError for what does not fit.

    `usage`, `examples` and `notes` are texts of the help screen, which `--help` prints before it raises
    SystemExit(0); `common` are the settings that -h shows, () for all. `hint` ends the messages about wrong
    arguments. Without `takes_prefixes` flags must be written in full.
    """
    # help comes last on the screen, where people look when the rest has scrolled by
    groups = [*sections, HelpFlag]
    fields = {name: field for section in groups for name, field in flags_of(section).items()}
    texts = read(argv, fields, prog=prog, hint=hint, takes_prefixes=takes_prefixes, stops_at_help=True)
    # before the check for missing arguments: a request for help needs none of them
    if "help" in texts:
        titled = [(group.__doc__, flags_of(group)) for group in groups]
        print(help_screen(texts["help"], f"{prog} {usage}", examples, titled, common=common, notes=notes),
              end="")
        raise SystemExit(0)
    _check_required(fields, texts, hint)
    return tuple(_fill(section, texts) for section in sections)


def _check_required(fields: Mapping[str, Field[Any]], texts: Mapping[str, Any], hint: str) -> None:
    """Raise UsageError that names the settings without a default that the arguments do not set."""
    missing = [field for name, field in fields.items() if field.default is MISSING and name not in texts]
    if missing:
        # -n/--num-workers, as argparse wrote it
        names = [f"{spelled(field)}/{long_flag(field.name)}" if field.metadata["short"] else spelled(field)
                 for field in missing]
        raise UsageError(f"the following arguments are required: {', '.join(names)}{hint}")


def _fill(section: type, texts: Mapping[str, Any]) -> Any:
    fields = flags_of(section)
    # what the arguments do not set has the default of its field
    return section(**{name: convert(fields[name], text) for name, text in texts.items() if name in fields})


def read(argv: Sequence[str], fields: Mapping[str, Field[Any]], *, prog: str, hint: str = "",
         takes_prefixes: bool = True, stops_at_help: bool = False) -> dict[str, Any]:
    """Return setting -> text of all that is set: a list of texts where a setting takes several.

    Of a negation such as --no-shuffle the value is a bool. With `stops_at_help` arguments after -h or --help
    are not read. UsageError, ending in `hint`, for arguments that do not fit.
    """
    reader = _Reader(fields, takes_prefixes)
    try:
        reader.read(argv, prog, stops_at_help)
    except UsageError as error:
        # `message` and not str(error): the settings in it are spelled where it is printed
        raise UsageError(error.message + hint) from None
    return reader.texts


def without(argv: Sequence[str], settings: Collection[str], fields: Mapping[str, Field[Any]]) -> list[str]:
    """Return the arguments of a command line without the flags of these settings and their values.

    For a command line that was read before: what it would refuse is refused here too.
    """
    reader = _Reader(fields, takes_prefixes=True)
    args = deque(argv)
    kept: list[str] = []
    while args:
        before = list(args)
        if before[0].startswith("--"):
            setting = reader.take_flag(args)
        else:
            setting = ""
            args.popleft()
        if setting not in settings:
            kept += before[:len(before) - len(args)]
    return kept


def _is_flag(word: str) -> bool:
    """Return whether a word is a flag and not a value: -1 is a number, - a file, "-a b" quoted text."""
    if not word.startswith("-") or word == "-" or _NEGATIVE_NUMBER.match(word):
        return False
    return word.startswith("--") or " " not in word


class _Reader:
    """The arguments of one command line, taken one after the other; `texts` is what they set."""

    def __init__(self, fields: Mapping[str, Field[Any]], takes_prefixes: bool) -> None:
        self.texts: dict[str, Any] = {}
        self._takes_prefixes = takes_prefixes
        self._positionals = [field for field in fields.values() if field.metadata["is_positional"]]
        #: every spelling of a flag -> its field
        self._fields: dict[str, Field[Any]] = {}
        for field in fields.values():
            if not field.metadata["is_positional"]:
                others = (field.metadata["short"], field.metadata["negation"], *field.metadata["aliases"])
                # all spellings share the field, and so its `takes` and `since`
                self._fields |= dict.fromkeys([long_flag(field.name), *filter(None, others)], field)

    def read(self, argv: Sequence[str], prog: str, stops_at_help: bool) -> None:
        """Take all arguments; UsageError for an unknown flag, and for arguments that belong to nothing."""
        args = deque(argv)
        loose: list[str] = []
        strays: list[str] = []
        takes_rest = any(field.metadata["takes"] == "rest" for field in self._positionals)
        while args:
            word = args[0]
            # -- says that no flag follows: a command without positionals takes nothing else
            if word == "--" and not self._positionals:
                raise UsageError(f"{' '.join(list(args)[1:]) or '--'}: {prog} takes flags only")
            if word == "--" or (takes_rest and not _is_flag(word)):
                # from here on nothing is a flag of ours; a command to run keeps the -- that it may begin with
                loose += list(args)[0 if takes_rest else 1:]
                break
            if not _is_flag(word):
                loose.append(args.popleft())
            elif word.startswith("--") or word[:2] in self._fields:
                # help is shown whatever else is on the line
                if self.take_flag(args) == "help" and stops_at_help:
                    return
            else:
                strays.append(args.popleft())
        strays += self._place(loose)
        if strays:
            raise UsageError(f"unrecognized arguments: "
                             f"{verbatim(' '.join(strays))}")  # argparse's words, widely known

    def take_flag(self, args: deque[str]) -> str:
        """Take a flag and its value off the arguments; return the setting."""
        word = args.popleft()
        # only the first =: --env NAME=VALUE and --env=NAME=VALUE mean the same
        name, equals, text = word.partition("=")
        if word.startswith("--"):
            spelling = self._complete(name.replace("_", "-"))  # MXNet's scripts wrote --image_shape, too
        elif name in self._fields:
            spelling = name
        else:
            # short flags as one word: -n2 holds a value, -vn 2 a switch and another flag
            spelling, text = word[:2], word[2:]
            if self._fields[spelling].metadata["takes"] in ("none", "topic"):
                args.appendleft("-" + text)
            else:
                equals = "="
        field = self._fields[spelling]
        value: Any = text if equals else self._take_value(spelling, field, args)
        if spelling == field.metadata["negation"]:
            value = _negated(spelling, value)
        if field.metadata["takes"] == "each":
            value = [*self.texts.get(field.name, ()), value]
        elif field.metadata["takes"] in ("extensions", "words"):
            value = [part for part in value.split(",") if part]
        self.texts[field.name] = value  # given twice, the last counts
        return field.name

    def _take_value(self, spelling: str, field: Field[Any], args: deque[str]) -> str:
        """Take the arguments that belong to a flag; return "1" for a switch that stands alone."""
        takes = field.metadata["takes"]
        if takes == "none":
            return "1"
        if takes == "topic":
            has_topic = spelling.startswith("--") and args and not _is_flag(args[0])
            return args.popleft() if has_topic else spelling
        if str(field.type).startswith("bool"):
            # where positionals may follow, only true, false and the like belong to the switch
            is_value = args and not _is_flag(args[0]) and (
                not self._positionals or args[0].lower() in (*TRUE_WORDS, *FALSE_WORDS))
            return args.popleft() if is_value else "1"
        if not args or _is_flag(args[0]):
            raise UsageError(f"{spelling}: needs a value")
        values = [args.popleft()]
        # positionals may follow at once: only what looks like an ending belongs to the flag
        while takes == "extensions" and args and args[0].startswith(".") and "/" not in args[0]:
            values.append(args.popleft())
        while takes == "words" and args and not _is_flag(args[0]):
            values.append(args.popleft())
        return ",".join(values)

    def _complete(self, name: str) -> str:
        """Return the one flag that begins with `name`; UsageError where there is none or more than one."""
        if name in self._fields:
            return name
        # one match among MXNet's flags decides, however many of ours begin with it too
        for generation in _GENERATIONS if self._takes_prefixes else ():
            matches = [spelling for spelling, field in self._fields.items()
                       if field.metadata["since"] in generation and spelling.startswith(name)]
            # two spellings of one flag are not ambiguous
            if len({self._fields[match].name for match in matches}) == 1:
                return matches[0]
            if matches:
                raise UsageError(f"{name} could be {', '.join(sorted(matches))}: write one of them out")
        long_flags = [spelling for spelling in self._fields if spelling.startswith("--")]
        raise unknown("flag", name, long_flags, OTHER_WORDS.get(name))

    def _place(self, loose: list[str]) -> list[str]:
        """Give the positionals to the positional settings in turn; return those that are too many."""
        for field in self._positionals:
            # nothing may follow a setting that takes all there is left
            takes_all = field.metadata["takes"] != "value"
            taken = loose if takes_all else loose[:1]
            if taken:
                self.texts[field.name] = taken if takes_all else taken[0]
            loose = loose[len(taken):]
        return loose


def _negated(spelling: str, text: str) -> bool:
    try:
        return not to_boolean(text)
    except ValueError:
        # spelled out here: `convert` would name the switch that this is the opposite of
        raise UsageError(f"{spelling} {verbatim(show(text))}: must be 1 or 0 (true or false)") from None
