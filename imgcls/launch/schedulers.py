"""Scripts for schedulers, which start the processes themselves: Slurm, Kubernetes and Sun Grid Engine.

`imgcls-launch --launcher slurm` prints one. Each script starts one agent on each node, so that a job restarts
and shrinks there as it does over ssh. Slurm's was run on one node; those for Kubernetes and SGE are checked
for their content only. Nothing here talks to a scheduler.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from imgcls.errors import UsageError

#: so many seconds before the end of its time a job is told to save
WARNING_S = 120


@dataclass(frozen=True)
class BatchScript:
    """What a script has to start: `processes` on each of `min_nodes` to `max_nodes` nodes."""

    command: list[str]
    processes: int
    min_nodes: int
    max_nodes: int
    gpus: int
    max_restarts: int
    timeout_s: float
    #: NAME=VALUE for the script; names alone the scheduler passes on by itself
    env: dict[str, str]
    python: str
    folder: str
    name: str = "imgcls"
    image: str = "imgcls:latest"

    def agent_command(self, endpoint: str, job: str, address: str, is_host: str) -> str:
        """Return the agent's command line for a shell; the arguments are expressions of that shell."""
        command = [self.python, "-m", "imgcls.launch.agent", "--processes", str(self.processes),
                   "--nnodes", f"{self.min_nodes}:{self.max_nodes}",
                   "--max-restarts", str(self.max_restarts),
                   "--timeout", f"{self.timeout_s:g}", "--name", "imgcls-launch"]
        return (f"{shlex.join(command)} --endpoint {endpoint} --job {job} --local-addr {address} "
                f"--is-host {is_host} -- {shlex.join(self.command)}")

    def exports(self) -> list[str]:
        """Return the lines of a shell that set the environment."""
        return [f"export {name}={shlex.quote(text)}" for name, text in self.env.items()]


def slurm_script(batch: BatchScript) -> str:
    """Return a script for sbatch."""
    is_fixed = batch.min_nodes == batch.max_nodes
    nodes = str(batch.max_nodes) if is_fixed else f"{batch.min_nodes}-{batch.max_nodes}"
    # one task a node: the agent starts the processes
    gpus = [f"#SBATCH --gpus-per-node={batch.gpus}"] if batch.gpus else []
    # B: the signal goes to the script alone, which tells the agents (see the trap below)
    head = [f"#SBATCH --job-name={batch.name}", f"#SBATCH --nodes={nodes}", "#SBATCH --ntasks-per-node=1",
            *gpus, f"#SBATCH --signal=B:TERM@{WARNING_S}", "#SBATCH --requeue", "#SBATCH --open-mode=append",
            f"#SBATCH --output={batch.name}-%j.log"]
    # the restart count in the name: a requeued job is a new rendezvous
    agent = batch.agent_command('"$host:$port"', '"slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"',
                                '"$SLURMD_NODENAME"', '"$keeps"')
    on_node = (f'keeps=0; if [ "$SLURMD_NODENAME" = "$host" ]; then keeps=1; fi; exec {agent}')
    return "\n".join([
        "#!/bin/bash", *head, "set -u", *batch.exports(),
        f"cd -- {shlex.quote(batch.folder)} || exit 1",
        'host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "port=$((20000 + SLURM_JOB_ID % 10000))",
        "export host port",
        "# one agent on each node; they find each other on the first",
        f"srun --kill-on-bad-exit=0 bash -c {shlex.quote(on_node)} &",
        "agents=$!",
        "# the time is nearly up, or the node is wanted: workers save, and the job goes to the end of the "
        "queue",
        "told=0",
        "trap 'told=1; scancel --signal=TERM \"$SLURM_JOB_ID\"' TERM",
        'wait "$agents"; status=$?',
        'while kill -0 "$agents" 2>/dev/null; do wait "$agents"; status=$?; done',
        'if [ "$told" = 1 ] && [ "$status" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$status"', ""])


def kubernetes_trainjob(batch: BatchScript) -> str:
    """Return a TrainJob of Kubeflow Trainer 2 (trainer.kubeflow.org/v1alpha1) as YAML."""
    # the runtime torch-distributed sets PET_MASTER_ADDR, PET_MASTER_PORT and PET_NODE_RANK in every pod
    agent = batch.agent_command('"$PET_MASTER_ADDR:$PET_MASTER_PORT"', '"$PET_MASTER_ADDR"',
                                '"$(hostname -i | cut -d" " -f1)"', '"$keeps"')
    script = f'keeps=0; if [ "$PET_NODE_RANK" = 0 ]; then keeps=1; fi; exec {agent}'
    script = script.replace("$", "$$")  # Kubernetes itself replaces $(NAME), and takes $$ for $
    quoted = json.dumps  # a JSON string is a YAML string
    # written by hand: a YAML library is not needed for what has one form
    lines = ["apiVersion: trainer.kubeflow.org/v1alpha1", "kind: TrainJob", "metadata:",
             f"  name: {batch.name}", "spec:",
             "  runtimeRef:", "    apiGroup: trainer.kubeflow.org", "    kind: ClusterTrainingRuntime",
             "    name: torch-distributed",
             "  trainer:", f"    image: {quoted(batch.image)}", f"    numNodes: {batch.max_nodes}",
             "    command:", f"    - {quoted('/bin/sh')}", f"    - {quoted('-c')}",
             "    args:", f"    - {quoted(script)}"]
    if batch.env:
        lines.append("    env:")
        for name, text in batch.env.items():
            lines += [f"    - name: {quoted(name)}", f"      value: {quoted(text)}"]
    if batch.gpus:
        lines += ["    resourcesPerNode:", "      limits:", f"        nvidia.com/gpu: {batch.gpus}"]
    return "\n".join([*lines, ""])


def sge_script(batch: BatchScript) -> str:
    """Return a script for qsub with a parallel environment that gives whole hosts.

    UsageError where the folder's name has a character that is not safe on its way through qrsh.
    """
    if re.search(r"[^A-Za-z0-9_./+-]", batch.folder):
        raise UsageError(f"--launcher sge: the current folder {batch.folder!r} has a character in its name "
                         "that is not safe on its way through qrsh")
    agent = batch.agent_command('"$1:$2"', '"sge-$3"', '"$4"', '"$5"')
    # SGE counts slots, not hosts
    max_slots = batch.max_nodes * batch.processes
    is_fixed = batch.min_nodes == batch.max_nodes
    slots = str(max_slots) if is_fixed else f"{batch.min_nodes * batch.processes}-{max_slots}"
    gpus = [f"#$ -l gpu={batch.gpus}"] if batch.gpus else []
    return "\n".join([
        "#!/bin/bash", f"#$ -N {batch.name}", "#$ -cwd", "#$ -V", "#$ -j y", "#$ -S /bin/bash",
        f"# the name of the parallel environment is your site's: qconf -spl lists them; this one must give "
        f"{batch.processes} slot(s) a host",
        f"#$ -pe mpi {slots}", *gpus, "#$ -notify", "set -u",
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
