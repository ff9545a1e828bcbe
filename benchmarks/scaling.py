"""Measure speed and efficiency of one and two workers, and what the parts of a large job cost.

    python benchmarks/scaling.py [--quick] [--workers 2]

First the training speed: one process against two, one thread each, of the same number of samples per worker
(--kv-store dist_sync, "weak") and of the same batch divided ("strong"), and one process with two threads
beside them, in turn, three rounds, medians. Then the costs that `docs/scale.md` carries on to 256 GPUs and 14
million records: start and rendezvous, the order of an epoch, a store with many clients, sums of gradients, a
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

#: goes into PYTHONPATH: the checkout is measured, installed or not
ROOT = Path(__file__).resolve().parents[1]
#: records of ImageNet-21k, the largest set that MXNet's users packed
RECORDS = 14_197_122
# One where synchronisation is half of a step, and one where it hardly shows.
#: name -> flags; all on noise, so that only the steps are measured
NETWORKS = {
    "lenet 1x28x28, batch 64": ["--network", "lenet", "--batch-size", "64", "--num-examples", "12800"],
    "inception-bn 3x28x28, batch 32": ["--network", "inception-bn", "--image-shape", "3,28,28",
                                       "--batch-size", "32", "--num-examples", "640"],
}


def main() -> None:
    """Print the speeds, then the costs."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of small sizes, to see that it works")
    args = parser.parse_args()
    # A host without reverse DNS warns at every connection.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    rounds = 1 if args.quick else args.rounds
    speeds(args.workers, rounds)
    costs(args.workers, args.quick)


def speeds(workers: int, rounds: int) -> None:
    """Print the table of training speeds."""
    print(f"{'training speed, samples/s':<34}{'1 process':>12}{f'{workers} weak':>12}"
          f"{f'{workers} strong':>12}{f'{workers} threads':>12}  efficiency: weak, strong")
    for name, flags in NETWORKS.items():
        # Three epochs, of which the last counts: the first loads kernels and lets the group form.
        alone = [*flags, "--num-epochs", "3"]
        cases: dict[str, tuple[list[str], str]] = {
            "one": (alone, "1"),
            # the batch doubled: each process has the batch of one
            "weak": ([*alone, "--workers-per-host", str(workers)], "1"),
            # the same batch for all together: each process has a part of it
            "strong": ([*alone, "--workers-per-host", str(workers)], "1"),
            "threads": (alone, str(workers)),
        }
        batch = int(flags[flags.index("--batch-size") + 1])
        cases["weak"][0][cases["weak"][0].index("--batch-size") + 1] = str(batch * workers)
        measured: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(rounds):
            # All cases in every round: what else the machine does falls on all alike.
            for case, (command, threads) in cases.items():
                measured[case].append(speed(command, threads))
        one, weak, strong, many = (statistics.median(measured[case]) for case in cases)
        print(f"{name:<34}{one:>12,.0f}{weak:>12,.0f}{strong:>12,.0f}{many:>12,.0f}  "
              f"{weak / one / workers:.2f}, {strong / one / workers:.2f}", flush=True)


def speed(flags: list[str], threads: str) -> float:
    """Return the samples per second of the last epoch of a run on noise."""
    with tempfile.TemporaryDirectory() as folder:
        # Nothing is saved but the last epoch, since what is measured are steps.
        command = [sys.executable, "-m", "imgcls", "train", "--dataset", "digits", "--benchmark", "1",
                   "--model-prefix", f"{folder}/net", "--save-period", "1000", "--save-every", "0", *flags]
        # A fixed number of threads: two processes that each take all cores would get in each other's way.
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        lines = [json.loads(line) for line in Path(folder, "net-metrics.jsonl").read_text().splitlines()]
        return [line["speed"] for line in lines if line["kind"] == "train"][-1]


def costs(workers: int, quick: bool) -> None:
    """Print what else a large job pays for, one line each."""
    print("\ncost")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # No epochs and the smallest network: what is left is to start, to meet and to end.
    alone = [sys.executable, "-m", "imgcls", "train", "--dataset", "digits", "--network", "mlp",
             "--num-epochs", "0"]
    together = [*alone, "--workers-per-host", str(workers)]
    for what, command in (("start to end of a run of 0 epochs, 1 process", alone),
                          (f"the same, an agent and {workers} processes that form a group", together)):
        # The loop variable is bound now: `clock` calls the function before the next round.
        line(what, clock(lambda command=command: subprocess.run(
            command, env=environment, check=True, capture_output=True)), "s")

    sys.path.insert(0, str(ROOT))
    import numpy as np

    from imgcls.data import order

    # A hundredth in the quick form; sorting grows a little faster than the number of records.
    records = RECORDS // 100 if quick else RECORDS
    line(f"order of an epoch of {records:,} records", clock(lambda: order.permutation(0, 1, records)), "s")
    shard, samples = order.Shard(3, 256), np.arange(records)
    # A hundred at a time: a single one takes less than the clock can tell.
    hundred = clock(lambda: [order.local_batch(samples, number, 8192, shard) for number in range(100)])
    line("one worker's rows of a batch of 8192 over 256", hundred / 100 * 1e6, "us")
    store_cost(16 if quick else 256)
    sum_cost(workers)
    checkpoint_cost()


def store_cost(clients: int) -> None:
    """Time a counter in a TCPStore that many clients raise and wait for: the least that a rendezvous does."""
    from datetime import timedelta

    import torch.distributed as dist

    # Port 0: the system picks a free one, and the clients are told which.
    server = dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)

    # Threads stand for machines: to connect and to wait is all that they do.
    def client() -> None:
        store = dist.TCPStore("127.0.0.1", server.port, None, is_master=False, wait_for_workers=False,
                              timeout=timedelta(seconds=60))
        # the last to come lets all others go, as at a rendezvous
        if store.add("arrived", 1) == clients:
            store.set("all", "1")
        store.wait(["all"])

    def meet() -> None:
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # Once: the counter continues from its value, so a second round would wait for ever.
    line(f"{clients} clients connect to a store and wait for one another", clock(meet, 1), "s")


_SUM = """
import sys, time, torch, torch.distributed as dist
rank, world, port = map(int, sys.argv[1:])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
for numel in (25_557_032, 64):  # parameters of ResNet-50; about what a step agrees on
    data = torch.ones(numel)
    dist.all_reduce(data)
    times = []
    for _ in range(5):
        started = time.perf_counter(); dist.all_reduce(data); times.append(time.perf_counter() - started)
    if rank == 0: print(sorted(times)[2], flush=True)
import os; os._exit(0)  # threads of gloo may outlive the interpreter
"""


def sum_cost(workers: int) -> None:
    """Time all-reduces over gloo on this host: of ResNet-50's gradients, and of a few numbers."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [subprocess.Popen([sys.executable, "-c", _SUM, str(rank), str(workers), str(port)], text=True,
                                stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
               for rank in range(workers)]
    # Only rank 0 prints; the others end with it.
    large, small = started[0].communicate()[0].split()
    for other in started[1:]:
        other.wait()
    line(f"sum of 102 MB of gradients over {workers} processes, gloo on loopback", float(large) * 1e3, "ms")
    line("sum of 64 numbers (the wish to stop, metrics)", float(small) * 1e3, "ms")


def checkpoint_cost() -> None:
    """Time saving and loading ResNet-50 with momentum: 102 MB of weights and as much again."""
    import torch

    from imgcls.config.sections import NetworkConfig, OptimizerConfig
    from imgcls.networks import build_network
    from imgcls.optim import optimizers
    from imgcls.training import checkpoint
    from imgcls.training.checkpoint import states

    model = build_network(NetworkConfig(network="resnet-v1", num_layers=50, num_classes=1000,
                                        image_shape=(3, 224, 224)), 0)
    optimizer = optimizers.build(OptimizerConfig(), model, torch.device("cpu"))
    for parameter in model.parameters():
        # as after a first step, without doing one: a checkpoint's size is what matters
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    with tempfile.TemporaryDirectory() as folder:
        writer = checkpoint.Checkpoint(f"{folder}/net")
        line("checkpoint of ResNet-50 with momentum, written and synced", clock(lambda: writer.save_epoch(
            model, optimizer, {}, checkpoint.Position(epoch=1)), 1), "s")
        line("the same, read and checked", clock(lambda: checkpoint.load(f"{folder}/net", "1"), 1), "s")
        saved = checkpoint.load(f"{folder}/net", "1")
        # for the type checker: it was written two lines ago
        assert saved is not None
        line("the same, packed and unpacked for the other processes", clock(
            lambda: states.unpack(states.pack(saved)), 1), "s")
        writer.close()


def clock(work: Callable[[], object], times: int = 3) -> float:
    """Return the median seconds of `work`."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def line(what: str, value: float, unit: str) -> None:
    """Print one cost."""
    print(f"  {what:<70}{value:>10.3g} {unit}", flush=True)


if __name__ == "__main__":
    main()
