"""What a training run on a CPU costs beside the bare step of its network.

    python benchmarks/overhead.py [--only lenet,mlp] [--rounds 5] [--seconds 2]

A complete run (loader, metrics, log, schedule, optimizer; `imgcls.fit` on random uint8 images in memory) and
the bare step: forward, loss, backward and torch's own fused SGD on one batch that never changes, in plain
torch calls. Both are in one process and take turns: an epoch of each, the bare step on one thread and on all.
Then the same run beside a program that takes a core, and on one thread without it. Prints images per second,
the run's share of the better bare step (medians over the rounds, and their range) and, behind each figure,
the cores that other programs took meanwhile: with more than a tenth of one it means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: name -> settings, image shape, classes, batch, and the goal: the share of the bare step's speed
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int], int, int, float]] = {
    "mlp": ({"network": "mlp"}, (1, 28, 28), 10, 64, 0.95),
    "lenet": ({"network": "lenet"}, (1, 28, 28), 10, 64, 0.95),
    "resnet-20": ({"network": "resnet", "num_layers": 20}, (3, 28, 28), 10, 128, 0.97),
    "resnet-50": ({"network": "resnet", "num_layers": 50}, (3, 224, 224), 1000, 8, 0.98),
}
#: steps of a round that are long ones
FEW = 20
#: those that are also measured beside a program that takes a core
SHARED = ("lenet", "resnet-20")


def main() -> int:
    """Measure each network and print a line for each; a process of its own runs a role instead."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--shared", default=",".join(SHARED), help="those to measure beside a busy program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of the bare step in a round")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0, help="of the run; 0 is its own choice")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        print(json.dumps(_take_turns(args.role, args)))
        return 0
    for name in filter(None, args.only.split(",")):
        _print_overhead(name, _process(name, args), CASES[name][4])
    for name in filter(None, args.shared.split(",")):
        # the goal's measure first, while the machine is still ours
        alone = _process(name, args, "--alone", "--threads", "1")
        # begun before the run, which chooses its number of threads while that program takes a core
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            try:
                beside = _process(name, args, "--alone")
            finally:
                busy.kill()
        speeds = [statistics.median(result["run"]) for result in (beside, alone)]
        print(f"{name:<10} beside a busy program: run {speeds[0]:9.1f} img/s (threads: {beside['threads']}), "
              f"one thread alone {speeds[1]:9.1f}: x{speeds[0] / speeds[1]:.3f} (goal 0.95)", flush=True)
    return 0


def _print_overhead(name: str, result: dict[str, Any], goal: float) -> None:
    bare = {key: values for key, values in result.items() if key.startswith("bare")}
    # the machine's best setting for this network, whatever the run has chosen
    best = max(bare, key=lambda key: statistics.median(bare[key]))
    # within a round: what disturbs one of two neighbours often disturbs the other as well
    shares = [run / floor for run, floor in zip(result["run"], bare[best], strict=True)]
    speeds = ", ".join(f"{key} {statistics.median(values):.1f}" for key, values in bare.items())
    print(f"{name:<10} run {statistics.median(result['run']):9.1f} img/s (threads: {result['threads']}), "
          f"{speeds}: x{statistics.median(shares):.3f} ({min(shares):.3f}-{max(shares):.3f}, goal {goal}) "
          f"[others {result['others']:.2f}]", flush=True)


def _process(name: str, args: argparse.Namespace, *more: str) -> dict[str, Any]:
    # one network a process: the memory that one leaves behind must not serve the next
    command = [sys.executable, __file__, "--role", name, "--rounds", str(args.rounds), "--seconds",
               str(args.seconds), "--dtype", args.dtype, "--threads", str(args.threads), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def _take_turns(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the images per second of each round: of the run, of the bare step with one and all threads."""
    import numpy as np
    import torch

    import imgcls
    from imgcls.distributed.cpu_threads import keep_freed_memory
    from imgcls.training.trainer import Trainer

    settings, shape, classes, batch, _goal = CASES[name]
    keep_freed_memory()
    # before the run, which may choose fewer
    all_threads = torch.get_num_threads()
    bare = _bare_step(name, args.dtype)
    bare()
    started = time.perf_counter()
    for _ in range(3):
        bare()
    # settled before the rounds, and the same for both peers
    steps = max(int(args.seconds / (time.perf_counter() - started) * 3), 2)
    # not so many that they take more memory than a photograph set of this size would
    num_images = min(steps * batch, max(2 ** 28 // int(np.prod(shape)), batch))
    steps = num_images // batch
    # each with a number for every round
    result: dict[str, Any] = {"run": [], "threads": 0}
    train_epoch = Trainer.train_epoch

    def timed_epoch(self: Trainer) -> dict[str, float]:
        result["threads"] = torch.get_num_threads()
        # by turns with the epoch, in its process: both have the same memory and the same neighbours. Of few
        # long steps one thread is not the best, and would take most of the time.
        counts = [] if args.alone else sorted({1, all_threads}) if steps > FEW else [all_threads]
        for count in counts:
            torch.set_num_threads(count)
            key = "bare step on " + ("one thread" if count == 1 else "all")
            result.setdefault(key, []).append(_speed(bare, steps, batch))
        torch.set_num_threads(result["threads"])
        begun = time.perf_counter()
        metrics = train_epoch(self)
        result["run"].append(steps * batch / (time.perf_counter() - begun))
        return metrics

    # from outside: a run needs no clock of its own for this
    Trainer.train_epoch = timed_epoch
    # every pixel its own value: nothing of the work can be skipped
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *shape), np.uint8)
    labels = np.arange(num_images) % classes
    begun, busy, own = time.perf_counter(), _busy_seconds(), time.process_time()
    imgcls.fit((images, labels), batch_size=batch, num_epochs=args.rounds + 1, lr=1e-3, dtype=args.dtype,
               num_threads=args.threads, image_shape=",".join(map(str, shape)), num_classes=classes,
               **settings)
    others = (_busy_seconds() - busy - time.process_time() + own) / (time.perf_counter() - begun)
    # the first epoch loads kernels and fills caches
    return {key: value[1:] if isinstance(value, list) else value for key, value in result.items()} | {
        "others": others}


def _speed(step: Any, steps: int, batch: int) -> float:
    # one more before the clock starts: the number of threads has just changed
    step()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * batch / (time.perf_counter() - begun)


def _bare_step(name: str, dtype: str) -> Any:
    """Return a function that steps the network on one batch as a torch script does."""
    import contextlib

    import torch

    from imgcls.config.sections import NetworkConfig
    from imgcls.networks import build_network

    settings, shape, classes, batch, _goal = CASES[name]
    model = build_network(NetworkConfig(image_shape=shape, num_classes=classes, **settings), 0)
    # the layout that convolutions are fastest in, here as there
    model = model.to(memory_format=torch.channels_last).train()
    # small: labels are random, and weights that ran away would change how long arithmetic takes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    # one batch: no data are read, copied or normalised here
    images = torch.rand(batch, *shape).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % classes

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with (torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _busy_seconds() -> float:
    # user, nice, system, irq, softirq, and what the host of a virtual machine gave to others
    fields = list(map(int, Path("/proc/stat").read_text().split()[1:9]))
    return sum(fields[column] for column in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
