"""The names under a prefix, and the JSON files among them. Reads nothing else and writes nothing."""

from __future__ import annotations

import os
import re
from typing import Any

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import json_text
from imgcls.storage.paths import AnyPath, to_path
from imgcls.storage.remote import RemotePath
from imgcls.storage.urls import url_scheme
from imgcls.training.checkpoint.members import check_latest, check_meta

#: a file system's 255, less what stands around the prefix in the longest name that is written
#: (.PREFIX-position.states.XXXXXXXX.tmp)
_MAX_NAME_BYTES = 220
#: a file system's 4096 for all of a path, likewise
_MAX_PATH_BYTES = 4000
#: what is behind the prefix in the name of a position inside an epoch; under a URL each has its own
_POSITION = r"position[-0-9a-f]*\.states"
#: the names of a run's files behind the prefix
WRITTEN = (rf"-(\d{{4,}}\.(params|states)|{_POSITION}|(symbol|network|meta|latest|best)\.json|"
           r"metrics\.jsonl|report\.html|mean\.bin)")
#: no run has so many epochs, and no name of a file so many digits
_MAX_EPOCH_DIGITS = 9


def parse_epoch(text: str, prefix: str = "") -> int:
    """Return the number of an epoch: 8, 0008 and 0000 are epochs, and best is the one that PREFIX-best.json
    names. UsageError for anything else."""
    if prefix and text.strip().lower() == "best":
        best = read_best(prefix).get("epoch")
        if type(best) is not int or not json_text.is_count(best):
            raise UsageError(f"`load_epoch` best: there is no {verbatim(prefix)}-best.json that names an "
                             "epoch; training writes it with `keep_best`")
        return best
    # not isdigit: that takes the digits of all scripts, raised ones too
    if not re.fullmatch(rf"0*[0-9]{{1,{_MAX_EPOCH_DIGITS}}}", text.strip()) or len(text) > _MAX_NAME_BYTES:
        raise UsageError(f"`load_epoch` {_shortened(text)}: must be an epoch such as 8 or 0008, auto or best")
    return int(text)


def is_auto(epoch: str) -> bool:
    """Return whether `load_epoch` means the newest state there is."""
    return epoch.strip().lower() == "auto"


def check_prefix(prefix: str, setting: str) -> None:
    """Raise UsageError for a prefix that no file can begin with, whether it is read or written.

    Looks at the text alone, not at the disk; `setting` is between backquotes. "" is no prefix, and passes.
    """
    text = os.fspath(prefix)
    if not text:
        return
    name = re.split(r"[/\\]" if os.name == "nt" else "/", text)[-1]
    # a URL with nothing behind the bucket would become the name of another bucket
    is_bucket = bool(url_scheme(text)) and "/" not in text.partition("://")[2]
    if is_bucket or name in ("", ".", ".."):
        raise UsageError(f"{setting} {_shortened(text)}: a prefix is the beginning of file names, such as "
                         "model/net; this one ends in a folder")
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise UsageError(f"{setting} {_shortened(text)}: must not hold a line break or another control "
                         "character")
    # In bytes, as file systems count: an umlaut is two, a Chinese character three.
    if len(os.fsencode(name)) > _MAX_NAME_BYTES or len(os.fsencode(text)) > _MAX_PATH_BYTES:
        raise UsageError(f"{setting} {_shortened(text)}: is too long for a file name ({len(name)} characters "
                         f"behind the last /); {_MAX_NAME_BYTES} bytes are the most")


def prefix_of(path: str) -> str:
    """Return the prefix of a file with the weights of an epoch, or with a position inside an epoch."""
    return re.sub(rf"-(\d{{4,}}\.params|{_POSITION})$", "", path)


def newest_epoch(prefix: str) -> int | None:
    """Return the highest epoch whose weights are there, or None."""
    return max(numbered_epochs(os.fspath(to_path(prefix)), "params"), default=None)


def numbered_epochs(prefix: str, suffix: str) -> list[int]:
    """Return the epochs e for which PREFIX-eeee.suffix exists, in no order."""
    # four digits or more: MXNet writes %04d, so an epoch over 9999 has five
    pattern = re.compile(rf"{re.escape(to_path(prefix).name)}-(\d{{4,}})\.{suffix}")
    return [int(match[1]) for match in map(pattern.fullmatch, _names_beside(prefix)) if match]


def find_position(prefix: str) -> AnyPath | None:
    """Return the file of the state inside an epoch, None where there is none."""
    # basename: a latest.json from anywhere must not lead out of the folder
    name = os.path.basename(str(read_latest(prefix).get("position") or "")) if url_scheme(prefix) else ""
    path = to_path(f"{folder(prefix)}/{name}" if name else f"{prefix}-position.states")
    return path if path.exists() else None


def remote_positions(prefix: str) -> list[AnyPath]:
    """Return the files of all positions under a URL, whether PREFIX-latest.json still names them or not."""
    start = f"{to_path(prefix).name}-position-"
    return [to_path(f"{folder(prefix)}/{name}") for name in _names_beside(prefix)
            if name.startswith(start) and name.endswith(".states")]


def remote_leftovers(prefix: str) -> list[RemotePath]:
    """Return the half-written files of uploads under a URL, as `RemotePath.upload` names them."""
    pattern = re.compile(re.escape(to_path(prefix).name) + WRITTEN + r"\.[0-9a-f]{8}\.tmp")
    return [RemotePath(f"{folder(prefix)}/{name}") for name in _names_beside(prefix)
            if pattern.fullmatch(name)]


def folder(prefix: str) -> str:
    """Return the folder of a prefix, a path or a URL."""
    return str(to_path(prefix).parent)


def mean_image_path(prefix: str) -> str:
    """Return where the mean image of a checkpoint is, if its meta data notes one: an MXNet file."""
    return f"{prefix}-mean.bin"


def read_meta(prefix: str) -> dict[str, Any]:
    """Return PREFIX-meta.json, or {} for a checkpoint that has none (MXNet's own)."""
    path = to_path(f"{to_path(prefix)}-meta.json")
    content = _read_json(path, "the meta data of a checkpoint")
    check_meta(content, path)
    return content


def read_latest(prefix: str) -> dict[str, Any]:
    """Return PREFIX-latest.json, or {} where there is none."""
    path = to_path(f"{prefix}-latest.json")
    content = _read_json(path, "the record of the newest checkpoint")
    check_latest(content, path)
    return content


def read_best(prefix: str) -> dict[str, Any]:
    """Return PREFIX-best.json, or {} where there is none."""
    return _read_json(to_path(f"{prefix}-best.json"), "the record of the best epoch")


def _names_beside(prefix: str) -> list[str]:
    """Return the names of all files in the folder of the prefix, as it is now."""
    parent = to_path(prefix).parent
    # listed each time: another process may have written since, and a listing is one request
    if isinstance(parent, RemotePath):
        return [path.name for path in parent.iterdir()]
    try:
        return os.listdir(parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(parent, f"the folder cannot be read: {reason(error)}") from error


def _read_json(path: AnyPath, purpose: str) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is none; `purpose` says what it should have been."""
    try:
        # The size first: these files are small, and a store would send whatever stands under the name.
        size = path.stat().st_size
        content = path.read_bytes() if size <= json_text.MAX_BYTES else b""
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(path, f"not {purpose}: {reason(error)}") from error
    if size > json_text.MAX_BYTES:
        raise DataError(path, f"not {purpose}: {size} bytes")
    return json_text.loads_object(content, path, purpose)


def _shortened(text: str) -> str:
    """Return a text for a message, cut where it is longer than a line."""
    return verbatim(text if len(text) <= 80 else f"{text[:76]} ...")
