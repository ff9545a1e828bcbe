"""mpirun's command line for `imgcls-launch --launcher mpi`, and running it to its end.

mpirun starts the workers itself: there are no agents, and no restarts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

from imgcls.errors import UsageError
from imgcls.launch.hosts import HostSlots
from imgcls.launch.worker_processes import stop_signals


def mpi_command(command: Sequence[str], assigned: Sequence[HostSlots], num_devices: int,
                env: Mapping[str, str], ssh_command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return mpirun's command line and the environment for it; UsageError where there is no mpirun.

    With one host and no `ssh_command` all processes run here. `num_devices` are the processes of a worker.
    """
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise UsageError("--launcher mpi: mpirun is not installed here (Debian and Ubuntu: apt install "
                         "openmpi-bin)")
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False).stdout
    total = str(sum(slots.num_workers for slots in assigned) * num_devices)
    hosts = ",".join(f"{slots.host.name}:{slots.num_workers * num_devices}" for slots in assigned)
    is_remote = len(assigned) > 1 or (bool(ssh_command) and bool(assigned))
    # In both forms variables go by name, so that no value is seen in a list of processes.
    if "Open MPI" in version or "OpenRTE" in version:
        arguments = [mpirun, "-n", total, *(["--host", hosts] if is_remote else ["--oversubscribe"])]
        # seconds that it waits before its SIGTERM, and again before its SIGKILL, even if no process is left
        arguments += ["--mca", "odls_base_sigkill_timeout", "5", "--bind-to", "none"]
        if is_remote and ssh_command:
            arguments += ["--mca", "plm_rsh_agent", shlex.join(ssh_command)]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--allow-run-as-root")
        arguments += [argument for name in env for argument in ("-x", name)]
    else:  # MPICH and its relatives
        arguments = [mpirun, "-n", total, *(["-hosts", hosts] if is_remote else [])]
        arguments += ["-genvlist", ",".join(env)]
    return [*arguments, *command], {**os.environ, **env}


def run_mpi(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run mpirun to its end and return its exit status, or 128 and the signal that told it to stop."""
    process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL,
                               start_new_session=True)
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # mpirun gives workers little time after its SIGTERM, so they are told to save (SIGUSR1) before
        if not received:
            process.send_signal(signal.SIGUSR1)
        received.append(number)
        process.send_signal(signal.SIGTERM)

    # in a session of its own it gets no Ctrl-C of the terminal: all signals go through here
    previous = {number: signal.signal(number, pass_on)
                for number in stop_signals()}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return status if status >= 0 else 128 - status
