"""What imgcls-im2rec --dry-run does: count the images of each list, pack a few, print what all would take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgcls.cli._dry_run import about_bytes, about_disk, about_measure, about_time, check_disk, print_plan
from imgcls.cli._im2rec_flags import ListConfig, PackFlags, SelectFlags, part_of
from imgcls.cli._im2rec_lists import (
    ClassFiles,
    fill_drafts,
    note_unused_flags,
    open_root,
    print_note,
    read_class_files,
)
from imgcls.cli._im2rec_target import Target
from imgcls.data.image_trees import ImageTree
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.estimate import Sample, measure_packing
from imgcls.data.packing.outputs import PackInputs
from imgcls.errors import DataError
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry

#: up to so many lists are all named
_NAMED_LISTS = 4


class _Count:
    """Used in place of a draft: counts the entries, and shows each to the sample that will be packed."""

    def __init__(self, sample: Sample[ListEntry]) -> None:
        self._sample = sample
        self._count = 0

    def add(self, label: float, path: str) -> None:
        """Count an entry."""
        self._sample.show(ListEntry(self._count, (label,), path))
        self._count += 1

    def __len__(self) -> int:
        return self._count


def tell_plan(target: Target, root: str, list_config: ListConfig, select_flags: SelectFlags,
              flags: PackFlags, config: PackConfig) -> int:
    """Print what the command would do without its `dry_run`; return exit status 0.

    RunError where the disk is too small for it.
    """
    list_paths = [] if list_config.list else target.find_lists()
    files = ClassFiles() if list_paths else read_class_files(select_flags)
    tree = open_root(root)
    sample: Sample[ListEntry] = Sample()
    if list_paths:
        note_unused_flags(target, list_config, select_flags)
        index, step = part_of(flags.part)
        planned = list(_of_lists(target, tree, list_paths[index::step], sample, config, flags))
    else:
        planned = _to_be_made(target, tree, list_config, select_flags, files, sample)
    count = sum(size for _, size in planned)
    lines = {"dry run": "nothing was written", "images": f"{count:,}", "lists": _about_lists(planned)}
    if list_config.list or not count:
        print_plan(lines)
        return 0
    measure = measure_packing(sample.items, tree.reader(), config)
    lines["dry run"] = about_measure(measure)
    # a sample cannot show a small share of skipped images exactly, but it shows a wrong ROOT
    if measure.num_skipped:
        share = measure.num_skipped / measure.num_images
        lines["images"] += f", of which about {100 * share:.2g} % would be skipped"
    needed = measure.bytes_of(count)
    lines["records"] = f"about {about_bytes(needed)}, {about_bytes(needed / count)} an image"
    lines["time"] = about_time(measure, count, config.num_threads)
    if target.is_remote:
        # they are packed on this disk list by list, and each is removed once it is uploaded
        needed = measure.bytes_of(max(size for _, size in planned))
    folder = os.path.dirname(target.prefix)
    lines["disk"] = about_disk(folder, needed)
    print_plan(lines)
    check_disk(folder, needed)
    return 0


def _of_lists(target: Target, tree: ImageTree, paths: Sequence[Path], sample: Sample[ListEntry],
              config: PackConfig, flags: PackFlags) -> Iterator[tuple[str, int]]:
    """Yield (name, images) of each list that is there and would be packed."""
    for path in paths:
        stem = str(path.with_suffix(""))
        if flags.resume and target.read_stamp(stem, PackInputs(path, config, tree.fingerprint)):
            print_note(f"{target.shown(stem)}.rec: complete since an earlier run, would be kept")
            continue
        # packing leaves malformed lines out
        before = len(sample)
        for entry in lists.iterate(path):
            if not isinstance(entry, DataError):
                sample.show(entry)
        yield target.shown(path), len(sample) - before


def _to_be_made(target: Target, tree: ImageTree, config: ListConfig, flags: SelectFlags, files: ClassFiles,
                sample: Sample[ListEntry]) -> list[tuple[str, int]]:
    """Return (name, images) of each list that would be made."""
    # with the code that makes lists, so that what is left out is printed as well
    train, val = _Count(sample), _Count(sample)
    fill_drafts(train, val, tree, config, flags, files)
    planned = lists.split(range(len(train)), chunks=config.chunks, train_ratio=config.train_ratio,
                          test_ratio=config.test_ratio)
    ending = "_train.lst" if flags.val_per_class else ".lst"
    named = [(target.shown(f"{target.prefix}{suffix}{ending}"), len(chunk)) for suffix, chunk in planned]
    if flags.val_per_class:
        named.append((target.shown(f"{target.prefix}_val.lst"), len(val)))
    return named


def _about_lists(planned: Sequence[tuple[str, int]]) -> str:
    named = [f"{name} ({size:,})" for name, size in planned]
    if len(named) > _NAMED_LISTS:
        named[1:-1] = [f"{len(named) - 2} more"]
    return ", ".join(named) or "none"
