"""What imgcls-im2rec does before it packs: find the images of ROOT, and write the lists."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from imgcls.cli._im2rec_flags import NAME, ListConfig, PackFlags, SelectFlags
from imgcls.cli._im2rec_target import Target
from imgcls.cli._preparing import SHOWN_PROBLEMS
from imgcls.config.flags import flag_spelling, flags_of
from imgcls.data import ilsvrc, listing, selection
from imgcls.data.image_trees import ImageNames, ImageTree, open_tree
from imgcls.data.listing import ListDraft
from imgcls.data.selection import SelectedClass, Selection, SelectionConfig
from imgcls.errors import DataError, RunError, UsageError, printable, spell_settings, tell, verbatim
from imgcls.formats import image_folders, lists

#: more lists than this are only made where there are at least as many images
_MAX_EMPTY_CHUNKS = 1000
#: MXNet prints a line for every so many images
_PROGRESS_INTERVAL = 1000
#: while headers of archives are read and stderr is no terminal, a line every so often says how far it is
_SCAN_INTERVAL_S = 30.0


def open_root(root: str) -> ImageTree:
    """Return the images of ROOT as a tree, and show how far the headers of its archives have been read."""
    with _scan_progress() as progress:
        return open_tree(root, progress=progress, note=print_note)


class ClassFiles(NamedTuple):
    """The content of the files that `synsets` and `devkit` name."""

    synsets: tuple[str, ...] = ()
    truth: ilsvrc.GroundTruth | None = None


def read_class_files(flags: SelectFlags) -> ClassFiles:
    """Read the files that `synsets` and `devkit` name; DataError or UsageError for wrong ones.

    To be called before `open_root`: it reads the headers of all archives, which may take hours.
    """
    synsets = ilsvrc.read_synsets(flags.synsets) if flags.synsets else ()
    return ClassFiles(synsets, ilsvrc.read_devkit(flags.devkit, synsets) if flags.devkit else None)


def make_lists(target: Target, tree: ImageTree, config: ListConfig, flags: SelectFlags,
               files: ClassFiles) -> list[Path]:
    """Write PREFIX*.lst and PREFIX.classes.txt; return the lists."""
    target.check_writable()
    with closing(ListDraft()) as train, closing(ListDraft()) as val:
        selected, is_recursive = fill_drafts(train, val, tree, config, flags, files)
        names = selected.class_names if is_recursive or flags.devkit else []
        with target.writing_lists() as paths:
            written = listing.write_lists(
                target.prefix, train, shuffle=config.shuffle, chunks=config.chunks,
                train_ratio=config.train_ratio, test_ratio=config.test_ratio,
                suffix="_train" if flags.val_per_class else "")
            if flags.val_per_class:
                written += listing.write_lists(target.prefix, val, shuffle=config.shuffle, suffix="_val")
            if names:
                lists.write_class_names(lists.classes_path(target.prefix), names)
            paths += [path for path, _ in written]
            target.publish_lists(paths)
    for path, num_images in written:
        print_note(f"{target.shown(path)}: {num_images} images")
    for label, name in enumerate(names):
        tell(f"{name} {label}", sys.stdout)  # as MXNet prints them, for scripts that read it
    return paths


def note_unused_flags(target: Target, config: ListConfig, flags: SelectFlags) -> None:
    """Print which flags have no effect where the lists are there already and are packed as they are."""
    unused = [f"`{name}`" for section in (config, flags) for name, field in flags_of(type(section)).items()
              if getattr(section, name) != field.default]
    if unused:
        print_note(f"the lists {verbatim(target.name)}*.lst are packed as they are: no effect of "
                   f"{', '.join(unused)}, which {'is' if len(unused) == 1 else 'are'} for making lists")


class Draft(Protocol):
    """The entries of a list that will be written, or only their number."""

    def add(self, label: float, path: str) -> None:
        """Append an entry."""
        ...

    def __len__(self) -> int:
        """Return the number of entries."""
        ...


def fill_drafts(train: Draft, val: Draft, tree: ImageTree, config: ListConfig,
                flags: SelectFlags, files: ClassFiles) -> tuple[Selection, bool]:
    """Give the drafts the images that the flags select, and print what is left out.

    Returns the classes, and whether each folder is one.
    """
    problems: list[DataError] = []
    folders, is_recursive = _folders(tree, config, problems)
    selected = Selection()
    for found in _classes(folders, flags, files, selected, problems, tree.root):
        for draft, paths in ((train, found.train), (val, found.val)):
            for path in paths:
                if lists.is_listable(path, tree.root, problems):
                    draft.add(float(found.label), path)
    _report_images(train, tree, config, flags, selected, problems)
    return selected, is_recursive


def _report_images(train: Draft, tree: ImageTree, config: ListConfig, flags: SelectFlags,
                   selected: Selection, problems: list[DataError]) -> None:
    """Print what is left out of the lists.

    RunError where no image is left, unless only lists are to be written; UsageError where most of them would
    be empty.
    """
    # names that a list cannot hold
    print_problems(problems, "")
    if tree.passed_over:
        print_note(image_folders.about_passed_over(tree.root, tree.passed_over, config.exts) + " (--exts)")
    _print_selection(selected, flags)
    if not len(train):
        message = f"{tree.root} holds no image ({' '.join(config.exts)})"
        if selected.too_small or selected.unknown:
            message = f"{tree.root}: no image is left for the lists"
        if not config.list:
            raise RunError(message)
        print_note(message + "; the list is empty")
    # as in MXNet some may stay empty, but not hundreds of thousands
    if config.chunks > max(len(train), _MAX_EMPTY_CHUNKS):
        raise UsageError(f"`chunks` {config.chunks}: must be at most the number of images, {len(train)}")

def _folders(tree: ImageTree, config: ListConfig,
             problems: list[DataError]) -> tuple[Iterator[tuple[str, ImageNames]], bool]:
    """Return the folders with their images, and whether each is a class."""
    is_recursive = bool(config.recursive)
    folders = tree.folders(recursive=is_recursive, extensions=config.exts, problems=problems)
    first = next(folders, None)
    # MXNet makes an empty list of a folder of folders, which no one wants; --recursive False is obeyed
    if first is None and config.recursive is None:
        problems.clear()
        folders = tree.folders(recursive=True, extensions=config.exts, problems=problems)
        first = next(folders, None)
        if first and config.list:
            print_note(f"{tree.root} itself holds no image, its sub-folders do: they need --recursive")
            return iter(()), False
        if first:
            print_note(f"{tree.root} itself holds no image: its sub-folders are taken, as with --recursive")
            is_recursive = True
    return chain([first] if first else [], folders), is_recursive


def _classes(folders: Iterable[tuple[str, ImageNames]], flags: SelectFlags, files: ClassFiles,
             selected: Selection, problems: list[DataError], root: str) -> Iterator[SelectedClass]:
    """Return the classes that the flags select."""
    if files.truth:
        selected.class_names = list(files.truth.class_names)
        return selection.by_ground_truth(folders, files.truth.labels, problems, root)
    config = SelectionConfig(flags.min_images, flags.val_per_class, flags.max_classes, flags.max_images,
                             flags.seed, files.synsets)
    return selection.select(folders, config, selected)


def _print_selection(selected: Selection, flags: SelectFlags) -> None:
    # hundreds of classes may be left out: only their number and the first names are printed
    if selected.too_small:
        print_note(f"{len(selected.too_small)} classes with fewer than {flags.min_images} images are left "
                   f"out, "
                   f"{sum(count for _, count in selected.too_small)} images")
    for names, what in ((selected.unknown, "folders are left out: `synsets` does not name them"),
                        (selected.missing, "classes of `synsets` have no image")):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            print_note(f"{len(names)} {what} ({shown})")


@contextmanager
def show_progress(total: int, name: str) -> Iterator[Any]:
    """Yield a function to call after each image with the number of images so far.

    On a terminal it moves a bar with the time left, elsewhere it prints MXNet's lines.
    """
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


@contextmanager
def _scan_progress() -> Iterator[Any]:
    """Yield a function to call with (bytes passed, all bytes) while headers are read."""
    bar = None
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal bar, last
        now = time.monotonic()
        if sys.stderr.isatty():
            if bar is None:
                from tqdm import tqdm

                bar = tqdm(total=total, desc="headers", unit="B", unit_scale=True, file=sys.stderr)
            bar.update(done - bar.n)
        elif now - last > _SCAN_INTERVAL_S:
            last = now
            print_note(f"{100 * done / max(1, total):.0f} % of the archives' headers are read")

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def print_problems(problems: list[DataError], prefix: str) -> None:
    """Print the first ten problems, each behind `prefix`, and how many more there are."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print_note(f"{prefix}{problem}")
    if len(problems) > SHOWN_PROBLEMS:
        print_note(f"{prefix}{len(problems) - SHOWN_PROBLEMS} more like these")


def num_cores() -> int:
    """Return how many cores this process may use."""
    # a container or taskset may leave fewer than the machine has
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_note(text: str) -> None:
    """Print a line on stderr, settings as flags."""
    tell(f"{NAME}: {spell_settings(text, flag_spelling(ListConfig, SelectFlags, PackFlags))}")
