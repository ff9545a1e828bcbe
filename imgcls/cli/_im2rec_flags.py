"""The flags of imgcls-im2rec."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._preparing import resize_flag, threads_flag
from imgcls.config import command_line
from imgcls.config.flags import flag, positional
from imgcls.data.image_trees import is_archive_root
from imgcls.errors import UsageError, verbatim
from imgcls.formats import image_folders
from imgcls.storage.paths import to_path
from imgcls.storage.remote import RemotePath

NAME = "imgcls-im2rec"
EXAMPLES = """examples:
  imgcls-im2rec data/pets photos/ --resize 256                       list photos/, pack it into data/pets.rec
  imgcls-im2rec data/pets photos/ --list --recursive --train-ratio .9    only the lists, train and val
  imgcls-im2rec data/full fall11_whole.tar --recursive --min-images 501 --val-per-class 50 --chunks 8
                                                                     a tar of tars, nothing extracted
  imgcls-im2rec data/pets photos/ --num-thread 16 --quality 90       pack every list data/pets*.lst
"""
#: the settings that -h shows
COMMON = ("list", "recursive", "train_ratio", "val_per_class", "chunks", "shuffle", "resize",
          "quality", "pass_through", "num_thread", "dry_run", "resume")
# shown at the end of --help: what differs from MXNet without any flag
NOTES = """Images that cannot be read are skipped, counted and listed in PREFIX.bad; a .rec appears when it \
is complete. EXIF orientation is applied; 16 bits become 8, CMYK becomes RGB, alpha is dropped, an \
animation gives its first picture. A flag may be written with - or _ and be shortened, a switch \
be given True or False.

the C++ tool's form is understood too: imgcls-im2rec LIST ROOT OUT.rec [key=value ...], with the keys
  resize label_width pack_label nsplit part center_crop quality color encoding inter_method unchanged
  num_thread outside_root"""


_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class PathConfig:
    """Paths"""

    prefix: str = positional("prefix of the lists (PREFIX*.lst) and of the record files", metavar="PREFIX")
    root: str = positional("the folder that the paths in the lists start from; or a .tar, a .zip, a tar of "
                           "tars, a folder of tars, or the URL of one of these", metavar="ROOT")


# The flags of MXNet's im2rec.py are of generation g2, so that an abbreviation that was enough for MXNet stays
# enough (--re is --recursive or --resize, and --res is --resize), whatever flags came later.


@dataclass(frozen=True)
class ListConfig:
    """Lists"""

    list: bool = flag(False, "only write the lists", since="g2")
    recursive: bool | None = flag(None, "descend into sub-folders, each a class; without it only the images "
                                  "in ROOT itself", since="g2")
    exts: tuple[str, ...] = flag(image_folders.EXTENSIONS, "file name suffixes of images", since="g2",
                                  metavar=".EXT",
                                 takes="extensions")
    chunks: int = flag(1, "number of lists to divide the images among", since="g2", minimum=1,
                       maximum=1_000_000)
    train_ratio: float = flag(1.0, "fraction of the images for training", since="g2", metavar="R", minimum=0,
                              maximum=1)
    test_ratio: float = flag(0.0, "fraction of the images for the test list; the remaining images form the "
                             "val list", since="g2", metavar="R", minimum=0, maximum=1)
    shuffle: bool = flag(True, "keep the order of names; --shuffle False is the same", since="g2",
                         negation="--no-shuffle")


@dataclass(frozen=True)
class SelectFlags:
    """Which images are listed"""

    min_images: int = flag(0, "leave out classes with fewer images", metavar="N", minimum=0,
                           maximum=1_000_000_000)
    val_per_class: int = flag(0, "number of images of each class, drawn with --seed, for PREFIX_val.lst; "
                              "the others form PREFIX_train.lst", metavar="N", minimum=0,
                              maximum=1_000_000_000)
    max_classes: int = flag(0, "only the first N classes; 0: all", metavar="N", minimum=0,
                            maximum=1_000_000_000)
    max_images: int = flag(0, "at most N images of each class, drawn with --seed; 0: all", metavar="N",
                           minimum=0, maximum=1_000_000_000)
    seed: int = flag(0, "seed of random draws", minimum=0, maximum=2**63 - 1)
    synsets: str = flag("", "a text file with the folder of class 0, 1, ... as the first word of each line",
                        metavar="FILE")
    devkit: str = flag("", "ROOT holds the validation images of ILSVRC2012: their labels are in this "
                           "devkit, a "
                       ".tar.gz or its folder", metavar="DEVKIT")


@dataclass(frozen=True)
class PackFlags:
    """Packing"""

    resize: int = resize_flag("length of the short edge; 0: unchanged", since="g2")
    center_crop: bool = flag(False, "crop the centre square before resizing", since="g2")
    quality: int = flag(95, "JPEG quality, 1-100, or PNG compression, 0-9", since="g2", minimum=0,
                        maximum=100)
    encoding: str = flag(".jpg", ".jpg, .png, or .npy (raw pixels, read by imgcls only: ten times as large, "
                         "no decoding in training)", since="g2", metavar=".EXT")
    color: int = flag(1, "1: colour, 0: grey, -1: as stored, with alpha", since="g2", choices=(-1, 0, 1),
                      minimum=-1, maximum=1)
    pass_through: bool = flag(False, "store the files unchanged", since="g2")
    pack_label: bool = flag(False, "store all labels of a line", since="g2")
    num_thread: int = threads_flag(since="g2")
    part: str = flag("", "pack only part I of N of the lists, for N machines: 1/N to N/N", metavar="I/N")
    seekable: bool = flag(False, "write JPEGs of which a crop can be decoded without the rest, a few per "
                          "cent larger; with --pass-through jpegtran makes them, without loss. ROOT may then "
                          "also be a .rec, which is converted to PREFIX.rec")
    outside_root: bool = flag(False, "allow lists to name files outside ROOT (../x, /y)")
    strict: bool = flag(False, "exit status 1 if anything was skipped")
    dry_run: bool = flag(False, "write nothing: print what would be done, pack a few images, and estimate "
                         "time and disk space for all")
    resume: bool = flag(False, "resume where an earlier run with the same flags was stopped; if this run is "
                        "stopped, keep what it packed")


def parse(argv: Sequence[str]) -> tuple[PathConfig, ListConfig, SelectFlags, PackFlags]:
    """Return the settings of a command line, checked; a wrong one is a UsageError."""
    paths, list_config, select_config, flags = command_line.parse(
        argv, PathConfig, ListConfig, SelectFlags, PackFlags, prog=NAME, usage="[flags] PREFIX ROOT",
        examples=EXAMPLES, common=COMMON, notes=NOTES, hint="; imgcls-im2rec --help shows examples")
    # in full, as im2rec.py prints them
    prefix = to_path(paths.prefix, "PREFIX")
    root = to_path(paths.root, "ROOT")
    paths = PathConfig(*(str(path) if isinstance(path, RemotePath) else os.path.abspath(path)
                         for path in (prefix, root)))
    # png, .PNG and jpeg are common mistakes, and what they mean is clear
    encoding = "." + flags.encoding.lstrip(".").lower().replace("jpeg", "jpg")
    flags = dataclasses.replace(flags, encoding=encoding)
    if encoding not in (".jpg", ".png", ".npy"):
        raise UsageError(f"`encoding` {encoding}: must be .jpg, .png or .npy")
    # for PNG it is OpenCV's compression, where 0 means none; quality 0 of a JPEG is only a mistake
    lowest = 0 if encoding == ".png" else 1
    if not lowest <= flags.quality <= 100:
        raise UsageError(f"`quality` {flags.quality}: must be between {lowest} and 100")
    # decimal fractions may add up to a little more than 1
    train_ratio, test_ratio = list_config.train_ratio, list_config.test_ratio
    if train_ratio < 1 and train_ratio + test_ratio > 1.000001:
        raise UsageError(f"`train_ratio` {train_ratio} and `test_ratio` {test_ratio} make over 1")
    if flags.seekable and encoding != ".jpg":
        raise UsageError(f"`seekable` is for JPEG: `encoding` {encoding} has no restart markers")
    if encoding == ".npy" and (flags.pass_through or flags.quality != PackFlags.quality):
        setting = "`pass_through`" if flags.pass_through else f"`quality` {flags.quality}"
        raise UsageError(f"{setting}: is for files with an encoding, and `encoding` .npy stores raw pixels")
    # jpegtran adds restart markers to JPEGs that are kept; to those that are encoded anew cv2 adds them
    is_record_file = os.path.isfile(paths.root) and not is_archive_root(paths.root)
    if flags.seekable and (flags.pass_through or is_record_file) and not shutil.which("jpegtran"):
        raise UsageError("`seekable` without re-encoding needs the program jpegtran (of libjpeg-turbo) in "
                         "the PATH")
    _check_selection(list_config, select_config)
    part_of(flags.part)
    return paths, list_config, select_config, flags


def _check_selection(list_config: ListConfig, config: SelectFlags) -> None:
    """Refuse flags that contradict each other."""
    # two rules for one list: to follow one of them in silence would surprise
    if config.val_per_class and list_config.train_ratio < 1:
        raise UsageError(f"`val_per_class` {config.val_per_class} and `train_ratio` "
                         f"{list_config.train_ratio} "
                         "both define the val list")
    limits = (config.val_per_class, config.min_images, config.max_classes, config.max_images)
    if config.devkit and any(limits):
        raise UsageError("`devkit` lists the validation images as they are: `val_per_class`, `min_images`, "
                         "`max_classes` and `max_images` are for training images")


def part_of(text: str) -> tuple[int, int]:
    """Return (index from 0, number of parts) of a `part` such as 2/4."""
    if not text:
        return 0, 1
    # counted from 1, as people count machines
    match = _PART.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"`part` {verbatim(text)}: must be I/N, part I of N from 1/N to N/N")
    return int(match[1]) - 1, int(match[2])


