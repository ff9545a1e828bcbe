"""Measure dist_async: does a slow worker slow a fast one, and do two workers reach the accuracy of one?

    python benchmarks/async_sgd.py --data-dir DIR [--seconds 60] [--networks mlp,lenet] [--no-accuracy]

DIR holds the four idx .gz files of MNIST. First a worker's steps per second in windows of a second, in which
a second worker, by turns, does nothing, sleeps 50 ms in every step, does the same without talking to the
server (which shows what it costs that both compute on one machine), and goes as fast as it can; so what else
the machine does falls on all alike. Then `imgcls-train --kv-store dist_async` with two workers: validation
accuracy by epoch, staleness and seconds, and the first epoch of at least 98.5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

#: goes into the workers' PYTHONPATH: the checkout is measured, installed or not
ROOT = Path(__file__).resolve().parents[1]
#: what the second worker does in a window: milliseconds that it sleeps in each step, and whether it pushes
CASES: dict[str, tuple[float, bool] | None] = {
    "alone": None,
    "beside a worker slowed by 50 ms": (50, True),
    "the same, which pushes nothing": (50, False),
    "beside a worker as fast": (0, True),
}
#: many steps fit into it, and whatever else the machine does hardly changes until the next window
WINDOW_SECONDS = 1.0
#: at the beginning of a window the second worker may still be in a step of the one before
SETTLING_SECONDS = 0.2
WARM_UP_STEPS = 30
#: of train_mnist.py; with so short a step the cost of talking to the server shows most
BATCH = 64
TARGET_ACCURACY = 0.985


def main() -> int:
    """Print the speeds and then the accuracies; the workers of the speeds run this as well."""
    args = _arguments()
    # Two workers and a server share the cores as they are: more threads would only take turns.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.rank >= 0:
        _worker(args)
        return 0
    for network in filter(None, args.networks.split(",")):
        windows = _speeds(network, args.seconds)
        print(f"{network}, batch {BATCH}, 1 server, {os.cpu_count()} cores: "
              f"steps per second of the first worker, median of {min(map(len, windows.values()))} windows")
        for case, speeds in windows.items():
            # Neighbouring windows are compared: whatever else the machine does falls on both.
            ratios = [speed / alone for speed, alone in zip(speeds, windows["alone"], strict=False) if alone]
            # The mean of all windows beside it: a worker that stalls now and then would not show in a median.
            overall = statistics.fmean(speeds) / statistics.fmean(windows["alone"])
            print(f"  {case:<34}{statistics.median(speeds):8.1f}   median {statistics.median(ratios):6.1%}, "
                  f"all {overall:6.1%} of alone", flush=True)
    if not args.no_accuracy:
        _accuracy(args)
    return 0


def _speeds(network: str, seconds: float) -> dict[str, list[float]]:
    """Return case -> steps per second of worker 0 in each of its windows."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--networks", network, "--seconds", str(seconds),
                   "--store", f"{folder}/store"]
        workers = [subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True,
                                    env=_environment()) for rank in range(2)]
        output, _ = [worker.communicate()[0] for worker in workers]  # only rank 0 prints
        return json.loads(output)


def _worker(args: argparse.Namespace) -> None:
    """Train on one batch; worker 0 for so many seconds, worker 1 as the window says until then."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    from imgcls import networks
    from imgcls.config import sections
    from imgcls.distributed.parameter_server.client import ParameterServerClient
    from imgcls.optim import optimizers

    torch.set_num_threads(1)
    # A file, not a port: nothing can be taken by another program between two windows.
    store = dist.FileStore(args.store, 2)
    dist.init_process_group("gloo", store=store, rank=args.rank, world_size=2)
    model = networks.build_network(sections.NetworkConfig(network=args.networks), 0)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizers.build(sections.OptimizerConfig(), model, torch.device("cpu"))
    # One batch for ever: the loader is not what is measured.
    images = torch.rand(BATCH, 1, 28, 28)
    labels = torch.arange(BATCH) % 10
    with ParameterServerClient(optimizer, rank=args.rank, world_size=2) as client:

        def step(sleep: float, push: bool = True) -> None:
            # The sleep stands between the gradients and the push, so that what is pushed is old by then.
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(images), labels).backward()
            time.sleep(sleep / 1000)
            if push:
                client.push_pull(1e-6)  # a rate so small that the network stays what it is

        # The first steps make buffers and load kernels; the clock starts after them.
        for _ in range(WARM_UP_STEPS):
            step(0)
        dist.barrier()
        if args.rank == 0:
            print(json.dumps(_measure(step, args.seconds)), flush=True)
            # The other worker looks for this key after each of its steps, and ends.
            store.set("done", "1")
        while args.rank == 1 and not store.check(["done"]):
            # Both read the same clock, so worker 1 needs no message, which would cost worker 0 time.
            sleep_and_push = CASES[_window()[1]]
            if sleep_and_push is None:
                # asleep, since waiting busily would take a core from worker 0
                time.sleep(0.005)  # "alone": short enough to be in time for the next window
            else:
                step(*sleep_and_push)
    dist.destroy_process_group()


def _measure(step: Callable[[float], None], seconds: float) -> dict[str, list[float]]:
    """Return the steps per second of worker 0 in each window, by the case that the window is for."""
    speeds: dict[str, list[float]] = {case: [] for case in CASES}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        window_index, case = _window()
        time.sleep(SETTLING_SECONDS)
        started = time.monotonic()
        num_steps = 0
        # The clock is asked in every step; that is cheap beside a step, and a window never runs over.
        while _window()[0] == window_index:
            step(0)
            num_steps += 1
        speeds[case].append(num_steps / (time.monotonic() - started))
    return speeds


def _window() -> tuple[int, str]:
    """Return the number of this second and the case it is for, the same in all processes of the machine."""
    window_index = int(time.monotonic() / WINDOW_SECONDS)  # this clock is the system's, not the process's
    return window_index, list(CASES)[window_index % len(CASES)]


def _accuracy(args: argparse.Namespace) -> None:
    """Train with two workers through the command and print the accuracy and staleness of each epoch."""
    # The system picks a port that is free now; the workers open it a moment later.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "imgcls", "train", "--data-dir", args.data_dir, "--network", "lenet",
               "--kv-store", "dist_async", "--num-epochs", str(args.epochs), "--batch-size", str(BATCH),
               "--lr", str(args.lr), "--mom", str(args.mom), "--disp-batches", "1000"]
    started = time.perf_counter()
    workers = [subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={
        **_environment(), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in (1, 0)]
    # Worker 0 validates and prints; it was started last and is asked last.
    _, log = [worker.communicate()[1] for worker in workers]
    print(f"\nlenet, two workers, batch {BATCH} each, --lr {args.lr:g} --mom {args.mom:g}: "
          f"{time.perf_counter() - started:.0f} s from start to end")
    staleness = re.findall(r"dist_async: (.*)", log)
    accuracies = [float(text) for text in re.findall(r"Validation-accuracy=([\d.]+)", log)]
    for epoch, (pushes, accuracy) in enumerate(zip(staleness, accuracies, strict=False), 1):
        print(f"  epoch {epoch}: {accuracy:.4f}   {pushes}")
    reached = [epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= TARGET_ACCURACY]
    if reached:
        print(f"  98.5 % after {reached[0]} epochs")
    else:
        print(f"  98.5 % was not reached; stderr ends: {log[-500:]}")


def _environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--networks", default="mlp,lenet", help="of the speed")
    parser.add_argument("--seconds", type=float, default=60, help="of the speed of each network")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--mom", type=float, default=0.5)
    parser.add_argument("--no-accuracy", action="store_true")
    parser.add_argument("--rank", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
