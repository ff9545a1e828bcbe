"""Measure training on MNIST from memory: ours, MXNet 1.9.1 and a plain PyTorch script, in turn in one run.

    python benchmarks/mnist.py --data-dir DIR [--mxnet-python PATH] [--rounds 5] [--networks mlp,lenet]

DIR holds the four idx .gz files; PATH is the Python of an environment with mxnet==1.9.1 and numpy==1.23.5.
Prints seconds per epoch (60,000 images, batch 64, float32; the median over the rounds, each the best of two
epochs after a first), the ratio of each peer to ours within a round, the floor (the same step on one batch
that never changes, in torch's own settings: the better of one thread and all), and the seconds of a whole
one-epoch mlp run from start to end. `imgcls bf16` is --dtype bfloat16. Each peer runs as its users run it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

EPOCHS = 3  # one to warm up, and the better of two


def main() -> int:
    """Run the peers in turn and print the tables; a peer's own process runs its role instead."""
    args = _arguments()
    if args.role:
        ROLES[args.role](args)
        return 0
    # All peers in every round: the load of a machine drifts over minutes, and ratios within a round do not
    # see it. bfloat16 is measured with lenet only, whose time is in convolutions.
    peers = ["imgcls", "imgcls bf16", "torch", "floor"] + (["mxnet"] if args.mxnet_python else [])
    for network in args.networks.split(","):
        rounds = [{peer: _epoch_seconds(peer, network, args) for peer in peers
                   if not (network == "mlp" and peer == "imgcls bf16")} for _ in range(args.rounds)]
        print(f"\n{network}: seconds per epoch, median of {args.rounds} rounds")
        _table(rounds)
    # Starting counts here: Python, the library, the data, one epoch, the end.
    rounds = [{peer: _run_seconds(peer, args) for peer in ("imgcls", "mxnet") if peer in peers}
              for _ in range(args.rounds)]
    print(f"\ncomplete run of mlp, one epoch, start to end: seconds, median of {args.rounds} rounds")
    _table(rounds)
    return 0


def _table(rounds: list[dict[str, float]]) -> None:
    for peer in rounds[0]:
        ratios = [r[peer] / r["imgcls"] for r in rounds]
        print(f"  {peer:<12}{statistics.median(r[peer] for r in rounds):8.3f} s   "
              f"x{statistics.median(ratios):5.2f} of ours ({min(ratios):.2f}-{max(ratios):.2f})", flush=True)


def _epoch_seconds(peer: str, network: str, args: argparse.Namespace) -> float:
    """Return the best epoch after the first, of a process of its own; the floor has the better of two."""
    if peer == "floor":
        return min(_epoch_seconds(threads, network, args) for threads in ("floor 1", "floor all"))
    flags = ["--data-dir", args.data_dir, "--network", network]
    if peer.startswith("imgcls"):
        # the peers compute in float32
        dtype = ["--dtype", "bfloat16" if peer.endswith("bf16") else "float32"]
        command = [sys.executable, "-m", "imgcls", "train", *flags, "--num-epochs", str(EPOCHS),
                   "--batch-size", "64", *dtype]
    else:
        python = args.mxnet_python if peer == "mxnet" else sys.executable
        command = [python, __file__, "--role", peer.split()[0], *flags]
    # all cores for MXNet, which takes half of them by itself
    threads = {"floor 1": "1", "mxnet": str(os.cpu_count())}.get(peer)
    environment = os.environ | ({"OMP_NUM_THREADS": threads} if threads else {})
    # In the checkout, so that `-m imgcls` finds it, installed or not.
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
                          env=environment)
    # The first epoch also loads kernels and fills caches, in every peer.
    # The better one of the rest: what disturbs an epoch only ever makes it longer.
    return min([float(t) for t in re.findall(r"Time cost=([\d.]+)", done.stderr)][1:])


def _run_seconds(peer: str, args: argparse.Namespace) -> float:
    flags = ["--data-dir", args.data_dir, "--network", "mlp"]
    if peer == "imgcls":
        command = [sys.executable, "-m", "imgcls", "train", *flags, "--num-epochs", "1", "--batch-size", "64",
                   "--dtype", "float32"]
    else:
        command = [args.mxnet_python, __file__, "--role", "mxnet", *flags, "--epochs", "1"]
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--mxnet-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default="mlp,lenet")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- the peers; each runs in a process of its own and writes MXNet's "Time cost" line


def _read(folder: str, name: str):  # -> two arrays: numpy is imported by the peer
    import gzip

    import numpy as np

    def content(kind: str) -> bytes:
        return gzip.decompress(Path(folder, f"{name}-{kind}-ubyte.gz").read_bytes())

    # After the headers of the idx format, 8 and 16 bytes.
    labels = np.frombuffer(content("labels-idx1")[8:], np.uint8)
    images = np.frombuffer(content("images-idx3")[16:], np.uint8)
    return images.reshape(-1, 1, 28, 28).astype(np.float32) / 255, labels


def _mxnet(args: argparse.Namespace) -> None:
    """Train MXNet's example networks with the arguments of train_mnist.py and common/fit.py."""
    import logging

    import mxnet as mx

    logging.basicConfig(level=logging.INFO)
    (images, labels), (val, val_labels) = _read(args.data_dir, "train"), _read(args.data_dir, "t10k")
    train = mx.io.NDArrayIter(images, labels, 64, shuffle=True)
    test = mx.io.NDArrayIter(val, val_labels, 64)
    net = mx.sym.Variable("data")
    if args.network == "mlp":
        net = mx.sym.Flatten(net)
        for units in (128, 64):
            net = mx.sym.Activation(mx.sym.FullyConnected(net, num_hidden=units), act_type="relu")
    else:
        for filters in (20, 50):
            net = mx.sym.Convolution(net, kernel=(5, 5), num_filter=filters)
            net = mx.sym.Activation(net, act_type="tanh")
            net = mx.sym.Pooling(net, pool_type="max", kernel=(2, 2), stride=(2, 2))
        net = mx.sym.Activation(mx.sym.FullyConnected(mx.sym.Flatten(net), num_hidden=500), act_type="tanh")
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=10), name="softmax")
    # The scripts' schedule; its step after epoch 10 is never reached here.
    steps = mx.lr_scheduler.MultiFactorScheduler(step=[10 * 938], factor=0.1, base_lr=0.05)
    module = mx.mod.Module(net, context=mx.cpu())
    # The scripts' default store; as an object it is used on one device too, as there.
    store = mx.kvstore.create("device")
    module.fit(train, test, eval_metric=["accuracy"], num_epoch=args.epochs, optimizer="sgd",
               allow_missing=True, kvstore=store,
               optimizer_params={"learning_rate": 0.05, "momentum": 0.9, "wd": 1e-4, "lr_scheduler": steps,
                                 "multi_precision": True},
               # what common/fit.py does for every network but vgg and alexnet
               initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
               # Its lines of progress belong to the epoch, as ours do to ours.
               batch_end_callback=[mx.callback.Speedometer(64, 100)])


def _torch_network(name: str):
    from torch import nn

    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
                             nn.Linear(64, 10))
    return nn.Sequential(nn.Conv2d(1, 20, 5), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.Tanh(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 500), nn.Tanh(), nn.Linear(500, 10))


def _torch(args: argparse.Namespace) -> None:
    """Train as in the script that everybody writes first: TensorDataset, DataLoader, SGD, accuracy."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    images, labels = _read(args.data_dir, "train")
    # No worker processes, which is the default, and what most people keep for arrays in memory.
    loader = DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels.astype("int64"))),
                        batch_size=64, shuffle=True)
    model = _torch_network(args.network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(args.epochs):
        started = time.perf_counter()
        correct = 0
        for batch, batch_labels in loader:
            optimizer.zero_grad()
            logits = model(batch)
            loss = torch.nn.functional.cross_entropy(logits, batch_labels)
            loss.backward()
            optimizer.step()
            # .item() waits for the result: that is what this script does, and part of its time.
            correct += (logits.argmax(1) == batch_labels).sum().item()
        seconds = time.perf_counter() - started
        print(f"Time cost={seconds:.3f} accuracy={correct / len(images):.4f}", file=sys.stderr)


def _floor(args: argparse.Namespace) -> None:
    """Step our network and optimizer on one batch, in torch's threads: no data, no metrics, no log."""
    import torch

    from imgcls.config import sections
    from imgcls.distributed.cpu_threads import keep_freed_memory
    from imgcls.networks import build_network
    from imgcls.optim import optimizers

    keep_freed_memory()
    model = build_network(sections.NetworkConfig(network=args.network), 0)
    # The layout and the memory of a run: the floor is what the loop around them could reach.
    model = model.to(memory_format=torch.channels_last)
    optimizer = optimizers.build(sections.OptimizerConfig(), model, torch.device("cpu"))
    # small: labels are random, and weights that ran away would change how long arithmetic takes
    optimizers.set_lr(optimizer, 0.001)
    step, images, labels = optimizers.stepper(optimizer), torch.rand(64, 1, 28, 28), torch.randint(10, (64,))
    for _ in range(args.epochs):
        started = time.perf_counter()
        for _ in range(938):  # 60,000 / 64
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            with torch.no_grad():
                step()
        print(f"Time cost={time.perf_counter() - started:.3f}", file=sys.stderr)


ROLES = {"mxnet": _mxnet, "torch": _torch, "floor": _floor}

if __name__ == "__main__":
    sys.exit(main())
