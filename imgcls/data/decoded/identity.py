"""What kept pixels depend on: the files of a source, the settings, and the libraries that decode.

A cache on a disk has a name and an identity. The name says which data and settings it is for; the identity
changes when the files do, and then what the cache holds is dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterable

import numpy as np

from imgcls.config.version import __version__
from imgcls.data.decoded.tables import DIGEST_BYTES
from imgcls.data.sources import Fingerprinted, Source
from imgcls.errors import DataError

#: images whose bytes are compared: what changed without a trace in the sizes and times of files
_NUM_PROBED = 32


def name_of(source: Source, settings: str) -> str:
    """Return 16 hexadecimal digits, a hash of the path of the data and of the settings of the pixels."""
    place = os.path.abspath(source.description) if "://" not in source.description else source.description
    return _digest((place, settings)).hex()[:16]


def of_source(source: Source, settings: str) -> bytes | None:
    """Return a digest of 32 bytes of all that the pixels depend on; None for a source without fingerprint."""
    if not isinstance(source, Fingerprinted) or (fingerprint := source.fingerprint()) is None:
        return None
    # evenly spread: a file may be written anew with its old size and time
    probed = np.unique(np.linspace(0, len(source) - 1, _NUM_PROBED).astype(np.int64)).tolist()
    parts = [settings, _libraries(), str(len(source)), fingerprint]
    for index in probed:
        with contextlib.suppress(DataError):  # damaged: never kept
            parts.append(hashlib.blake2b(bytes(source.read(index))).hexdigest())
    return _digest(parts)


def _libraries() -> str:
    """Return the versions of what makes pixels, and the processor, which libraries choose their code by."""
    import torch

    from imgcls.data.opencv import cv2

    return "\n".join((__version__, cv2.getBuildInformation(), cv2.getCPUFeaturesLine(), torch.__version__,
                      platform.machine()))


def _digest(parts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        # with its length: no two lists of parts give the same bytes
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()

