"""What our elastic agent overrides or reaches for in torch's is still there.

launch/elastic.py, rendezvous.py and worker_logs.py use much that is private to torch and may change without
notice. Where a test here fails after torch was updated, read the part of torch that its message names, then the part
of ours, and only then change this file.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch.distributed.elastic import multiprocessing
from torch.distributed.elastic.agent.server import api, local_elastic_agent
from torch.distributed.elastic.multiprocessing import api as multiprocessing_api
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.elastic.rendezvous import RendezvousParameters, dynamic_rendezvous
from torch.distributed.elastic.rendezvous import api as rendezvous_api
from torch.distributed.elastic.utils import macros
from torch.distributed.elastic.utils import store as store_utils

OURS = ROOT / "imgcls" / "launch" / "elastic.py"
AGENT = local_elastic_agent.LocalElasticAgent
BASE = api.SimpleElasticAgent
OVERRIDDEN = {
    "_rendezvous": ["self", "worker_group"],
    "_start_workers": ["self", "worker_group"],
    "_monitor_workers": ["self", "worker_group"],
    "_shutdown": ["self", "death_sig", "timeout"],
    "_exit_barrier": ["self"],
}


def rely(condition: object, theirs: Any, ours: str) -> None:
    """Fail, saying what to read in torch and what depends on it here, unless the condition holds."""
    name = getattr(theirs, "__qualname__", getattr(theirs, "__name__", str(theirs)))
    file = inspect.getsourcefile(inspect.unwrap(theirs))
    assert condition, (f"torch {torch.__version__} has changed {name} ({file}); "
                       f"look at `{ours}` in imgcls/launch, which relies on it as it was")


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def fields(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def source(thing: Any) -> str:
    return inspect.getsource(inspect.unwrap(thing))  # without the decorators that measure time


def assigned_to_self(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name) and node.value.id == "self"}


def attributes(cls: type) -> set[str]:
    """The attributes that the methods of a class and of its bases set."""
    return set().union(*(assigned_to_self(ast.parse(textwrap.dedent(inspect.getsource(base))))
                         for base in cls.__mro__[:-1]))


def our_agent() -> ast.ClassDef:
    tree = ast.parse(OURS.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ElasticAgent")


# ---- the agent


@pytest.mark.parametrize("method", [*OVERRIDDEN, "run"])
def test_methods_that_are_overridden_or_called(method: str) -> None:
    function = getattr(AGENT, method, None)
    rely(function is not None, AGENT, f"ElasticAgent.{method}")
    assert function is not None
    rely(parameters(function) == OVERRIDDEN.get(method, ["self", "role"]), function, f"ElasticAgent.{method}")


def test_no_other_method_of_ours_has_the_name_of_one_of_torchs() -> None:
    defined = {node.name for node in our_agent().body if isinstance(node, ast.FunctionDef)} - {"__init__"}
    rely({name for name in defined if hasattr(AGENT, name)} == OVERRIDDEN.keys(), AGENT, "ElasticAgent")


def test_no_attribute_of_ours_has_the_name_of_one_of_torchs() -> None:
    names = assigned_to_self(our_agent()) & (attributes(AGENT) | set(dir(AGENT)))
    rely(names == {"_remaining_restarts"}, AGENT, "ElasticAgent.__init__")


def test_constructor_and_attributes_of_the_agent() -> None:
    accepted = parameters(AGENT.__init__)
    rely(accepted[:3] == ["self", "spec", "logs_specs"], AGENT.__init__, "ElasticAgent.__init__")
    # shutdown_timeout came later, and is given where it is taken
    rely({"start_method", "exit_barrier_timeout"} <= set(accepted), AGENT.__init__, "ElasticAgent.__init__")
    rely({"_pcontext", "_remaining_restarts", "_worker_group"} <= attributes(AGENT), AGENT, "ElasticAgent")


def test_when_torch_takes_the_steps_that_are_overridden() -> None:
    for step in ("self._monitor_workers(self._worker_group)", "self._exit_barrier()",
                 "if self._remaining_restarts > 0", "self._remaining_restarts -= 1",
                 "self._restart_workers(self._worker_group)"):
        rely(step in source(BASE._invoke_run), BASE._invoke_run, "ElasticAgent._handle_failure")
    for step in ("self._rendezvous(worker_group)", "self._start_workers(worker_group)"):
        rely(step in source(BASE._initialize_workers), BASE._initialize_workers,
             "ElasticAgent._start_workers")
    rely("self._shutdown(" in source(BASE.run), BASE.run, "run_workers")
    rely("self._shutdown(" in source(AGENT._stop_workers), AGENT._stop_workers, "ElasticAgent._shutdown")
    rely("self._pcontext.close(" in source(AGENT._shutdown), AGENT._shutdown, "ElasticAgent._replace_close")


def test_results_of_the_agent() -> None:
    result, failure = api.RunResult, multiprocessing.errors.ProcessFailure
    rely({"state", "failures"} <= fields(result), result, "ElasticAgent._handle_failure")
    rely({"FAILED", "HEALTHY"} <= set(api.WorkerState.__members__), api.WorkerState, "_monitor_workers")
    rely(result(state=api.WorkerState.FAILED).is_failed(), result, "ElasticAgent.exit_status")
    rely({"local_rank", "exitcode"} <= fields(failure), failure, "ElasticAgent._handle_failure")


def test_what_the_agent_is_given() -> None:
    spec, group = api.WorkerSpec, api.WorkerGroup
    rely({"role", "local_world_size", "entrypoint", "args", "rdzv_handler", "max_restarts",
          "monitor_interval", "local_addr"} <= fields(spec), spec, "_worker_spec")
    rely({"spec", "store", "group_rank", "group_world_size", "workers"} <= attributes(group), group,
         "ElasticAgent._rendezvous")
    rely("global_rank" in attributes(api.Worker), api.Worker, "WorkerLogs.begin_attempt")


# ---- the processes


def test_processes_and_how_they_are_closed() -> None:
    context, handler = multiprocessing_api.SubprocessContext, subprocess_handler.SubprocessHandler
    rely(parameters(context.close) == ["self", "death_sig", "timeout"], context.close,
         "ElasticAgent._replace_close")
    rely("subprocess_handlers" in attributes(context), context, "ElasticAgent._end_workers")
    rely("self.proc: Popen" in source(handler), handler, "ElasticAgent._end_workers")
    # workers are killed together with what they have started: each is the head of a group
    rely('"start_new_session"] = True' in source(handler), handler, "WorkerProcesses")


def test_where_workers_write() -> None:
    specs, destination = multiprocessing.LogsSpecs, multiprocessing.LogsDest
    rely(specs.__abstractmethods__ == {"reify", "root_log_dir"}, specs, "WorkerLogs")
    rely(parameters(specs.reify) == ["self", "envs"], specs, "WorkerLogs.reify")
    rely({"stdouts", "stderrs", "error_files"} <= fields(destination), destination, "WorkerLogs.reify")


def test_what_workers_find_in_their_environment() -> None:
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE"):
        rely(name in source(AGENT._start_workers), AGENT._start_workers,
             "_read_torchrun of distributed/rank_info")


def test_a_users_dollar_is_escaped_as_torchs_macros_want() -> None:
    rely("macros.substitute(" in source(AGENT._start_workers), AGENT._start_workers, "_worker_spec")
    escaped = [argument.replace("$", "$$") for argument in ("$x", "${local_rank} $$")]
    rely(macros.substitute(escaped, "0") == ["$x", "${local_rank} $$"], macros.substitute, "_worker_spec")


# ---- the rendezvous


def test_the_rendezvous_and_its_settings() -> None:
    rely(parameters(dynamic_rendezvous.create_handler) == ["store", "backend", "params"],
         dynamic_rendezvous.create_handler, "make_handler")
    rely(parameters(RendezvousParameters.__init__)[:7] == [
        "self", "backend", "endpoint", "run_id", "min_nodes", "max_nodes", "local_addr"],
        RendezvousParameters, "make_handler")
    for setting in ("join", "last_call", "keep_alive_interval", "keep_alive_max_attempt"):
        rely(f'"{setting}"' in inspect.getsource(dynamic_rendezvous), dynamic_rendezvous, "make_handler")


def test_the_state_of_the_rendezvous() -> None:
    """All of it is carried over as JSON, and torch unpickles nothing but what the backend gave it."""
    backend, state = dynamic_rendezvous.RendezvousBackend, dynamic_rendezvous._RendezvousState
    rely(backend.__abstractmethods__ == {"name", "get_state", "set_state"}, backend, "CheckedBackend")
    rely(parameters(backend.set_state) == ["self", "state", "token"], backend, "CheckedBackend.set_state")
    rely(set(vars(state())) == {"round", "complete", "deadline", "closed", "participants", "wait_list",
                                "redundancy_list", "last_heartbeats"}, state, "encode_state")
    rely(list(inspect.signature(dynamic_rendezvous._NodeDesc).parameters) == ["addr", "pid", "local_id"],
         dynamic_rendezvous._NodeDesc, "_node_fields")
    holder = dynamic_rendezvous._BackendRendezvousStateHolder
    rely("pickle.dumps(self._state)" in source(holder.sync), holder.sync, "CheckedBackend.set_state")
    rely(inspect.getsource(dynamic_rendezvous).count("pickle.loads(") == 1, holder.sync, "CheckedBackend")


@pytest.mark.parametrize("module", [api, local_elastic_agent, rendezvous_api, store_utils])
def test_torch_unpickles_nothing_else_on_the_way(module: Any) -> None:
    rely("pickle" not in inspect.getsource(module), module, "ElasticAgent._rendezvous")


def test_the_store_of_the_workers() -> None:
    """Served by the agent on the address that torch has chosen; workers are told that it is."""
    group = api.WorkerGroup
    rely({"master_addr", "master_port"} <= attributes(group), group, "ElasticAgent._serve_workers")
    rely("worker_group.master_port" in source(AGENT._start_workers), AGENT._start_workers,
         "ElasticAgent._serve_workers")
    environment = importlib.import_module("torch.distributed.rendezvous")  # hidden by a function of its name
    code = inspect.getsource(environment)
    rely('"TORCHELASTIC_USE_AGENT_STORE"' in code and "str(True)" in code, environment,
         "WorkerLogs.reify")
    rely("master_listen_fd" in str(torch.distributed.TCPStore.__init__.__doc__), torch.distributed.TCPStore,
         "open_tcp_store of distributed/stores")


def test_the_handler_that_is_left_early() -> None:
    handler, leave = dynamic_rendezvous.DynamicRendezvousHandler, dynamic_rendezvous._RendezvousExitOp
    executor = dynamic_rendezvous._DistributedRendezvousOpExecutor
    rely({"_store", "_op_executor"} <= attributes(handler), handler, "_withdraw and _agree_on_job_name")
    rely(parameters(handler.shutdown) == ["self"], handler, "_close")
    rely(parameters(handler._stop_heartbeats) == ["self"], handler, "_withdraw")
    rely(parameters(leave.__call__) == ["self", "ctx", "deadline"], leave, "_withdraw")
    rely(parameters(executor.run)[:3] == ["self", "state_handler", "deadline"], executor, "_withdraw")


@pytest.mark.parametrize("name", ["Closed", "Connection", "Timeout"])
def test_errors_of_the_rendezvous(name: str) -> None:
    error = getattr(rendezvous_api, f"Rendezvous{name}Error", type(None))
    rely(issubclass(error, rendezvous_api.RendezvousError), rendezvous_api, "_explain")


# ---- variables that switch torch's agent


@pytest.mark.parametrize("variable", ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "TORCHELASTIC_SIGNALS_TO_HANDLE",
                                      "TORCHELASTIC_ERROR_FILE"])
def test_variables_of_the_environment(variable: str) -> None:
    folder = Path(inspect.getfile(torch.distributed.elastic)).parent
    known = any(variable in path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    rely(known, torch.distributed.elastic, f"_prepare_environment or WorkerLogs.reify, which sets {variable}")
