"""Which files a setting means: `a;b`, `{000..127}`, `{a,b}`, `*`, a folder; and copies of remote ones."""

from __future__ import annotations

import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.storage.cache import default_gb
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.reading import open_read
from imgcls.storage.remote import RemotePath
from imgcls.storage.thread_pool import DaemonPool

#: a range or a choice in braces, as a shell writes them
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_PATTERN = re.compile(r"[*?\[]")
#: a pattern that means more files than this is taken for a mistake
_MAX_FILES = 1_000_000
#: remote files that are fetched at a time: one connection seldom gives what the network has
_MAX_FETCHED = 8
#: names of the splits of a data set; a folder with files of several splits is not taken for one set
_SPLIT = re.compile(r"(?:^|[-_.])(train|val|valid|validation|test)(?=[-_.]|$)", re.IGNORECASE)


def expand(text: str, ending: str, setting: str, *, is_folder: bool = False) -> list[AnyPath]:
    """Return the files that `text` means, those of a folder being the ones that end in `ending`.

    With `is_folder` a folder means itself. Items joined by `;` keep their order, files of an item are sorted.
    A UsageError that names `setting` for what is not there.
    """
    files: list[AnyPath] = []
    # a path that exists is taken as it is
    for item in [text] if os.path.exists(text) else filter(None, text.split(";")):
        try:
            names = _expand_braces(item, setting)
            found = [file for name in names for file in _find(name, None if is_folder else ending, setting)]
        except OSError as error:
            raise DataError(error.filename or item, f"cannot be read: {reason(error)}") from error
        if not found:
            raise UsageError(f"{setting} {verbatim(item)}: no file matches it")
        files += found
    return files


def _expand_braces(item: str, setting: str) -> list[str]:
    """Return the names that `train-{000..127}.tar` or `{a,b}.tar` stands for; a path that exists as it is."""
    if "{" not in item or os.path.exists(item):
        return [item]
    # the parts between braces stand at even places, what is in them at odd ones
    choices: list[list[str]] = []
    count = 1
    for position, part in enumerate(_BRACES.split(item)):
        options = [part] if position % 2 == 0 else _choices(part, item, setting)
        # counted before the names are made: three ranges make more names than memory holds
        count *= len(options)
        if count > _MAX_FILES:
            raise UsageError(f"{setting} {verbatim(item)}: means more than {_MAX_FILES:,} files")
        choices.append(options)
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(text: str, item: str, setting: str) -> list[str]:
    if (limits := _RANGE.fullmatch(text)) is None:
        return text.split(",")
    first, last = map(int, limits.groups())
    if last < first or last - first >= _MAX_FILES:
        raise UsageError(f"{setting} {verbatim(item)}: {{{text}}} must rise, by at most {_MAX_FILES:,}")
    # as wide as they are written: {000..127}
    width = max(map(len, limits.groups())) if text.startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _find(name: str, ending: str | None, setting: str) -> list[AnyPath]:
    """Return the files that a name or pattern means; of a folder those with the ending, None for itself."""
    # a URL that cannot be opened is an error here, which names the setting
    path = to_path(name, setting)
    # a URL with the ending is not tested for being a folder: http has none
    is_named = isinstance(path, RemotePath) and ending is not None and path.name.endswith(ending)
    if ending is not None and not is_named and path.is_dir():
        # in lower case, as `kinds.kind_of` compares them
        files: list[AnyPath] = sorted(entry for entry in path.iterdir()
                                      if entry.name.lower().endswith(ending) and entry.is_file())
        _refuse_mixture(files, name, setting)
        return files
    if _PATTERN.search(path.name) and not path.exists():
        return sorted(path.parent.glob(path.name))
    if not path.exists():
        raise UsageError(f"{setting} {verbatim(name)}: no such file")
    return [path]


def _refuse_mixture(files: Sequence[AnyPath], name: str, setting: str) -> None:
    """Raise UsageError for a folder with files of several splits: validation data would be trained on."""
    # by the names alone, as people and Hugging Face call them
    splits = sorted({found[1].lower() for file in files if (found := _SPLIT.search(file.stem))})
    if len(splits) > 1:
        raise UsageError(f"{setting} {verbatim(name)}: the folder holds files of {' and '.join(splits)}; "
                         f"name those of one by a pattern, such as *{splits[0]}*{files[0].suffix}")


def remote_bytes(files: Sequence[AnyPath]) -> int:
    """Return how many bytes the remote ones of these files have."""
    return sum(file.stat().size for file in files if isinstance(file, RemotePath))


def is_too_large(files: Sequence[AnyPath], cache_gb: float | None) -> bool:
    """Return whether the remote ones of these files are more than the cache may hold."""
    return remote_bytes(files) > (default_gb() if cache_gb is None else cache_gb) * 1e9


def check_cache(files: Sequence[AnyPath], cache_gb: float | None) -> int:
    """Return `remote_bytes`; a UsageError where the cache may not hold them all."""
    limit_gb = default_gb() if cache_gb is None else cache_gb
    # one request for each file, before the first is fetched
    size = remote_bytes(files)
    if is_too_large(files, cache_gb):
        raise UsageError(f"{verbatim(files[0])}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: "
                         f"{size / 1e9:.3g} GB are more than `cache_gb` {limit_gb:g} leaves room for; raise "
                         "it, or pack them into record files (imgcls-convert), which are read in chunks")
    return size


def fetched(files: Sequence[AnyPath], cache_gb: float | None,
            companion: Callable[[AnyPath], AnyPath] | None = None) -> Iterator[AnyPath]:
    """Yield the files in order, each when its copy is in the cache, while those behind it are fetched.

    Of several files their `companion`, such as the index, comes with them where there is one.
    """
    remote = [file for file in files if isinstance(file, RemotePath)]

    def fetch(file: RemotePath) -> BinaryIO:
        copy = open_read(file, cache_gb=cache_gb)
        if companion and len(remote) > 1 and (other := companion(file)).exists():
            open_read(other).close()
        return copy

    with DaemonPool(min(_MAX_FETCHED, len(remote)), "imgcls-shards") as pool:
        # in order and not by file: one may be named twice
        copies = deque(pool.submit(fetch, file) for file in remote)
        for file in files:
            if isinstance(file, RemotePath):
                copies.popleft().result().close()  # raises what went wrong
            yield file
