"""Start the processes of a training command, and read its data while torch is loaded."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imgcls import networks
from imgcls.cli._run import in_background, loading_torch
from imgcls.cli._typed import installed_command
from imgcls.config.resolve import Config
from imgcls.datasets import load_splits
from imgcls.distributed.topology import check_gpus, gpu_numbers, resolve_topology, serve_mxnet_role

if TYPE_CHECKING:
    from imgcls.training.run import MakeNetwork, MakeTeacher


def start_processes(config: Config, argv: Sequence[str], module_argv: Sequence[str], prog: str) -> int | None:
    """Start the processes of this machine where the command means several, and return the exit status when
    all ended.

    None where this process is to train: it was started as one of several, or it trains alone. The processes
    are started as this command was; `module_argv` are the arguments of `python -m imgcls`, used where that is
    not known. Under MXNet's DMLC_ROLE, do the work of a scheduler or server and return its exit status. Raise
    UsageError for devices that are not there.
    """
    # Without torch: a process that only starts others need not load it for this.
    topology = resolve_topology(config.device, config.distributed, config.network.model_parallel)
    networks.check_model_parallel(config.network, topology.gpus, config.device.compile)
    # MXNet's launchers start the same script in every role; only workers train.
    if topology.rank_info is not None and topology.rank_info.role != "worker":
        return serve_mxnet_role(topology.rank_info, config.distributed.dist_timeout, prog)
    if not topology.num_to_start:
        if topology.rank_info:
            # warnings of torch's C++ side are stack traces; what matters is raised, and printed in a line
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        return None
    # As this command was started, with -m, a debugger's or a coverage tool's flags. Where `argv` is not the
    # end of the command line, `main` was called from Python, and only the form with -m is known.
    again = [sys.executable, "-m", "imgcls", *module_argv]
    # else with the interpreter's own options and the script that was called
    if argv and sys.argv[-len(argv):] == list(argv):
        again = [sys.executable, *sys.orig_argv[1:]]
    with loading_torch():
        from imgcls.launch import agent
    # checked once here: one error in place of one from each process
    if topology.gpus:
        check_gpus(config.device.gpus, topology.gpus)
    settings = config.distributed
    return agent.run(agent.make_spec(
        again, processes=topology.num_to_start, nnodes=settings.nnodes, endpoint=settings.rdzv_endpoint,
        job=settings.rdzv_id, max_restarts=settings.max_restarts, timeout_s=settings.dist_timeout, name=prog))


def train(config: Config, command: str, make_network: MakeNetwork | None = None) -> None:
    """Train in this process; on a CPU the data is read while torch is loaded.

    With `gpus` it is read later: a GPU that is missing is reported before anything is downloaded.
    """
    # Reading and importing wait for different things: together they take little longer than one of them.
    splits = None
    if not gpu_numbers(config.device.gpus):
        splits = in_background(lambda: load_splits(config))
    with loading_torch():
        from imgcls.training.run import run
    run(config, splits=splits, command=command, make_network=make_network,
        predict_command=shlex.join(installed_command("imgcls-predict")),
        find_trained=lambda: _find_trained(config), make_teacher=_make_teacher(config))


def _make_teacher(config: Config) -> MakeTeacher:
    """Return the function that makes the teacher of a run, None for a run without one."""
    if not config.distillation.teacher:
        return None
    from imgcls.pretrained.teacher import make_teacher

    return make_teacher


def _find_trained(config: Config) -> str:
    """Return a value of `pretrained_model` that names weights on this machine, "" where there are none."""
    from imgcls.pretrained import local_weights

    found = local_weights.find(config)
    return found.name if found else ""
