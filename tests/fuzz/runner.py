"""Feed a target with spoilt inputs in a child process, and keep whatever it does but read or refuse them.

A finding is an exception that nobody told of, a crash, more than `MAX_SECONDS` of computing, or more memory than
`MAX_MEMORY` and a multiple of the input. Input number i of a seed is always the same, so a finding can be had again
from its number; it is also written to a file. Needs fork and, for the memory, Linux.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz import mutations
from fuzz.targets import TARGETS, Target
from imgcls.errors import printable

MAX_SECONDS = 5.0
#: where an input hangs in C code, which no signal of ours interrupts; imports on a busy machine take long, too
MAX_SILENCE = 60.0
MAX_START = 600.0
#: what a child does
STARTING, DONE, RUNNING = 0, 1, 2
MAX_MEMORY = 256 << 20
#: bytes of memory for a byte of input, beside: JSON takes some thirty
MEMORY_RATIO = 60
#: of address space above what the process has before
MAX_ADDRESS_SPACE = 6 << 30
#: no more of one target are written: they are mostly one
MAX_FINDINGS = 20


@dataclass
class Outcome:
    """How many inputs a target was given, and the files of the findings."""

    num_inputs: int = 0
    findings: list[Path] = field(default_factory=list)


def make_input(target: Target, seeds: list[bytes], seed: int, number: int) -> bytes:
    """Return input `number` of `seed`: the seeds of the target themselves first."""
    if number < len(seeds):
        return seeds[number]
    return mutations.mutate(Random(f"{target.name}/{seed}/{number}"), seeds, target.structure)


def fuzz(name: str, folder: Path, *, seed: int = 0, num_inputs: int | None = None,
         minutes: float = 0) -> Outcome:
    """Run one target for a number of inputs or for minutes; findings are written into `folder`."""
    outcome = Outcome()
    deadline = time.monotonic() + 60 * minutes if num_inputs is None else float("inf")
    last = sys.maxsize if num_inputs is None else num_inputs
    with mmap.mmap(-1, 16) as shared, tempfile.TemporaryDirectory(prefix="imgcls-fuzz-", dir=_memory_folder()) as work:
        first = 0
        while first < last and time.monotonic() < deadline and len(outcome.findings) < MAX_FINDINGS:
            shared[:] = struct.pack("<qq", first, STARTING)
            child = os.fork()
            if not child:
                _run_child(TARGETS[name], folder, Path(work), shared, (seed, first, last), deadline)
            problem = _wait(child, shared)
            number, state = struct.unpack("<qq", shared[:])
            first = number if state == DONE else number + 1
            if state != DONE:  # it did not come to the end: the last input is the reason
                target = TARGETS[name]
                data = make_input(target, target.seeds(Path(work)), seed, number)
                _write_finding(folder, name, seed, number, data, problem)
            outcome.findings = sorted(folder.glob(f"{name}-{seed}-*.bin"))
        outcome.num_inputs = first
    return outcome


def read_once(name: str, path: Path) -> str:
    """Give a target the content of a file; return what it did wrong, or ""."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="imgcls-fuzz-") as folder:
        work = Path(folder)
        _problem_of(target, target.seeds(work)[0], work)  # as in a child: imports are not the input's
        return _problem_of(target, path.read_bytes(), work)


def _run_child(target: Target, folder: Path, work: Path, shared: mmap.mmap, which: tuple[int, int, int],
               deadline: float) -> None:
    """Run inputs to the end, which is noted in `shared`; never returns."""
    status = 1
    try:
        seed, first, last = which
        # what a target prints is of no interest, and neither are the threads' last words
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        seeds = target.seeds(work)
        _problem_of(target, seeds[0], work)  # imports, pools and caches are not the first input's
        _limit_memory()
        shared[8:] = struct.pack("<q", RUNNING)
        found = 0
        for number in range(first, last):
            if time.monotonic() > deadline or found >= MAX_FINDINGS:
                break
            shared[:8] = struct.pack("<q", number)
            data = make_input(target, seeds, seed, number)
            if problem := _problem_of(target, data, work):
                found += 1
                _write_finding(folder, target.name, seed, number, data, problem)
            shared[:8] = struct.pack("<q", number + 1)
        shared[8:] = struct.pack("<q", DONE)
        status = 0
    finally:
        os._exit(status)


def _problem_of(target: Target, data: bytes, work: Path) -> str:
    """Let the target read the input; return what went wrong, or ""."""
    before = _peak_memory(reset=True)
    start = time.process_time()
    try:
        target.read(data, work)
    except target.allowed as error:
        line = str(error)
        if "\n" in line or len(line) > 5000 or line != printable(line):
            return f"an error that is not one line for people: {line[:500]!r}"
    except BaseException:  # also SystemExit, and what Rust's panics become
        return traceback.format_exc()
    seconds = time.process_time() - start
    memory = _peak_memory() - before
    if seconds > MAX_SECONDS:
        return f"took {seconds:.1f} s for {len(data)} bytes"
    if memory > MAX_MEMORY + MEMORY_RATIO * len(data):
        return f"took {memory >> 20} MB for {len(data)} bytes"
    return ""


def _wait(child: int, shared: mmap.mmap) -> str:
    """Wait for the end of a child; return how it ended. One that is silent for long is killed."""
    before, since = shared[:], time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return f"the process ended with status {code}" if code >= 0 else f"killed by signal {-code}"
        if shared[:] != before:
            before, since = shared[:], time.monotonic()
        limit = MAX_START if struct.unpack("<q", shared[8:])[0] == STARTING else MAX_SILENCE
        if time.monotonic() - since > limit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"silent for {limit:g} s"
        time.sleep(0.02)


def _write_finding(folder: Path, name: str, seed: int, number: int, data: bytes, problem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}-{number}.bin"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(f"{problem}\n", encoding="utf-8", errors="backslashreplace")


def _peak_memory(*, reset: bool = False) -> int:
    """Return the most memory that this process has had, since `reset`; 0 where the system does not tell."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as stream:
                stream.write("5")
        with open("/proc/self/status") as stream:
            return next(int(line.split()[1]) << 10 for line in stream if line.startswith("VmHWM"))
    except OSError:
        return 0


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as stream:
            used = int(stream.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_ADDRESS_SPACE, resource.RLIM_INFINITY))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
