"""Check that there is enough memory before it is taken, so that too little is one line, not a killed process.

Linux gives programs more memory than there is, and kills one when they use it. So code that can compute from
a user's settings how much it is about to take calls `require` first. Other systems do not say how much is
free: there no more than the limit of the process itself is checked.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from imgcls.errors import UsageError

#: where Linux says what is free, and in which groups a process is
_MEMINFO = "/proc/meminfo"
_GROUPS = "/proc/self/cgroup"
#: by version of cgroups: the folder of a group, its limit, what it uses, and what of that can be dropped
_CGROUPS = (("/sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file")),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
             ("total_inactive_file", "total_active_file")))


class TooLittleMemory(UsageError):
    """More memory was requested than this machine can give; nothing was taken yet."""


def require(num_bytes: float, what: str) -> None:
    """Raise TooLittleMemory, a UsageError, where less than `num_bytes` are available; `what` names settings
    and the use.

    The message is "`what` needs ... of memory". Call it with the least that is needed, never with a guess.
    """
    available = available_bytes()
    if available is not None and num_bytes > available:
        raise TooLittleMemory(f"{what} needs {_short(num_bytes)} of memory or more, and "
                              f"{_short(available)} are free")


def available_bytes() -> int | None:
    """Return the bytes that are free or can be freed, swap included, within the limits of this process; None
    where the system does not say."""
    limits = [limit for limit in (_free_bytes(), *_cgroup_bytes()) if limit is not None]
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS)[:1]
                   if limit != resource.RLIM_INFINITY]
    return min(limits, default=None)  # whichever ends the process first


def _free_bytes() -> int | None:
    try:
        lines = Path(_MEMINFO).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    # such as "MemAvailable:   12345 kB"
    fields = (line.partition(":") for line in lines)
    sizes = {name: text.split()[0] for name, _, text in fields if text.split()}
    if "MemAvailable" not in sizes:
        return None
    # MemAvailable and not MemFree: Linux fills free memory with files that it can drop at once.
    return 1024 * (int(sizes["MemAvailable"]) + int(sizes.get("SwapFree", 0)))


def _cgroup_bytes() -> list[int]:
    """Return the bytes that are left in each control group of this process and in each group around it."""
    try:
        lines = Path(_GROUPS).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    # such as "0::/user.slice/job" (version 2) and "4:memory:/job" (version 1)
    names = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines
                                                            if line.count(":") >= 2)}
    left = []
    for (root, limit_name, used_name, droppable), name in zip(
            _CGROUPS, (names.get("", "/"), names.get("memory", "/")), strict=True):
        folder = Path(root, *(part for part in Path(name).parts if part not in ("/", "..")))
        # in a container the path may be that of the host, and its own group the root
        for group in (folder, *folder.parents):
            limit = _read_number(str(group / limit_name))
            if limit is not None:
                used = (_read_number(str(group / used_name)) or 0) - _droppable_bytes(group, droppable)
                left.append(max(limit - max(used, 0), 0))
            if str(group) == root:
                break
    return left


def _droppable_bytes(group: Path, names: tuple[str, ...]) -> int:
    """Return the bytes of a group's memory that are copies of files: the system can drop them."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    fields = (line.split() for line in lines)
    return sum(int(field[1]) for field in fields if len(field) == 2 and field[0] in names)


def _read_number(path: str) -> int | None:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isascii() and text.isdigit() else None  # or "max"


def _short(num_bytes: float) -> str:
    for unit, size in (("EB", 1e18), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def forget_peak() -> bool:
    """Reset the record of the most memory that this process has had; return whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): 5 resets VmHWM
    except OSError:  # another system, or a container that does not let us
        return False
    return True


def peak_bytes() -> int | None:
    """Return the most bytes that this process had in memory since `forget_peak` returned True, or else since
    its start; None where the system does not say.
    """
    if (peak := _status_bytes("VmHWM:")) is not None:
        return peak
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int | None:
    """Return the bytes that this process has in memory now; None where the system does not say."""
    return _status_bytes("VmRSS:")


def _status_bytes(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)


def process_share(num_bytes: float) -> float:
    """Return what the processes of this job on this machine need together, where each needs `num_bytes`."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")  # torch's variable; other launchers set it, too
    return num_bytes * (int(count) if count.isascii() and count.isdigit() and len(count) < 6 else 1)
