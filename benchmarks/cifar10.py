"""CIFAR-10 on the cores of this machine: a recipe beside timm's train.py on the same images.

    python benchmarks/cifar10.py FOLDER [--recipe cifar10-fast] [--seeds 0,1,2] [--timm IMAGE_MODELS]

FOLDER holds train/ and test/ with a folder of images per class. Ours is `imgcls-train --recipe`. With --timm,
a checkout of github.com/huggingface/pytorch-image-models, its train.py trains afterwards: `--timm-model` at
32 x 32 pixels in `--timm-epochs` epochs, bfloat16, channels last, SGD with a cosine after a warm-up, label
smoothing, mirrors and crops of 70 to 100 % of the area. Choose the epochs so that it takes the minutes that
ours took, or a few more. All times are those of the whole command: start, reading of the images and a
validation after every epoch. Nothing else may run meanwhile. Prints a table.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = ("0.4914", "0.4822", "0.4465"), ("0.247", "0.2435", "0.2616")


def main() -> int:
    """Run ours for each seed, then timm, and print a line for each."""
    args = _arguments()
    print(f"{os.cpu_count()} cores, {args.threads} threads, torch {torch.__version__}\n")
    print("| what | seed | epochs | minutes | test accuracy |\n|---|---|---|---|---|", flush=True)
    for seed in filter(None, args.seeds.split(",")):
        accuracy, epochs, minutes = _ours(args, seed)
        _print_row(f"imgcls-train --recipe {args.recipe}", seed, epochs, minutes, accuracy)
    if args.timm:
        accuracy, minutes = _timm(args)
        _print_row(f"timm's train.py --model {args.timm_model}", "0", args.timm_epochs, minutes, accuracy)
    return 0


def _print_row(what: str, seed: str, epochs: int, minutes: float, accuracy: float) -> None:
    print(f"| {what} | {seed} | {epochs} | {minutes:.2f} | {accuracy:.2%} |", flush=True)


def _ours(args: argparse.Namespace, seed: str) -> tuple[float, int, float]:
    """Return accuracy, epochs and minutes of the recipe."""
    command = [sys.executable, "-m", "imgcls", "train", "--recipe", args.recipe, "--data-dir",
               str(Path(args.folder).absolute()), "--seed", seed, "--num-threads", str(args.threads)]
    output, minutes = _run(command, ROOT, args)
    found = re.findall(r"Epoch\[(\d+)\] Validation-accuracy=([\d.]+)", output)
    return float(found[-1][1]), int(found[-1][0]) + 1, minutes


def _timm(args: argparse.Namespace) -> tuple[float, float]:
    """Return accuracy and minutes of timm's train.py."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, str(Path(args.timm, "train.py").absolute()), "--data-dir",
            str(Path(args.folder).absolute()), "--val-split", "test", "--model", args.timm_model,
            "--num-classes", "10", "--input-size", "3", "32", "32", "--crop-pct", "1", "--mean", *MEAN,
            "--std", *STD, "--device", "cpu", "--amp", "--amp-dtype", "bfloat16", "--channels-last",
            "-j", str(args.threads),
            "--batch-size", "128", "--opt", "sgd", "--momentum", "0.9", "--weight-decay", "5e-4",
            "--lr", "0.1", "--sched-on-updates", "--epochs", str(args.timm_epochs), "--warmup-epochs", "1",
            "--warmup-lr", "0.01",
            "--smoothing", "0.1", "--color-jitter", "0", "--scale", "0.7", "1",
            "--ratio", "0.9", "1.1",
            "--seed", "0", "--checkpoint-hist", "1", "--output", out, "--experiment", "run"]
        _, minutes = _run(command, Path(out), args)
        rows = list(csv.DictReader(Path(out, "run", "summary.csv").read_text().splitlines()))
    return float(rows[-1]["eval_top1"]) / 100, minutes


def _run(command: list[str], folder: Path, args: argparse.Namespace) -> tuple[str, float]:
    """Return what a command wrote, and its minutes."""
    started = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout + done.stderr, (time.perf_counter() - started) / 60


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--recipe", default="cifar10-fast")
    parser.add_argument("--seeds", default="0", help="of ours; empty: timm alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timm", default="", help="a checkout of timm's repository, for its train.py")
    parser.add_argument("--timm-model", default="resnet10t")
    parser.add_argument("--timm-epochs", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
