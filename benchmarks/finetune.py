"""What fine-tuning is worth where nobody sets anything: beside training from scratch, and beside PyTorch's
tutorial on transfer learning given the same time.

    python benchmarks/finetune.py PREFIX PHOTOS [PHOTOS ...] [--seeds 5] [--num-epochs 5]

PREFIX is a checkpoint of `imgcls-train` on other classes, PHOTOS are folders that hold train/ and val/ with a
folder of images per class (benchmarks/finetune_sets.py makes some). For each folder and seed:

  fine-tuned     imgcls-finetune --pretrained-model PREFIX --data-dir PHOTOS --num-epochs 5
  from scratch   imgcls-train --data-dir PHOTOS --num-epochs 5 with network and image shape of PREFIX
  tutorial       PyTorch's "Transfer Learning for Computer Vision" from the same weights: whole network and
                 the head alone, at the image shape of PREFIX and with 224 x 224 crops; SGD with lr 0.001 and
                 momentum 0.9, steps of 0.1 every 7 epochs, batch 4, the best epoch on the validation set. Its
                 training may take the CPU seconds that imgcls-finetune took with validation and all; its own
                 validation is not counted

Prints a line a run, and the means. One thread, and CPU time instead of a clock: what else the machine does
does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TUTORIAL_SIDE = 224


def main() -> int:
    """Run each way on each folder with each seed."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", help="checkpoint of imgcls-train on other classes")
    parser.add_argument("photos", nargs="+", help="folders that hold train/ and val/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-epochs", type=int, default=5)
    parser.add_argument("--without-tutorial", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that the figures do not depend on the cores
    for folder in args.photos:
        accuracies: dict[str, list[float]] = {}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for way, accuracy in run_each_way(args, folder, seed):
                accuracies.setdefault(way, []).append(100 * accuracy)
        for way, values in accuracies.items():
            print(f"{Path(folder).name}, {way}: mean {statistics.mean(values):.1f} % of "
                  f"{', '.join(f'{value:.1f}' for value in values)}", flush=True)
    return 0


def run_each_way(args: argparse.Namespace, folder: str, seed: int) -> list[tuple[str, float]]:
    """Return (way, accuracy on the validation set) of all ways, and print each."""
    results = []

    # Printed at once: a run takes minutes where other programs want the cores.
    def note(way: str, accuracy: float, seconds: float) -> None:
        print(f"{Path(folder).name}, seed {seed}, {way}: {accuracy:.4f}  ({seconds:.1f} s)", flush=True)
        results.append((way, accuracy))

    # as the tutorial computes
    shared = ["--data-dir", folder, "--num-epochs", str(args.num_epochs), "--seed", str(seed), "--dtype",
              "float32"]
    # First, since it sets the time for the tutorial.
    accuracy, seconds = run_command("finetune", "--pretrained-model", args.prefix, *shared)
    note("fine-tuned", accuracy, seconds)
    note("from scratch", *run_command("train", "--dataset", "imagenet", *network_flags(args.prefix), *shared))
    if not args.without_tutorial:
        side = read_meta(args.prefix)["preprocessing"]["image_shape"][1]
        for what, crop, only_head in ((f"tutorial at {side}", side, False),
                                      (f"tutorial at {side}, head alone", side, True),
                                      (f"tutorial at {TUTORIAL_SIDE}", TUTORIAL_SIDE, False),
                                      (f"tutorial at {TUTORIAL_SIDE}, head alone", TUTORIAL_SIDE, True)):
            note(what, *run_tutorial(args.prefix, folder, crop, seconds, seed, only_head=only_head))
    return results


def read_meta(prefix: str) -> dict[str, Any]:
    """Return what a checkpoint says of itself: among others the settings that it was trained with."""
    return json.loads(Path(f"{prefix}-meta.json").read_text(encoding="utf-8"))


def network_flags(prefix: str) -> list[str]:
    """Return the flags that build the network of a checkpoint anew."""
    meta = read_meta(prefix)
    config = meta["config"]
    # of the preprocessing: the settings hold the shape as text
    shape = ",".join(map(str, meta["preprocessing"]["image_shape"]))
    flags = ["--network", config["network"], "--image-shape", shape]
    return flags + (["--num-layers", str(config["num_layers"])] if config["num_layers"] else [])


def run_command(command: str, *flags: str) -> tuple[float, float]:
    """Run a command of imgcls and return its validation accuracy and the CPU seconds that it took."""
    main = importlib.import_module(f"imgcls.cli.{command}").main
    started = time.process_time()
    # in this process: what it costs to load torch is no part of the comparison
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["--data-nthreads", "1", *flags])
    accuracy = re.search(r"^Validation-accuracy=(\S+)$", out.getvalue(), re.MULTILINE)
    if status or not accuracy:
        sys.exit(err.getvalue()[-2000:])
    return float(accuracy[1]), time.process_time() - started


def run_tutorial(prefix: str, folder: str, side: int, seconds: float, seed: int, *,
                 only_head: bool) -> tuple[float, float]:
    """Return the accuracy of the tutorial's best epoch and the CPU seconds of its training.

    At least one epoch is trained, and the last one may be cut short by the time.
    """
    import torch
    from torch import nn
    from torchvision import datasets

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    train, evaluation = tutorial_transforms(prefix, side)
    train_set = datasets.ImageFolder(str(Path(folder, "train")), train)
    val_set = datasets.ImageFolder(str(Path(folder, "val")), evaluation)
    model = tutorial_network(prefix, len(train_set.classes), side, only_head=only_head)
    # From here on line by line as the tutorial has it, but for the clock.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    loader = torch.utils.data.DataLoader(train_set, batch_size=4, shuffle=True)
    val_loader = torch.utils.data.DataLoader(val_set, batch_size=64)
    best = used = 0.0
    # Whole epochs in a loop: the tutorial would continue to the 25th, for which there is no time.
    while used < seconds:
        model.train()
        started = time.process_time()
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if used + time.process_time() - started >= seconds:
                break
        scheduler.step()
        used += time.process_time() - started
        # It keeps its best epoch by the set that it is scored on; imgcls-finetune has only its last.
        best = max(best, score(model, val_loader))
    return best, used


def tutorial_transforms(prefix: str, side: int) -> Sequence[Callable[[Any], Any]]:
    """Return the tutorial's transforms for training and for validation, with the network's own scaling."""
    from torchvision import transforms

    noted = read_meta(prefix)["preprocessing"]
    scaling = [transforms.ToTensor(), transforms.Normalize([value / 255 for value in noted["mean"]],
                                                           [value / 255 for value in noted["std"]])]
    # 256 for 224 is the tutorial's
    return (transforms.Compose([transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip(),
                                *scaling]),
            transforms.Compose([transforms.Resize(round(side * 256 / 224)), transforms.CenterCrop(side),
                                *scaling]))


def tutorial_network(prefix: str, num_classes: int, side: int, *, only_head: bool) -> Any:
    """Return the checkpoint's network with a new nn.Linear in the place of its head."""
    from torch import nn

    from imgcls.config.sections import NetworkConfig
    from imgcls.pretrained import locate, read, transfer

    model, _ = transfer.new_head(read(locate(prefix)), NetworkConfig(num_classes=num_classes,
                                                                    image_shape=(3, side, side)))
    path = transfer.head_of(model, NetworkConfig())[0].rpartition(".")[0]
    old = model.get_submodule(path)
    # before the new layer is there, which learns either way
    model.requires_grad_(not only_head)
    linear = nn.Linear(old.weight.shape[1], num_classes)  # type: ignore[union-attr, index]
    model.set_submodule(path, nn.Sequential(nn.Flatten(), linear))
    return model


def score(model: Any, loader: Any) -> float:
    """Return the share of images that the network gets right."""
    import torch

    model.eval()
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels).float() for images, labels in loader]
    return torch.cat(hits).mean().item()


if __name__ == "__main__":
    sys.exit(main())
