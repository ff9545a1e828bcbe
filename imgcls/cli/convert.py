"""Convert, merge, split and shrink labelled images: records, folders, tar shards, LMDB, parquet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._dry_run import (
    about_bytes,
    about_disk,
    about_measure,
    about_time,
    check_disk,
    measure_samples,
    print_plan,
)
from imgcls.cli._im2rec_lists import num_cores, show_progress
from imgcls.cli._preparing import print_left_out, resize_flag, threads_flag
from imgcls.cli._run import ending_in_order, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, flag_spelling, positional
from imgcls.data.conversion.convert import (
    ConversionResult,
    convert,
    shard_path,
    shared_class_names,
    shrunk,
)
from imgcls.data.conversion.readers import Sample, SampleReader, open_samples
from imgcls.data.conversion.writers import KINDS, kind_of
from imgcls.data.packing.config import PackConfig
from imgcls.errors import RunError, UsageError, spell_settings, tell
from imgcls.storage.atomic import check_outputs
from imgcls.storage.paths import to_local_path

NAME = "imgcls-convert"
EXAMPLES = """examples:
  imgcls-convert train.rec small.rec --resize 256       shrink to a short edge of 256
  imgcls-convert train_?.rec train.rec                  merge
  imgcls-convert train.rec part.rec --shards 8          split: part_0.rec to part_7.rec
  imgcls-convert train.rec shards/train.tar --shards 8  tar shards of WebDataset
  imgcls-convert ilsvrc12_train_lmdb train.rec          Caffe's LMDB; train_lmdb as OUT writes one
  imgcls-convert train.parquet photos/                  parquet of Hugging Face; a folder for each class
"""
NOTES = """IN is a .rec, a .tar shard, a .tar or .zip of class folders, a .parquet, a folder of class \
folders or that of an LMDB. Records keep their bytes, all kinds their order; records that become records \
keep all their labels. tar, LMDB and parquet need whole numbers as labels. LMDB needs the extra \
imgcls[lmdb], parquet imgcls[parquet].
OUT without an ending is a folder, and so are data.v2 and data-1.0; a folder with another ending (a.b) \
is written as a.b/, with --to folder, or where it is there already."""


@dataclass(frozen=True)
class ConvertConfig:
    """Convert"""

    paths: tuple[str, ...] = positional("what to read, one or several, and what to write, in this order",
                                        metavar="IN", takes="several")
    to: str = flag("", "the kind of OUT (if not given: by its name; without an ending a folder)",
                   choices=("", *KINDS))
    shards: int = flag(1, "files to divide the images among: OUT_0, OUT_1, ...", minimum=1, maximum=100_000)
    resize: int = resize_flag("shrink images whose short edge is longer; 0: none")
    quality: int = flag(95, "JPEG quality of resized images", minimum=1, maximum=100)
    renumber: bool = flag(False, "assign consecutive ids, for merged files whose ids repeat", takes="none")
    strict: bool = flag(False, "exit status 1 if an image was left out", takes="none")
    dry_run: bool = flag(False, "write nothing: print what would be done, convert a few images, and "
                         "estimate time and disk space for all", takes="none")
    num_thread: int = threads_flag()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: something failed, 2: wrong usage."""
    with ending_in_order():
        return run_main(_start, argv, NAME, ConvertConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, ConvertConfig, prog=NAME, usage="[flags] IN [IN ...] OUT", examples=EXAMPLES,
                    notes=NOTES)
    if len(args.paths) < 2:
        raise UsageError("IN and OUT are needed: what to read, and what to write")
    # the last name is the output, as cp and mv have it
    *inputs, out = [str(to_local_path(path)) for path in args.paths]
    is_folder = args.paths[-1].endswith("/") or os.path.isdir(out)
    kind = args.to or kind_of(out, is_folder=is_folder)
    # a folder or database is only written where nothing is
    is_file = kind in ("rec", "tar", "parquet")
    targets = [shard_path(out, shard, args.shards) for shard in range(args.shards)]
    if is_file:
        check_outputs(targets, inputs)
    # all inputs are opened before anything is written: a wrong name is reported at once
    readers = [open_samples(path) for path in inputs]
    config = PackConfig(resize=args.resize, quality=args.quality, num_threads=args.num_thread or num_cores())
    if args.dry_run:
        return _tell_plan(readers, targets, kind, config)
    start = time.perf_counter()
    with show_progress(sum(map(len, readers)), os.path.basename(out)) as progress:
        result = convert(readers, out, kind, config, num_shards=args.shards, renumber=args.renumber,
                         progress=progress)
    return _report(result, args, time.perf_counter() - start)


def _tell_plan(readers: Sequence[SampleReader], targets: Sequence[str], kind: str, config: PackConfig) -> int:
    """Print what would be done. RunError where the disk is too small for it."""
    shared_class_names(readers)  # raises where the class names cannot be merged

    def size_of(sample: Sample) -> int | None:
        image = shrunk(sample.image, config)
        return None if isinstance(image, str) else len(image) + len(sample.head)

    count = sum(map(len, readers))
    measure = measure_samples(readers, size_of, config.num_threads)
    needed = measure.bytes_of(count)
    folder = os.path.dirname(os.path.abspath(targets[0]))
    written = targets[0] if len(targets) == 1 else f"{targets[0]} to {targets[-1]}"
    print_plan({"dry run": about_measure(measure), "images": f"{count:,}",
                "files": f"{written} ({kind}), about {about_bytes(needed)} in all",
                "time": about_time(measure, count, config.num_threads), "disk": about_disk(folder, needed)})
    check_disk(folder, needed)
    return 0


# the same few lines for every kind: what is left out on stderr, what is written on stdout
def _report(result: ConversionResult, args: ConvertConfig, seconds: float) -> int:
    """Print how it went, and return the exit status; RunError where nothing was converted."""
    print_left_out(NAME, result.skipped)
    if result.num_repeated_ids:
        note = (f"{result.num_repeated_ids} ids occur more than once; a reader that looks records up by id "
                "finds only one of each: `renumber` gives new ones")
        tell(f"{NAME}: {spell_settings(note, flag_spelling(ConvertConfig))}")
    for note in result.notes:
        tell(f"{NAME}: {note}")
    for path, count in result.written:
        tell(f"{path}: {count} images", sys.stdout)
    num_written = sum(count for _, count in result.written)
    tell(f"{num_written} images, {len(result.skipped)} left out, {seconds:.1f} s", sys.stdout)
    # a run that did nothing must not look like one that succeeded, even without --strict
    if not num_written:
        raise RunError("not one image could be converted")
    return 1 if args.strict and result.skipped else 0
