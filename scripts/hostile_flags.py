#!/usr/bin/env python3
"""Type hostile values behind every flag of every command, whole commands, for as long as one likes.

    python scripts/hostile_flags.py                    # once through all flags with a few values each
    python scripts/hostile_flags.py --minutes 10 --seed 7
    python scripts/hostile_flags.py --commands train,launch

Each command works on tiny data in a folder of its own, in this process. What must come out: exit status 0, 1
or 2, at most one line with "error:" on stderr, no traceback and no "a bug in imgcls". Prints what broke as a
command line that does it again; status 1 if anything did. `tests/test_hostile_flags.py` runs a part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imgcls.cli import benchmark, convert, doctor, im2rec, launch, mean, predict, score, serve
from imgcls.config import lookup, sections
from imgcls.config.flags import flags_of, long_flag
from imgcls.datasets import digits
from imgcls.formats import idx

#: text that is no number and no name of anything
TEXTS = ("", " ", "nan", "inf", "-inf", "1e400", "²", "٣", "½", "x", "\x1b[31mred", "a\nb", "9" * 5000,
         "é" * 300, os.fsdecode(b"\xff\xfe"), "/", ".", "..", "/dev/null", "/no/such", "s4://x", "s3://",
         "file:///", "a::b", "`lr`",
         "--", "-", "None", "1,2", "1:2", "h:99999", "[", "{", "*", ";", "%s", "{0}", "~nobody", "x/" * 3000,
         "bad.csv", "bad.tar", "bad.parquet", "bad_lmdb", "x-{9..1}.tar", "{0..999999}{0..9}.tar",
         "*.tar;x.rec",
         "torchvision:", "timm:x", ":", "auto", "0008", "1" * 40, "1,", ",", "1,,2", "0,0", "True")
#: numbers at the ends of what a library may take, and behind them
NUMBERS = ("0", "-1", "1", "2", "3", "1e-9", "0.5", "1e9", "2147483647", "2147483648", "4294967296",
           "9223372036854775807", "9223372036854775808", "1000000000000", "100000000000000000000000000",
           "-1e9", "1.5", "65500", "65501", "1024", "100000", "1e300", "-0", "1_000", "3,2", "1,28,28,28",
           "3,100000,100000",
           "1,1,1", "3,65500,65500", "0,1,1", "1,7,400", "4,28,28")


@dataclass(frozen=True)
class Command:
    """A command, what it is called with beside the flag that is tried, and the flags that it has."""

    name: str
    arguments: Sequence[str]
    sections: Sequence[type]
    #: the flags it takes of those sections; all where there are none named
    used: Sequence[str] = ()

    def fields(self) -> dict[str, Field[Any]]:
        """Return the flags that a value can stand behind."""
        fields = {name: field for section in self.sections for name, field in flags_of(section).items()}
        return {name: field for name, field in fields.items()
                if not field.metadata["is_positional"] and field.metadata["takes"] != "none"
                and (not self.used or name in self.used)}


def commands() -> list[Command]:
    """Return all commands, each with arguments that make it do as little as it can."""
    shared = tuple(sections.SECTIONS.values())
    data = ("--dataset", "mnist", "--data-dir", "mnist")
    train = (*data, "--network", "mlp", "--num-epochs", "1", "--batch-size", "32", "--model-prefix", "new/x")
    own = {module: own_sections(module) for module in (
        score, predict, serve, launch, im2rec, doctor, convert, mean)}
    return [
        Command("train", train, shared),
        Command("finetune", ("--pretrained-model", "model/x", *train), (sections.FinetuneConfig, *shared)),
        Command("score", ("--model", "model/x", *data), (*own[score], *shared),
                (*score.USED, *fields_of(own[score]))),
        Command("predict", ("--model", "model/x", "images/0.png"), (*own[predict], *shared),
                (*getattr(predict, "USED", ()), *fields_of(own[predict]))),
        Command("doctor", ("images", "--num-thread", "1"), (*own[doctor], *shared),
                (*doctor.USED, *fields_of(own[doctor]))),
        Command("serve", ("--model", "model/x", "--port", "0"), (*own[serve], *shared),
                (*serve.USED, *fields_of(own[serve]))),
        *(Command("benchmark", ("--warm-up", "0", "--num-batches", "1", "--repeats", "1", *arguments),
                  (benchmark.BenchmarkConfig, *shared),
                  (*benchmark.USED, *fields_of([benchmark.BenchmarkConfig])))
          for arguments in (("--network", "mlp", "--batch-size", "2"),
                            ("--mode", "train", "--network", "mlp", "--batch-size", "2"),
                            ("--mode", "loader", *data, "--batch-size", "2"))),
        Command("im2rec", ("out/x", "images"), own[im2rec]),
        Command("convert", ("x.rec", "out/y.rec"), own[convert]),
        Command("mean", ("x.rec",), own[mean]),
        Command("launch", ("-n", "1", "--dry-run", "true"), own[launch]),
        *(Command(name, ("x.rec",) * (2 if name == "convert-mean" else 1),
                  own_sections(lookup.module("cli", name, "command")))
          for name in ("rec2idx", "verify", "convert-mean")),
    ]


def own_sections(module: ModuleType) -> list[type]:
    """Return the sections of settings that a command's file declares or uses."""
    return [value for value in vars(module).values()
            if isinstance(value, type) and hasattr(value, "__dataclass_fields__") and flags_of(value)]


def fields_of(classes: Sequence[type]) -> list[str]:
    """Return the names of the settings of these sections."""
    return [name for section in classes for name in flags_of(section)]


def complaint(command: str, argv: Sequence[str]) -> str:
    """Run a command in this process; return what is wrong with how it ended, or ""."""
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, _lose_patience)
    signal.alarm(PATIENCE_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status: Any = lookup.module("cli", command, "command").main(list(argv))
    except SystemExit as error:
        status = error.code
    except Patience:
        return ""
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    told = err.getvalue()
    lines = [line for line in told.splitlines() if "error:" in line]
    if status not in (0, 1, 2, None):
        return f"status {status}\n{told}"
    if "Traceback" in told or "a bug in imgcls" in told or len(lines) > 1:
        return told
    return "" if status in (0, None) or lines or out.getvalue() else f"status {status} without a word\n{told}"


def cases(generator: random.Random, chosen: Sequence[Command]) -> Iterator[tuple[Command, list[str]]]:
    """Yield all flags of all commands with values in a random order, without an end."""
    while True:
        everything = [(command, name) for command in chosen for name in command.fields()]
        generator.shuffle(everything)
        for command, name in everything:
            value = generator.choice(NUMBERS if generator.random() < 0.6 else TEXTS)
            argv = [*command.arguments]
            position = 0 if command.name == "launch" else len(argv)
            argv[position:position] = [f"{long_flag(name)}={value}"]
            yield command, argv


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    """Work in a temporary folder, without the user's variables that matter to the commands."""
    before = os.getcwd()
    # settings of the user, and what a launcher or an agent has set for its processes
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("IMGCLS_")}
    with tempfile.TemporaryDirectory(prefix="imgcls-hostile-") as folder:
        os.environ["IMGCLS_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        try:
            # a server that starts would run for ever
            with mock.patch.object(serve, "_serve", return_value=None):
                _write_data()
                yield
        finally:
            os.chdir(before)
            del os.environ["IMGCLS_CACHE"]
            os.environ.update(kept)


def _write_data() -> None:
    """Write what the commands work on: a few digits as MNIST's files, pictures, records; train a network."""
    for name in ("mnist", "images"):
        os.mkdir(name)
    images, labels = digits.draw(80, 1)
    for stem, part in (("train", slice(64)), ("t10k", slice(64, 80))):
        idx.write_images(Path("mnist", f"{stem}-images-idx3-ubyte.gz"), images[part, 0])
        idx.write_labels(Path("mnist", f"{stem}-labels-idx1-ubyte.gz"), labels[part])
    for number in range(3):
        cv2.imwrite(f"images/{number}.png", images[number, 0])
    # files of several forms with content that is wrong
    for name, data in (("bad.csv", b"a.jpg,1\n" + bytes(99)), ("bad.tar", b"x" * 2000),
                       ("bad.parquet", b"PAR1" * 9), ("bad_lmdb/data.mdb", b"\xee" * 9000)):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data)
    train = commands()[0]
    prepared = ([train.name, *train.arguments, "--model-prefix", "model/x"], ["im2rec", "x", "images"])
    for name, *argv in prepared:
        if problem := complaint(name, argv):
            raise SystemExit(f"{name} {shlex.join(argv)}: {problem}")


#: settings that start other processes: the launcher's tests try these
STARTS_PROCESSES = ("--workers-per-host=", "--max-restarts=", "--nnodes=")
#: seconds after which a command that still runs, such as one of many epochs, is stopped
PATIENCE_S = 5


class Patience(BaseException):
    """Raised in a command that has worked long enough."""


def _lose_patience(_number: int, _frame: object) -> None:
    raise Patience


def main(arguments: Sequence[str] | None = None) -> int:
    """Try values until the time is over; return 1 if one broke a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="")
    options = parser.parse_args(arguments)
    chosen = [command for command in commands()
              if not options.commands or command.name in options.commands.split(",")]
    import torch  # noqa: F401 - outside the time limit: an import that was broken off cannot be repeated

    end = time.monotonic() + 60 * options.minutes
    num_tried = num_broken = 0
    with workplace():
        for command, argv in cases(random.Random(options.seed), chosen):
            if time.monotonic() > end:
                break
            if any(argument.startswith(STARTS_PROCESSES) for argument in argv):
                continue
            num_tried += 1
            if problem := complaint(command.name, argv):
                num_broken += 1
                print(f"{shlex.join(['imgcls', command.name, *argv])[:400]}\n  {problem[-1500:]}", flush=True)
    print(f"{num_tried} commands, {num_broken} broken")
    return 1 if num_broken else 0


if __name__ == "__main__":
    sys.exit(main())
