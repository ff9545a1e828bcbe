"""The torch side of an agent: torch's elastic agent with our rules for failures, and what hosts tell each other.

Used by `agent.run` only, which has prepared the environment. Hosts write what their workers died of into the store of
the rendezvous, so that each of them knows whether its own workers were the cause or only lost a peer.
"""

from __future__ import annotations

import inspect
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousTimeoutError,
)

from imgcls.launch import failures, heartbeat
from imgcls.launch.agent import FAILURE_S, STOP_S, Plan, Told, tie_to_agent
from imgcls.launch.failures import Death
from imgcls.launch.log_streams import Streams
from imgcls.launch.messages import Report

#: seconds to wait for other hosts' accounts of a failure, and for the others to leave before the store goes
HEARING_S, LEAVING_S = 3.0, 3.0


def supervise(plan: Plan) -> int:
    """Run the plan to its end; the exit status. Told passes through, with all workers ended."""
    parameters = RendezvousParameters(
        backend="c10d", endpoint=plan.endpoint, run_id=plan.job, min_nodes=plan.least, max_nodes=plan.most,
        local_addr=plan.address, is_host=plan.is_host, join_timeout=int(plan.timeout_s),
        last_call_timeout=max(1, min(5, int(plan.timeout_s / 6))),
        read_timeout=max(int(plan.timeout_s), 5), keep_alive_interval=3, keep_alive_max_attempt=4)
    handler = agent = None
    rendezvous_ended = True
    try:
        handler = rendezvous.get_rendezvous_handler(parameters)
        agent = Agent(plan, _spec(plan, handler))
        result: Any = agent.run()
        return agent.status(result)
    except Told:
        rendezvous_ended = not plan.elastic  # the other hosts may go on
        if plan.elastic and handler is not None:
            _withdraw(handler)
        raise
    except (RendezvousError, RuntimeError, TimeoutError) as error:
        plan.say(Report("error", _explain(plan, agent, error)))
        return 1
    finally:
        if agent is not None:
            agent.leave()
        if handler is not None and rendezvous_ended and not (agent and agent.cut_off):
            _close(handler)


def _spec(plan: Plan, handler: Any) -> WorkerSpec:
    program, *rest = [*tie_to_agent(), *plan.command]
    plain = tuple(word.replace("$", "$$") for word in rest)  # torch has a macro, ${local_rank}; a user's text has none
    return WorkerSpec(role="worker", local_world_size=plan.processes, entrypoint=program, args=plain,
                      rdzv_handler=handler, max_restarts=plan.max_restarts,
                      monitor_interval=0.2 if plan.several_hosts else 0.1, local_addr=plan.address)


def _close(handler: Any) -> None:
    try:
        handler.shutdown()
    except Exception:  # the store is gone with the host that kept it: then there is nothing to close
        return


def _agree_on_name(handler: Any) -> str:
    """A name for the job that is the same on all hosts, those that come later, too, and that no other job has."""
    proposal = secrets.token_hex(8)
    try:
        return handler._store.compare_set("imgcls/job", "", proposal).decode()
    except AttributeError:  # not where torch has it today
        return "none"


def _withdraw(handler: Any) -> None:
    """Leave the rendezvous at once, so that the other hosts need not wait until this one counts as dead."""
    try:
        from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _RendezvousExitOp

        handler._stop_heartbeats()
        handler._op_executor.run(_RendezvousExitOp(), time.monotonic() + 2)
    except Exception:  # torch's own affair, which may be another one some day: they wait a few seconds longer
        return


def _explain(plan: Plan, agent: Agent | None, error: Exception) -> str:
    """What went wrong between the hosts, in one line."""
    kept = plan.endpoint.rpartition(":")[0]
    if isinstance(error, RendezvousTimeoutError):
        return f"{plan.host}: waited {plan.timeout_s:g} s for the other hosts, and not all of them came"
    if isinstance(error, RendezvousClosedError):
        return f"{plan.host}: came too late, the job has ended"
    if isinstance(error, RendezvousConnectionError) and not plan.is_host:
        return f"{plan.host}: lost contact with {kept}, where the hosts meet ({plan.endpoint} does not answer)"
    if isinstance(error, RendezvousConnectionError):
        return f"{plan.host}: cannot listen on {plan.endpoint}: {_first_line(error.__cause__ or error)}"
    return f"{plan.host}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Agent(LocalElasticAgent):
    """torch's agent for the processes of one host, with a Plan."""

    def __init__(self, plan: Plan, spec: WorkerSpec) -> None:
        self.plan = plan
        self.logs = Logs(plan)
        accepted = inspect.signature(LocalElasticAgent.__init__).parameters
        wanted = {"start_method": "spawn", "exit_barrier_timeout": plan.timeout_s, "shutdown_timeout": int(STOP_S)}
        super().__init__(spec, self.logs, **{name: value for name, value in wanted.items() if name in accepted})
        #: how the job ended, on whichever host
        self.end: Death | None = None
        #: whether the host that keeps the store does not answer
        self.cut_off = False
        self._peers: Peers | None = None
        self._hosts_before = 0
        self._heard_at = 0.0
        #: exit statuses of workers that had ended before we told the others to, by local rank
        self._first: dict[int, int] | None = None

    def status(self, result: RunResult | None) -> int:
        """The exit status for what torch's agent came back with."""
        if result is not None and not result.is_failed() and self.end is None:
            return 0
        return self.end.exit_status if self.end else 1

    def leave(self) -> None:
        """Let the host that keeps the store go last."""
        if self._peers is not None and not self.cut_off:
            self._peers.leave(self.plan.is_host)

    # Below: steps of torch's agent that we do otherwise.

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        base: Any = super()  # torch's decorators hide the signatures
        base._rendezvous(worker_group)
        plan, size = self.plan, worker_group.group_world_size or 1
        if not plan.several_hosts:
            return
        if not plan.unique:
            plan.unique = _agree_on_name(worker_group.spec.rdzv_handler)
        self._peers = Peers(worker_group.store, worker_group.group_rank or 0, size, plan.host)
        if worker_group.group_rank == 0 and 0 < self._hosts_before != size:
            plan.say(Report("note", f"going on with {size} host{'s' * (size > 1)} of {plan.most}"))
        self._hosts_before = size

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._first = None
        self.logs.attempt(worker_group)
        self.plan.busy = True  # workers that were started and not noted would be left behind
        try:
            base: Any = super()
            pids = base._start_workers(worker_group)
            heartbeat.groups.clear()
            heartbeat.groups.update(pids.values())
        finally:
            self.plan.busy = False
        self.logs.streams.start()
        self._limit_waiting()
        if self.plan.told:
            raise Told
        return pids

    def _limit_waiting(self) -> None:
        """Let the end of the first worker be known from the end of those that are ended for it, which is soon."""
        context: Any = self._pcontext
        close = context.close

        def close_soon(death_sig: signal.Signals | None = None, timeout: float = FAILURE_S) -> None:
            running = context.subprocess_handlers
            if self._first is None:
                codes = {rank: handler.proc.poll() for rank, handler in running.items()}
                self._first = {rank: code for rank, code in codes.items() if code is not None}
            # nothing can be saved where a worker is missing; when hosts come or go, everything can
            missing = self.end is not None or any(self._first.values())
            patience = FAILURE_S if missing and not self.plan.told else STOP_S
            deadline = time.monotonic() + patience
            for handler in running.values():
                if handler.proc.poll() is None:
                    _signal_group(handler.proc.pid, signal.SIGTERM)
            for rank, handler in running.items():
                try:
                    handler.proc.wait(max(deadline - time.monotonic(), 0.01))
                except subprocess.TimeoutExpired:
                    if self.plan.told:
                        self.plan.stubborn.append(self._worker_group.workers[rank].global_rank)
                    _signal_group(handler.proc.pid, signal.SIGKILL)
            if any(handler.proc.returncode != 0 for handler in running.values()):
                heartbeat.kill_groups()  # what the workers had started
            close(signal.SIGKILL, 5)

        context.close = close_soon

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        super()._shutdown(death_sig)
        self.logs.streams.close()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        base: Any = super()
        result = base._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            self._judge(result)
        elif result.state == WorkerState.HEALTHY and self._peers and time.monotonic() > self._heard_at + 1.0:
            self._heard_at = time.monotonic()
            self.end = self._peers.end_elsewhere()
            if self.end is not None:  # no worker of ours has died, but the job is over
                self._remaining_restarts = 0
                return RunResult(state=WorkerState.FAILED)
        return result

    def _judge(self, result: RunResult) -> None:
        """Find out what our workers died of, whether to try again, and say so."""
        plan = self.plan
        first = self._first or {}
        found = [failures.read(rank, plan.host, failure.exitcode, self.logs.error_files[failure.local_rank],
                             by_us=failure.local_rank not in first) for rank, failure in result.failures.items()]
        mine = failures.cause(found)
        over = (mine.exit_status == 2 or self._remaining_restarts == 0 or (mine.deliberate and not plan.elastic)
                or (plan.losses_only and mine.weight == failures.OWN and mine.status > 0))
        mine = Death(**{**vars(mine), "final": over})
        cause, silent = mine, []
        if self._peers is not None:
            cause, silent = self._peers.hear(mine)
            over = over or cause.final
        if over:
            self.end = cause
            self._remaining_restarts = 0
        elif cause.deliberate:
            self._remaining_restarts += 1  # a host that was taken away is no failure
        self._tell(cause, mine, silent, over=over)

    def _tell(self, cause: Death, mine: Death, silent: list[str], *, over: bool) -> None:
        """One line from the host of the worker that was the cause; from all, when that host is silent."""
        plan = self.plan
        if cause.host != plan.host:
            return  # that host tells
        lost = cause.weight >= failures.PEER and bool(silent)
        if over:
            line = cause.sentence(plan.several_hosts)
            if lost:
                line = f"lost contact with {', '.join(silent)} ({cause.line or line})"
            plan.say(Report("error", line, cause.exit_status))
            return
        again = self._worker_group.spec.max_restarts - self._remaining_restarts + 1
        what = f"lost contact with {', '.join(silent)}" if lost else cause.sentence(plan.several_hosts, died=True)
        if cause.deliberate:
            plan.say(Report("note", f"{cause.line or what}; starting again there with the hosts that are left"))
            return
        plan.say(Report("note", f"{what}; restarting {again}/{plan.max_restarts} from the last position saved"))

    def _exit_barrier(self) -> None:
        """Our workers have ended well: wait for those of the other hosts, unless the job fails there."""
        if self._peers is None:
            return
        deadline = time.monotonic() + self.plan.timeout_s
        while time.monotonic() < deadline and not self._peers.all_done():
            self.end = self._peers.end_elsewhere()
            if self.end is not None:
                return
            time.sleep(0.1)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


class Logs(LogsSpecs):
    """Where workers write: their last words to a file, the rest to us or to whom we write ourselves."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._attempts = 0
        self._ranks: list[int] = []
        self.streams = Streams()
        self.error_files: dict[int, str] = {}

    def attempt(self, worker_group: WorkerGroup) -> None:
        """Before every start of the workers."""
        self.streams.close()
        self.streams = Streams()
        self._attempts += 1
        self._ranks = [worker.global_rank for worker in worker_group.workers]

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        plan = self._plan
        folder = os.path.join(plan.folder, f"{self._attempts:06d}")
        os.makedirs(folder)
        outs, errors = dict.fromkeys(envs, ""), dict.fromkeys(envs, "")
        self.error_files = {local: os.path.join(folder, f"{local}.json") for local in envs}
        for local in envs:
            envs[local].update(TORCHELASTIC_ERROR_FILE=self.error_files[local], TORCHELASTIC_RUN_ID=plan.unique)
            where = f"{plan.host}:" if plan.several_hosts else ""
            prefix = f"[{where}{self._ranks[local]}] " if plan.launched else ""
            if plan.launched or local > 0:  # the first may draw on the terminal
                outs[local] = self.streams.open(1, prefix, noisy=plan.verbose)
                errors[local] = self.streams.open(2, prefix, noisy=plan.verbose)
        return LogsDest(stdouts=outs, stderrs=errors, error_files=self.error_files)

    @property
    def root_log_dir(self) -> str:
        return self._plan.folder


class Peers:
    """What the agents of one round tell each other through its store."""

    def __init__(self, store: Any, rank: int, size: int, host: str) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._others = [other for other in range(size) if other != rank]
        store.set(f"imgcls/host/{rank}", host)

    def hear(self, mine: Death) -> tuple[Death, list[str]]:
        """Tell how a worker of ours died, hear of the others', and return the cause of all and the hosts that were
        silent."""
        try:
            self._store.set(f"imgcls/death/{self._rank}", mine.encode())
            found = {self._rank: mine}
            deadline = time.monotonic() + HEARING_S
            while len(found) < self._size and time.monotonic() < deadline:
                found.update({other: failures.decode(self._store.get(f"imgcls/death/{other}")) for other in self._others
                              if other not in found and self._store.check([f"imgcls/death/{other}"])})
                if failures.cause([*found.values()]).weight < failures.PEER:
                    break
                time.sleep(0.05)
            cause = failures.cause([*found.values()])
            if cause.final or mine.final:
                self._store.set("imgcls/end", cause.encode())
            return cause, self._suspects(mine.line, [other for other in self._others if other not in found])
        except RuntimeError:  # the host that kept the store is gone
            return mine, []

    def _suspects(self, line: str, silent: list[int]) -> list[str]:
        """Names of the silent hosts, only the one whose address is in `line` where there is such a one."""
        names = [self._store.get(f"imgcls/host/{other}").decode() for other in silent
                 if self._store.check([f"imgcls/host/{other}"])]
        addresses = set(re.findall(r"\d+\.\d+\.\d+\.\d+", line))
        named = [name for name in names if _ip(name) in addresses]
        return named or names

    def end_elsewhere(self) -> Death | None:
        """How the job ended on another host; None while it goes on."""
        if not self._store.check(["imgcls/end"]):
            return None
        return failures.decode(self._store.get("imgcls/end"))

    def all_done(self) -> bool:
        """Whether the workers of all hosts have ended well; says that ours have."""
        self._store.set(f"imgcls/done/{self._rank}", "1")
        try:
            return bool(self._store.check([f"imgcls/done/{other}" for other in range(self._size)]))
        except RuntimeError:  # the host that keeps the store leaves last, and has left
            return True

    def leave(self, keeper: bool) -> None:
        """Say that this host has left; the keeper of the store waits for the others, not for long."""
        try:
            self._store.set(f"imgcls/left/{self._rank}", "1")
            deadline = time.monotonic() + LEAVING_S
            keys = [f"imgcls/left/{other}" for other in self._others]
            while keeper and keys and time.monotonic() < deadline and not self._store.check(keys):
                time.sleep(0.05)
        except RuntimeError:
            return


def _ip(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""
