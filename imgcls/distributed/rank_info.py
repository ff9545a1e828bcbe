"""This process among the others, as torchrun, mpirun, srun or MXNet's launcher describe it.

`detect` reads, in this order: RANK and WORLD_SIZE (torchrun and our own agent), OMPI_COMM_WORLD_* and PMI_*
(mpirun), SLURM_* (srun), DMLC_* (MXNet's launcher, or set by hand as MXNet's documents said). `topology`
calls it before anything is loaded: nothing here needs torch, and nothing here opens a connection.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from imgcls.config.flags import shortened, to_integer
from imgcls.distributed.addresses import MAX_PORT, is_address
from imgcls.errors import UsageError, reason

#: set by our agent, which reports to the user how a worker failed, so that the worker does not
AGENT_VARIABLE = "IMGCLS_AGENT"
#: the launcher's part of the command line, where imgcls-launch started this process
LAUNCHER_VARIABLE = "IMGCLS_LAUNCHER"
#: set where the launcher's own output goes to a terminal, so that what this process prints ends there
SCREEN_VARIABLE = "IMGCLS_SCREEN"
#: more processes than any job has: a number above it is a mistake
MAX_RANKS = 1 << 20
#: largest number of a scheduler's job: those grow for years
MAX_NUMBER = 1 << 53


@dataclass(frozen=True)
class RankInfo:
    """One process among `world_size`; `rank` is -1 where the store hands out the ranks (DMLC_*)."""

    rank: int
    world_size: int
    local_rank: int = 0
    local_world_size: int = 1
    #: where the processes meet: host and port of a store, or the file of one
    address: str = ""
    port: int = 0
    file: str = ""
    #: whether someone else (an agent, MXNet's scheduler) serves the store at that address
    is_store_served: bool = False
    #: MXNet's role: worker, server or scheduler
    role: str = "worker"
    #: how many of MXNet's workers and servers there are, 0 where nothing says so
    num_workers: int = 0
    num_servers: int = 0
    #: names the job, the same in every process and after every restart; "" where there is no such name
    job: str = ""
    #: how often the processes of this job were started again
    num_restarts: int = 0


def detect(env: Mapping[str, str] = os.environ) -> RankInfo | None:
    """Return what the environment says, None for a process alone; UsageError for a wrong or absent value."""
    # Our own agent first: it may run under srun or a scheduler that sets variables for it, not for workers.
    for read in (_read_torchrun, _read_mpi, _read_slurm, _read_dmlc):
        info = read(env)
        if info is not None:
            _check(info)
            return info
    return None


def _check(info: RankInfo) -> None:
    """Raise UsageError where a launcher's numbers contradict each other, or its address can be none."""
    for value, size in ((info.rank, info.world_size), (info.local_rank, info.local_world_size)):
        if value >= size:
            where = "of this machine" if size == info.local_world_size != info.world_size else "of the job"
            raise UsageError(f"the environment says that this is process {value} {where}, which has {size} "
                             "(counted from 0): RANK must be below WORLD_SIZE and LOCAL_RANK below "
                             "LOCAL_WORLD_SIZE, or mpirun's and srun's variables in their place")
    if info.local_world_size > info.world_size:
        raise UsageError(f"the environment says that {info.local_world_size} of the {info.world_size} "
                         "processes of the job are on this machine: LOCAL_WORLD_SIZE must be at most "
                         "WORLD_SIZE, or mpirun's and srun's variables in their place")
    if not info.file and not is_address(info.address):
        raise UsageError(f"MASTER_ADDR={shortened(info.address)}: must be a name or an address "
                         "(DMLC_PS_ROOT_URI with MXNet's variables)")


def _read_torchrun(env: Mapping[str, str]) -> RankInfo | None:
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    rank = _number(env, "RANK")
    world_size = _number(env, "WORLD_SIZE", 1)
    if rank >= world_size:
        raise UsageError(f"RANK={rank}: must be below WORLD_SIZE={world_size}")
    local_rank = _number(env, "LOCAL_RANK", 0, 0)
    if "MASTER_ADDR" not in env or "MASTER_PORT" not in env:
        raise UsageError(f"RANK={rank} is set and MASTER_ADDR or MASTER_PORT is not: set both, or start with "
                         "torchrun or imgcls-launch")
    job = env.get("TORCHELASTIC_RUN_ID", "")
    return RankInfo(
        rank, world_size,
        # who sets them by hand often leaves the size out
        local_rank=local_rank, local_world_size=_number(env, "LOCAL_WORLD_SIZE", 1, local_rank + 1),
        address=env["MASTER_ADDR"], port=_number(env, "MASTER_PORT", 1, most=MAX_PORT),
        is_store_served=env.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true",
        num_workers=_number(env, "DMLC_NUM_WORKER", 0, 0), num_servers=_number(env, "DMLC_NUM_SERVER", 0, 0),
        job="" if job == "none" else job,  # torchrun's word for a job without a name
        num_restarts=_number(env, "TORCHELASTIC_RESTART_COUNT", 0, 0, most=MAX_NUMBER))


def _read_mpi(env: Mapping[str, str]) -> RankInfo | None:
    ompi = "OMPI_COMM_WORLD_"
    for rank, size, local_rank, local_size in (
            (f"{ompi}RANK", f"{ompi}SIZE", f"{ompi}LOCAL_RANK", f"{ompi}LOCAL_SIZE"),
            ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")):  # MPICH and its relatives
        if rank in env and size in env:
            world_size = _number(env, size, 1)
            local_world_size = _number(env, local_size, 1, world_size)
            # where no local rank is set, that of hosts which are filled one after the other
            default = _number(env, rank) % local_world_size
            info = RankInfo(_number(env, rank), world_size, local_rank=_number(env, local_rank, 0, default),
                            local_world_size=local_world_size)
            return _with_meeting_point(env, info, "mpirun", env.get("PMIX_NAMESPACE", ""))
    return None


def _read_slurm(env: Mapping[str, str]) -> RankInfo | None:
    # without SLURM_STEP_ID this is the batch script itself, not a task of srun
    if "SLURM_STEP_ID" not in env or "SLURM_PROCID" not in env or "SLURM_NTASKS" not in env:
        return None
    world_size = _number(env, "SLURM_NTASKS", 1)
    # such as 2(x2) or 1,2: where hosts differ the largest number, so that all processes read the same one
    counts = re.sub(r"\(x[0-9]+\)", "", env.get("SLURM_STEP_TASKS_PER_NODE", "")).split(",")
    tasks = max(counts, key=lambda text: (len(text), text))
    local_world_size = _number({**env, "SLURM_STEP_TASKS_PER_NODE": tasks}, "SLURM_STEP_TASKS_PER_NODE", 1,
                               world_size)
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", ""))
    job = f"slurm-{env.get('SLURM_JOB_ID', '0')}-{env['SLURM_STEP_ID']}"
    info = RankInfo(_number(env, "SLURM_PROCID"), world_size, local_rank=_number(env, "SLURM_LOCALID", 0, 0),
                    local_world_size=local_world_size)
    if local_world_size < world_size and "MASTER_ADDR" not in env and nodes:
        # the same in all tasks without asking anybody, and seldom that of another job
        port = 20000 + _number(env, "SLURM_JOB_ID", 0, 0, most=MAX_NUMBER) % 20000
        env = {**env, "MASTER_ADDR": first_host(nodes), "MASTER_PORT": str(port)}
    return _with_meeting_point(env, info, "srun", job)


def _read_dmlc(env: Mapping[str, str]) -> RankInfo | None:
    role = env.get("DMLC_ROLE", "").lower()
    if not role or "DMLC_PS_ROOT_URI" not in env:
        return None
    if role not in ("worker", "server", "scheduler"):
        raise UsageError(f"DMLC_ROLE={shortened(role)}: must be worker, server or scheduler")
    for name in ("DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER"):
        if name not in env:
            raise UsageError(f"DMLC_ROLE={role} is set and {name} is not: MXNet's launcher sets DMLC_ROLE, "
                             "DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT, DMLC_NUM_WORKER and DMLC_NUM_SERVER")
    num_workers = _number(env, "DMLC_NUM_WORKER", 1)
    return RankInfo(-1, num_workers, address=env["DMLC_PS_ROOT_URI"],
                    port=_number(env, "DMLC_PS_ROOT_PORT", 1, most=MAX_PORT), is_store_served=True, role=role,
                    num_workers=num_workers, num_servers=_number(env, "DMLC_NUM_SERVER", 0, 0))


def _with_meeting_point(env: Mapping[str, str], info: RankInfo, launcher: str, job: str) -> RankInfo:
    """Add where processes without an agent meet: MASTER_ADDR, or a file where all are on one host."""
    info = replace(info, job=job, num_workers=_number(env, "DMLC_NUM_WORKER", 0, 0),
                   num_servers=_number(env, "DMLC_NUM_SERVER", 0, 0))
    if "MASTER_ADDR" in env and "MASTER_PORT" in env:
        return replace(info, address=env["MASTER_ADDR"], port=_number(env, "MASTER_PORT", 1, most=MAX_PORT))
    # a process alone meets no others
    if info.world_size == 1:
        return replace(info, address="127.0.0.1", port=0)
    if info.local_world_size < info.world_size:
        raise UsageError(f"{launcher} over several hosts: MASTER_ADDR and MASTER_PORT must say where the "
                         "processes meet (mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500), or start with "
                         "imgcls-launch")
    # a file needs no free port, on which the processes would have to agree
    return replace(info, file=os.fspath(_rendezvous_file(job)))


def _rendezvous_file(job: str) -> Path:
    """Return the path of a file of the user's own, the same in all processes of this job and no other."""
    # The launcher is the parent of all. Its start time tells it from an earlier process with its number.
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "0"
    safe = re.sub("[^A-Za-z0-9]", "-", job)[:100]  # a file's name may have 255
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"imgcls-{user}"
    # in a folder of the user's own: in one for all, others could put a file there first
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()  # of a link itself, which another user may have put there
    except OSError as error:
        raise UsageError(f"{folder}: cannot be used for the rendezvous of the processes: "
                         f"{reason(error)}; set TMPDIR") from None
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise UsageError(f"{folder}: is another user's or not a folder, and is needed for the rendezvous of "
                         "the processes; set TMPDIR")
    return folder / f"meeting-{safe or parent}-{started}"


def first_host(nodes: str) -> str:
    """Return the first name in Slurm's short form: node03 for node[03-07,9],other."""
    # scontrol would know, but a container may lack it
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return nodes.split(",")[0]
    first = rest.split("]")[0].split(",")[0].split("-")[0]
    return head + first + rest.partition("]")[2].split(",")[0]


def launcher_words(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the launcher's part of the command line where imgcls-launch started this process, else []."""
    try:
        return shlex.split(env.get(LAUNCHER_VARIABLE, ""))
    except ValueError:  # someone else's: imgcls-launch quotes its words
        return []


def host_name() -> str:
    """Return this host's name for messages: the one in the launcher's host file, or its own."""
    # a container's or a cloud machine's own name may mean nothing to the person who wrote the host file
    return os.environ.get("DMLC_NODE_HOST") or socket.gethostname()


def _number(env: Mapping[str, str], name: str, least: int = 0, default: int | None = None, *,
            most: int = MAX_RANKS) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    try:
        number = to_integer(text)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise UsageError(f"environment variable {name}={shortened(text)}: must be a whole number from "
                         f"{least} to {most}")
    return number
