"""Write lists of images and pack them into record files: MXNet's im2rec.py, and its C++ im2rec."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from imgcls.cli import _im2rec_lists, _im2rec_pack, _key_values
from imgcls.cli._im2rec_dry_run import tell_plan
from imgcls.cli._im2rec_flags import NAME, ListConfig, PackFlags, PathConfig, SelectFlags, parse
from imgcls.cli._im2rec_pack import exit_status, num_cores, pack_list, print_note, show_progress
from imgcls.cli._im2rec_target import Target
from imgcls.cli._run import ending_in_order, run_main
from imgcls.data.image_trees import FileReader, is_archive_root
from imgcls.data.listing import ListSummary
from imgcls.data.packing import outputs
from imgcls.data.packing.pack import make_seekable
from imgcls.errors import UsageError, tell, verbatim
from imgcls.formats import lists
from imgcls.formats.recordio import RecordReader, index_path, names_cache
from imgcls.storage.atomic import check_outputs, check_writable
from imgcls.storage.paths import to_local_path

__all__ = ["ListConfig", "PackFlags", "PathConfig", "SelectFlags", "main", "parse"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: something failed (with --strict, a skipped image too), 2: wrong usage."""
    with ending_in_order():
        return run_main(_start, argv, NAME, PathConfig, ListConfig, SelectFlags, PackFlags)


def _start(argv: Sequence[str]) -> int:
    # the two tools of MXNet share a name; three or more arguments without a flag are the C++ tool's form
    if len(argv) >= 3 and not any(word.startswith("-") for word in argv):
        return _pack_key_values(argv)
    paths, list_config, select_flags, flags = parse(argv)
    if os.path.isfile(paths.root) and not is_archive_root(paths.root) and not list_config.list:
        if flags.dry_run:
            raise UsageError(f"`dry_run` is for images that are packed: ROOT {verbatim(paths.root)} is a "
                             "file")
        return _make_seekable(paths, flags)
    if list_config.list and flags.part:
        print_note(f"`part` {flags.part} has no effect with `list`: all lists are written")
    with Target(paths.prefix) as target:
        if flags.dry_run:
            return tell_plan(target, paths.root, list_config, select_flags, flags,
                             _im2rec_pack.pack_config(flags))
        if list_config.list:
            files = _im2rec_lists.read_class_files(select_flags)
            tree = _im2rec_lists.open_root(paths.root)
            _im2rec_lists.make_lists(target, tree, list_config, select_flags, files)
            return 0
        # im2rec.py's own order: lists are packed where there are some, and made where there are none
        return _im2rec_pack.pack_lists(target, paths.root, list_config, select_flags, flags)


def _make_seekable(paths: PathConfig, flags: PackFlags) -> int:
    """Write PREFIX.rec with the records of the file ROOT, seekable."""
    if not flags.seekable:
        raise UsageError(f"ROOT {verbatim(paths.root)} is a file: a folder, a .tar or a .zip is needed, or "
                         "`seekable` to convert a .rec")
    target = str(to_local_path(paths.prefix, "PREFIX")) + ".rec"
    check_writable(target, "PREFIX")
    check_outputs([target, index_path(target)], [paths.root, index_path(paths.root)])
    start = time.perf_counter()
    # counted first, to show the time that is left: this reads the framing and not the images
    with show_progress(len(RecordReader(paths.root)), Path(target).name) as progress:
        result = make_seekable(paths.root, target, flags.num_thread or num_cores(), progress=progress)
    # The class names are in a file beside the records: without a copy the new records would have none.
    if names := lists.class_names(paths.root) or names_cache.recall(RecordReader(paths.root)):
        lists.write_class_names(lists.classes_path(paths.prefix), names)
        outputs.remember_names(target, names)
    tell(f"{target}: {result.num_records} records, {result.size_bytes / 1e6:.1f} MB, "
         f"{time.perf_counter() - start:.1f} s", sys.stdout)
    return 0


def _pack_key_values(argv: Sequence[str]) -> int:
    """Do what MXNet's C++ im2rec does: LIST ROOT OUT.rec key=value ..."""
    list_path, root, out, *key_values = argv
    keys = _key_values.read_key_values(key_values)
    config = keys.pack_config(num_cores())
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
    # the C++ tool puts the root in front of the path as it is; here a folder may lack its separator
    join = not any(os.path.exists(root + entry.path) for entry in images.entries[:100])
    summary = ListSummary([*images.entries, *images.problems])
    counts = pack_list(images.entries, FileReader(root, join=join), target, stem, config, summary)
    if keys.nsplit > 1 and not images.entries:
        print_note(f"{target}: no line of {list_path} begins in part {keys.part} of {keys.nsplit}, the file "
                    "is empty")
        return 0
    return exit_status(counts, is_strict=False)


