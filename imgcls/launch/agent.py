"""The agent: starts the worker processes of one host, watches them, restarts them, and says why one failed.

`imgcls-train --gpus 0,1` calls `run`; the launcher starts `python -m imgcls.launch.agent` on each of its
hosts. Processes, ranks and rendezvous are those of torch's own elastic agent (`elastic`). Ours are the
messages, the way a job ends, and the rule after which failures the workers are started again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from imgcls.config.command_line import parse
from imgcls.config.flags import FlagSpelling, flag, flag_spelling, positional
from imgcls.config.sections import MAX_EPOCHS, MAX_PROCESSES, MAX_TIMEOUT_S
from imgcls.distributed.addresses import is_loopback, split_endpoint, stay_on_this_machine
from imgcls.distributed.rank_info import AGENT_VARIABLE, host_name
from imgcls.errors import ImgclsError, UsageError
from imgcls.launch import heartbeat, network, scratch
from imgcls.launch.command import resolve_program
from imgcls.launch.failures import Cause, read_failure
from imgcls.launch.hosts import parse_nnodes
from imgcls.launch.launch_spec import STOP_S, AgentState, LaunchSpec, StopRequested
from imgcls.launch.messages import AgentMessage
from imgcls.launch.worker_processes import WorkerProcesses, stop_signals
from imgcls.storage.tracebacks import as_told

#: restarts of an elastic job where `max_restarts` is 0, which would end it at the first lost host
ELASTIC_RESTARTS = 10


def make_spec(command: Sequence[str], *, processes: int, nnodes: str = "1", endpoint: str = "", job: str = "",
              is_host: bool | None = None, local_addr: str = "", max_restarts: int = 0,
              timeout_s: float = 300, name: str = "imgcls-train", verbose: bool = False,
              launched: bool = False) -> LaunchSpec:
    """Return what an agent is to do: `processes` copies of `command` on this host.

    `nnodes` is the number of hosts, N or MIN:MAX. Several meet at `endpoint` (HOST:PORT, on the host with
    `is_host`) under the name `job`, and reach this one at `local_addr`. `is_host` None: found out by the
    addresses of this machine. UsageError for arguments that contradict each other, or a program that is not
    there.
    """
    min_hosts, max_hosts = parse_nnodes(nnodes)
    meeting_point = endpoint or "127.0.0.1"
    split_endpoint(meeting_point)  # a wrong one ends here
    if not 1 <= processes <= MAX_PROCESSES:
        raise UsageError(f"{processes} processes on this machine: there must be at least 1 and at most "
                         f"{MAX_PROCESSES}")
    if max_hosts > 1 and not endpoint:
        raise UsageError(f"`nnodes` {nnodes}: `rdzv_endpoint` must say where the machines meet, as HOST:PORT")
    if os.name == "nt":
        raise UsageError("several processes need Linux or macOS")
    # MIN:MAX is set against lost hosts, not against a worker's own error, which would come again
    losses_only = min_hosts < max_hosts and max_restarts == 0
    # asked before anything is started: the other hosts are told this address at the rendezvous
    address = local_addr or (network.reachable_address(endpoint) if max_hosts > 1 else "127.0.0.1")
    return LaunchSpec(
        command=resolve_program(command), processes=processes, min_hosts=min_hosts, max_hosts=max_hosts,
        endpoint=meeting_point, job=job or ("" if max_hosts > 1 else secrets.token_hex(8)),
        is_rendezvous_host=network.serves_endpoint(meeting_point, local_addr) if is_host is None else is_host,
        address=address, host=local_addr or host_name(),
        max_restarts=ELASTIC_RESTARTS if losses_only else max_restarts, timeout_s=timeout_s, name=name,
        verbose=verbose, has_launcher=launched, restarts_losses_only=losses_only)


def run(spec: LaunchSpec, workers: WorkerProcesses | None = None) -> int:
    """Run the workers of this host to their end, and return the exit status of the whole.

    0: all ended well. 2: wrong usage of the command (never tried again). 143, 130, 129: asked to stop by
    SIGTERM, SIGINT, SIGHUP; workers got SIGTERM and saved. 1: anything else, with one line on stderr about
    the first cause.
    """
    # the signals first: from here on no process may be left behind
    state = AgentState(spec, workers or WorkerProcesses(), spec.job)
    with _catch_signals(state), _scratch_folder(state), _silence_logging(spec.verbose):
        try:
            _prepare_environment(spec)
            # only now: torch reads the environment when it is loaded
            from imgcls.launch.elastic import run_workers

            return run_workers(state)
        except StopRequested:
            return _report_stop(state)


def _prepare_environment(spec: LaunchSpec) -> None:
    """Set what torch and the workers read from the environment."""
    os.environ[AGENT_VARIABLE] = "1"
    # torch's restart is broken where workers of two attempts share a store: the new ones read dead addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others are handled here
    if not spec.verbose:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    # a pipe would hold output back until its buffer is full, and a killed worker would lose it
    if spec.has_launcher:
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
    card = os.environ.get("DMLC_INTERFACE", "")
    meeting_host = split_endpoint(spec.endpoint)[0]
    if card:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", card)
    elif not spec.has_several_hosts or is_loopback(meeting_host):
        stay_on_this_machine()
    elif "GLOO_SOCKET_IFNAME" not in os.environ:
        card = network.interface_to(meeting_host)
        if card:  # else gloo asks what this host's own name means, which on Debian is 127.0.1.1
            os.environ["GLOO_SOCKET_IFNAME"] = card


@contextlib.contextmanager
def _catch_signals(state: AgentState) -> Iterator[None]:
    """Within the block, stop the workers at the first SIGTERM, SIGINT or SIGHUP, kill them at the second."""

    def note(number: int, _frame: FrameType | None) -> None:
        # the main thread is waiting for the workers, and continues once they are gone
        if state.stop_signal:
            state.workers.kill()
            return
        state.stop_signal = number
        # raised in whatever torch is doing, a rendezvous of minutes included
        if not state.defer_signals:
            raise StopRequested

    previous = {number: signal.signal(number, note)
                for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _scratch_folder(state: AgentState) -> Iterator[None]:
    """Make a folder for the error files of workers, and remove it at the end."""
    scratch.remove_abandoned()
    with scratch.locked_folder() as state.folder:
        yield


@contextlib.contextmanager
def _silence_logging(verbose: bool) -> Iterator[None]:
    """Switch off torch's own log, which reports a failure in thirty lines."""
    previous = logging.root.manager.disable
    if not verbose:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)


def _report_stop(state: AgentState) -> int:
    """Say how the workers ended after the agent was asked to stop, and return the exit status."""
    asked = signal.Signals(state.stop_signal)
    status = 128 + asked
    host = state.spec.host
    line = ""
    # the error files: a worker may have failed instead of saving
    for path in sorted(Path(state.folder).glob("*/*.json")):
        failure = read_failure(0, host, 1, os.fspath(path), ended_by_agent=False)
        has_stopped = failure.message.startswith("stopped by")
        if failure.cause == Cause.ERROR and not has_stopped:
            # such as a disk that was too full to save; a file that was cut short shows only that it failed
            line = failure.message or f"a worker on {host} ended with an error that it could not report"
            state.report(AgentMessage("error", line, 1))
            return 1
        # rank 0 alone saves, and alone says so
        if has_stopped and len(failure.message) > len(line):
            line = failure.message
    if state.unresponsive:
        line = (f"rank {state.unresponsive[0]} ({host}) did not end within {STOP_S:g} s of SIGTERM and was "
                "killed")
    # workers get SIGTERM whatever the agent got
    line = line.replace("SIGTERM", asked.name) or f"stopped by {asked.name}"
    state.report(AgentMessage("error", line, status))
    return status


# ---- the command


@dataclass(frozen=True)
class AgentConfig:
    """Agent"""

    command: tuple[str, ...] = positional("what the workers run, with its flags", metavar="COMMAND",
                                          takes="rest")
    processes: int = flag(1, "workers on this host", minimum=1, maximum=MAX_PROCESSES)
    max_restarts: int = flag(0, "maximum number of restarts", minimum=0, maximum=MAX_EPOCHS)
    nnodes: str = flag("1", "number of hosts, N or MIN:MAX")
    endpoint: str = flag("", "rendezvous address of the hosts", metavar="HOST:PORT")
    job: str = flag("", "the job's own name, the same on all hosts")
    local_addr: str = flag("", "address of this host for the others", metavar="HOST")
    is_host: int | None = flag(None, "whether this host serves the rendezvous", minimum=0,
                               maximum=1)
    timeout: float = flag(300.0, "seconds without an answer until a host counts as lost", metavar="SECONDS",
                          minimum=1, maximum=MAX_TIMEOUT_S)
    name: str = flag("imgcls-launch", "the command's name in messages")
    launched: bool = flag(False, "stdin is connected to the launcher", takes="none")
    verbose: bool = flag(False, "also show torch's messages", short="-v", takes="none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m imgcls.launch.agent [flags] -- COMMAND...`, for launchers and scripts."""
    args = AgentConfig(())
    try:
        # an abbreviation in someone's script could match a flag that a later version adds
        (args,) = parse(sys.argv[1:] if argv is None else argv, AgentConfig, prog="imgcls-agent",
                        usage="[flags] -- COMMAND...", examples="", takes_prefixes=False)
        workers = WorkerProcesses()
        if args.launched:
            _obey_launcher(workers, args.timeout)
        # the -- that ends our flags is not part of the command
        command = args.command[1:] if args.command[:1] == ("--",) else args.command
        spec = make_spec(command, processes=args.processes, nnodes=args.nnodes, endpoint=args.endpoint,
                         job=args.job, is_host=None if args.is_host is None else bool(args.is_host),
                         local_addr=args.local_addr, max_restarts=args.max_restarts, timeout_s=args.timeout,
                         name=args.name, verbose=args.verbose, launched=args.launched)
        return run(spec, workers)
    except Exception as error:  # a bug of ours, too, is one line
        return _report_error(as_told(error), args)


def _report_error(error: ImgclsError, args: AgentConfig) -> int:
    # `rdzv_endpoint` is the launcher's and imgcls-train's name for the same
    line = error.spelled(FlagSpelling({**flag_spelling(AgentConfig).flags, "rdzv_endpoint": "--endpoint"}))
    message = AgentMessage("error", line, error.exit_status)
    sys.stderr.write(message.encode() if args.launched else f"{args.name}: error: {line}\n")
    return error.exit_status


def _obey_launcher(workers: WorkerProcesses, timeout_s: float) -> None:
    """Take the environment from stdin, and listen to the launcher there; workers get an empty stdin."""
    # secrets among the variables: a command line would show them to everybody on the host
    stream = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    line = bytearray()
    while not line.endswith(b"\n"):  # byte by byte: what follows the line is for the listener
        byte = os.read(stream, 1)
        if not byte:
            raise SystemExit(143)  # the launcher is gone already
        line += byte
    os.environ.update({str(name): str(value) for name, value in json.loads(line).items()})
    heartbeat.watch_launcher(stream, workers, silence_s=max(timeout_s, 10.0), patience_s=STOP_S + 10)


if __name__ == "__main__":
    sys.exit(main())
