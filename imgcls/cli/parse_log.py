"""Print the epochs of a training log as a table: MXNet's parse_log.py. (imgcls-report shows more.)"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imgcls.cli._run import run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.errors import DataError, printable, reason
from imgcls.report.lines import bounded_lines
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read

NAME = "imgcls-parse-log"
EXAMPLES = """examples:
  imgcls-parse-log train.log                                                a Markdown table
  imgcls-parse-log train.log --format none                                  columns with tabs between them
  imgcls-parse-log train.log --metric-names accuracy top_k_accuracy_5       these metrics
"""
#: what stands before the name of a value, and the value
_EPOCH = re.compile(r"Epoch\[(\d{1,9})\] ")
_VALUE = re.compile(r"=([.\d]+)")
#: a log with more epochs is none of a training: what follows them is passed over
_MAX_EPOCHS = 100_000


@dataclass(frozen=True)
class ParseConfig:
    """Parse"""

    logfile: str = positional("the log; - is stdin", metavar="LOGFILE")
    format: str = flag("markdown", "markdown, or none: tabs", since="g2", choices=("markdown", "none"))
    metric_names: tuple[str, ...] = flag(("accuracy",), "the metrics to look for", since="g2", metavar="NAME",
                                         takes="words")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_main(_start, argv, NAME, ParseConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, ParseConfig, prog=NAME, usage="[flags] LOGFILE", examples=EXAMPLES)
    path = to_path("/dev/stdin" if args.logfile == "-" else args.logfile, "LOGFILE")
    try:
        with open_read(path) as stream:
            epochs = read_epochs((line.decode("utf-8", "replace") for line in bounded_lines(stream)),
                                 args.metric_names)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    names = [printable(name) for name in args.metric_names]
    header = ["epoch", *(f"train-{name}" for name in names), *(f"val-{name}" for name in names), "time"]
    if args.format == "markdown":
        print("| " + " | ".join(header) + " |")
        print("| " + " | ".join(["---"] * len(header)) + " |")
    else:
        print("\t".join(header))
    for epoch, means in epochs.items():
        cells = [f"{epoch + 1:2d}", *(f"{mean:f}" for mean in means[:-1]), f"{means[-1]:.1f}"]
        print("| " + " | ".join(cells) + " |" if args.format == "markdown" else "\t".join(cells))
    return 0


def read_epochs(lines: Iterable[str], metric_names: Sequence[str]) -> dict[int, list[float]]:
    """Return epoch -> the means of each training metric, of each validation metric, and of the time in s.

    Epochs are counted from 0 and in the order of the log. As in MXNet's tool, a value is the digits and dots
    after the last = of a line, and several values in an epoch are averaged. A column without a value is nan,
    where MXNet's tool divides by zero.
    """
    kinds = [*(f"Train-{name}" for name in metric_names), *(f"Validation-{name}" for name in metric_names),
             "Time"]
    sums: dict[int, list[list[float]]] = {}
    for line in lines:
        column, epoch, text = _parse_line(line, kinds)
        if epoch < 0 or len(sums) >= _MAX_EPOCHS:
            continue
        try:
            value = float(text)
        except ValueError:  # 1.2.3
            continue
        cell = sums.setdefault(epoch, [[0.0, 0] for _ in kinds])[column]
        cell[0] += value
        cell[1] += 1
    return {epoch: [total / count if count else float("nan") for total, count in cells]
            for epoch, cells in sums.items()}


# MXNet's pattern, .*Epoch[N] KIND.*=VALUE, in one pass: as one pattern, a line of many Epoch[N] and no =
# takes the square of its length.
def _parse_line(line: str, kinds: Sequence[str]) -> tuple[int, int, str]:
    """Return (column, epoch, value) of a line, the epoch -1 where it has none of the kinds."""
    values = list(_VALUE.finditer(line)) if "Epoch[" in line else []
    if values:
        before = line[:values[-1].start()]
        epochs = list(_EPOCH.finditer(before))
        # the first kind that fits counts, as in MXNet: names may begin alike
        for column, kind in enumerate(kinds):
            for epoch in reversed(epochs):
                if before.startswith(kind, epoch.end()):
                    return column, int(epoch[1]), values[-1][1]
    return 0, -1, ""
