"""Training steps on a CPU beside MXNet 1.9.1: the same symbol, one fixed batch, by turns.

    python benchmarks/mxnet_training.py --mxnet-python PATH [--rounds 3] [--only resnet-20] [--threads N]
                                        [--profile]

Forward, backward and SGD with momentum, without data and metrics: ours in float32 and in bfloat16, each in a
process of its own, as a command sets it up; MXNet with OMP_NUM_THREADS as large as ours, without which it
takes half of the cores. Prints images per second, medians over the rounds, and the ratios within a round. The
cores that others took meanwhile stand behind each round: with more than a tenth of one the figures mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: name -> (settings of the network, image shape, classes, batch)
CASES = {
    "lenet": ({"network": "lenet"}, (1, 28, 28), 10, 64),
    "resnet-20": ({"network": "resnet", "num_layers": 20}, (3, 28, 28), 10, 128),
    "inception-bn": ({"network": "inception-bn"}, (3, 28, 28), 10, 128),
    "resnext-20": ({"network": "resnext", "num_layers": 20}, (3, 28, 28), 10, 128),
    "resnet-18": ({"network": "resnet", "num_layers": 18}, (3, 224, 224), 1000, 16),
}
#: run by MXNet's Python: symbol, classes, seconds, shape of the batch
MXNET = """
import sys, time
import mxnet as mx
path, classes, seconds, *shape = sys.argv[1:]
shape = tuple(map(int, shape))
module = mx.mod.Module(mx.sym.load(path), context=mx.cpu())
module.bind([("data", shape)], [("softmax_label", shape[:1])])
module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
module.init_optimizer(kvstore=None, optimizer="sgd", optimizer_params={
    "learning_rate": 0.001, "momentum": 0.9, "wd": 1e-4, "rescale_grad": 1 / shape[0]})
batch = mx.io.DataBatch([mx.nd.random.normal(shape=shape)],
                        [mx.nd.array([i % int(classes) for i in range(shape[0])])])
def step():
    module.forward_backward(batch)
    module.update()
    mx.nd.waitall()
"""
#: at the end of both peers: three steps to warm up, then as many as the seconds hold
CLOCK = """
for _ in range(3):
    step()
begun, count = time.perf_counter(), 0
while time.perf_counter() - begun < float(seconds):
    step()
    count += 1
print(count * shape[0] / (time.perf_counter() - begun))
"""
#: in place of it: milliseconds a step of each operator, from MXNet's profiler
MXNET_PROFILE = """
import json, os, tempfile
for _ in range(2):
    step()
# a real file: MXNet removes what is there, which would be the end of /dev/null
mx.profiler.set_config(profile_all=True, aggregate_stats=True,
                       filename=os.path.join(tempfile.mkdtemp(), "profile.json"))
mx.profiler.set_state("run")
for _ in range(5):
    step()
mx.profiler.set_state("stop")
operators = json.loads(mx.profiler.dumps(format="json"))["Time"]["operator"]
print(json.dumps({name: row["Total"] / 5 for name, row in operators.items()}))
"""
#: kind of operator -> what is in the names of both; the first that fits
KINDS = {"convolution": "[Cc]onvolution", "batch normalisation": "batch_norm|BatchNorm",
         "activation": "relu|threshold|clamp|Activation", "pooling": "[Pp]ool",
         "sums, joins and copies": "cat|Concat|copy|add|Copy|slice|sum", "SGD": "sgd", "other": ""}


def main() -> int:
    """Measure each network by turns and print a line for each; a peer's own process runs its role."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mxnet-python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--role", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        name, dtype = args.role
        _ours(name, dtype, args)
        return 0
    for name in (name for name in CASES if name.startswith(args.only)):
        if args.profile:
            _print_profiles(name, args)
            continue
        rounds = []
        for _ in range(args.rounds):
            begun, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()
            rounds.append({peer: _speed(peer, name, args) for peer in ("float32", "bfloat16", "mxnet")})
            others = (_busy_seconds() - busy - _own_seconds() + own) / (time.perf_counter() - begun)
            print(f"  {name}: {rounds[-1]}, others took {others:.2f} cores", file=sys.stderr, flush=True)
        medians = {peer: statistics.median(speeds[peer] for speeds in rounds) for peer in rounds[0]}
        ratios = {peer: statistics.median(speeds[peer] / speeds["mxnet"] for speeds in rounds)
                  for peer in ("float32", "bfloat16")}
        print(f"{name:<14}MXNet {medians['mxnet']:8.1f}   " + "   ".join(
            f"{peer} {medians[peer]:8.1f}, x{ratio:.2f}" for peer, ratio in ratios.items()), flush=True)
    return 0


def _print_profiles(name: str, args: argparse.Namespace) -> None:
    """Print milliseconds a step for each kind of operator, ours and MXNet's."""
    profiles = [json.loads(_last_line(peer, name, args)) for peer in ("float32", "mxnet")]
    sums: list[dict[str, float]] = [dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)]
    for profile, by_kind in zip(profiles, sums, strict=True):
        for operator, milliseconds in profile.items():
            by_kind[next(kind for kind, names in KINDS.items() if re.search(names, operator))] += milliseconds
    print(f"{name}, ms a step: ours, MXNet's")
    for kind in KINDS:
        print(f"  {kind:<24}{sums[0][kind]:9.1f}{sums[1][kind]:9.1f}")
    print(f"  {'all':<24}{sum(sums[0].values()):9.1f}{sum(sums[1].values()):9.1f}", flush=True)


def _speed(peer: str, name: str, args: argparse.Namespace) -> float:
    return float(_last_line(peer, name, args))


def _last_line(peer: str, name: str, args: argparse.Namespace) -> str:
    """Run a peer in a process of its own; return the last line that it prints."""
    settings, shape, classes, batch = CASES[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if peer != "mxnet":
        command = [sys.executable, __file__, "--role", name, peer, "--threads", str(args.threads),
                   "--seconds", str(args.seconds), *(["--profile"] if args.profile else [])]
        return _run(command, environment)
    # here, as a peer's process has no use for it
    from imgcls import graph
    from imgcls.config.sections import NetworkConfig
    from imgcls.formats import symbol
    from imgcls.networks import build_network

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "net-symbol.json"))
        config = NetworkConfig(image_shape=shape, num_classes=classes, **settings)
        symbol.save(path, graph.to_symbol(build_network(config, 0)))
        program = MXNET + (MXNET_PROFILE if args.profile else CLOCK)
        command = [args.mxnet_python, "-c", program, path, str(classes), str(args.seconds), str(batch),
                   *map(str, shape)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        if args.profile:  # operators one by one, or the profiler gives all of them one name
            environment["MXNET_EXEC_BULK_EXEC_TRAIN"] = "0"
        return _run(command, environment)


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1]


def _ours(name: str, dtype: str, args: argparse.Namespace) -> None:
    """Step as a run on the CPU does, without the loop around it; print images per second."""
    import torch

    from imgcls.config import sections
    from imgcls.distributed.topology import make_worker
    from imgcls.networks import build_network
    from imgcls.optim import optimizers
    from imgcls.training.precision import Precision

    settings, image_shape, classes, batch = CASES[name]
    worker = make_worker(sections.DeviceConfig(num_threads=args.threads))
    config = sections.NetworkConfig(image_shape=image_shape, num_classes=classes, **settings)
    model = build_network(config, 0).to(memory_format=torch.channels_last)
    optimizer = optimizers.build(sections.OptimizerConfig(), model, worker.device)
    optimizers.set_lr(optimizer, 0.001)  # small: random labels must not make weights run away
    update, precision = optimizers.stepper(optimizer), Precision(dtype, worker.device)
    shape = (batch, *image_shape)
    # the layout of the loaders
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % classes

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        with torch.no_grad():
            update()

    if args.profile:
        for _ in range(2):
            step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(5):
                step()
        # self time: what an operator calls is counted where it is done
        print(json.dumps({row.key: row.self_cpu_time_total / 5e3 for row in profile.key_averages()}))
        return
    exec(CLOCK, {"step": step, "time": time, "seconds": args.seconds, "shape": shape})


def _busy_seconds() -> float:
    fields = list(map(int, Path("/proc/stat").read_text().split()[1:9]))
    return sum(fields[column] for column in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
