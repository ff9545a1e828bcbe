"""Who else is there: what torchrun, mpirun, srun or MXNet's launcher say to a process through its environment.

Nothing here needs torch: a command asks before it loads anything. `detect` knows, in this order: RANK and WORLD_SIZE
(torchrun and our own agent), OMPI_COMM_WORLD_* and PMI_* (mpirun), SLURM_* (srun), DMLC_* (MXNet's launcher, or set by
hand as MXNet's documents told).
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgcls.errors import UsageError

#: set by our agent: it tells the user what a worker died of, so the worker need not
AGENT_VARIABLE = "IMGCLS_AGENT"
#: the words before the command, where imgcls-launch started it
LAUNCHER_VARIABLE = "IMGCLS_LAUNCHER"


@dataclass(frozen=True)
class Place:
    """One process among `world`; `rank` is -1 where the store hands the ranks out (MXNet's DMLC_* variables)."""

    rank: int
    world: int
    local_rank: int = 0
    local_world: int = 1
    #: where all meet: host:port of a store, or the file of one
    address: str = ""
    port: int = 0
    file: str = ""
    #: whether somebody else (an agent, MXNet's scheduler) keeps the store at that address
    kept: bool = False
    #: MXNet's role: worker, server or scheduler
    role: str = "worker"
    #: how many of MXNet's workers and servers there are, 0 where nobody said
    workers: int = 0
    servers: int = 0
    #: names the job, the same in every process and after every restart; "" where there is no such name
    job: str = ""
    #: how often the processes of this job were started again
    restarts: int = 0


def detect(env: Mapping[str, str] = os.environ) -> Place | None:
    """The Place that the environment describes, or None for a process alone. UsageError for what makes no sense."""
    for find in (_torchrun, _mpi, _slurm, _dmlc):
        place = find(env)
        if place is not None:
            return place
    return None


def _torchrun(env: Mapping[str, str]) -> Place | None:
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    rank, world = _number(env, "RANK"), _number(env, "WORLD_SIZE", 1)
    if rank >= world:
        raise UsageError(f"RANK={rank}: must be below WORLD_SIZE={world}")
    if "MASTER_ADDR" not in env or "MASTER_PORT" not in env:
        raise UsageError(f"RANK={rank} is set and MASTER_ADDR or MASTER_PORT is not: set both, or start with torchrun "
                         "or imgcls-launch")
    kept = env.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true"
    job = env.get("TORCHELASTIC_RUN_ID", "")
    return Place(rank, world, _number(env, "LOCAL_RANK", 0, rank if world == 1 else 0),
                 _number(env, "LOCAL_WORLD_SIZE", 1, 1), env["MASTER_ADDR"], _number(env, "MASTER_PORT", 1), kept=kept,
                 workers=_number(env, "DMLC_NUM_WORKER", 0, 0), servers=_number(env, "DMLC_NUM_SERVER", 0, 0),
                 job="" if job == "none" else job, restarts=_number(env, "TORCHELASTIC_RESTART_COUNT", 0, 0))


def _mpi(env: Mapping[str, str]) -> Place | None:
    ompi = "OMPI_COMM_WORLD_"
    for rank, size, local_rank, local_size in (
            (f"{ompi}RANK", f"{ompi}SIZE", f"{ompi}LOCAL_RANK", f"{ompi}LOCAL_SIZE"),
            ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")):
        if rank in env and size in env:
            world = _number(env, size, 1)
            local = _number(env, local_size, 1, world)
            return _meet(env, Place(_number(env, rank), world, _number(env, local_rank, 0, _number(env, rank) % local),
                                    local), "mpirun", env.get("PMIX_NAMESPACE", ""))
    return None


def _slurm(env: Mapping[str, str]) -> Place | None:
    if "SLURM_STEP_ID" not in env or "SLURM_PROCID" not in env or "SLURM_NTASKS" not in env:
        return None
    world = _number(env, "SLURM_NTASKS", 1)
    local = int(env.get("SLURM_STEP_TASKS_PER_NODE", str(world)).split("(")[0].split(",")[0])
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", ""))
    job = f"slurm-{env.get('SLURM_JOB_ID', '0')}-{env['SLURM_STEP_ID']}"
    place = Place(_number(env, "SLURM_PROCID"), world, _number(env, "SLURM_LOCALID", 0, 0), local)
    if local < world and "MASTER_ADDR" not in env and nodes:
        port = 20000 + _number(env, "SLURM_JOB_ID", 0, 0) % 20000
        env = {**env, "MASTER_ADDR": first_host(nodes), "MASTER_PORT": str(port)}
    return _meet(env, place, "srun", job)


def _dmlc(env: Mapping[str, str]) -> Place | None:
    role = env.get("DMLC_ROLE", "").lower()
    if not role or "DMLC_PS_ROOT_URI" not in env:
        return None
    if role not in ("worker", "server", "scheduler"):
        raise UsageError(f"DMLC_ROLE={role}: must be worker, server or scheduler")
    for name in ("DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER"):
        if name not in env:
            raise UsageError(f"DMLC_ROLE={role} is set and {name} is not: MXNet's launcher sets DMLC_ROLE, "
                             "DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT, DMLC_NUM_WORKER and DMLC_NUM_SERVER")
    workers = _number(env, "DMLC_NUM_WORKER", 1)
    return Place(-1, workers, address=env["DMLC_PS_ROOT_URI"], port=_number(env, "DMLC_PS_ROOT_PORT", 1), kept=True,
                 role=role, workers=workers, servers=_number(env, "DMLC_NUM_SERVER", 0, 0))


def _meet(env: Mapping[str, str], place: Place, who: str, job: str) -> Place:
    """Where processes meet that no agent told: MASTER_ADDR, or a file where all are on one host."""
    from dataclasses import replace

    workers, servers = _number(env, "DMLC_NUM_WORKER", 0, 0), _number(env, "DMLC_NUM_SERVER", 0, 0)
    place = replace(place, workers=workers, servers=servers, job=job)
    if "MASTER_ADDR" in env and "MASTER_PORT" in env:
        return replace(place, address=env["MASTER_ADDR"], port=_number(env, "MASTER_PORT", 1))
    if place.world == 1:
        return replace(place, address="127.0.0.1", port=0)
    if place.local_world < place.world:
        raise UsageError(f"{who} over several hosts: MASTER_ADDR and MASTER_PORT must say where the processes meet "
                         "(mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500), or start with imgcls-launch")
    return replace(place, file=os.fspath(_meeting_file(job)))


def _meeting_file(job: str) -> Path:
    """A file of the user's own that all processes of this job on this host find, and no other job does."""
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "0"
    safe = "".join(c if c.isalnum() else "-" for c in job)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"imgcls-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise UsageError(f"{folder}: belongs to another user, and the processes were to meet there; set TMPDIR")
    return folder / f"meeting-{safe or parent}-{started}"


def first_host(nodes: str) -> str:
    """The first name in Slurm's short form: node[03-07,9],other -> node03."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return nodes.split(",")[0]
    first = rest.split("]")[0].split(",")[0].split("-")[0]
    return head + first + rest.partition("]")[2].split(",")[0]


def host_name() -> str:
    """How this host is called in messages: as the launcher knows it, or as it calls itself."""
    return os.environ.get("DMLC_NODE_HOST") or socket.gethostname()


def _number(env: Mapping[str, str], name: str, least: int = 0, default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdigit() or int(text) < least:
        raise UsageError(f"environment variable {name}={text}: must be a whole number of at least {least}")
    return int(text)


