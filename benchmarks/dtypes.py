"""Whether bfloat16 costs accuracy: the same trainings in float32 and in bfloat16, with several seeds.

    python benchmarks/dtypes.py [--mnist DIR] [--cifar DIR] [--photos DIR [--pretrained PREFIX]] [--seeds 3]
                                [--first-seed 0] [--threads 1]

--mnist is the folder of the four idx files, --cifar that of CIFAR-10's own files or of its images; --photos
holds train/ and val/ (or test/) with a folder of images per class. lenet learns MNIST for one epoch, resnet
of 20 layers CIFAR-10 for one epoch in which the rate falls to 0, resnet of 8 layers the photographs for
thirty, all at 28 x 28 pixels; with --pretrained that network is fine-tuned on the photographs for five.
Prints the validation accuracies of each seed, their means, and whether the means differ by less than seeds
do: by two standard errors of a difference of means.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

TYPES = ("float32", "bfloat16")


def main() -> int:
    """Train each set with each type and seed, and print a row after each pair of types."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mnist", "cifar", "photos", "pretrained"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.mnist:
        _compare("MNIST, lenet, 1 epoch", ["--data-dir", args.mnist, "--network", "lenet", "--num-epochs",
                                           "1"], args)
    if args.cifar:
        _compare("CIFAR-10, resnet-20, 1 epoch", [
            "--dataset", "cifar10", "--data-dir", args.cifar, "--network", "resnet", "--num-layers", "20",
            "--rgb-std", "58.4", "--num-epochs", "1", "--lr", "0.1", "--lr-schedule", "cosine"], args)
    if args.photos and args.pretrained:
        _compare("photographs, fine-tuned, 5 epochs", [
            "--data-dir", args.photos, "--pretrained-model", args.pretrained, "--num-epochs", "5"], args,
            command="finetune")
    elif args.photos:
        _compare("photographs, resnet-8, 30 epochs", [
            *_folders(args.photos), "--network", "resnet", "--num-layers", "8", "--image-shape", "3,28,28",
            "--random-mirror", "1", "--rgb-mean", "123.68,116.779,103.939", "--rgb-std", "58.4",
            "--num-epochs", "30", "--batch-size", "16", "--lr", "0.05"], args)
    return 0


def _folders(root: str) -> list[str]:
    val = next(folder for folder in (Path(root, "val"), Path(root, "test")) if folder.is_dir())
    return ["--data-train", str(Path(root, "train")), "--data-val", str(val), "--val-resize", "28"]


def _compare(what: str, flags: list[str], args: argparse.Namespace, *, command: str = "train") -> None:
    accuracies: dict[str, list[float]] = {name: [] for name in TYPES}
    # only these seeds: what takes an hour at once can be done in parts, between other work
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name in TYPES:  # by turns: what is there after half of the time is half of each
            accuracies[name].append(_accuracy([command, *flags, "--dtype", name, "--seed", str(seed),
                                               "--num-threads", str(args.threads)]))
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    # the standard error of the difference of two means, from the scatter of the seeds;
    # of one seed it is unknown
    scatter = [statistics.variance(values) if args.seeds > 1 else math.nan for values in accuracies.values()]
    error = (sum(scatter) / args.seeds) ** 0.5
    # two standard errors: one pair in twenty differs by more without any cause
    is_within = abs(means["float32"] - means["bfloat16"]) <= 2 * error
    # of one seed nobody can tell
    verdict = "within noise" if is_within else "DIFFERENT" if args.seeds > 1 else "unknown"
    # a row for each type, then what holds of both
    for name, values in accuracies.items():
        print(f"{what:<36}{name:<10}{', '.join(f'{100 * value:.2f}' for value in values)}  "
              f"mean {100 * means[name]:.2f} %", flush=True)
    print(f"{'':<36}two standard errors: {200 * error:.2f} %: {verdict}", flush=True)


def _accuracy(flags: list[str]) -> float:
    started = time.perf_counter()
    # a process of its own, as a user starts it: nothing of one run is left over for the next
    done = subprocess.run([sys.executable, "-m", "imgcls", *flags], capture_output=True, text=True,
                          check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    # of the last epoch, not of the best one
    accuracy = float(re.findall(r"Validation-accuracy=([\d.]+)", done.stderr + done.stdout)[-1])
    # printed at once: the table follows when all seeds are done
    seconds = time.perf_counter() - started
    print(f"    {accuracy:.4f}  {seconds:.0f} s  {' '.join(flags[-6:])}", file=sys.stderr, flush=True)
    return accuracy


if __name__ == "__main__":
    sys.exit(main())
