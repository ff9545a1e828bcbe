"""Downloads of weights, checked against a published hash or, without one, that of the first download.

`storage.download` fetches the bytes and tries the mirrors. This module adds the files of a prefix at a URL,
and the note `<file>.sha256` beside a file: weights are loaded for years, so a change of them must be noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import urllib.parse
from pathlib import Path

import imgcls.pretrained.checkpoint_files as checkpoint_files
from imgcls.errors import DataError, RunError, UsageError, tell, verbatim
from imgcls.formats import symbol
from imgcls.pretrained.reference import PretrainedRef
from imgcls.storage import download, folders
from imgcls.storage.atomic import write_bytes
from imgcls.training import checkpoint

#: no network of the zoo has a larger file (its largest has 620 MB)
MAX_BYTES = 4 << 30
#: a network.json has a dozen settings
_MAX_SETTINGS_BYTES = 1 << 20


def download_url(url: str, epoch: str, setting: str) -> PretrainedRef:
    """Download the files of the prefix at `url`: its network, its weights and its meta.json, if there is one.

    `epoch` is a number or "auto" (0); the URL may also be that of the .params or of the symbol. `setting` is
    what errors call the URL. Raises UsageError for a URL that names no prefix, RunError where there are no
    files.
    """
    # Three spellings of one prefix: the prefix itself, its .params of some epoch, its symbol.
    base = url
    epoch_number = 0 if epoch.lower() == "auto" else checkpoint.parse_epoch(epoch)
    if match := re.fullmatch(r"(.+)-(\d{4,})\.params", url):
        base = match[1]
        epoch_number = int(match[2])
    base = base.removesuffix("-symbol.json")
    # The name becomes that of a file here: only characters that every file system takes.
    stem = re.sub(r"[^\w.+-]", "_", urllib.parse.unquote(urllib.parse.urlsplit(base).path.rpartition("/")[2]))
    if not stem:
        raise UsageError(f"`{setting}` {verbatim(url)}: must end with the prefix of the files, such as "
                         ".../resnet-18 for .../resnet-18-symbol.json and .../resnet-18-0000.params")
    # Prefixes of one name at two addresses must not meet, so the folder is named after the address.
    folder = folders.cache_folder("models") / "url" / hashlib.sha256(base.encode()).hexdigest()[:16]
    if not any((folder / f"{stem}-{end}.json").exists() for end in ("symbol", "network")):
        _download_descriptions(base, folder, stem)
    # The largest comes last, when the prefix is known to be a network's.
    file = f"{stem}-{epoch_number:04d}.params"
    advice = f"epoch {epoch_number} of {base} was requested; `load_epoch` names another"
    fetch_noting_hash(f"{base}-{epoch_number:04d}.params", folder / file, None, advice)
    ref = checkpoint_files.describe(str(folder / stem), str(epoch_number))
    return dataclasses.replace(ref, name=url, origin=f"{base}-meta.json")


def _download_descriptions(base: str, folder: Path, stem: str) -> None:
    """Download the symbol (or network.json), the meta.json and the mean image at `base`, as far as they are
    there; RunError without a network.
    """
    files = {end: content for end in ("meta.json", "symbol.json")
             if (content := download.read_url(f"{base}-{end}", symbol.MAX_BYTES))}
    if _has_mean_image(files.get("meta.json", b"")):
        content = download.read_url(f"{base}-mean.bin", symbol.MAX_BYTES)
        if content:  # if it is missing, that is an error when it is used
            files["mean.bin"] = content
    if "symbol.json" not in files:  # a network that no symbol expresses
        content = download.read_url(f"{base}-network.json", _MAX_SETTINGS_BYTES)
        if content:
            files["network.json"] = content
    if not files.keys() - {"meta.json", "mean.bin"}:
        raise RunError(f"cannot download {verbatim(stem)}: there is no {base}-symbol.json")
    # Both in memory before either is written, so that half a network is never found in the cache.
    for end, content in files.items():
        write_bytes(folder / f"{stem}-{end}", content)


def _has_mean_image(meta: bytes) -> bool:
    """Return whether the meta data name a mean image; damage in them is reported when they are read."""
    try:
        return bool(json.loads(meta)["preprocessing"]["mean_image"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def fetch_noting_hash(url: str, target: Path, collection: str | None, advice: str) -> None:
    """Make `target` exist with the content that it had at its first download, and note its hash beside it.

    `collection` is its folder on IMGCLS_MIRROR (None: the mirror is not tried), `advice` is put at the end of
    a failed download's error. Raises DataError for a file that changed since, RunError where it cannot be
    downloaded.
    """
    note = target.with_name(f"{target.name}.sha256")
    sha256 = _read_note(note)
    if target.exists():
        if sha256 and _sha256(target) != sha256:
            raise DataError(target, "has changed since it was downloaded; remove it to download it again, or "
                                    f"{note.name} beside it to take it as it is")
        return
    if not sha256:
        sha256 = _published_sha256([*download.user_mirror(collection, target.name), url], target.name, advice)
    download.fetch([url], target, sha256=sha256, max_bytes=MAX_BYTES, collection=collection, advice=advice)
    if not sha256:
        sha256 = _sha256(target)
        tell(f"note: no hash of {target.name} is published; the hash of the download (sha256 "
             f"{sha256[:16]}...) is stored beside it and checked from now on")
    # In the form of sha256sum, so that `sha256sum -c` checks it, too.
    write_bytes(note, f"{sha256}  {target.name}\n".encode())


def _published_sha256(urls: list[str], name: str, advice: str) -> str | None:
    """Return the first hash that a server publishes beside the file; RunError where none answers at all."""
    # A server that answers 404 for the hash is there, and may have the file all the same.
    unreachable = []
    sha256 = None
    for url in urls:
        try:
            sha256 = sha256 or download.published_sha256(url)
        except RunError as error:
            unreachable.append(error.message.replace(f"{url}.sha256", url))
    if len(unreachable) == len(urls):
        raise RunError("\n".join([f"cannot download {verbatim(name)}:", *unreachable, advice]))
    return sha256


def _read_note(path: Path) -> str | None:
    """Return the hash in a note as sha256sum writes it; None where there is none."""
    try:
        digest, *_ = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # not there, empty, or not text
        return None
    return digest.lower() if re.fullmatch("[0-9a-fA-F]{64}", digest) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
