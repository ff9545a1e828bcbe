"""What imgcls-im2rec does with its lists: pack each of them, and print how it went."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from imgcls.cli import _im2rec_lists
from imgcls.cli._im2rec_flags import ListConfig, PackFlags, SelectFlags, part_of
from imgcls.cli._im2rec_lists import (
    ClassFiles,
    note_unused_flags,
    num_cores,
    open_root,
    print_note,
    print_problems,
    read_class_files,
    show_progress,
)
from imgcls.cli._im2rec_stream import StreamedList, open_stream
from imgcls.cli._im2rec_target import Target
from imgcls.cli._preparing import SHOWN_PROBLEMS
from imgcls.data.archive_stream import ArchiveStream, OutOfOrderError
from imgcls.data.image_trees import ImageReader, ImageTree
from imgcls.data.listing import ListDraft, ListSummary
from imgcls.data.packing import outputs
from imgcls.data.packing.config import PackConfig
from imgcls.data.packing.outputs import PackCounts, PackInputs
from imgcls.data.packing.pack import pack_list as pack_entries
from imgcls.data.packing.resumable import BusyError, ResumableWriter
from imgcls.errors import DataError, RunError, UsageError, tell, verbatim
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry
from imgcls.formats.recordio import RecordWriter

#: error numbers of a full disk or quota
_FULL = (errno.ENOSPC, errno.EDQUOT)

__all__ = ["exit_status", "num_cores", "pack_list", "pack_lists", "print_note", "show_progress"]


def pack_lists(target: Target, root: str, list_config: ListConfig, select_flags: SelectFlags,
               flags: PackFlags) -> int:
    """Pack every PREFIX*.lst, or what is under ROOT when there is none."""
    config = pack_config(flags)
    # every list whose name begins with PREFIX, as in MXNet: one command packs train and val
    list_paths = target.find_lists()
    if list_paths:
        note_unused_flags(target, list_config, select_flags)
    # tried before ROOT is opened, which takes a pass over its headers
    if not list_paths and (stream := open_stream(root, list_config, select_flags, flags)):
        try:
            return exit_status(_pack_stream(target, stream, list_config, config, flags),
                               is_strict=flags.strict)
        except OutOfOrderError:
            print_note(f"{verbatim(root)}: its folders are not sorted by name, so one pass is not enough")
        except BusyError:
            print_note(f"{verbatim(target.name)}.rec: another process packs it at this moment, so this one "
                       "packs it without resuming")
    files = ClassFiles() if list_paths else read_class_files(select_flags)
    tree = open_root(root)
    # part i takes lists i, i + n, ...: parts are as even as the lists are
    part_index, num_parts = part_of(flags.part)
    if not list_paths and os.path.isdir(target.prefix):
        raise UsageError(f"PREFIX {verbatim(target.prefix)}: no .lst in this folder; to pack ROOT, give a "
                         "name in it")
    if num_parts > 1 and len(list_paths) < num_parts:
        raise UsageError(f"`part` {flags.part}: {len(list_paths)} lists {verbatim(target.name)}*.lst are "
                         f"there, each part needs one; `list` with `chunks` {num_parts} makes them first, "
                         f"once")
    if not list_paths:
        print_note(f"the lists {target.name}*.lst were not all written by an earlier run: they are made again"
                   if target.has_unfinished_lists() else
                   f"there is no list {target.name}*.lst: it is made first")
        list_paths = _im2rec_lists.make_lists(target, tree, list_config, select_flags, files)
    target.check_writable()  # before hours of packing, and not after
    totals = PackCounts(0, 0, 0)
    for path in list_paths[part_index::num_parts]:
        counts = _pack_file(target, path, tree, config, flags)
        totals = PackCounts(totals.records + counts.records, totals.skipped + counts.skipped, 0)
    return exit_status(totals, is_strict=flags.strict)


def pack_config(flags: PackFlags) -> PackConfig:
    """Return what is done to each image."""
    return PackConfig(
        pass_through=flags.pass_through, resize=flags.resize, center_crop=flags.center_crop,
        color=flags.color, quality=flags.quality, encoding=flags.encoding, pack_label=flags.pack_label,
        seekable=flags.seekable, num_threads=flags.num_thread or num_cores())


def _pack_file(target: Target, path: Path, tree: ImageTree, config: PackConfig,
               flags: PackFlags) -> PackCounts:
    """Pack one list, unless an earlier run has packed it and this run resumes that."""
    tell(f"Creating .rec file from {path} in {path.parent}", sys.stdout)
    stem = str(path.with_suffix(""))
    # A list may come from anybody: ../../.ssh/id_rsa would be packed, and published with the images.
    inside = "" if flags.outside_root else os.path.join(os.path.abspath(tree.root), "")
    summary = ListSummary(_checked(path, tree.root, inside))
    inputs = PackInputs(path, config, tree.fingerprint)
    # the same list, the same flags and a .rec of the right size: packed again it would be the same bytes
    if flags.resume and (counts := target.read_stamp(stem, inputs)):
        print_note(f"{target.shown(stem)}.rec: complete since an earlier run, kept")
        return counts
    outputs.remove_leftovers(stem, is_resumed=flags.resume)
    # read again, line by line: a list of millions need not be in memory
    entries = (entry for entry in lists.iterate(path) if not isinstance(entry, DataError))
    try:
        writer: RecordWriter = ResumableWriter(stem + ".rec", inputs.identity(), is_kept=flags.resume)
    except BusyError:
        writer = RecordWriter(stem + ".rec")  # another process packs the same list: each writes its own file
    with _full_disk_explained(flags):
        counts = pack_list(entries, tree.reader(), stem + ".rec", stem, config, summary, writer)
    # last: where the stamp exists, everything else does
    outputs.write_stamp(stem, inputs, counts)
    target.publish(stem)
    return counts


def _pack_stream(target: Target, stream: ArchiveStream, list_config: ListConfig, config: PackConfig,
                 flags: PackFlags) -> PackCounts:
    """List and pack a tar behind a URL in one pass."""
    target.check_writable()
    stem = target.prefix
    print_note(f"{verbatim(stream.root)}: read where it is, in one pass: listed and packed as it comes")
    outputs.remove_leftovers(stem, is_resumed=flags.resume)
    # the list is written after the last image: until then its entries are in the draft
    with closing(ListDraft()) as draft:
        streamed = StreamedList(target, stream, list_config, draft)
        writer = ResumableWriter(stem + ".rec", streamed.identity(config), is_kept=flags.resume)
        with _full_disk_explained(flags):
            counts = pack_list(streamed.entries(), stream.reader(), stem + ".rec", stem, config,
                               ListSummary([]), writer)
    path = Path(stem + ".lst")
    for warning in ListSummary(lists.iterate(path)).rarely_meant(stem + ".rec"):
        print_note(warning)
    # the same stamp that any other run with this list writes
    outputs.write_stamp(stem, PackInputs(path, config, stream.fingerprint), counts)
    target.publish(stem)
    return counts


@contextmanager
def _full_disk_explained(flags: PackFlags) -> Iterator[None]:
    """Add to the error of a full disk what to do about it."""
    try:
        yield
    except RunError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            what = ("what was packed is kept: free some space and give the same command again"
                    if flags.resume else "free some space; with `resume` what was packed would be kept")
            raise RunError(f"{error.message}; {what}") from error
        raise


def _checked(path: Path, root: str, inside: str) -> Iterator[ListEntry | DataError]:
    """Yield the lines of a list; DataError for an entry outside of its root, unless `inside` is empty."""
    for entry in lists.iterate(path):
        if inside and not isinstance(entry, DataError):
            lists.check_entry_inside(path, entry, root, inside)
        yield entry


def pack_list(entries: Iterable[ListEntry], reader: ImageReader, target: str, stem: str, config: PackConfig,
              summary: ListSummary, writer: RecordWriter | None = None) -> PackCounts:
    """Pack one list, write the files that belong beside the records, and print how it went."""
    # malformed lines are left out, as in MXNet, but reported
    print_problems(summary.problems, "left out: ")
    for warning in summary.rarely_meant(target):
        print_note(warning)
    start = time.perf_counter()
    # printed before the progress bar appears
    if isinstance(writer, ResumableWriter) and writer.num_entries:
        print_note(f"{target}: an earlier run stopped after {writer.num_entries} of {len(summary)} images; "
                   "resuming from there")
    with show_progress(len(summary), Path(target).name) as progress:
        result = pack_entries(entries, reader, target, config, progress=progress, writer=writer)
    counts = outputs.write_outputs(stem, target, summary, result)
    # only the first few: with a wrong ROOT every image is skipped
    for path, reason in result.skipped[:SHOWN_PROBLEMS]:
        print_note(f"skipped {path}: {reason}")
    if len(result.skipped) > SHOWN_PROBLEMS:
        print_note(f"skipped {len(result.skipped) - SHOWN_PROBLEMS} more, all are in {stem}.bad")
    skipped = f", {counts.skipped} skipped (see {stem}.bad)" if counts.skipped else ""
    tell(f"{target}: {counts.records} records, {counts.size_bytes / 1e6:.1f} MB{skipped}, "
         f"{time.perf_counter() - start:.1f} s", sys.stdout)
    return counts


def exit_status(totals: PackCounts, *, is_strict: bool) -> int:
    """Return the command's exit status; RunError where nothing was packed."""
    # a wrong ROOT: an empty .rec would only be noticed in training
    if not totals.records:
        raise RunError("not one image could be packed")
    return 1 if is_strict and totals.skipped else 0
