"""Which kind of containers a path means, by its form, and the source of them.

To add a kind: a `Container` in a separate file (`source.Container` says what it must have), and a line in
`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from imgcls.data.packed.files import check_cache, expand, fetched, is_too_large
from imgcls.data.packed.lmdb import LmdbImages
from imgcls.data.packed.parquet import ParquetImages, parquet_source
from imgcls.data.packed.shards import ChunkedShards, RangedShard, TarShard
from imgcls.data.packed.source import PackedSource
from imgcls.formats.datum import DATA_FILE
from imgcls.storage.paths import AnyPath
from imgcls.storage.progress import show_count
from imgcls.storage.remote import RemotePath


class Kind(NamedTuple):
    """A kind of containers."""

    #: what its files end in
    ending: str
    #: makes a Container of (path, cache_gb), and a source of containers
    open_one: Callable[..., Any]
    make_source: Callable[..., PackedSource] = PackedSource
    #: whether a folder is one container, and not many
    is_folder: bool = False
    #: the same two of remote files that are more than the cache may hold; None: they are refused
    open_ranged: Callable[..., Any] | None = None
    make_ranged: Callable[..., PackedSource] = PackedSource


KINDS = (
    Kind(".tar", TarShard, open_ranged=RangedShard, make_ranged=ChunkedShards),
    Kind(".parquet", ParquetImages, parquet_source),
    Kind("mdb", LmdbImages, is_folder=True),
)


def kind_of(path: AnyPath) -> Kind | None:
    """Return the kind that a path means: a file or a pattern by its ending, a folder by what lies in it."""
    for kind in KINDS:
        # a folder may have any name; a URL with the ending is not tested for being one: http has no folders
        is_remote_file = isinstance(path, RemotePath) and not kind.is_folder
        if path.name.lower().endswith(kind.ending) and (is_remote_file or not path.is_dir()):
            return kind
    # one listing, which on a store is one request; a folder of this disk may hold a million images
    is_listed = isinstance(path, RemotePath) and not path.suffix
    # where the name looks like a folder's it is listed before `is_dir`, which the listing then answers
    entries = list(path.iterdir()) if is_listed else []
    if not path.is_dir():
        return None
    entries = entries or (list(path.iterdir()) if isinstance(path, RemotePath) else [])
    for kind in KINDS:
        is_here = (path / DATA_FILE) in entries if entries else (path / DATA_FILE).is_file()
        if kind.is_folder and is_here:
            return kind
    entries = entries or list(path.iterdir())
    # a folder of class folders may hold an archive beside them, and one of records anything
    if any(entry.suffix == ".rec" or entry.is_dir() for entry in entries):
        return None
    names = [entry.name.lower() for entry in entries]
    return next((kind for kind in KINDS if not kind.is_folder
                 and any(name.endswith(kind.ending) for name in names)), None)


def open_packed(kind: Kind, path: str, setting: str, *, class_names: Sequence[str] = (), on_bad: str = "skip",
                cache_gb: float | None = None) -> PackedSource:
    """Return the source of all containers that `path`, the value of `setting`, means.

    UsageError for what is not there, or is remote and more than the cache may hold.
    """
    # several databases may be given as well, joined by `;`
    files = expand(path, kind.ending, setting, is_folder=kind.is_folder)
    parts = [file / DATA_FILE if file.is_dir() else file for file in files] if kind.is_folder else files
    # all or none: some files from copies and others in chunks would be two orders in one epoch
    is_remote = all(isinstance(part, RemotePath) for part in parts)
    if kind.open_ranged and is_remote and is_too_large(parts, cache_gb):
        containers = _open_each(path, files, parts, kind.open_ranged, cache_gb)
        return kind.make_ranged(containers, class_names=class_names, on_bad=on_bad)
    copied_bytes = check_cache(parts, cache_gb)
    containers = _open_each(path, files, fetched(parts, cache_gb), kind.open_one, cache_gb)
    source = kind.make_source(containers, class_names=class_names, on_bad=on_bad)
    # validation data must fit into the cache beside it
    source.copied_bytes = copied_bytes
    return source


def _open_each(path: str, files: Sequence[AnyPath], parts: Iterable[AnyPath], open_one: Callable[..., Any],
               cache_gb: float | None) -> list[Any]:
    """Return a container of each of `files`, opened when its part, the file that is copied, is there."""
    containers = []
    # `parts` come as they are fetched; `files` are the paths that the user named
    # one after the other: mostly labels are read, and those of shards are parsed in Python
    with show_count(f"{path}: reading labels", "files", len(files)) as show:
        for file, _ in zip(files, parts, strict=True):
            containers.append(open_one(file, cache_gb))
            show(len(containers))
    return containers
