"""Lock a file against other processes: one rule for prefixes, caches and downloads.

The lock belongs to the open file and ends with it, however its process dies; a mapping of the file keeps it
too. Callers are `cache`, `download`, and `training.checkpoint` for its prefix. Nothing here opens or removes
a file.

Ours and not `filelock`: its lock of an open file (3.30 and later) is exclusive, and its shared lock lives in
an SQLite file apart from the file that is mapped.
"""

from __future__ import annotations

from typing import IO


def lock_file(stream: IO[bytes] | IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False where another process holds it.

    A shared lock keeps out exclusive ones alone. With `wait`, wait until the lock is free. True is also the
    answer where there are no locks (Windows, some network file systems): there only the renaming guards what
    is written.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    # flock and not lockf: it belongs to the open file. A lockf lock belongs to the process, which loses it as
    # soon as it closes any other handle of the same file.
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK or EOPNOTSUPP of a network file system
        return True
    return True
