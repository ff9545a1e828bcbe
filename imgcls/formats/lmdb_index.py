"""Read keys and labels of an LMDB in a separate process: a damaged one ends that process and no training.

The package lmdb maps the file and does not check its pages: an offset behind the end of the file is a signal
(SIGSEGV, SIGBUS) and no exception. Here all pages that lead to an image are read once, and the end of every
image with them; if the child process succeeds, readers of the same file do too.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from array import array
from pathlib import Path

import numpy as np

from imgcls.errors import DataError, ImgclsError, verbatim
from imgcls.formats.datum import LmdbReader
from imgcls.storage.progress import show_count

#: the directory that the package is imported from
_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
#: names of what a child writes, in this order
_NAMES = ("keys", "key_ends", "labels")
#: an entry of a page takes at least this many bytes: with more entries than that, pages form a circle
_MIN_ENTRY_BYTES = 10


def index_lmdb(path: str, shown: object) -> dict[str, np.ndarray]:
    """Return `keys` uint8, all keys one behind the other, `key_ends` int64 (N,) and `labels` float64 (N,).

    A label is nan where the value is no Datum. DataError for a database that is damaged; `shown` is what
    messages call it.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        filter(None, (_PACKAGE_FOLDER, os.environ.get("PYTHONPATH"))))}
    child = subprocess.run([sys.executable, "-m", "imgcls.formats.lmdb_index", path, str(shown)],
                           stdout=subprocess.PIPE, env=environment, check=False)
    # SIGSEGV or SIGBUS: the package followed a page that is not there
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise DataError(shown, f"the LMDB is damaged: reading it ended with {name}")
    if child.returncode:
        told = child.stdout[-500:].decode("utf-8", "replace").strip()
        raise DataError(shown, f"is no LMDB that can be read: {verbatim(told)}")
    # written by `_index` below, one after the other; never a pickle
    stream = io.BytesIO(child.stdout)
    return {name: np.load(stream, allow_pickle=False) for name in _NAMES}


def _index(path: str, shown: str) -> None:
    """Write the arrays to stdout, or one line and exit status 1."""
    # in this process a signal is no loss
    reader = LmdbReader(path)
    keys, ends, labels = bytearray(), array("q"), array("d")
    file = path if os.path.isfile(path) else os.path.join(path, "data.mdb")
    limit = os.path.getsize(file) // _MIN_ENTRY_BYTES
    with show_count(f"{shown}: reading labels", "images", len(reader)) as show:
        for key, label in reader.labels():
            keys += key
            ends.append(len(keys))
            labels.append(label)
            # the head of the file may claim any number of entries: its size is known
            if len(labels) > limit:
                raise DataError(path, "has more entries than bytes for them")
            show(len(labels))
    np.save(sys.stdout.buffer, np.frombuffer(bytes(keys), np.uint8))
    np.save(sys.stdout.buffer, np.array(ends, np.int64))
    np.save(sys.stdout.buffer, np.array(labels, np.float64))


if __name__ == "__main__":
    try:
        _index(sys.argv[1], sys.argv[2])
    except ImgclsError as error:
        print(getattr(error, "reason", error))
        sys.exit(1)
    except Exception as error:  # whatever the package lmdb raises of a damaged file
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:  # the parent process gets the signal as well
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.exit(130)
