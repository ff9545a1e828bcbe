"""Read record files through and decode every image: says what is wrong and where, or that all is well."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgcls.cli._argparse import Parser
from imgcls.cli._run import run_main
from imgcls.data.packing.images import decode, quiet_opencv
from imgcls.data.packing.pipeline import map_in_order
from imgcls.errors import DataError, UsageError
from imgcls.formats.lists import class_names
from imgcls.formats.recordio import RecordReader, expand, unpack
from imgcls.storage.paths import AnyPath

EXAMPLES = """examples:
  imgcls-verify data/train.rec                  every record, every image
  imgcls-verify data/train data/val.rec         all .rec files of a folder, and one more
  imgcls-verify --decode False data/train.rec   only the records, not the images in them: seconds
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0: all is well, 1: something is wrong with a file, 2: wrong usage."""
    return run_main(_start, argv, "imgcls-verify")


def _start(argv: Sequence[str]) -> int:
    flags = _parse(argv)
    files: list[AnyPath] = []
    for text in flags.files:
        # A file that is named is looked at even if it is empty, which in a folder means nothing.
        files += [Path(text)] if os.path.isfile(text) else expand(text, "FILE")
    return 1 if sum([_verify(path, flags) for path in files]) else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="imgcls-verify", usage="imgcls-verify [flags] FILE.rec ...",
                    description=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .rec file, a folder, or a pattern")
    parser.add_argument("--decode", default="True", choices=("True", "False"), help="the images too")
    parser.add_argument("--num-thread", type=int, default=0, metavar="N", help="default: one per core")
    parser.add_argument("--max-problems", type=int, default=100, metavar="N", help="to show per file (100)")
    flags = parser.parse_args(argv)
    if flags.num_thread < 0:
        raise UsageError(f"--num-thread {flags.num_thread} must not be negative")
    flags.num_thread = flags.num_thread or os.cpu_count() or 1
    return flags


def _verify(path: AnyPath, flags: argparse.Namespace) -> int:
    """Print what is wrong with a file and a line that sums it up; returns how much is wrong."""
    start = time.perf_counter()
    try:
        reader = RecordReader(path, resync=True, use_index=False)
    except DataError as error:
        print(error)
        return 1
    problems = list(reader.problems)
    damaged = len(problems)
    if flags.decode == "True":
        problems += _bad_images(reader, flags)
    else:
        problems += [error for _, error in sorted(reader.header_problems().items())]
    bad = len(problems) - damaged
    index_problem = reader.check_index()
    problems += [index_problem] if index_problem else []
    if not len(reader) and not damaged:
        problems.append(DataError(path, "it holds no record"))
    for problem in problems[:flags.max_problems]:
        print(problem)
    if len(problems) > flags.max_problems:
        print(f"{path}: {len(problems) - flags.max_problems} more like these")
    seconds = time.perf_counter() - start
    state = f"{len(reader) - bad} good, {bad} bad, {damaged} damaged places" if problems else "all good"
    print(f"{path}: {len(reader)} records, {state}{_labels(reader)}; {reader.size / 1e6:.1f} MB "
          f"in {seconds:.1f} s", flush=True)
    return len(problems)


def _bad_images(reader: RecordReader, flags: argparse.Namespace) -> list[DataError]:
    """Every record that is no image record, or whose image cannot be decoded, in order."""
    def look(i: int) -> DataError | None:
        offset = reader.offsets.item(i)
        try:
            header, _, image = unpack(reader.payload(i))
        except ValueError as error:
            return DataError(reader.path, f"record {i} {error}", offset)
        except DataError as error:
            return error
        result = decode(image, 1)
        if isinstance(result, str):
            return DataError(reader.path, f"record {i} (id {header.id}): {result}", offset)
        return None

    from tqdm import tqdm

    with quiet_opencv():
        found = map_in_order(look, range(len(reader)), flags.num_thread)
        # disable=None: a bar on a terminal, nothing in a file
        told = tqdm(found, total=len(reader), desc=reader.path.name, unit="rec", disable=None, leave=False)
        return [error for error in told if error]


def _labels(reader: RecordReader) -> str:
    """What the labels say at a glance, for the summary."""
    widths, counts = np.unique(np.maximum(1, reader.headers()["flag"]), return_counts=True)
    if len(widths) > 1:
        return "; with " + ", ".join(f"{w} labels: {c}" for w, c in zip(widths, counts, strict=True))
    labels = reader.labels(strict=False)
    labels = np.unique(labels[~np.isnan(labels)])
    if not len(labels):
        return ""
    names = class_names(reader.path)
    named = f", {len(names)} class names" if names else ""
    return f"; {len(labels)} different labels, {labels[0]:g} to {labels[-1]:g}{named}"
