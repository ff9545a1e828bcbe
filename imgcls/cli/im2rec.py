"""Pack images into record files, and make the lists that say which: MXNet's im2rec.py, and its C++ im2rec."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.cli import _key_values
from imgcls.cli._run import ending_in_order, run_main
from imgcls.config import command_line
from imgcls.config.flags import flag, flag_spelling, positional
from imgcls.data import listing
from imgcls.data.packing import outputs
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.outputs import PackCounts
from imgcls.data.packing.pack import make_seekable, pack_list
from imgcls.errors import RunError, UsageError, printable, spell_settings, tell, verbatim
from imgcls.formats import lists
from imgcls.formats.lists import Listing
from imgcls.formats.recordio import RecordReader, index_path, kept_names
from imgcls.storage.atomic import check_outputs, check_writable
from imgcls.storage.paths import to_local_path

NAME = "imgcls-im2rec"
EXAMPLES = """examples:
  imgcls-im2rec data/pets photos/ --resize 256                       list photos/, pack it into data/pets.rec
  imgcls-im2rec data/pets photos/ --list --recursive --train-ratio .9    only the lists, train and val
  imgcls-im2rec data/pets photos/ --num-thread 16 --quality 90       pack every list data/pets*.lst
"""
# shown at the end of --help: what differs from MXNet without any flag
NOTES = """Images that cannot be read are skipped, counted and listed in PREFIX.bad; a .rec appears when it is
complete. EXIF orientation is applied; 16 bits become 8, CMYK becomes RGB, alpha is dropped, an animation
gives its first picture. A flag may be written with - or _ and be shortened, a switch be given True or False.

the C++ tool's form is understood too: imgcls-im2rec LIST ROOT OUT.rec [key=value ...], with the keys
  resize label_width pack_label nsplit part center_crop quality color encoding inter_method unchanged
  num_thread outside_root"""

#: how many problems of a list are printed; all are in STEM.bad
_SHOWN_PROBLEMS = 10
#: more lists than this are only made where there are as many images
_MAX_EMPTY_CHUNKS = 1000
#: MXNet prints a line for every so many images
_PROGRESS_INTERVAL = 1000


@dataclass(frozen=True)
class PathConfig:
    """Paths"""

    prefix: str = positional("of the lists PREFIX*.lst and what is made of them", metavar="PREFIX")
    root: str = positional("the folder that the paths in the lists start from", metavar="ROOT")


# Those of MXNet's im2rec.py are of generation g2, so that a beginning that was enough for MXNet stays enough
# (--re is --recursive or --resize, and --res is --resize), whatever flags came later.


@dataclass(frozen=True)
class ListConfig:
    """Lists"""

    list: bool = flag(False, "only make the list or lists", since="g2")
    recursive: bool | None = flag(None, "go into sub-folders, each is a class; without it only ROOT's own "
                                  "images", since="g2")
    exts: tuple[str, ...] = flag(lists.EXTENSIONS, "what an image's name ends in", since="g2", metavar=".EXT",
                                 takes="extensions")
    chunks: int = flag(1, "lists to deal images out into", since="g2", minimum=1, maximum=1_000_000)
    train_ratio: float = flag(1.0, "share for training", since="g2", metavar="R", minimum=0, maximum=1)
    test_ratio: float = flag(0.0, "share of the test list; what is left of the images is the val list",
                             since="g2", metavar="R", minimum=0, maximum=1)
    shuffle: bool = flag(True, "keep the order of names; --shuffle False is the same", since="g2",
                         negation="--no-shuffle")


@dataclass(frozen=True)
class PackFlags:
    """Packing"""

    resize: int = flag(0, "of the short edge; 0: as is", since="g2", metavar="PIXELS", minimum=0,
                       maximum=65500)
    center_crop: bool = flag(False, "to a square, before the resize", since="g2")
    quality: int = flag(95, "of JPEG, 1-100; of PNG the compression, 0-9", since="g2", minimum=0,
                        maximum=100)
    encoding: str = flag(".jpg", ".jpg or .png", since="g2", metavar=".EXT")
    color: int = flag(1, "1: colour, 0: grey, -1: as stored, with alpha", since="g2", choices=(-1, 0, 1),
                      minimum=-1, maximum=1)
    pass_through: bool = flag(False, "store the files as they are", since="g2")
    pack_label: bool = flag(False, "store all labels of a line", since="g2")
    num_thread: int = flag(0, "threads; 0: one per core", since="g2", minimum=0, maximum=1024)
    seekable: bool = flag(False, "JPEGs of which a crop can be decoded without the rest, a few per cent "
                          "larger; with --pass-through jpegtran makes them, without loss. ROOT may also be a "
                          ".rec then, which is converted to PREFIX.rec")
    outside_root: bool = flag(False, "let a list name files outside of ROOT (../x, /y)")
    strict: bool = flag(False, "exit status 1 if anything was skipped")
    resume: bool = flag(False, "leave out lists that an earlier run packed completely, with the same flags")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: something failed (with --strict, a skipped image too), 2: wrong usage."""
    with ending_in_order():
        return run_main(_start, argv, NAME, PathConfig, ListConfig, PackFlags)


def _start(argv: Sequence[str]) -> int:
    # the two tools of MXNet share a name; three words and no flag are the C++ one's
    if len(argv) >= 3 and not any(word.startswith("-") for word in argv):
        return _pack_key_values(argv)
    paths, list_config, flags = parse(argv)
    if list_config.list:
        _make_lists(paths, list_config)
        return 0
    if os.path.isfile(paths.root):
        return _make_seekable(paths, flags)
    # im2rec.py's own order: lists are packed where there are some, and made where there are none
    return _pack_lists(paths, list_config, flags)


def parse(argv: Sequence[str]) -> tuple[PathConfig, ListConfig, PackFlags]:
    """Return the settings of a command line, checked; a wrong one is a UsageError."""
    paths, list_config, flags = command_line.parse(
        argv, PathConfig, ListConfig, PackFlags, prog=NAME, usage="[flags] PREFIX ROOT", examples=EXAMPLES,
        notes=NOTES, hint="; imgcls-im2rec --help shows examples")
    # in full, as im2rec.py prints them
    paths = PathConfig(os.path.abspath(to_local_path(paths.prefix, "PREFIX")),
                       os.path.abspath(to_local_path(paths.root, "ROOT")))
    # png, .PNG and jpeg are common mistakes, and clear
    encoding = "." + flags.encoding.lstrip(".").lower().replace("jpeg", "jpg")
    flags = dataclasses.replace(flags, encoding=encoding)
    if encoding not in (".jpg", ".png"):
        raise UsageError(f"`encoding` {encoding}: must be .jpg or .png")
    # for PNG it is OpenCV's compression, where 0 means none; quality 0 of a JPEG is only a mistake
    lowest = 0 if encoding == ".png" else 1
    if not lowest <= flags.quality <= 100:
        raise UsageError(f"`quality` {flags.quality}: must be between {lowest} and 100")
    # decimal fractions may add up to a little more than 1
    train_ratio, test_ratio = list_config.train_ratio, list_config.test_ratio
    if train_ratio < 1 and train_ratio + test_ratio > 1.000001:
        raise UsageError(f"`train_ratio` {train_ratio} and `test_ratio` {test_ratio} make over 1")
    if flags.seekable and encoding != ".jpg":
        raise UsageError("`seekable` is for JPEG: `encoding` .png has no such thing")
    # without it cv2 writes restart markers itself, while it encodes
    if flags.seekable and (flags.pass_through or os.path.isfile(paths.root)) and not shutil.which("jpegtran"):
        raise UsageError("`seekable` without encoding anew needs the program jpegtran (of libjpeg-turbo) in "
                         "the PATH")
    return paths, list_config, flags


def _make_lists(paths: PathConfig, config: ListConfig) -> list[Path]:
    """Write PREFIX*.lst and PREFIX.classes.txt; return the lists."""
    check_writable(paths.prefix, "PREFIX")
    images = lists.walk(paths.root, recursive=bool(config.recursive), extensions=config.exts)
    # MXNet makes an empty list of a folder of folders, which nobody wants; --recursive False is believed
    if not images.entries and config.recursive is None:
        deeper = lists.walk(paths.root, recursive=True, extensions=config.exts)
        if deeper.entries and config.list:
            _print_note(f"{paths.root} itself holds no image, its sub-folders do: they need --recursive")
        elif deeper.entries:
            _print_note(f"{paths.root} itself holds no image: its sub-folders are taken, as with --recursive")
            images = deeper
    # names that a list cannot hold
    _print_problems(images, "")
    if not images.entries:
        message = f"{paths.root} holds no image ({' '.join(config.exts)})"
        if not config.list:
            raise RunError(message)
        _print_note(message + "; the list is empty")
    # as in MXNet some may stay empty, but not hundreds of thousands
    if config.chunks > max(len(images.entries), _MAX_EMPTY_CHUNKS):
        raise UsageError(f"`chunks` {config.chunks}: must be at most the number of images, "
                         f"{len(images.entries)}")
    written = listing.write_lists(paths.prefix, images, shuffle=config.shuffle, chunks=config.chunks,
                                  train_ratio=config.train_ratio, test_ratio=config.test_ratio)
    for path, num_images in written:
        _print_note(f"{path}: {num_images} images")
    for label, name in enumerate(images.class_names):
        tell(f"{name} {label}", sys.stdout)  # as MXNet, for whoever pipes that somewhere
    return [path for path, _ in written]


def _pack_lists(paths: PathConfig, list_config: ListConfig, flags: PackFlags) -> int:
    """Pack every PREFIX*.lst, or what is under ROOT when there is none."""
    # said before any list is read: every single image would be skipped
    if not os.path.isdir(paths.root):
        raise UsageError(f"ROOT {verbatim(paths.root)}: no such folder")
    config = PackConfig(
        pass_through=flags.pass_through, resize=flags.resize, center_crop=flags.center_crop,
        color=flags.color, quality=flags.quality, encoding=flags.encoding, pack_label=flags.pack_label,
        seekable=flags.seekable, num_threads=flags.num_thread or _num_cores())
    # every list that begins so, as MXNet: one command packs train and val
    list_paths = listing.find_lists(paths.prefix)
    if not list_paths and os.path.isdir(paths.prefix):
        raise UsageError(f"PREFIX {verbatim(paths.prefix)}: no .lst in this folder; to pack ROOT, give a "
                         "name in it")
    if not list_paths:
        _print_note(f"there is no list {paths.prefix}*.lst: it is made first")
        list_paths = _make_lists(paths, list_config)
    check_writable(str(list_paths[0]), "PREFIX")  # before hours of packing, and not after
    totals = PackCounts(0, 0, 0)
    for path in list_paths:
        tell(f"Creating .rec file from {path} in {path.parent}", sys.stdout)
        stem = str(path.with_suffix(""))
        images = lists.read(path)
        if not flags.outside_root:
            # A list may come from anybody: ../../.ssh/id_rsa would be packed, and published with the images.
            lists.check_inside(path, images.entries, paths.root)
        # the same list, the same flags and a .rec of the right size: packed again it would be the same bytes
        if flags.resume and (counts := outputs.read_stamp(stem, path, config)):
            _print_note(f"{stem}.rec: complete since an earlier run, kept")
        else:
            counts = _pack_list(images, paths.root, stem + ".rec", stem, config)
            outputs.write_stamp(stem, path, config, counts)
        totals = PackCounts(totals.records + counts.records, totals.skipped + counts.skipped, 0)
    return _exit_status(totals, is_strict=flags.strict)


def _make_seekable(paths: PathConfig, flags: PackFlags) -> int:
    """Write PREFIX.rec with the records of the file ROOT, seekable."""
    if not flags.seekable:
        raise UsageError(f"ROOT {verbatim(paths.root)} is a file: a folder is needed, or `seekable` to "
                         "convert a .rec")
    target = paths.prefix + ".rec"
    check_writable(target, "PREFIX")
    check_outputs([target, index_path(target)], [paths.root, index_path(paths.root)])
    start = time.perf_counter()
    # counted first, for the time that is left: a pass over the framing, not over the images
    with _progress(len(RecordReader(paths.root)), Path(target).name) as progress:
        result = make_seekable(paths.root, target, flags.num_thread or _num_cores(), progress=progress)
    # The classes stand in a file beside the records: without it the new ones would have none.
    if names := lists.class_names(paths.root) or kept_names.recall(RecordReader(paths.root)):
        lists.write_class_names(lists.classes_path(paths.prefix), names)
        outputs.remember_names(target, names)
    tell(f"{target}: {result.num_records} records, {result.size_bytes / 1e6:.1f} MB, "
         f"{time.perf_counter() - start:.1f} s", sys.stdout)
    return 0


def _pack_key_values(argv: Sequence[str]) -> int:
    """Do what MXNet's C++ im2rec does: LIST ROOT OUT.rec key=value ..."""
    list_path, root, out, *key_values = argv
    keys = _key_values.read_key_values(key_values)
    config = keys.pack_config(_num_cores())
    out = str(to_local_path(out, "OUT.rec"))
    check_writable(out, "OUT.rec")
    list_path = to_local_path(list_path, "LIST")
    # the name that the C++ tool gives a part, which scripts expect
    target = out if keys.nsplit == 1 else f"{out}.part{keys.part:03d}"
    stem = target.removesuffix(".rec")
    check_outputs([target, index_path(target), stem + ".bad", lists.classes_path(target)], [list_path])
    images = lists.read_blank_separated(list_path, keys.label_width, keys.nsplit, keys.part)
    if not keys.outside_root:
        lists.check_inside(list_path, images.entries, root)
    # the C++ tool puts the root in front as it is; a folder without its separator is understood all the same
    join = not any(os.path.exists(root + entry.path) for entry in images.entries[:100])
    counts = _pack_list(images, root, target, stem, config, join=join)
    if keys.nsplit > 1 and not images.entries:
        _print_note(f"{target}: no line of {list_path} begins in part {keys.part} of {keys.nsplit}, the file "
                    "is empty")
        return 0
    return _exit_status(counts, is_strict=False)


def _pack_list(images: Listing, root: str, target: str, stem: str, config: PackConfig, *,
               join: bool = True) -> PackCounts:
    """Pack one list with all that stands beside it, and print how it went."""
    outputs.remove_leftovers(stem)
    # lines that are none are left out, as MXNet does, but said
    _print_problems(images, "left out: ")
    for warning in listing.rarely_meant(images.entries, target):
        _print_note(warning)
    start = time.perf_counter()
    with _progress(len(images.entries), Path(target).name) as progress:
        result = pack_list(images.entries, root, target, config, progress=progress, join=join)
    counts = outputs.write_outputs(stem, target, images, result)
    # a few here, since a wrong ROOT would skip every single one
    for entry, reason in result.skipped[:_SHOWN_PROBLEMS]:
        _print_note(f"skipped {entry.path}: {reason}")
    if len(result.skipped) > _SHOWN_PROBLEMS:
        _print_note(f"skipped {len(result.skipped) - _SHOWN_PROBLEMS} more, all are in {stem}.bad")
    skipped = f", {counts.skipped} skipped (see {stem}.bad)" if counts.skipped else ""
    tell(f"{target}: {counts.records} records, {counts.size_bytes / 1e6:.1f} MB{skipped}, "
         f"{time.perf_counter() - start:.1f} s", sys.stdout)
    return counts


@contextmanager
def _progress(total: int, name: str) -> Iterator[Any]:
    """Yield a function to call with the count: a bar with the time left on a terminal, MXNet's lines
    elsewhere."""
    # off a terminal a bar would be a line for each of its states
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=printable(name), unit="img", smoothing=0.05, file=sys.stderr) as bar:
            yield lambda count: bar.update()
        return
    last = time.time()

    # im2rec.py's own line, which scripts look for
    def print_line(count: int) -> None:
        nonlocal last
        if (count - 1) % _PROGRESS_INTERVAL == 0:
            now = time.time()
            print(f"time: {now - last:f}  count: {count - 1}", flush=True)
            last = now

    yield print_line


def _exit_status(counts: PackCounts, *, is_strict: bool) -> int:
    # a wrong ROOT: an empty .rec would only be noticed in training
    if not counts.records:
        raise RunError("not one image could be packed")
    return 1 if is_strict and counts.skipped else 0


def _print_problems(images: Listing, prefix: str) -> None:
    for problem in images.problems[:_SHOWN_PROBLEMS]:
        _print_note(f"{prefix}{problem}")
    if len(images.problems) > _SHOWN_PROBLEMS:
        _print_note(f"{prefix}{len(images.problems) - _SHOWN_PROBLEMS} more like these")


def _num_cores() -> int:
    # a container or taskset may leave fewer than the machine has
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_note(text: str) -> None:
    tell(f"{NAME}: {spell_settings(text, flag_spelling(ListConfig))}")
