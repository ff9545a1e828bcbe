"""Start a command on many devices or machines: MXNet's tools/launch.py.

It takes what MXNet's launcher took: -n, -s, -H, --sync-dst-dir, --launcher, --env.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Sequence

from imgcls.cli._argparse import Parser
from imgcls.cli._run import run_main
from imgcls.distributed.rank_info import LAUNCHER_VARIABLE
from imgcls.errors import UsageError
from imgcls.launch import command as commands
from imgcls.launch import hosts, schedulers, supervisor
from imgcls.launch.hosts import Host, Share
from imgcls.launch.ssh import Ssh
from imgcls.storage.atomic import write_bytes

NAME = "imgcls-launch"
LAUNCHERS = ("local", "ssh", "mpi", "slurm", "kubernetes", "sge", "yarn")
NEXT_STEP = {"slurm": "sbatch {file}", "kubernetes": "kubectl create -f {file}", "sge": "qsub {file}"}
EXAMPLES = """examples:
  imgcls-launch -n 2 imgcls-train --network lenet --kv-store dist_sync        two workers on this machine
  imgcls-launch -n 4 -H hosts --sync-dst-dir /tmp/job python train.py         four, dealt out to the machines in hosts
  imgcls-launch -n 8 -H hosts --nnodes 1:8 --max-restarts 10 imgcls-train ... goes on when machines are lost
  imgcls-launch -n 2 --launcher mpi imgcls-train ...                          with mpirun
  imgcls-launch -n 2 --launcher slurm --output job.sh imgcls-train ...        a script for sbatch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command: imgcls-launch, tools/launch.py."""
    return run_main(_start, argv, NAME)


def _start(argv: Sequence[str]) -> int:
    flags = _parse(argv)
    command = commands.words(flags.command)
    launcher = flags.launcher or ("ssh" if flags.hostfile else "local")
    _check(flags, launcher, command)
    _notes(flags, launcher, command)
    env = {"DMLC_NUM_WORKER": str(flags.num_workers), "DMLC_NUM_SERVER": str(_servers(flags)),
           **commands.passed_variables(flags.env), **_role_variables(flags.env_worker, "--env-worker")}
    if flags.timeout is not None:
        env["IMGCLS_DIST_TIMEOUT"] = f"{flags.timeout:g}"
    if launcher in ("local", "ssh", "mpi"):  # for the last line of a run, which tells how to go on
        env[LAUNCHER_VARIABLE] = shlex.join([NAME, *argv[:len(argv) - len(flags.command)]])
    if launcher in ("local", "ssh"):
        return supervisor.run(_job(flags, command, env))
    if launcher == "mpi":
        return _run_mpi(flags, command, env)
    return _write_script(flags, launcher, command, env)


def _check(flags: argparse.Namespace, launcher: str, command: list[str]) -> None:
    """UsageError for what no launcher can do, before anything is started."""
    if launcher == "yarn":
        raise UsageError("--launcher yarn: torch has no launcher for YARN; use slurm or kubernetes, or ssh to the "
                         "nodes that YARN gives you (-H FILE)")
    if launcher == "ssh" and not flags.hostfile:
        raise UsageError("--launcher ssh: needs a host file (-H FILE); leave --launcher out to run on this machine")
    if launcher not in ("ssh", "mpi") and flags.hostfile:
        raise UsageError(f"-H {flags.hostfile}: is for --launcher ssh and mpi, not for {launcher}")
    if flags.sync_dst_dir and launcher != "ssh":
        raise UsageError(f"--sync-dst-dir {flags.sync_dst_dir}: is for --launcher ssh, not for {launcher}")
    if flags.sync_dst_dir and not re.fullmatch(r"/.*[^/].*", flags.sync_dst_dir):
        raise UsageError(f"--sync-dst-dir {flags.sync_dst_dir}: must be a full path, such as /tmp/job")
    if flags.nnodes and launcher in ("local", "mpi"):
        raise UsageError(f"--nnodes {flags.nnodes}: is not for --launcher {launcher}")
    if flags.num_servers == 0 and "async" in commands.value(command, "--kv-store").lower():
        raise UsageError("-s 0: dist_async keeps its weights on servers, there must be at least 1")
    if not sys.platform.startswith(("linux", "darwin")):
        raise UsageError(f"{NAME} needs Linux or macOS")


def _notes(flags: argparse.Namespace, launcher: str, command: list[str]) -> None:
    """What a user of MXNet's launcher may miss, said once."""
    store = commands.value(command, "--kv-store").lower()
    if flags.num_servers and "async" not in store:
        _note(f"-s {flags.num_servers}: not needed for {store or 'this command'}, gradients are summed by all-reduce")
    if flags.p3:
        _note("--p3: nothing to switch on, gradients are sent while the backward pass still computes others")
    if _role_variables(flags.env_server, "--env-server"):
        _note("--env-server: there are no processes that are servers only; use --env or --env-worker")
    if flags.output and launcher not in NEXT_STEP:
        _note(f"--output {flags.output}: --launcher {launcher} writes no script")


def _note(text: str) -> None:
    print(f"{NAME}: note: {text}", file=sys.stderr)


def _job(flags: argparse.Namespace, command: list[str], env: dict[str, str]) -> supervisor.Job:
    """For the launchers local and ssh."""
    timeout = flags.timeout or 300.0
    shares, ssh, least = [Share(Host(socket.gethostname()), flags.num_workers)], None, 1
    if flags.hostfile:
        shares, least = _shares(flags)
        hosts.check_reachable_names(shares)
        ssh = Ssh(flags.ssh_config or "", flags.ssh_option, alive_s=max(1, min(10, int(timeout / 4))))
    root, folder = _package_root(), os.getcwd()
    roots = [root] if root else []
    if flags.sync_dst_dir and root and os.path.commonpath([root, folder]) == folder:
        roots.insert(0, os.path.normpath(os.path.join(flags.sync_dst_dir, os.path.relpath(root, folder))))
    return supervisor.Job(command, shares, commands.devices(command), least, len(shares), flags.max_restarts, timeout, env,
                   _python(flags), folder, roots, ssh, NAME, secrets.token_hex(8), flags.sync_dst_dir or "",
                   flags.verbose, flags.dry_run)


def _shares(flags: argparse.Namespace) -> tuple[list[Share], int]:
    """Workers by host as --nnodes allows, and the least number of hosts."""
    listed = hosts.read(flags.hostfile)
    least, most = _nnodes(flags.nnodes) if flags.nnodes else (0, len(listed))
    if most > len(listed):
        raise UsageError(f"--nnodes {flags.nnodes}: {flags.hostfile} has {len(listed)} host(s)")
    shares = hosts.spread(listed[:most], flags.num_workers)
    unused = [host.name for host in listed if host.name not in {share.host.name for share in shares}]
    if unused:
        _note(f"-n {flags.num_workers}: {', '.join(unused[:8])}{' ...' * (len(unused) > 8)} not needed")
    return shares, min(least or len(shares), len(shares))


def _run_mpi(flags: argparse.Namespace, command: list[str], env: dict[str, str]) -> int:
    """mpirun, here or on the hosts of -H."""
    shares, ssh_words = [Share(Host("localhost"), flags.num_workers)], []
    port = 20000 + secrets.randbelow(10000)
    if flags.hostfile:
        shares, _least = _shares(flags)
        hosts.check_reachable_names(shares)
        if flags.ssh_config or flags.ssh_option:
            ssh_words = Ssh(flags.ssh_config or "", flags.ssh_option).words(Host(""))
    first = shares[0].host.name if flags.hostfile else "127.0.0.1"
    env = {**env, "MASTER_ADDR": first, "MASTER_PORT": str(port), "DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": first,
           "DMLC_PS_ROOT_PORT": str(port), "DMLC_JOB_CLUSTER": "mpi"}
    root = _package_root()
    if root:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    resolved = commands.resolve(command)
    if flags.python and os.path.basename(command[0]) in ("python", "python3"):
        resolved[0] = flags.python
    words, environment = schedulers.mpi(resolved, shares, commands.devices(command), env, ssh_words)
    if flags.dry_run:
        print(shlex.join(words))
        return 0
    return schedulers.run_mpi(words, environment)


def _write_script(flags: argparse.Namespace, launcher: str, command: list[str], env: dict[str, str]) -> int:
    """For slurm, kubernetes and sge: the script to stdout or --output, and what to do with it."""
    least, most = _nnodes(flags.nnodes or str(flags.num_workers))
    if flags.num_workers % most:
        raise UsageError(f"-n {flags.num_workers}: must be a multiple of the number of nodes, --nnodes {flags.nnodes}")
    given = [text.partition("=")[0] for text in flags.env if "=" in text]
    kept = {name: text for name, text in env.items()
            if name in given or name.startswith(("DMLC_NUM", "IMGCLS_")) or name in dict(
                text.split(":", 1) for text in flags.env_worker)}
    kept["DMLC_ROLE"] = "worker"
    batch = schedulers.Batch(
        command, flags.num_workers // most * commands.devices(command), least, most,
        commands.gpus(command), flags.max_restarts, flags.timeout or 300.0, kept,
        "python" if launcher == "kubernetes" and not flags.python else _python(flags), os.getcwd(), image=flags.image)
    text = {"slurm": schedulers.slurm, "kubernetes": schedulers.kubernetes, "sge": schedulers.sge}[launcher](batch)
    if flags.output:
        write_bytes(flags.output, text.encode())
    else:
        print(text, end="")
    _note(f"next: {NEXT_STEP[launcher].format(file=shlex.quote(flags.output) if flags.output else 'FILE')}")
    return 0


def _servers(flags: argparse.Namespace) -> int:
    return flags.num_workers if flags.num_servers is None else flags.num_servers


def _nnodes(text: str) -> tuple[int, int]:
    """N or MIN:MAX."""
    least, colon, most = text.partition(":")
    if not (least.isdigit() and (most.isdigit() or not colon)) or not 1 <= int(least) <= int(most or least):
        raise UsageError(f"--nnodes {text}: must be a number of machines, or MIN:MAX such as 1:4")
    return int(least), int(most or least)


def _role_variables(given: Sequence[str], flag: str) -> dict[str, str]:
    """K:V of --env-server and --env-worker."""
    found = {}
    for text in given:
        name, colon, content = text.partition(":")
        if not colon or not name.isidentifier():
            raise UsageError(f"{flag} {text}: must be NAME:VALUE")
        found[name] = content
    return found


def _python(flags: argparse.Namespace) -> str:
    return flags.python or sys.executable


def _package_root() -> str:
    """The folder that our package is in; "" where Python finds it there anyway."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return "" if os.path.basename(root) in ("site-packages", "dist-packages") else root


def _count(least: int) -> argparse._ActionType:  # pyright: ignore[reportPrivateUsage]
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least {least}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e7:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds of at least 1")
    return value


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=NAME, usage=f"{NAME} -n N [flags] COMMAND...", description=EXAMPLES, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.hint = f" ({NAME}'s own flags come before the command; --help lists them)"
    add = parser.add_argument
    add("-n", "--num-workers", type=_count(1), required=True, metavar="N", help="workers, each with a --batch-size of "
        "its own; one process each, or one for each GPU of the command's --gpus")
    add("-s", "--num-servers", type=_count(0), metavar="N", help="servers of --kv-store dist_async (default: N of -n)")
    add("-H", "--hostfile", metavar="FILE", help="machines, one per line: name, name:ssh-port or name slots=K")
    add("--sync-dst-dir", "--sync-dir", metavar="DIR", help="copy the current folder there on every machine, run there")
    add("--launcher", choices=LAUNCHERS, help="default: ssh with -H, else local")
    add("--env", action="append", default=[], metavar="NAME", help="pass a variable to the workers, or NAME=VALUE")
    add("--env-worker", action="append", default=[], metavar="K:V", help="a variable of the workers")
    add("--env-server", action="append", default=[], metavar="K:V", help="taken for MXNet's sake")
    add("--p3", action="store_true", help="taken for MXNet's sake: it is always so")
    add("--max-restarts", type=_count(0), default=0, metavar="N",
        help="start again from the last position saved, so often (default 0; 10 with --nnodes MIN:MAX)")
    add("--nnodes", default="", metavar="MIN:MAX", help="go on as long as MIN machines are left")
    add("--timeout", type=_seconds, metavar="SECONDS", help="until a silent machine counts as lost (default 300)")
    add("--python", metavar="PATH", help="the Python of the machines (default: the one that runs this)")
    add("--ssh-config", metavar="FILE", help="for ssh -F")
    add("--ssh-option", action="append", default=[], metavar="NAME=VALUE", help="for ssh -o")
    add("--image", default="imgcls:latest", metavar="NAME", help="container image for --launcher kubernetes")
    add("--output", metavar="FILE", help="for the script that slurm, kubernetes and sge take")
    add("--dry-run", action="store_true", help="print what would be run")
    add("-v", "--verbose", action="store_true", help="with torch's own messages")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser.parse_args(argv)
