"""The same training by imgcls, by torchvision's references/classification/train.py and by timm's train.py.

The same network (ResNet-18), folders of images, batch, optimizer, crop, mirror and epochs, on the CPU, one
script after the other; in float32, and in bfloat16 where the script can (torchvision's --amp is for CUDA
alone). Prints images per second of the last epoch, from the end of the validation before it to its last step,
the time of the whole command and the validation accuracy at its end. What the scripts differ in stays as it
is: torchvision's and timm's decay other parameters, draw other crops, begin with other weights.

    python benchmarks/training_scripts.py DATA --torchvision VISION --timm IMAGE_MODELS [--size 112] ...

DATA holds train/ and val/ with a folder for each class. VISION and IMAGE_MODELS are checkouts of
github.com/pytorch/vision and github.com/huggingface/pytorch-image-models: neither script is in the packages,
which must be installed. A script without its checkout is left out.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: subtracted and divided by, on the scale 0 to 1: what the other two have built in
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Script:
    """A way to train: its command, and how its output shows how far it is."""

    name: str
    command: list[str]
    folder: Path
    #: the lines that end a validation, and the training of the last epoch
    validated: str
    trained: str
    #: the validation accuracy, its last number in per cent, or as a part of 1 for `is_share`
    accuracy: str
    is_share: bool = False


@dataclass(frozen=True)
class Outcome:
    """The figures of one script."""

    images_s: float
    total_s: float
    accuracy: float


def ours(args: argparse.Namespace, out: Path) -> Script:
    scaled = [",".join(f"{255 * value:g}" for value in values) for values in (MEAN, STD)]
    size = args.size
    command = [sys.executable, "-m", "imgcls", "train", "--network", "torchvision:resnet18",
               "--data-train", str(args.data / "train"), "--data-val", str(args.data / "val"),
               "--num-classes", str(args.num_classes), "--image-shape", f"3,{size},{size}",
               "--val-resize", str(args.val_resize), "--rgb-mean", scaled[0], "--rgb-std", scaled[1],
               "--batch-size", str(args.batch_size), "--num-epochs", str(args.epochs), "--lr", str(args.lr),
               "--lr-schedule", "cosine", "--mom", "0.9", "--wd", "0.0001", "--dtype", args.dtype,
               "--disp-batches", "10", "--interpolation", "antialias"]
    last = args.epochs - 1
    return Script("imgcls-train", command, out, rf"Epoch\[{last - 1}\] Validation-accuracy=",
                  rf"Epoch\[{last}\] Time cost=", rf"Epoch\[{last}\] Validation-accuracy=([0-9.]+)",
                  is_share=True)


def torchvision(args: argparse.Namespace, out: Path) -> Script:
    # the crop's interpolation is bilinear with antialiasing, as Pillow resizes
    command = [sys.executable, str(args.torchvision / "references" / "classification" / "train.py"),
               "--data-path", str(args.data), "--model", "resnet18", "--device", "cpu",
               "-b", str(args.batch_size), "--epochs", str(args.epochs), "-j", str(args.workers),
               "--lr", str(args.lr), "--lr-scheduler", "cosineannealinglr", "--wd", "0.0001",
               "--train-crop-size", str(args.size), "--val-crop-size", str(args.size),
               "--val-resize-size", str(args.val_resize), "--print-freq", "10", "--output-dir", str(out)]
    last = args.epochs - 1
    return Script("torchvision's train.py", command, args.torchvision / "references" / "classification",
                  r"Test: .*Acc@1 [0-9.]+ Acc@5", rf"Epoch: \[{last}\] Total time", r"Acc@1 ([0-9.]+)")


def timm(args: argparse.Namespace, out: Path) -> Script:
    size = str(args.size)
    # its default of channels_first would be slower on a CPU, and ours is channels_last too
    command = [sys.executable, str(args.timm / "train.py"), "--data-dir", str(args.data),
               "--train-split", "train", "--val-split", "val", "--model", "resnet18",
               "--num-classes", str(args.num_classes), "--device", "cpu", "-b", str(args.batch_size),
               "--epochs", str(args.epochs), "-j", str(args.workers), "--lr", str(args.lr),
               "--sched", "cosine", "--warmup-epochs", "0", "--opt", "sgd", "--momentum", "0.9",
               "--weight-decay", "0.0001", "--input-size", "3", size, size,
               "--crop-pct", f"{args.size / args.val_resize:.4f}", "--color-jitter", "0", "--channels-last",
               "--log-interval", "10", "--checkpoint-hist", "1", "--output", str(out)]
    command += ["--amp", "--amp-dtype", "bfloat16"] if args.dtype == "bfloat16" else []
    last = args.epochs - 1
    # of the validation its last line, which comes each time: that of its checkpoints only for a better one
    return Script("timm's train.py", command, args.timm, r"Test: \[ *(\d+)/\1\]",
                  rf"Train: {last} \[ *([0-9]+)/[0-9]+ +\(100%\)\]", r"Acc@1: +[0-9.]+ +\( *([0-9.]+)\)")


def run(script: Script, num_images: int, num_threads: int) -> Outcome:
    """Run a script and read its lines; SystemExit with the last of them where it fails."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(num_threads), PYTHONUNBUFFERED="1")
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    lines: list[str] = []
    # read while it runs: the clock is that of the lines as they come
    begun = ended = accuracy = float("nan")
    started = time.perf_counter()
    with subprocess.Popen(script.command, cwd=script.folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.perf_counter()
            lines.append(line)
            # of several validations the last one before the last epoch is done
            if re.search(script.validated, line) and ended != ended:
                begun = now
            if re.search(script.trained, line):
                ended = now
            if match := re.search(script.accuracy, line):
                accuracy = float(match[1]) * (100 if script.is_share else 1)
    total_s = time.perf_counter() - started
    if process.returncode or ended != ended or begun != begun:
        sys.exit(f"{script.name} ended with status {process.returncode}:\n{''.join(lines[-15:])}")
    return Outcome(num_images / (ended - begun), total_s, accuracy)


def main() -> None:
    args = _arguments()
    files = [path for path in (args.data / "train").rglob("*") if path.is_file()]
    args.num_classes = sum(1 for path in (args.data / "train").iterdir() if path.is_dir())
    print(f"ResNet-18, {len(files):,} images of {args.num_classes} classes at {args.size} pixels, batch "
          f"{args.batch_size}, {args.epochs} epochs, {args.threads} threads, {args.workers} workers of the "
          "others")
    print(f"{'script':<24}{'':<10}{'images/s':>10}{'whole command':>16}{'accuracy':>10}")
    for dtype in args.dtypes.split(","):
        args.dtype = dtype
        for make in _makers(args):
            with tempfile.TemporaryDirectory() as out:
                script = make(args, Path(out))
                # all of them drop or pad an incomplete last batch in their own way: whole batches are counted
                outcome = run(script, len(files) // args.batch_size * args.batch_size, args.threads)
            print(f"{script.name:<24}{args.dtype:<10}{outcome.images_s:>10.1f}{outcome.total_s:>14.1f} s"
                  f"{outcome.accuracy:>8.1f} %", flush=True)


def _makers(args: argparse.Namespace) -> list[Callable[[argparse.Namespace, Path], Script]]:
    """Return the scripts whose checkouts are given, of those that compute in the type."""
    # a script whose checkout is not given is left out
    makers: list[Callable[[argparse.Namespace, Path], Script]] = [ours]
    makers += [torchvision] if args.torchvision and args.dtype == "float32" else []
    makers += [timm] if args.timm else []
    return makers


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("--torchvision", type=lambda text: Path(text).resolve(), metavar="VISION")
    parser.add_argument("--timm", type=lambda text: Path(text).resolve(), metavar="IMAGE_MODELS")
    parser.add_argument("--size", type=int, default=112, help="pixels of the crop")
    parser.add_argument("--val-resize", type=int, default=128, help="short edge before the central crop")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2, help="two at least")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--dtypes", default="float32", help="number types, such as float32,bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of the other two")
    return parser.parse_args()


if __name__ == "__main__":
    main()
