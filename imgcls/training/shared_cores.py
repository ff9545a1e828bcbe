"""What a run on a CPU does about programs that take its cores after its number of threads was decided.

The number stays, since the bits of the weights depend on it. Instead the threads wait for each other in
another way (`ShortWaits`), and a line says what would be faster.
"""

from __future__ import annotations

from imgcls.distributed.cpu_threads import ShortWaits
from imgcls.distributed.process_group import Worker
from imgcls.storage import cores

#: seconds between two looks: a program that is over sooner is no reason for a line
_SHORTEST_S = 5.0
#: share of a core: with more taken by others short waits are faster, with less they are slower (docs/cpu.md)
_TAKEN, _LEFT = 0.5, 0.4


class SharedCores:
    """Called at each progress line. Watches a run of one process with several threads, and no other."""

    def __init__(self, worker: Worker) -> None:
        self._num_threads = worker.num_threads
        is_watched = worker.num_threads > 1 and worker.world_size == 1
        # one thread waits for no other, and processes of one job would take each other for other programs
        self._watch = cores.Watch() if is_watched else None
        self._waits = ShortWaits()
        self._has_warned = False

    def check(self) -> str:
        """Make waits short or long, by what other programs take; return a line for the user or ""."""
        taken = self._watch.taken(_SHORTEST_S) if self._watch else None
        if taken is None:
            return ""
        # cores that this run has no threads for may be taken without harm
        missing = taken + self._num_threads - len(cores.affinity())
        # two thresholds: between them nothing is switched, so that it does not change all the time
        if self._waits.is_on and missing < _LEFT:
            self._waits.switch(False)
        if missing <= _TAKEN:
            return ""
        self._waits.switch(True)
        # once a run: it cannot be helped from outside without stopping it
        if self._has_warned:
            return ""
        self._has_warned = True
        fewer = cores.num_free(self._num_threads, self._num_threads, missing)
        return (f"other programs use {taken:.1f} of the machine's cores, and a step waits for the slowest of "
                f"its {self._num_threads} threads: it would be faster to stop, and to go on from the "
                f"checkpoint with `num_threads` {fewer} (the last digits of the weights then differ)")

    def close(self) -> None:
        """Let threads wait as they did before."""
        self._waits.switch(False)
