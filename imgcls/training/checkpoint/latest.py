"""PREFIX-latest.json: under a URL, where nothing can be renamed or locked, it tells which position counts.

Every position has a new name there, PREFIX-position-UPDATE-WRITER.states. The file that names it is written
after it, and the one before is removed after that, so a reader finds a whole state at any moment. The file
also names the run that is writing, so that a second run under the same prefix is noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid

from imgcls.errors import RunError
from imgcls.storage.uploads import UploadQueue
from imgcls.training.checkpoint.files import folder, read_latest, remote_leftovers, remote_positions
from imgcls.training.checkpoint.position import Position
from imgcls.training.checkpoint.states import STATES_FORMAT

#: no upload of a file takes longer, and clocks differ by less
_ABANDONED_AFTER_S = 2 * 24 * 3600


class LatestFile:
    """PREFIX-latest.json of one writer; all of it goes through `uploads`, behind what was written before."""

    def __init__(self, prefix: str, run: str, uploads: UploadQueue) -> None:
        self._prefix = prefix
        self._run = run
        self._uploads = uploads
        #: names this object: a run that was resumed twice has two writers
        self._writer = uuid.uuid4().hex
        #: the position that the file names, "" for none
        self._position = ""

    def take_over(self, run: str, *, is_resumed: bool) -> None:
        """At the beginning of a run: put our name, and that of the run, into the file.

        Positions that it does not name are removed. The one that it names stays until there is another: if it
        is of an earlier run, the name of the run that is in it shows that.
        """
        self._run = run
        latest = read_latest(self._prefix)
        name = str(latest.get("position") or "")
        self._position = f"{folder(self._prefix)}/{name}" if name else ""
        self._write(int(latest.get("epoch") or 0) if is_resumed else 0)
        for path in remote_positions(self._prefix):
            if str(path) != self._position:
                self._uploads.remove(str(path))
        for path in remote_leftovers(self._prefix):
            # there are no locks here: the age alone tells a killed upload from one that is under way
            with contextlib.suppress(FileNotFoundError):  # it was, and has just got its name
                when = path.modified_s()
                if when is not None and time.time() - when > _ABANDONED_AFTER_S:
                    self._uploads.remove(str(path))

    def position_path(self, update: int) -> str:
        """Return the path for a position at this update: one that no other writer uses."""
        return f"{self._prefix}-position-{update:08d}-{self._writer[:8]}.states"

    def point_to(self, position: Position, path: str = "") -> None:
        """Name the epoch or position just written, then remove the position named before; RunError if we were
        replaced.
        """
        # in the queue, behind the files: what is checked now may be wrong when they have arrived
        self._uploads.add_check(self._check_writer)
        # an epoch is further on than every position before it, so it names none
        before = self._position
        self._position = path
        self._write(position.epoch)
        if before and before != path:
            self._uploads.remove(before)

    def _write(self, epoch: int) -> None:
        name = os.path.basename(self._prefix)
        # names without their folder: a prefix may be copied elsewhere
        content = {"format": STATES_FORMAT, "run": self._run, "writer": self._writer, "epoch": epoch,
                   "params": f"{name}-{epoch:04d}.params" if epoch else "",
                   "position": os.path.basename(self._position)}
        self._uploads.write(f"{self._prefix}-latest.json", json.dumps(content, indent=1).encode())

    def _check_writer(self) -> None:
        if read_latest(self._prefix).get("writer", self._writer) != self._writer:
            # Ended and not only warned: two runs that take turns would leave a mixture that neither can
            # resume.
            raise RunError(f"`model_prefix` {self._prefix}: another run has begun to write there; this one "
                           "is no longer saved")
