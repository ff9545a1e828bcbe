"""What a job runs on which hosts, and the command lines that start its agents.

`imgcls-launch` makes a Job for its launchers local and ssh; `supervisor` starts and watches the agents.
"""

from __future__ import annotations

import re
import shlex
import socket
from dataclasses import dataclass

from imgcls.errors import RunError, UsageError, tell
from imgcls.launch import ssh as ssh_client
from imgcls.launch.hosts import HostSlots

#: the port that --dry-run shows, where a real run asks the first host for a free one
EXAMPLE_PORT = 29400


@dataclass(frozen=True)
class Job:
    """What to run and where; `hosts` has one agent each, the first of them on the host where all meet."""

    command: list[str]
    hosts: list[HostSlots]
    #: processes for each worker, such as one for each of its GPUs
    num_devices: int
    min_hosts: int
    max_hosts: int
    max_restarts: int
    timeout_s: float
    env: dict[str, str]
    python: str
    folder: str
    #: folders that may hold our package on another host; the first that does is used
    roots: list[str]
    #: None: all runs on this machine
    ssh: ssh_client.Ssh | None
    #: the command's name in messages
    name: str
    #: the job's own name, which no other job has
    job: str
    sync_folder: str = ""
    verbose: bool = False
    dry_run: bool = False

    def agent_command(self, index: int, port: int) -> list[str]:
        """Return the command line of the agent on host `index`."""
        slots = self.hosts[index]
        command = [self.python, "-m", "imgcls.launch.agent",
                   "--processes", str(slots.num_workers * self.num_devices), "--job", self.job,
                   "--max-restarts", str(self.max_restarts), "--timeout", f"{self.timeout_s:g}",
                   "--name", self.name, "--launched"]
        # on this machine alone there is one agent and no rendezvous
        if self.ssh is not None:
            command += ["--nnodes", f"{self.min_hosts}:{self.max_hosts}",
                        "--endpoint", f"{self.hosts[0].host.name}:{port}",
                        "--local-addr", slots.host.name, "--is-host", str(int(index == 0))]
        if self.verbose:
            command.append("--verbose")
        return [*command, "--", *self.command]

    def start_command(self, index: int, port: int) -> list[str]:
        """Return the command line that starts, from this machine, the agent on host `index`."""
        command = self.agent_command(index, port)
        if self.ssh is None:
            return command
        script = ssh_client.agent_script(command, self.sync_folder or self.folder, self.roots)
        return self.ssh.command(self.hosts[index].host, script)

    def environment(self, index: int, port: int) -> dict[str, str]:
        """Return the variables for the workers of host `index`: those of MXNet's launcher, and `env`."""
        first = self.hosts[0].host.name if self.ssh else "127.0.0.1"
        own = {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": first, "DMLC_PS_ROOT_PORT": str(port),
               "DMLC_NODE_HOST": self.hosts[index].host.name,
               "DMLC_JOB_CLUSTER": "ssh" if self.ssh else "local"}
        return {**own, **self.env}


def print_commands(job: Job) -> None:
    """Print what would be run, as words for a shell: --dry-run."""
    for index, slots in enumerate(job.hosts):
        if job.ssh and job.sync_folder:
            print(shlex.join(job.ssh.rsync_command(slots.host, job.folder, job.sync_folder)))
        # values may be secrets: only those that are ours are shown
        names = [f"{name}={text}" if name.startswith("DMLC_") else name
                 for name, text in job.environment(index, EXAMPLE_PORT).items()]
        processes = slots.num_workers * job.num_devices
        print(f"# {slots.host.name}: {processes} process(es), with {' '.join(names)}")
        print(shlex.join(job.start_command(index, EXAMPLE_PORT)))


def prepare_hosts(job: Job, ssh: ssh_client.Ssh) -> int:
    """Check that every host can be reached, copy the folder to it; return a port that is free on the first.

    0 after a line about each host that cannot be used. UsageError where ssh or rsync is not installed here,
    RunError where the first host's answer is not understood.
    """
    hosts = [slots.host for slots in job.hosts]
    script = ssh_client.probe_script(job.python, job.sync_folder)
    try:
        # all hosts first: a job that starts on some of them would wait for the others in vain
        answers = ssh_client.run_on_hosts(hosts, lambda host: ssh.command(host, script), ssh_client.ANSWER_S)
        problems = [ssh_client.failure_reason(answer, job.python, job.sync_folder) for answer in answers]
        if not any(problems) and job.sync_folder:
            copies = ssh_client.run_on_hosts(
                hosts, lambda host: ssh.rsync_command(host, job.folder, job.sync_folder), None)
            reasons = [ssh_client.failure_reason(copy, job.python, job.sync_folder) for copy in copies]
            problems = [text and f"rsync: {text}" for text in reasons]
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename}: is needed for --launcher ssh and is not installed here"
                         ) from None
    # a line for each, so that the user can mend all of them at once
    for host, text in zip(hosts, problems, strict=True):
        if text:
            tell(f"{job.name}: error: {host.name}: {text}")
    if any(problems):
        return 0
    output = (answers[0].stdout if answers[0] else "").split()
    # a start-up file of its shell may print something, too
    if "port" not in output or not re.fullmatch("[0-9]{1,5}", output[-1]):
        raise RunError(f"{hosts[0].name}: its shell prints {' '.join(output)[:80]!r} where our answer was "
                       "expected")
    return int(output[-1])


def free_port() -> int:
    """Return a port of this machine that no one listens on."""
    # someone may take it before the agent does; the agent then says that it cannot listen
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
