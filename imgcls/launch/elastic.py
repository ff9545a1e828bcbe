"""The torch side of an agent: torch's elastic agent, with our rules for failures and for the end of a job.

`agent.run` prepares the environment and calls `run_workers`. torch manages the processes, the ranks and the
rendezvous. What we override of it is private to torch: `tests/test_elastic_internals.py` lists all of it, and
fails where a new version has changed it.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    RendezvousTimeoutError,
)

from imgcls.distributed.addresses import MAX_PORT, is_address, split_endpoint
from imgcls.distributed.stores import open_tcp_store
from imgcls.errors import first_line
from imgcls.launch.failures import Cause, WorkerFailure, read_failure, root_cause
from imgcls.launch.launch_spec import FAILURE_S, STOP_S, AgentState, LaunchSpec, StopRequested
from imgcls.launch.messages import AgentMessage
from imgcls.launch.peers import Peers
from imgcls.launch.rendezvous import make_handler, watch_store
from imgcls.launch.worker_logs import WorkerLogs
from imgcls.launch.worker_processes import parent_death_command, signal_group

#: seconds between questions to the store whether the job has ended on another host
ASK_S = 1.0


def run_workers(state: AgentState) -> int:
    """Run the workers to their end; return the exit status. StopRequested is raised after all have ended."""
    spec = state.spec
    handler = None
    agent = None
    # a closed rendezvous tells hosts that come later that the job is over
    closes_rendezvous = True
    try:
        handler = make_handler(spec)
        watch_store(spec, lambda: _end_in_silence(state))
        agent = ElasticAgent(state, _worker_spec(spec, handler))
        result: Any = agent.run()
        return agent.exit_status(result)
    except StopRequested:
        # all workers have ended: torch's run() shuts them down on its way out
        closes_rendezvous = not spec.is_elastic  # the other hosts may continue
        if spec.is_elastic and handler is not None:
            _withdraw(handler)
        raise
    # the classes that torch's rendezvous and stores raise; anything else is a bug, with its traceback
    except (RendezvousError, RuntimeError, OSError) as error:
        state.report(AgentMessage("error", _explain(spec, error)))
        return 1
    finally:
        if agent is not None:
            agent.leave()
        if handler is not None and closes_rendezvous:
            _close(handler)


def _worker_spec(spec: LaunchSpec, handler: Any) -> WorkerSpec:
    program, *arguments = [*parent_death_command(), *spec.command]
    # torch replaces the macro ${local_rank}; what the user wrote stays as it is
    escaped = tuple(argument.replace("$", "$$") for argument in arguments)
    return WorkerSpec(role="worker", local_world_size=spec.processes, entrypoint=program, args=escaped,
                      rdzv_handler=handler, max_restarts=spec.max_restarts,
                      monitor_interval=0.2 if spec.has_several_hosts else 0.1, local_addr=spec.address)


def _close(handler: Any) -> None:
    try:
        handler.shutdown()
    except Exception:  # the store is gone with the host that served it: then there is nothing to close
        return


def _end_in_silence(state: AgentState) -> None:
    """End this process at once: the main thread hangs in a store that does not answer."""
    meeting_host = split_endpoint(state.spec.endpoint)[0]
    state.report(AgentMessage("error", f"{state.spec.host}: {meeting_host}, where the hosts meet, has not "
                              f"answered for {state.spec.timeout_s:g} s"))
    state.workers.kill()
    shutil.rmtree(state.folder, ignore_errors=True)
    os._exit(1)


def _agree_on_job_name(handler: Any) -> str:
    """Return a name that no other job has, the same on all hosts, those that come later, too."""
    # the first proposal in the store wins; hosts that come later read it
    proposal = secrets.token_hex(8)
    try:
        name = handler._store.compare_set("imgcls/job", "", proposal).decode("ascii", "replace")
    except AttributeError:  # not where torch has it today
        return "none"
    if not re.fullmatch("[0-9a-f]{16}", name):
        raise RendezvousStateError("the name of the job in the store is damaged")
    return name


def _withdraw(handler: Any) -> None:
    """Leave the rendezvous at once, so that the other hosts need not wait until this one counts as dead."""
    try:
        from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _RendezvousExitOp

        # torch itself only closes a rendezvous, for everybody
        handler._stop_heartbeats()
        handler._op_executor.run(_RendezvousExitOp(), time.monotonic() + 2)
    except Exception:  # private to torch, and may change: then the others wait a few seconds longer
        return


def _explain(spec: LaunchSpec, error: Exception) -> str:
    """Return what went wrong between the hosts, in one line."""
    if isinstance(error, RendezvousTimeoutError):
        return f"{spec.host}: waited {spec.timeout_s:g} s for the other hosts, and not all of them joined"
    if isinstance(error, RendezvousClosedError):
        return f"{spec.host}: joined too late, the job has ended"
    if isinstance(error, RendezvousConnectionError) and not spec.is_rendezvous_host:
        # that host is gone, or the network to it
        meeting_host = split_endpoint(spec.endpoint)[0]
        return (f"{spec.host}: lost contact with {meeting_host}, where the hosts meet "
                f"({spec.endpoint} does not answer)")
    if isinstance(error, RendezvousConnectionError):
        return f"{spec.host}: cannot listen on {spec.endpoint}: {first_line(error.__cause__ or error)}"
    if isinstance(error, RendezvousStateError):
        return f"{spec.host}: {spec.endpoint}, where the hosts meet: {first_line(error)}"
    return f"{spec.host}: {first_line(error)}"


class ElasticAgent(LocalElasticAgent):
    """torch's agent for the processes of one host, with our rules."""

    def __init__(self, state: AgentState, worker_spec: WorkerSpec) -> None:
        self._state = state
        self._logs = WorkerLogs(state)
        options = {"start_method": "spawn", "exit_barrier_timeout": state.spec.timeout_s,
                   "shutdown_timeout": int(STOP_S)}
        accepted = inspect.signature(LocalElasticAgent.__init__).parameters  # older versions take fewer
        super().__init__(worker_spec, self._logs, **{name: value for name, value in options.items()
                                                     if name in accepted})
        # none of these names may be one of torch's: tests/test_elastic_internals.py compares them
        #: how the job ended, on whichever host
        self._end: WorkerFailure | None = None
        self._peers: Peers | None = None
        #: where the workers of this attempt meet, if it is served here
        self._worker_store: Any = None
        self._num_hosts_before = 0
        self._last_asked = 0.0
        #: exit statuses of workers that had ended before we told the others to, by local rank
        self._first_ended: dict[int, int] | None = None

    def exit_status(self, result: RunResult | None) -> int:
        """Return the exit status for what torch's agent came back with."""
        if result is not None and not result.is_failed() and self._end is None:
            return 0
        return self._end.exit_status if self._end else 1

    def leave(self) -> None:
        """Leave the other agents; the host that serves the store waits for them."""
        if self._peers is not None:
            self._peers.leave(self._state.spec.is_rendezvous_host)

    # ---- steps of torch's agent that we do otherwise; its decorators hide their signatures: `base: Any`

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        base: Any = super()
        state = self._state
        spec = state.spec
        try:
            base._rendezvous(worker_group)
        # what torch raises for damaged values that other hosts wrote
        except (ValueError, TypeError, LookupError, MemoryError, OverflowError) as error:
            raise RendezvousStateError("what the hosts wrote for each other is damaged") from error
        self._serve_workers(worker_group)
        num_hosts = worker_group.group_world_size or 1
        # a single host has no others to compare failures with
        if not spec.has_several_hosts:
            return
        if not state.job:
            state.job = _agree_on_job_name(worker_group.spec.rdzv_handler)
        store: Any = worker_group.store
        self._peers = Peers(store, worker_group.group_rank or 0, num_hosts, spec.host)
        # one host reports it for all
        if worker_group.group_rank == 0 and 0 < self._num_hosts_before != num_hosts:
            state.report(AgentMessage(
                "note", f"continuing with {num_hosts} host{'s' if num_hosts > 1 else ''} of "
                        f"{spec.max_hosts}"))
        self._num_hosts_before = num_hosts

    def _serve_workers(self, worker_group: WorkerGroup) -> None:
        """Serve the store where the workers meet, as the agent of rank 0's host; a new one for each attempt.

        A worker would serve it on all addresses of the machine; workers of ours and of other programs alike
        use the agent's where TORCHELASTIC_USE_AGENT_STORE says so (`worker_logs`).
        """
        spec = self._state.spec
        address, port = str(worker_group.master_addr), worker_group.master_port
        if not is_address(address) or not isinstance(port, int) or not 1 <= port <= MAX_PORT:
            raise RendezvousStateError("the address of the workers' store is damaged")
        if worker_group.group_rank != 0:
            return
        # torch has chosen a port that was free; on one host it is not too late to ask for one
        store = open_tcp_store(address, port if spec.has_several_hosts else 0, spec.timeout_s, serves=True,
                               is_one_machine=not spec.has_several_hosts)
        self._worker_store = store
        worker_group.master_port = store.port

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._first_ended = None
        self._logs.begin_attempt(worker_group)
        self._state.defer_signals = True  # workers that were started and not recorded would be left behind
        try:
            base: Any = super()
            pids = base._start_workers(worker_group)
            self._state.workers.replace(pids.values())
        finally:
            self._state.defer_signals = False
        self._logs.streams.start()
        # for every attempt: torch makes a new context for its processes
        self._replace_close()
        if self._state.stop_signal:
            raise StopRequested
        return pids

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        # without the timeout: _end_workers decides how long workers may take
        super()._shutdown(death_sig)
        self._logs.streams.close()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        base: Any = super()
        result = base._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            self._handle_failure(result)
        elif (result.state == WorkerState.HEALTHY and self._peers
              and time.monotonic() > self._last_asked + ASK_S):
            self._last_asked = time.monotonic()
            self._end = self._peers.end_of_job()
            if self._end is not None:  # no worker of ours has failed, but the job is over
                # torch then ends the workers and comes back with this result
                self._remaining_restarts = 0
                return RunResult(state=WorkerState.FAILED)
        return result

    def _exit_barrier(self) -> None:
        # Our workers have ended well: wait for those of the other hosts, unless the job fails there.
        if self._peers is None:
            return
        deadline = time.monotonic() + self._state.spec.timeout_s
        # torch's own barrier would wait its whole time for a host whose workers have failed
        while time.monotonic() < deadline and not self._peers.all_done():
            self._end = self._peers.end_of_job()
            if self._end is not None:
                return
            time.sleep(0.1)

    # ---- ending workers

    def _replace_close(self) -> None:
        """Put our way of ending workers in place of torch's, which gives all of them one fixed time."""
        context: Any = self._pcontext
        close = context.close

        def end_workers_and_close(death_sig: signal.Signals | None = None, timeout: float = 0) -> None:
            self._end_workers(context.subprocess_handlers)
            # all are gone by now: this closes files and collects exit statuses
            close(signal.SIGKILL, 5)

        context.close = end_workers_and_close

    def _end_workers(self, handlers: dict[int, Any]) -> None:
        """Tell the workers to end, and kill those that have not after a while; `handlers` by local rank."""
        state = self._state
        if self._first_ended is None:  # else a second call, with all of them ended by the first
            statuses = {local_rank: handler.proc.poll() for local_rank, handler in handlers.items()}
            self._first_ended = {rank: status for rank, status in statuses.items() if status is not None}
        # where a worker is missing nothing can be saved; when hosts come or go, all of them can save
        is_missing = self._end is not None or any(self._first_ended.values())
        deadline = time.monotonic() + (FAILURE_S if is_missing and not state.stop_signal else STOP_S)
        for handler in handlers.values():
            if handler.proc.poll() is None:
                signal_group(handler.proc.pid, signal.SIGTERM)
        for local_rank, handler in handlers.items():
            try:
                handler.proc.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                if state.stop_signal:
                    state.unresponsive.append(self._worker_group.workers[local_rank].global_rank)
                signal_group(handler.proc.pid, signal.SIGKILL)
        if any(handler.proc.returncode != 0 for handler in handlers.values()):
            state.workers.kill()  # what the workers had started

    # ---- failures

    def _handle_failure(self, result: RunResult) -> None:
        """Find out why our workers failed and whether to start them again, and report it."""
        spec = self._state.spec
        first_ended = self._first_ended or {}
        own = root_cause(
            read_failure(rank, spec.host, failure.exitcode, self._logs.error_files[failure.local_rank],
                         ended_by_agent=failure.local_rank not in first_ended)
            for rank, failure in result.failures.items())
        is_final = (own.exit_status == 2 or self._remaining_restarts == 0
                    or (own.was_told_to_stop and not spec.is_elastic)
                    or (spec.restarts_losses_only and own.cause == Cause.ERROR and own.status > 0))
        own = dataclasses.replace(own, is_final=is_final)
        # for a single host, and where no other host explains it better
        cause = own
        silent: list[str] = []
        if self._peers is not None:
            cause, silent = self._peers.exchange_failures(own)
            is_final = is_final or cause.is_final
        if is_final:
            self._end = cause
            self._remaining_restarts = 0
        elif cause.was_told_to_stop:
            self._remaining_restarts += 1  # a host that was taken away is no failure
        if cause.host == spec.host:  # else the host of the worker that was the cause reports it
            self._report_cause(cause, silent, is_final=is_final)

    def _report_cause(self, cause: WorkerFailure, silent: list[str], *, is_final: bool) -> None:
        """Say in one line why the job ends or is restarted; `silent` are hosts that did not answer."""
        state = self._state
        spec = state.spec
        lost = f"lost contact with {', '.join(silent)}" if cause.cause >= Cause.PEER_LOST and silent else ""
        if is_final:
            line = cause.describe(spec.has_several_hosts)
            if lost:
                line = f"{lost} ({cause.message or line})"
            state.report(AgentMessage("error", line, cause.exit_status))
            return
        what = lost or cause.describe(spec.has_several_hosts, is_restarted=True)
        if cause.was_told_to_stop:
            state.report(AgentMessage(
                "note", f"{cause.message or what}; restarting there with the remaining hosts"))
            return
        # torch counts down, and only after this
        attempt = self._worker_group.spec.max_restarts - self._remaining_restarts + 1
        state.report(AgentMessage(
            "note", f"{what}; restarting {attempt}/{spec.max_restarts} from the last position saved"))
