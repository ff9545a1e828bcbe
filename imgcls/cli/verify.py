"""Check record files: read all records, decode all images, and report what is damaged and where."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgcls.cli._preparing import threads_flag
from imgcls.cli._run import run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.data.packing.images import decode, quiet_opencv
from imgcls.data.packing.pipeline import map_in_order
from imgcls.errors import DataError, printable, tell
from imgcls.formats.lists import class_names
from imgcls.formats.recordio import RecordReader, expand, unpack
from imgcls.formats.recordio.names_cache import recall
from imgcls.storage.paths import AnyPath

NAME = "imgcls-verify"
EXAMPLES = """examples:
  imgcls-verify data/train.rec                  every record, every image
  imgcls-verify data/train data/val.rec         all .rec files of a folder, and one more
  imgcls-verify --decode False data/train.rec   only the records, not the images in them: seconds
"""


@dataclass(frozen=True)
class VerifyConfig:
    """Verify"""

    files: tuple[str, ...] = positional("a .rec file, a folder, or a pattern", metavar="FILE",
                                        takes="several")
    decode: bool = flag(True, "the images too")
    num_thread: int = threads_flag()
    max_problems: int = flag(100, "to show per file", metavar="N", minimum=0, maximum=10**9)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: all is well, 1: something is wrong with a file, 2: wrong usage."""
    return run_main(_start, argv, NAME, VerifyConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, VerifyConfig, prog=NAME, usage="[flags] FILE.rec ...", examples=EXAMPLES)
    paths: list[AnyPath] = []
    for text in args.files:
        # A file that is named is checked even if it is empty; `expand` passes over empty files.
        paths += [Path(text)] if os.path.isfile(text) else expand(text, "FILE")
    # a list and not any(): the files after a bad one are read, too
    return 1 if sum([_verify(path, args) for path in paths]) else 0


def _verify(path: AnyPath, args: VerifyConfig) -> int:
    """Print what is wrong with a file and a line that sums it up; return the number of problems."""
    start = time.perf_counter()
    try:
        # The index is what is under test: offsets come from the file itself.
        reader = RecordReader(path, resync=True, use_index=False)
    except DataError as error:
        tell(str(error), sys.stdout)
        return 1
    # first what is wrong with the framing, then with the content of records that could be read
    problems = list(reader.problems)
    num_damaged = len(problems)
    # Decoding finds wrong headers too; without it the headers alone are checked, in seconds.
    if args.decode:
        problems += _bad_images(reader, args.num_thread or os.cpu_count() or 1)
    else:
        problems += [error for _, error in sorted(reader.header_problems().items())]
    num_bad = len(problems) - num_damaged
    # Last, since a wrong index can be made anew with imgcls-rec2idx, and images cannot.
    index_problem = reader.check_index()
    problems += [index_problem] if index_problem else []
    # The framing of an empty file is not wrong, but nobody packs a file without records.
    if not len(reader) and not num_damaged:
        problems.append(DataError(path, "it holds no record"))
    # on stdout: the problems are the result of this command
    for problem in problems[:args.max_problems]:
        tell(str(problem), sys.stdout)
    if len(problems) > args.max_problems:
        tell(f"{path}: {len(problems) - args.max_problems} more like these", sys.stdout)
    seconds = time.perf_counter() - start
    state = "all good"
    if problems:
        state = f"{len(reader) - num_bad} good, {num_bad} bad, {num_damaged} damaged places"
    tell(f"{path}: {len(reader)} records, {state}{_describe_labels(reader)}; {reader.size / 1e6:.1f} MB "
         f"in {seconds:.1f} s", sys.stdout)
    return len(problems)


def _bad_images(reader: RecordReader, num_threads: int) -> list[DataError]:
    """Return, in order, an error for every record that is no image record or whose image cannot be
    decoded."""
    from tqdm import tqdm

    def check(index: int) -> DataError | None:
        offset = reader.offsets.item(index)
        try:
            header, _, image = unpack(reader.payload(index))
        except ValueError as error:
            return DataError(reader.path, f"record {index} {error}", offset)
        except DataError as error:
            return error
        # decoded to the end, in colour as in training, so that images that are cut short are found
        pixels_or_reason = decode(image, 1)
        if isinstance(pixels_or_reason, str):
            return DataError(reader.path, f"record {index} (id {header.id}): {pixels_or_reason}", offset)
        return None

    with quiet_opencv(), map_in_order(check, range(len(reader)), num_threads) as errors:
        # disable=None: a bar on a terminal, nothing in a file
        shown = tqdm(errors, total=len(reader), desc=printable(reader.path.name), unit="rec", disable=None,
                     leave=False)
        return [error for error in shown if error]


def _describe_labels(reader: RecordReader) -> str:
    """Return a few words about the labels, for the summary."""
    # flag 0 is one label in the header; otherwise it counts the labels behind it
    widths, counts = np.unique(np.maximum(1, reader.headers()["flag"]), return_counts=True)
    # some with one label, some with boxes: a range of values would mean nothing
    if len(widths) > 1:
        return "; with " + ", ".join(f"{w} labels: {c}" for w, c in zip(widths, counts, strict=True))
    # labels of records that are no images are NaN
    labels = reader.labels(strict=False)
    labels = np.unique(labels[~np.isnan(labels)])
    if not len(labels):
        return ""
    names = class_names(reader.path) or recall(reader)
    named = f", {len(names)} class names" if names else ""
    return f"; {len(labels)} different labels, {labels[0]:g} to {labels[-1]:g}{named}"
