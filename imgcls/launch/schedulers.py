"""Jobs for those who start processes themselves: mpirun's command line, and scripts for Slurm, Kubernetes and SGE.

The scripts start one agent on each node, so that a job restarts and shrinks there as it does over ssh. Slurm's was run
on one node; those for Kubernetes and SGE are checked for their content only.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from imgcls.errors import UsageError
from imgcls.launch.hosts import Share

#: seconds before the end of its time at which a job is told to save
WARNING_S = 120


@dataclass(frozen=True)
class Batch:
    """What a script has to start: `processes` on each of `least` to `most` nodes."""

    command: list[str]
    processes: int
    least: int
    most: int
    gpus: int
    max_restarts: int
    timeout_s: float
    #: NAME=VALUE for the script; names alone the scheduler passes on by itself
    env: dict[str, str]
    python: str
    folder: str
    name: str = "imgcls"
    image: str = "imgcls:latest"

    def agent(self, endpoint: str, job: str, address: str, is_host: str) -> str:
        """The agent's command line for a shell; the arguments are expressions of that shell, quotes and all."""
        words = [self.python, "-m", "imgcls.launch.agent", "--processes", str(self.processes),
                 "--nnodes", f"{self.least}:{self.most}", "--max-restarts", str(self.max_restarts),
                 "--timeout", f"{self.timeout_s:g}", "--name", "imgcls-launch"]
        return (f"{shlex.join(words)} --endpoint {endpoint} --job {job} --local-addr {address} --is-host {is_host} "
                f"-- {shlex.join(self.command)}")

    def exports(self) -> list[str]:
        return [f"export {name}={shlex.quote(text)}" for name, text in self.env.items()]


def mpi(command: Sequence[str], shares: Sequence[Share], devices: int, env: Mapping[str, str],
        ssh_words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """mpirun's command line and the environment for it; no hosts: all processes here. UsageError where there is none.

    Variables go by name, so that no value is seen in a list of processes.
    """
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise UsageError("--launcher mpi: mpirun is not installed here (Debian and Ubuntu: apt install openmpi-bin)")
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False).stdout
    total = str(sum(share.workers for share in shares) * devices)
    hosts = ",".join(f"{share.host.name}:{share.workers * devices}" for share in shares)
    remote = len(shares) > 1 or (bool(ssh_words) and bool(shares))
    if "Open MPI" in version or "OpenRTE" in version:
        words = [mpirun, "-n", total, *(["--host", hosts] if remote else ["--oversubscribe"])]
        # what it waits before its SIGTERM, and again before its SIGKILL, whether or not anybody is left
        words += ["--mca", "odls_base_sigkill_timeout", "5", "--bind-to", "none"]
        if remote and ssh_words:
            words += ["--mca", "plm_rsh_agent", shlex.join(ssh_words)]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            words.append("--allow-run-as-root")
        words += [word for name in env for word in ("-x", name)]
    else:  # MPICH and its relatives
        words = [mpirun, "-n", total, *(["-hosts", hosts] if remote else [])]
        words += ["-genvlist", ",".join(env)]
    return [*words, *command], {**os.environ, **env}


def run_mpi(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run mpirun to its end; the exit status: its own, or 143 and 130 when this process was told to stop.

    mpirun has short ways with workers when it is told to end, so they are told to save (SIGUSR1) before that.
    """
    process = subprocess.Popen(words, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)
    told: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if not told:
            process.send_signal(signal.SIGUSR1)
        told.append(number)
        process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        return 130 if told[0] == signal.SIGINT else 143
    return status if status >= 0 else 128 - status


def slurm(batch: Batch) -> str:
    """A script for sbatch."""
    nodes = str(batch.most) if batch.least == batch.most else f"{batch.least}-{batch.most}"
    head = [f"#SBATCH --job-name={batch.name}", f"#SBATCH --nodes={nodes}", "#SBATCH --ntasks-per-node=1",
            *[f"#SBATCH --gpus-per-node={batch.gpus}"] * bool(batch.gpus),
            f"#SBATCH --signal=B:TERM@{WARNING_S}", "#SBATCH --requeue", "#SBATCH --open-mode=append",
            f"#SBATCH --output={batch.name}-%j.log"]
    agent = batch.agent('"$host:$port"', '"slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"', '"$SLURMD_NODENAME"',
                        '"$keeps"')
    inside = (f'keeps=0; if [ "$SLURMD_NODENAME" = "$host" ]; then keeps=1; fi; exec {agent}')
    return "\n".join([
        "#!/bin/bash", *head, "set -u", *batch.exports(),
        f"cd -- {shlex.quote(batch.folder)} || exit 1",
        'host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "port=$((20000 + SLURM_JOB_ID % 10000))",
        "export host port",
        "# one agent on each node; they find each other on the first",
        f"srun --kill-on-bad-exit=0 bash -c {shlex.quote(inside)} &",
        "agents=$!",
        "# the time is nearly up, or the node is wanted: workers save, and the job goes to the end of the queue",
        "told=0",
        "trap 'told=1; scancel --signal=TERM \"$SLURM_JOB_ID\"' TERM",
        'wait "$agents"; status=$?',
        'while kill -0 "$agents" 2>/dev/null; do wait "$agents"; status=$?; done',
        'if [ "$told" = 1 ] && [ "$status" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$status"', ""])


def kubernetes(batch: Batch) -> str:
    """A TrainJob of Kubeflow Trainer 2 (trainer.kubeflow.org/v1alpha1) as YAML.

    The runtime torch-distributed sets PET_MASTER_ADDR, PET_MASTER_PORT and PET_NODE_RANK in every pod.
    """
    agent = batch.agent('"$PET_MASTER_ADDR:$PET_MASTER_PORT"', '"$PET_MASTER_ADDR"',
                        '"$(hostname -i | cut -d" " -f1)"', '"$keeps"')
    script = f'keeps=0; if [ "$PET_NODE_RANK" = 0 ]; then keeps=1; fi; exec {agent}'
    script = script.replace("$", "$$")  # Kubernetes itself replaces $(NAME), and takes $$ for $
    quoted = json.dumps  # a JSON string is a YAML string
    lines = ["apiVersion: trainer.kubeflow.org/v1alpha1", "kind: TrainJob", "metadata:", f"  name: {batch.name}",
             "spec:", "  runtimeRef:", "    apiGroup: trainer.kubeflow.org", "    kind: ClusterTrainingRuntime",
             "    name: torch-distributed", "  trainer:", f"    image: {quoted(batch.image)}",
             f"    numNodes: {batch.most}", "    command:", f"    - {quoted('/bin/sh')}", f"    - {quoted('-c')}",
             "    args:", f"    - {quoted(script)}"]
    if batch.env:
        lines.append("    env:")
        for name, text in batch.env.items():
            lines += [f"    - name: {name}", f"      value: {quoted(text)}"]
    if batch.gpus:
        lines += ["    resourcesPerNode:", "      limits:", f"        nvidia.com/gpu: {batch.gpus}"]
    return "\n".join([*lines, ""])


def sge(batch: Batch) -> str:
    """A script for qsub with a parallel environment that gives whole hosts."""
    if re.search(r"[^A-Za-z0-9_./+-]", batch.folder):
        raise UsageError(f"--launcher sge: the current folder {batch.folder!r} has a character in its name that is not "
                         "safe on its way through qrsh")
    agent = batch.agent('"$1:$2"', '"sge-$3"', '"$4"', '"$5"')
    slots = batch.most * batch.processes
    wanted = str(slots) if batch.least == batch.most else f"{batch.least * batch.processes}-{slots}"
    return "\n".join([
        "#!/bin/bash", f"#$ -N {batch.name}", "#$ -cwd", "#$ -V", "#$ -j y", "#$ -S /bin/bash",
        f"# the name of the parallel environment is your site's: qconf -spl lists them; this one must give "
        f"{batch.processes} slot(s) a host",
        f"#$ -pe mpi {wanted}", *[f"#$ -l gpu={batch.gpus}"] * bool(batch.gpus), "#$ -notify", "set -u",
        'nodes=$(awk \'{print $1}\' "$PE_HOSTFILE")',
        "host=${nodes%%$'\\n'*}",
        "port=$((20000 + JOB_ID % 10000))",
        "# qrsh takes command lines apart: the agent's goes into a file",
        f"agent={batch.folder}/{batch.name}-$JOB_ID.agent",
        'cat > "$agent" <<\'END_OF_AGENT\'',
        *batch.exports(), f"cd -- {shlex.quote(batch.folder)} || exit 1", f"exec {agent}", "END_OF_AGENT",
        "# one agent on each host; they find each other on the first",
        "keeps=1", "agents=()",
        "for node in $nodes; do",
        '  qrsh -inherit -nostdin "$node" bash "$agent" "$host" "$port" "$JOB_ID" "$node" "$keeps" &',
        "  agents+=($!); keeps=0",
        "done",
        "trap 'kill -TERM \"${agents[@]}\" 2>/dev/null' TERM USR1 USR2",
        "status=0",
        'for one in "${agents[@]}"; do',
        '  wait "$one" || status=$?',
        '  while kill -0 "$one" 2>/dev/null; do wait "$one" || status=$?; done',
        "done",
        'rm -f "$agent"',
        'exit "$status"', ""])
