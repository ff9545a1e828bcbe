"""imgcls-im2rec on a tar behind a URL: list and pack it in one pass where the flags allow that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from imgcls.cli import _im2rec_lists
from imgcls.cli._im2rec_flags import ListConfig, PackFlags, SelectFlags
from imgcls.cli._im2rec_lists import print_note
from imgcls.cli._im2rec_target import Target
from imgcls.data import listing
from imgcls.data.archive_stream import ArchiveStream
from imgcls.data.listing import ListDraft
from imgcls.data.packing.config import PackConfig
from imgcls.errors import DataError, RunError, verbatim
from imgcls.formats import lists
from imgcls.formats.lists import ListEntry
from imgcls.storage.paths import to_path
from imgcls.storage.remote import RemotePath


def open_stream(root: str, config: ListConfig, select: SelectFlags, flags: PackFlags) -> ArchiveStream | None:
    """Return a stream of ROOT if it is a tar behind a URL that one pass can pack; None otherwise.

    One pass gives one list of all classes in the order of their names.
    """
    path = to_path(root, "ROOT") if "://" in root else None
    if not isinstance(path, RemotePath) or not path.name.lower().endswith(".tar"):
        return None
    # selecting within a class needs all of its names first, and one pass can pack one list only
    is_all = select == SelectFlags(seed=select.seed) and not flags.part
    if config.shuffle or not config.recursive or config.chunks > 1 or config.train_ratio < 1 or not is_all:
        return None
    # a wrong URL is reported by the usual way of packing, which opens it next
    if not path.is_file() or not path.has_ranges():
        return None
    return ArchiveStream(path)


class StreamedList:
    """A list that is made while its images are packed, and written after the last one."""

    def __init__(self, target: Target, stream: ArchiveStream, config: ListConfig, draft: ListDraft) -> None:
        self._target = target
        self._stream = stream
        self._config = config
        self._draft = draft

    def identity(self, config: PackConfig) -> str:
        """Return everything that the bytes of the records depend on, as one line of JSON."""
        settings = dataclasses.asdict(config)
        del settings["num_threads"]  # any number of threads gives the same bytes
        return json.dumps({"archive": self._stream.fingerprint, "exts": list(self._config.exts),
                           "settings": settings}, sort_keys=True)

    def entries(self) -> Iterator[ListEntry]:
        """Yield the entries as they arrive; after the last, write the list and the class names."""
        problems: list[DataError] = []
        names: list[str] = []
        root = self._stream.root
        for folder, images in self._stream.folders(recursive=True, extensions=self._config.exts,
                                                   problems=problems):
            for image in images:
                path = f"{folder}/{image}" if folder else image
                if lists.is_listable(path, root, problems):
                    self._draft.add(float(len(names)), path)
                    yield ListEntry(len(self._draft) - 1, (float(len(names)),), path)
            names.append(folder or ".")
        _im2rec_lists.print_problems(problems, "")
        if not len(self._draft):
            raise RunError(f"{verbatim(root)} holds no image ({' '.join(self._config.exts)})")
        # before the records get their final name, so that finished records always have their list
        written = listing.write_lists(self._target.prefix, self._draft, shuffle=False)
        lists.write_class_names(lists.classes_path(self._target.prefix), names)
        for path, num_images in written:
            print_note(f"{self._target.shown(path)}: {num_images} images")
        self._target.publish_lists([path for path, _ in written])
