"""Start a command on many devices or machines: MXNet's tools/launch.py.

It takes what MXNet's launcher took: -n, -s, -H, --sync-dst-dir, --launcher, --env. Here the arguments become
a job or a script; `imgcls.launch` starts a job and watches it.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from imgcls.cli._run import run_main
from imgcls.cli._typed import typed_command
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.config.sections import MAX_EPOCHS, MAX_PROCESSES, MAX_TIMEOUT_S
from imgcls.distributed.rank_info import LAUNCHER_VARIABLE, SCREEN_VARIABLE
from imgcls.errors import UsageError, tell, verbatim
from imgcls.launch import command as commands
from imgcls.launch import mpi, schedulers, supervisor
from imgcls.launch.hosts import (
    Host,
    HostSlots,
    assign_workers,
    check_rendezvous_host,
    parse_nnodes,
    read_hostfile,
)
from imgcls.launch.job import Job
from imgcls.launch.ssh import Ssh
from imgcls.storage.atomic import write_bytes

NAME = "imgcls-launch"
LAUNCHERS = ("local", "ssh", "mpi", "slurm", "kubernetes", "sge", "yarn")
#: workers of a job, on all its machines
MAX_WORKERS = 100_000
#: how long a machine may be silent, as --dist-timeout of imgcls-train
DEFAULT_TIMEOUT_S = 300.0
#: launchers that write a script -> what to do with it
#: (these three are never called from here: with which options depends on the cluster)
NEXT_STEP = {"slurm": "sbatch {file}", "kubernetes": "kubectl create -f {file}", "sge": "qsub {file}"}
EXAMPLES = """examples:
  imgcls-launch -n 2 imgcls-train --network lenet --kv-store dist_sync  two workers on this machine
  imgcls-launch -n 4 -H hosts --sync-dst-dir /tmp/job python train.py   four, on the machines \
in hosts
  imgcls-launch -n 8 -H hosts --nnodes 1:8 --max-restarts 10 imgcls-train ...  continues if machines are lost
  imgcls-launch -n 2 --launcher mpi imgcls-train ...                    with mpirun
  imgcls-launch -n 2 --launcher slurm --output job.sh imgcls-train ...  a script for sbatch
"""
#: the settings that -h shows
COMMON = ("num_workers", "hostfile", "sync_dst_dir", "launcher", "env", "max_restarts", "nnodes",
          "output", "dry_run")


@dataclass(frozen=True)
class LaunchConfig:
    """Launch"""

    # flags of MXNet's launcher, and of dmlc's tracker, which it calls
    num_workers: int = flag(MISSING, "number of workers, --batch-size samples each; one process per worker, "
                            "or one per GPU of the command's --gpus", short="-n", minimum=1,
                            maximum=MAX_WORKERS)
    command: tuple[str, ...] = positional("command to run, with its flags", metavar="COMMAND", default=(),
                                          takes="rest")
    num_servers: int | None = flag(None, "servers of --kv-store dist_async (if not given: N of -n)",
                                   short="-s", minimum=0, maximum=MAX_WORKERS)
    hostfile: str = flag("", "machines, one per line: name, name:ssh-port or name slots=K", short="-H",
                         metavar="FILE")
    sync_dst_dir: str = flag("", "copy the current folder there on every machine, run there", metavar="DIR",
                             aliases=("--sync-dir",))
    launcher: str = flag("", "if not given: ssh with -H, else local", choices=LAUNCHERS)
    env: tuple[str, ...] = flag((), "pass a variable to the workers, or NAME=VALUE", metavar="NAME",
                                takes="each")
    env_worker: tuple[str, ...] = flag((), "set a variable for the workers", metavar="K:V", takes="each")
    env_server: tuple[str, ...] = flag((), "accepted for compatibility with MXNet", metavar="K:V",
                                       takes="each")
    # MXNet's too, without effect: `_print_notes` says why
    p3: bool = flag(False, "accepted for compatibility with MXNet: always on", takes="none")
    # ours, with torchrun's names where torchrun has one
    max_restarts: int = flag(0, "maximum number of restarts from the last saved position; 10 with --nnodes "
                             "MIN:MAX", minimum=0, maximum=MAX_EPOCHS)
    nnodes: str = flag("", "continue as long as MIN machines are left", metavar="MIN:MAX")
    timeout: float | None = flag(None, "seconds without an answer until a machine counts as lost "
                                 "(if not given: 300)", metavar="SECONDS", minimum=1, maximum=MAX_TIMEOUT_S)
    python: str = flag("", "the Python of the machines (if not given: the one that runs this)",
                       metavar="PATH")
    ssh_config: str = flag("", "for ssh -F", metavar="FILE")
    ssh_option: tuple[str, ...] = flag((), "for ssh -o", metavar="NAME=VALUE", takes="each")
    image: str = flag("imgcls:latest", "container image for --launcher kubernetes", metavar="NAME")
    output: str = flag("", "for the script that slurm, kubernetes and sge take", metavar="FILE")
    dry_run: bool = flag(False, "print what would be run", takes="none")
    verbose: bool = flag(False, "also show torch's messages", short="-v", takes="none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command (imgcls-launch, tools/launch.py), and return its exit status."""
    return run_main(_start, argv, NAME, LaunchConfig)


def _start(argv: Sequence[str]) -> int:
    # an abbreviated flag may be meant for the command: only flags in full are ours
    (args,) = parse(argv, LaunchConfig, prog=NAME, usage="-n N [flags] COMMAND...", examples=EXAMPLES,
                    common=COMMON, hint=f" ({NAME}'s own flags come before the command; --help lists them)",
                    takes_prefixes=False)
    # -n 2 "python train.py" and -n 2 python train.py are the same, as with MXNet
    command = commands.split_command(list(args.command))
    launcher = args.launcher or ("ssh" if args.hostfile else "local")
    _check(args, launcher, command)
    _print_notes(args, launcher, command)
    # MXNet's default; here a worker starts the servers, where the kv-store has any
    num_servers = args.num_workers if args.num_servers is None else args.num_servers
    env = {"DMLC_NUM_WORKER": str(args.num_workers), "DMLC_NUM_SERVER": str(num_servers),
           **commands.passed_variables(args.env), **_role_variables(args.env_worker, "--env-worker")}
    # In the environment: the command may be any program, and none of its flags are ours to add.
    if args.timeout is not None:
        env["IMGCLS_DIST_TIMEOUT"] = f"{args.timeout:g}"
    if launcher in ("local", "ssh", "mpi"):
        if sys.stderr.isatty():
            env[SCREEN_VARIABLE] = "1"
        # for the last line of a run, which says how to continue: our own arguments without the command's
        env[LAUNCHER_VARIABLE] = shlex.join(typed_command(argv, NAME)[:-len(args.command)])
    if launcher in ("local", "ssh"):
        return supervisor.run(_job(args, command, env))
    if launcher == "mpi":
        return _run_mpi(args, command, env)
    return _write_script(args, launcher, command, env)


def _check(args: LaunchConfig, launcher: str, command: list[str]) -> None:
    """Raise UsageError for what no launcher can do, before anything is started."""
    # MXNet's launcher had it: the message says what to use instead
    if launcher == "yarn":
        raise UsageError("--launcher yarn: torch has no launcher for YARN; use slurm or kubernetes, or ssh "
                         "to the nodes that YARN gives you (-H FILE)")
    if launcher == "ssh" and not args.hostfile:
        raise UsageError("--launcher ssh: needs a host file (-H FILE); leave --launcher out to run on this "
                         "machine")
    # schedulers choose the machines themselves
    if launcher not in ("ssh", "mpi") and args.hostfile:
        raise UsageError(f"-H {verbatim(args.hostfile)}: is for --launcher ssh and mpi, not for {launcher}")
    if args.sync_dst_dir and launcher != "ssh":
        raise UsageError(f"--sync-dst-dir {args.sync_dst_dir}: is for --launcher ssh, not for {launcher}")
    # a remote shell starts in another folder than this: only a full path means the same on every machine
    if args.sync_dst_dir and not re.fullmatch(r"/.*[^/].*", args.sync_dst_dir):
        raise UsageError(f"--sync-dst-dir {args.sync_dst_dir}: must be a full path, such as /tmp/job")
    if args.nnodes and launcher in ("local", "mpi"):
        raise UsageError(f"--nnodes {args.nnodes}: is not for --launcher {launcher}")
    if args.num_servers == 0 and "async" in commands.flag_value(command, "--kv-store").lower():
        raise UsageError("-s 0: dist_async keeps its weights on servers, there must be at least 1")
    if not sys.platform.startswith(("linux", "darwin")):
        raise UsageError(f"{NAME} needs Linux or macOS")


def _print_notes(args: LaunchConfig, launcher: str, command: list[str]) -> None:
    """Print a note on each flag that has no effect here, though it had one in MXNet's launcher."""
    # the command may be any program: where it has no --kv-store, nothing is assumed
    store = commands.flag_value(command, "--kv-store").lower()
    if args.num_servers and "async" not in store:
        _print_note(f"-s {args.num_servers}: not needed for {store or 'this command'}, gradients are summed "
                    "by all-reduce")
    if args.p3:
        _print_note("--p3: nothing to switch on, gradients are sent while the backward pass still computes "
                    "others")
    if _role_variables(args.env_server, "--env-server"):
        _print_note("--env-server: there are no processes that are servers only; use --env or --env-worker")
    if args.output and launcher not in NEXT_STEP:
        _print_note(f"--output {args.output}: --launcher {launcher} writes no script")
    if args.max_restarts and launcher == "mpi":
        _print_note(f"--max-restarts {args.max_restarts}: --launcher mpi restarts nothing")
    if args.image != LaunchConfig.image and launcher != "kubernetes":
        _print_note(f"--image {args.image}: --launcher {launcher} takes no container")
    if (args.ssh_config or args.ssh_option) and not args.hostfile:
        _print_note("--ssh-config and --ssh-option: nothing goes over ssh without -H")


def _print_note(text: str) -> None:
    tell(f"{NAME}: note: {text}")


def _job(args: LaunchConfig, command: list[str], env: dict[str, str]) -> Job:
    """Return the job of the launchers local and ssh."""
    timeout_s = args.timeout or DEFAULT_TIMEOUT_S
    assigned = [HostSlots(Host(socket.gethostname()), args.num_workers)]
    min_hosts = 1
    ssh = None
    if args.hostfile:
        assigned, min_hosts = _assign_hosts(args)
        # seconds between ssh's keep-alive messages: a few unanswered ones, well within the timeout, mean lost
        alive_s = max(1, min(10, int(timeout_s / 4)))
        ssh = Ssh(args.ssh_config, args.ssh_option, alive_s=alive_s)
    num_devices = commands.count_devices(command)
    _check_processes(args, max(slots.num_workers for slots in assigned) * num_devices)
    return Job(
        command=command, hosts=assigned, num_devices=num_devices, min_hosts=min_hosts,
        max_hosts=len(assigned), max_restarts=args.max_restarts, timeout_s=timeout_s, env=env,
        python=args.python or sys.executable, folder=os.getcwd(), roots=_package_roots(args.sync_dst_dir),
        ssh=ssh, name=NAME, job=secrets.token_hex(8), sync_folder=args.sync_dst_dir, verbose=args.verbose,
        dry_run=args.dry_run)


def _check_processes(args: LaunchConfig, num_processes: int) -> None:
    if num_processes > MAX_PROCESSES:
        raise UsageError(f"`num_workers` {args.num_workers}: makes {num_processes} processes on one machine, "
                         f"at most {MAX_PROCESSES} can be; -H FILE names more machines")


def _assign_hosts(args: LaunchConfig) -> tuple[list[HostSlots], int]:
    """Return the workers by host as --nnodes allows, and the least number of hosts."""
    listed = read_hostfile(args.hostfile)
    min_hosts, max_hosts = parse_nnodes(args.nnodes) if args.nnodes else (0, len(listed))
    # MIN: continue while so many hosts are left; MAX: the host file must have at least so many
    if max_hosts > len(listed):
        raise UsageError(f"--nnodes {args.nnodes}: {verbatim(args.hostfile)} has {len(listed)} host(s)")
    assigned = assign_workers(listed[:max_hosts], args.num_workers)
    # fewer workers than hosts is allowed, and rarely meant
    used = {slots.host.name for slots in assigned}
    unused = [host.name for host in listed if host.name not in used]
    if unused:
        more = " ..." if len(unused) > 8 else ""
        _print_note(f"-n {args.num_workers}: {', '.join(unused[:8])}{more} not needed")
    check_rendezvous_host(assigned)
    return assigned, min(min_hosts or len(assigned), len(assigned))


def _run_mpi(args: LaunchConfig, command: list[str], env: dict[str, str]) -> int:
    """Run mpirun, here or on the hosts of -H."""
    assigned = [HostSlots(Host("localhost"), args.num_workers)]
    address = "127.0.0.1"
    ssh_command: list[str] = []
    if args.hostfile:
        assigned, _min_hosts = _assign_hosts(args)
        address = assigned[0].host.name
        if args.ssh_config or args.ssh_option:
            ssh_command = Ssh(args.ssh_config, args.ssh_option).base_command(Host(""))
    # mpirun starts all processes at once, so none can look for a free port first: drawn, two jobs seldom meet
    port = str(20000 + secrets.randbelow(10000))  # below 32768, where Linux hands out ports by itself
    env = {**env, "MASTER_ADDR": address, "MASTER_PORT": port, "DMLC_ROLE": "worker",
           "DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": port, "DMLC_JOB_CLUSTER": "mpi"}
    # a checkout is not installed on the other machines: they must find it where it is here
    if root := _package_root():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    resolved = commands.resolve_program(command)
    # replaces the Python that the command names; other programs are left alone
    if args.python and os.path.basename(command[0]) in ("python", "python3"):
        resolved[0] = args.python
    num_devices = commands.count_devices(command)
    _check_processes(args, max(slots.num_workers for slots in assigned) * num_devices)
    mpirun, environment = mpi.mpi_command(resolved, assigned, num_devices, env, ssh_command)
    if args.dry_run:
        print(shlex.join(mpirun))
        return 0
    return mpi.run_mpi(mpirun, environment)


def _write_script(args: LaunchConfig, launcher: str, command: list[str], env: dict[str, str]) -> int:
    """Write the script for slurm, kubernetes or sge to stdout or --output, and print what to do with it."""
    min_nodes, max_nodes = parse_nnodes(args.nnodes or str(args.num_workers))
    if args.num_workers % max_nodes:
        raise UsageError(f"-n {args.num_workers}: must be a multiple of the number of nodes, --nnodes "
                         f"{args.nnodes}")
    # a script may be read by others: of the environment only what was named with a value goes into it
    named = {text.partition("=")[0] for text in args.env if "=" in text}
    named |= {text.partition(":")[0] for text in args.env_worker}
    # Variables that workers read about their job are always included; keys and passwords of this shell never.
    variables = {name: text for name, text in env.items()
                 if name in named or name.startswith(("DMLC_NUM", "IMGCLS_"))}
    variables["DMLC_ROLE"] = "worker"
    # a container has a Python of its own
    python = args.python or ("python" if launcher == "kubernetes" else sys.executable)
    batch = schedulers.BatchScript(
        command=command, processes=args.num_workers // max_nodes * commands.count_devices(command),
        min_nodes=min_nodes, max_nodes=max_nodes, gpus=commands.count_gpus(command),
        max_restarts=args.max_restarts, timeout_s=args.timeout or DEFAULT_TIMEOUT_S, env=variables,
        python=python, folder=os.getcwd(), image=args.image)
    writers = {"slurm": schedulers.slurm_script, "kubernetes": schedulers.kubernetes_trainjob,
               "sge": schedulers.sge_script}
    # nothing is submitted from here: which more lines a cluster needs in the script, its users know
    script = writers[launcher](batch)
    # stdout is the script and nothing else, so that it can be piped
    # with --dry-run it is shown, and no file is written over
    if args.output and not args.dry_run:
        write_bytes(args.output, script.encode())
    else:
        print(script, end="")
    file = shlex.quote(args.output) if args.output else "FILE"
    _print_note(f"next: {NEXT_STEP[launcher].format(file=file)}")
    return 0


def _role_variables(texts: Sequence[str], flag_name: str) -> dict[str, str]:
    """Read the K:V of --env-server and --env-worker."""
    variables = {}
    for text in texts:
        name, colon, content = text.partition(":")
        # a name with a blank or a dash cannot be set by the shells that pass it on
        if not colon or not name.isidentifier():
            raise UsageError(f"{flag_name} {verbatim(text)}: must be NAME:VALUE")
        variables[name] = content
    return variables


def _package_root() -> str:
    """Return the folder that our package is in; "" where Python finds it there anyway."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return "" if os.path.basename(root) in ("site-packages", "dist-packages") else root


def _package_roots(sync_folder: str) -> list[str]:
    """Return where machines may find our package: in their copy of the folder, if any, or as here."""
    root = _package_root()
    if not root:
        return []
    # The package is inside the copied folder: the copy comes first, since it is what the user is changing.
    if sync_folder and os.path.commonpath([root, os.getcwd()]) == os.getcwd():
        return [os.path.normpath(os.path.join(sync_folder, os.path.relpath(root, os.getcwd()))), root]
    return [root]
