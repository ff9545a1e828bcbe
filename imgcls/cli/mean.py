"""Compute the mean and deviation of a data set's channels, and its mean image for MXNet, Caffe or numpy."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgcls.cli._dry_run import about_measure, about_time, measure_samples, print_plan
from imgcls.cli._im2rec_lists import num_cores, show_progress
from imgcls.cli._preparing import print_left_out, resize_flag, threads_flag
from imgcls.cli._run import ending_in_order, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional, show
from imgcls.data.conversion.mean import compute_mean, fitted_pixels
from imgcls.data.conversion.readers import Sample, SampleReader, open_samples
from imgcls.errors import UsageError, tell, verbatim
from imgcls.formats import caffe, npy, params
from imgcls.storage.atomic import check_outputs, check_writable
from imgcls.storage.paths import to_local_path

NAME = "imgcls-mean"
EXAMPLES = """examples:
  imgcls-mean train.rec                                     the values of --rgb-mean and --rgb-std
  imgcls-mean train_?.rec --image-shape 3,224,224 --out mean.bin          the mean image, as MXNet's mean_img
  imgcls-mean train_lmdb --resize 256 --image-shape 3,256,256 --out mean.binaryproto         as Caffe has it
"""
_SUFFIXES = (".bin", ".nd", ".params", ".binaryproto", ".npy")


@dataclass(frozen=True)
class MeanConfig:
    """Mean"""

    data: tuple[str, ...] = positional("what imgcls-convert reads: .rec, folders, archives, LMDB, parquet",
                                       metavar="DATA", takes="several")
    image_shape: tuple[int, ...] = flag((), "3,HEIGHT,WIDTH: size of the centre crop of each image",
                                        metavar="C,H,W", counts=(0, 3), minimum=1, maximum=65500)
    resize: int = resize_flag("resize the short edge of each image to N pixels first; 0: none")
    out: str = flag("", "the mean image: .bin or .nd (MXNet), .binaryproto (Caffe), .npy (3, H, W)",
                    metavar="FILE")
    json: bool = flag(False, "print JSON", takes="none")
    dry_run: bool = flag(False, "write nothing: read a few images, and estimate the time for all",
                         takes="none")
    num_thread: int = threads_flag()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: something failed, 2: wrong usage."""
    with ending_in_order():
        return run_main(_start, argv, NAME, MeanConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, MeanConfig, prog=NAME, usage="[flags] DATA [DATA ...]", examples=EXAMPLES)
    if args.image_shape and args.image_shape[0] != 3:
        raise UsageError(f"`image_shape` {show(args.image_shape)}: must be 3,HEIGHT,WIDTH")
    # all checks come before any image is read, which may take hours
    if args.out and not args.image_shape:
        raise UsageError("`out` needs `image_shape`: a mean image is of images of one size")
    if args.out and not args.out.endswith(_SUFFIXES):
        raise UsageError(f"`out` {verbatim(args.out)}: must end in {', '.join(_SUFFIXES)}")
    if args.out:
        check_outputs([args.out], args.data)
    # all are opened before the first is read: a wrong name at the end of the line is reported at once
    readers = [open_samples(str(to_local_path(path))) for path in args.data]
    shape = (args.image_shape[1], args.image_shape[2]) if args.image_shape else None
    num_threads = args.num_thread or num_cores()
    if args.dry_run:
        return _tell_plan(readers, shape, args, num_threads)
    if args.out:
        check_writable(args.out, "`out`")
    with show_progress(sum(map(len, readers)), "mean") as progress:
        result = compute_mean(readers, shape, args.resize, num_threads, progress=progress)
    print_left_out(NAME, result.skipped)
    if result.image is not None and args.out:
        _save(args.out, result.image)
    if args.json:
        print(json.dumps({"num_images": result.num_images, "num_skipped": len(result.skipped),
                          "rgb_mean": result.mean, "rgb_std": result.std}))
    else:
        # flags of imgcls-train, for copying; three digits are finer than pixels of eight bits need
        tell(f"{result.num_images} images, {len(result.skipped)} left out: "
             f"--rgb-mean {_numbers(result.mean)} --rgb-std {_numbers(result.std)}", sys.stdout)
    return 0


def _tell_plan(readers: Sequence[SampleReader], shape: tuple[int, int] | None, args: MeanConfig,
               num_threads: int) -> int:
    """Print what would be done."""
    def size_of(sample: Sample) -> int | None:
        pixels = fitted_pixels(sample.image, shape, args.resize)
        return None if isinstance(pixels, str) else 0

    count = sum(map(len, readers))
    measure = measure_samples(readers, size_of, num_threads)
    print_plan({"dry run": about_measure(measure), "images": f"{count:,}", "files": args.out or "none",
                "time": about_time(measure, count, num_threads)})
    return 0


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:.3f}" for value in values)


def _save(path: str, image: np.ndarray) -> None:
    """Write the mean image in the format that the name says."""
    if path.endswith(caffe.MEAN_SUFFIX):
        caffe.save_mean(path, image)
    elif path.endswith(".npy"):
        npy.save(path, image)
    else:
        params.save(path, {"mean_img": image})  # the name that ImageRecordIter gives it
