"""Pack images into record files, and make the lists that say which: MXNet's im2rec.py, and its C++ im2rec."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgcls.cli._argparse import Parser
from imgcls.cli._run import run_main
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.pack import PackResult, make_seekable, pack_list
from imgcls.errors import DataError, RunError, UsageError, unknown
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry, Listing
from imgcls.formats.recordio import RecordReader
from imgcls.storage.atomic import check_writable, write_bytes
from imgcls.storage.paths import to_local_path

EXAMPLES = """examples:
  imgcls-im2rec data/pets photos/ --resize 256                       list photos/, pack it into data/pets.rec
  imgcls-im2rec data/pets photos/ --list --recursive --train-ratio .9    only the lists, train and val
  imgcls-im2rec data/pets photos/ --num-thread 16 --quality 90       pack every list data/pets*.lst
"""
NOTES = """Images that cannot be read are skipped, counted and listed in PREFIX.bad; a .rec appears when it is
complete. EXIF orientation is applied; 16 bits become 8, CMYK becomes RGB, alpha is dropped, an animation
gives its first picture. A flag may be written with - or _ and be shortened, a switch be given True or False.

the C++ tool's form is understood too: imgcls-im2rec LIST ROOT OUT.rec [key=value ...], with the keys
  resize label_width pack_label nsplit part center_crop quality color encoding inter_method unchanged
  num_thread"""

#: what an absent value of a switch, a present one, and old scripts' spellings mean
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "")
_SWITCHES = ("--list", "--recursive", "--shuffle", "--no-shuffle", "--pass-through", "--center-crop",
             "--pack-label", "--seekable", "--strict", "--resume")
_NEW_FLAGS = ("--help", "--seekable", "--strict", "--resume")
_SHOWN_PROBLEMS = 10
_KEYS = {"resize": -1, "label_width": 1, "pack_label": 0, "nsplit": 1, "part": 0, "center_crop": 0,
         "quality": 95, "color": 1, "encoding": ".jpg", "inter_method": 1, "unchanged": 0, "num_thread": 0}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0: done, 1: something failed (with --strict, a skipped image too), 2: wrong usage."""
    return run_main(_start, argv, "imgcls-im2rec")


def _start(argv: Sequence[str]) -> int:
    if len(argv) >= 3 and not any(word.startswith("-") for word in argv):
        return _pack_key_value(argv)
    flags = parse(argv)
    if flags.list:
        _make_lists(flags)
        return 0
    return _convert(flags) if os.path.isfile(flags.root) else _pack(flags)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags, checked; a wrong one is a UsageError. `recursive` and `shuffle` are None where not given."""
    parser = _parser()
    flags = parser.parse_args(_normalised(argv, parser))
    flags.prefix = os.path.abspath(to_local_path(flags.prefix, "PREFIX"))
    flags.root = os.path.abspath(to_local_path(flags.root, "ROOT"))
    flags.encoding = "." + flags.encoding.lstrip(".").lower().replace("jpeg", "jpg")
    flags.exts = [e for word in flags.exts for e in word.split(",") if e]
    _choice("--encoding", flags.encoding, (".jpg", ".png"))
    _choice("--color", flags.color, (-1, 0, 1))
    _between("--quality", flags.quality, 0 if flags.encoding == ".png" else 1, 100)
    _between("--chunks", flags.chunks, 1, 1_000_000)
    _between("--resize", flags.resize, 0, 65500)
    _between("--num-thread", flags.num_thread, 0, 1024)
    _between("--train-ratio", flags.train_ratio, 0, 1)
    _between("--test-ratio", flags.test_ratio, 0, 1)
    if flags.train_ratio < 1 and flags.train_ratio + flags.test_ratio > 1.000001:
        raise UsageError(f"--train-ratio {flags.train_ratio} and --test-ratio {flags.test_ratio} make over 1")
    if flags.seekable and flags.encoding != ".jpg":
        raise UsageError("--seekable is for JPEG: --encoding .png has no such thing")
    if flags.seekable and (flags.pass_through or os.path.isfile(flags.root)) and not shutil.which("jpegtran"):
        raise UsageError("--seekable without encoding anew needs the program jpegtran (of libjpeg-turbo) in the PATH")
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="imgcls-im2rec", usage="imgcls-im2rec [flags] PREFIX ROOT", description=EXAMPLES,
                    epilog=NOTES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.hint = "; imgcls-im2rec --help shows examples"
    parser.add_argument("prefix", metavar="PREFIX", help="of the lists PREFIX*.lst and what is made of them")
    parser.add_argument("root", metavar="ROOT", help="the folder that the paths in the lists start from")
    group = parser.add_argument_group("lists")
    switch: dict[str, Any] = {"type": _switch, "default": False, "metavar": ""}
    group.add_argument("--list", **switch, help="only make the list or lists")
    group.add_argument("--recursive", type=_switch, metavar="",
                       help="go into sub-folders, each is a class; without it only ROOT's own images")
    group.add_argument("--exts", nargs="+", default=list(lists.EXTENSIONS), metavar=".EXT",
                       help="what an image's name ends in (default: .jpeg .jpg .png)")
    group.add_argument("--chunks", type=int, default=1, metavar="N", help="lists to deal images out into")
    group.add_argument("--train-ratio", type=float, default=1.0, metavar="R", help="share for training")
    group.add_argument("--test-ratio", type=float, default=0.0, metavar="R",
                       help="share of the test list; what is left of the images is the val list")
    group.add_argument("--no-shuffle", dest="shuffle", type=_no_switch, default=True, metavar="",
                       help="keep the order of names; --shuffle False is the same")
    group.add_argument("--shuffle", type=_switch, default=True, metavar="", help=argparse.SUPPRESS)
    group = parser.add_argument_group("packing")
    group.add_argument("--resize", type=int, default=0, metavar="PIXELS", help="of the short edge; 0: as is")
    group.add_argument("--center-crop", **switch, help="to a square, before the resize")
    group.add_argument("--quality", type=int, default=95, metavar="N",
                       help="of JPEG, 1-100 (default: 95); of PNG the compression, 0-9")
    group.add_argument("--encoding", default=".jpg", metavar=".EXT", help=".jpg (default) or .png")
    group.add_argument("--color", type=int, default=1, metavar="N",
                       help="1 (default): colour, 0: grey, -1: as stored, with alpha")
    group.add_argument("--pass-through", **switch, help="store the files as they are")
    group.add_argument("--pack-label", **switch, help="store all labels of a line")
    group.add_argument("--num-thread", type=int, default=0, metavar="N", help="default: one per core")
    group.add_argument("--seekable", **switch, help="JPEGs of which a crop can be decoded without the rest, a few "
                       "per cent larger; with --pass-through jpegtran makes them, without loss. ROOT may also be "
                       "a .rec then, which is converted to PREFIX.rec")
    group.add_argument("--strict", **switch, help="exit status 1 if anything was skipped")
    group.add_argument("--resume", **switch,
                       help="leave out lists that an earlier run packed completely, with the same flags")
    return parser


def _normalised(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The words with flags spelled out and one value each: `--rec` and `--recursive True` become
    `--recursive=True`. What argparse alone cannot do: a switch must not eat the PREFIX behind it."""
    known = [option for action in parser._actions for option in action.option_strings if option[:2] == "--"]
    words = list(argv)
    normal: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*normal, word, *words]
        if not word.startswith("--"):
            normal.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = _full_name(name.replace("_", "-"), known)
        if flag in _SWITCHES and not equals:
            value = words.pop(0) if words and words[0].lower() in (*_TRUE, *_FALSE) else "True"
            equals = "="
        elif flag == "--exts" and not equals:
            # Positional words may follow at once: only what looks like an ending belongs to the flag.
            taken = [words.pop(0)] if words else []
            while words and words[0].startswith(".") and os.sep not in words[0]:
                taken.append(words.pop(0))
            value, equals = ",".join(taken), "="
        normal.append(flag + equals + value)
    return normal


def _full_name(name: str, known: list[str]) -> str:
    matches = [name] if name in known else [k for k in known if k.startswith(name)]
    # A beginning that was enough for MXNet stays enough, whatever flags came later.
    matches = [m for m in matches if m not in _NEW_FLAGS] or matches
    if len(matches) > 1:
        raise UsageError(f"{name} could be {' or '.join(matches)}")
    if not matches:
        raise unknown("flag", name, known)
    return matches[0]


def _switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _no_switch(text: str) -> bool:
    return not _switch(text)


def _choice(flag: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise UsageError(f"{flag} {value} is none of {', '.join(map(str, allowed))}")


def _between(flag: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{flag} {value} is not between {low} and {high}")


def _make_lists(flags: argparse.Namespace) -> list[Path]:
    """Write PREFIX*.lst and PREFIX.classes.txt; returns the lists."""
    check_writable(flags.prefix, "PREFIX")
    found = lists.walk(flags.root, recursive=bool(flags.recursive), extensions=flags.exts)
    if not found.entries and flags.recursive is None:
        deeper = lists.walk(flags.root, recursive=True, extensions=flags.exts)
        if deeper.entries and flags.list:
            _say(f"{flags.root} itself holds no image, its sub-folders do: they need --recursive")
        elif deeper.entries:
            _say(f"{flags.root} itself holds no image: its sub-folders are taken, as with --recursive")
            found = deeper
    _tell_problems(found, "")
    if not found.entries:
        nothing = f"{flags.root} holds no image ({' '.join(flags.exts)})"
        if not flags.list:
            raise RunError(nothing)
        _say(nothing + "; the list is empty")
    entries = lists.shuffled(found.entries) if flags.shuffle else found.entries
    made = []
    for suffix, part in lists.split(entries, chunks=flags.chunks, train_ratio=flags.train_ratio,
                                    test_ratio=flags.test_ratio):
        made.append(Path(f"{flags.prefix}{suffix}.lst"))
        lists.write(made[-1], part)
        _say(f"{made[-1]}: {len(part)} images")
    for number, name in enumerate(found.class_names):
        print(name, number)
    if found.class_names:
        lists.write_class_names(lists.classes_path(flags.prefix), found.class_names)
    return made


def _pack(flags: argparse.Namespace) -> int:
    """Pack every PREFIX*.lst, or what is under ROOT when there is none."""
    if not os.path.isdir(flags.root):
        raise UsageError(f"ROOT {flags.root}: no such folder")
    names = {f.name for f in dataclasses.fields(PackConfig)}
    config = PackConfig(**{name: value for name, value in vars(flags).items() if name in names},
                        num_threads=flags.num_thread or _num_cores())
    is_folder = os.path.isdir(flags.prefix)
    folder = Path(flags.prefix if is_folder else os.path.dirname(flags.prefix))
    found = sorted(folder.glob("*.lst"))
    found = [p for p in found if str(p).startswith(flags.prefix) and p.is_file()]
    if not found and is_folder:
        raise UsageError(f"PREFIX {flags.prefix}: no .lst in this folder; to pack ROOT, give a name in it")
    if not found:
        _say(f"there is no list {flags.prefix}*.lst: it is made first")
        found = _make_lists(flags)
    check_writable(str(found[0]), "PREFIX")
    skipped = records = 0
    for path in found:
        print("Creating .rec file from", path, "in", folder, flush=True)
        stem = str(path.with_suffix(""))
        listing = lists.read(path)
        if flags.resume and (done := _packed_before(stem, path, config)):
            _say(f"{stem}.rec: complete since an earlier run, kept")
        else:
            done = _pack_one(listing, flags.root, stem + ".rec", stem, config)
            _write_stamp(stem, path, config, done)
        skipped += done["skipped"]
        records += done["records"]
    return _status(records, skipped, flags.strict)


def _convert(flags: argparse.Namespace) -> int:
    """ROOT is a record file: write PREFIX.rec, the same but seekable."""
    if not flags.seekable:
        raise UsageError(f"ROOT {flags.root} is a file: a folder is needed, or --seekable to convert a .rec")
    target = flags.prefix + ".rec"
    check_writable(target, "PREFIX")
    start = time.perf_counter()
    with _progress(len(RecordReader(flags.root)), Path(target).name) as progress:
        done = make_seekable(flags.root, target, flags.num_thread or _num_cores(), progress=progress)
    if names := lists.class_names(flags.root):
        lists.write_class_names(lists.classes_path(flags.prefix), names)
    print(f"{target}: {done.num_records} records, {done.size_bytes / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s")
    return 0


def _pack_key_value(argv: Sequence[str]) -> int:
    """MXNet's C++ im2rec: LIST ROOT OUT.rec key=value ..."""
    list_path, root, out, *settings = argv
    values = _key_values(settings)
    resize, png = max(0, values["resize"]), values["encoding"] == ".png"
    config = PackConfig(pass_through=bool(values["unchanged"]), resize=resize,
                        quality=3 if png and values["quality"] > 9 else values["quality"],
                        center_crop=bool(values["center_crop"] and resize), color=values["color"],
                        encoding=values["encoding"], inter_method=values["inter_method"],
                        pack_label=bool(values["pack_label"]), repeat_first_label=True,
                        num_threads=values["num_thread"] or _num_cores())
    out = str(to_local_path(out, "OUT.rec"))
    check_writable(out, "OUT.rec")
    num_parts, part = values["nsplit"], values["part"]
    listing = lists.read_blank_separated(to_local_path(list_path, "LIST"), values["label_width"], num_parts, part)
    target = out if num_parts == 1 else f"{out}.part{part:03d}"
    done = _pack_one(listing, root, target, target.removesuffix(".rec"), config,
                     join=not any(os.path.exists(root + entry.path) for entry in listing.entries[:100]))
    if num_parts > 1 and not listing.entries:
        _say(f"{target}: no line of {list_path} begins in part {part} of {num_parts}, the file is empty")
        return 0
    return _status(done["records"], done["skipped"], strict=False)


def _key_values(words: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = dict(_KEYS)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is no key=value")
        if key not in values:
            raise unknown("key", key, values)
        try:
            values[key] = value if key == "encoding" else int(value)
        except ValueError:
            raise UsageError(f"{word}: {key} must be an integer") from None
    if values["pack_label"] and values["label_width"] < 2:
        raise UsageError("pack_label=1 needs label_width=2 or more: one label has its place anyway")
    _between("label_width", values["label_width"], 1, 100_000)
    _between("nsplit", values["nsplit"], 1, 1_000_000)
    _between("part", values["part"], 0, values["nsplit"] - 1)
    _between("quality", values["quality"], 0, 100)
    _choice("encoding", values["encoding"], (".jpg", ".png"))
    _choice("color", values["color"], (-1, 0, 1))
    _choice("inter_method", values["inter_method"], (0, 1, 2, 3, 4, 9, 10))
    return values


def _pack_one(listing: Listing, root: str, target: str, stem: str, config: PackConfig, *,
              join: bool = True) -> dict[str, int]:
    """Pack one list, tell how it went, write STEM.bad and, where they can be told, the class names."""
    _tell_problems(listing, "left out: ")
    _warn_about(listing.entries, target)
    start = time.perf_counter()
    with _progress(len(listing.entries), Path(target).name) as progress:
        packed = pack_list(listing.entries, root, target, config, progress=progress, join=join)
    _write_bad(stem + ".bad", listing, packed)
    if not lists.class_names(stem + ".rec") and (names := _names_from_folders(listing.entries)):
        lists.write_class_names(lists.classes_path(stem), names)
    skipped = len(packed.skipped) + len(listing.problems)
    told = f", {skipped} skipped (see {stem}.bad)" if skipped else ""
    print(f"{target}: {packed.num_records} records, {packed.size_bytes / 1e6:.1f} MB{told}, "
          f"{time.perf_counter() - start:.1f} s", flush=True)
    return {"records": packed.num_records, "skipped": skipped, "size_bytes": packed.size_bytes}


def _write_bad(path: str, listing: Listing, packed: PackResult) -> None:
    """One line per image or line of the list that was left out, with the reason; no file when there is
    none."""
    lines = [str(problem) for problem in listing.problems]
    lines += [f"{entry.path}\t{reason}" for entry, reason in packed.skipped]
    for entry, reason in packed.skipped[:_SHOWN_PROBLEMS]:
        _say(f"skipped {entry.path}: {reason}")
    if len(packed.skipped) > _SHOWN_PROBLEMS:
        _say(f"skipped {len(packed.skipped) - _SHOWN_PROBLEMS} more, all are in {path}")
    if lines:
        write_bytes(path, "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
    else:
        Path(path).unlink(missing_ok=True)


def _warn_about(entries: Sequence[ListEntry], target: str) -> None:
    """Say what is seldom meant: ids that repeat, and training images that come class by class."""
    ids = {entry.id for entry in entries}
    if len(ids) < len(entries):
        _say(f"{target}: {len(entries) - len(ids)} ids of the list stand there more than once; a reader that "
             "looks records up by id finds only one of each")
    labels = [entry.labels[0] for entry in entries]
    classes = len(set(labels))
    trains = not any(word in Path(target).name for word in ("val", "test"))
    if trains and 1 < classes <= len(labels) // 4 and labels == sorted(labels):
        _say(f"{target}: the list is in the order of its labels; readers that shuffle only nearby ones, as "
             "MXNet without an index, learn nothing from that: make the list without --no-shuffle")


def _names_from_folders(entries: Sequence[ListEntry]) -> list[str]:
    """Class names for a list that came without: the folders, where each label 0, 1, ... has just one of its
    own."""
    folders: dict[float, str] = {}
    for entry in entries:
        if folders.setdefault(entry.labels[0], os.path.dirname(entry.path)) != os.path.dirname(entry.path):
            return []
    if len(folders) < 2 or sorted(folders) != list(range(len(folders))):
        return []
    names = [folders[label] for label in sorted(folders)]
    return names if len(set(names)) == len(names) and all(names) else []


def _stamp(list_path: Path, config: PackConfig) -> dict[str, Any]:
    """What makes a packed file this list's: the list's bytes, and all that decides about the records'."""
    settings = dataclasses.asdict(config)
    del settings["num_threads"]
    return {"list_sha256": hashlib.sha256(list_path.read_bytes()).hexdigest(), "settings": settings}


def _write_stamp(stem: str, list_path: Path, config: PackConfig, done: dict[str, int]) -> None:
    """Written last of all, so it is only there when everything is."""
    text = json.dumps({**_stamp(list_path, config), **done}, indent=1) + "\n"
    write_bytes(stem + ".pack.json", text.encode())


def _packed_before(stem: str, list_path: Path, config: PackConfig) -> dict[str, int] | None:
    """The counts of a complete earlier run with this list and these settings. Also removes what a killed one
    left."""
    name = Path(stem).name
    for leftover in Path(stem).parent.glob(f".{glob.escape(name)}.???.*.tmp"):
        leftover.unlink(missing_ok=True)
    try:
        stamp = json.loads(Path(stem + ".pack.json").read_bytes())
        counts = {name: int(stamp.pop(name)) for name in ("records", "skipped", "size_bytes")}
        same = stamp == _stamp(list_path, config) and os.path.getsize(stem + ".rec") == counts["size_bytes"]
        return counts if same and os.path.exists(stem + ".idx") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _progress(total: int, name: str) -> Iterator[Any]:
    """A function to be told the count: a bar with the time left on a terminal, MXNet's lines elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit="img", smoothing=0.05, file=sys.stderr) as bar:
            yield lambda count: bar.update()
        return
    last = time.time()

    def line(count: int) -> None:
        nonlocal last
        if (count - 1) % 1000 == 0:
            now = time.time()
            print(f"time: {now - last:f}  count: {count - 1}", flush=True)
            last = now

    yield line


def _status(records: int, skipped: int, strict: bool) -> int:
    if not records:
        raise RunError("not one image could be packed")
    return 1 if strict and skipped else 0


def _tell_problems(listing: Listing, prefix: str) -> None:
    problems: list[DataError] = listing.problems
    for problem in problems[:_SHOWN_PROBLEMS]:
        _say(f"{prefix}{problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        _say(f"{prefix}{len(problems) - _SHOWN_PROBLEMS} more like these")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(text: str) -> None:
    # A name that is not UTF-8 must not end the run when it is told about.
    shown = text.encode("utf-8", "replace").decode()
    print(f"imgcls-im2rec: {shown}", file=sys.stderr, flush=True)
