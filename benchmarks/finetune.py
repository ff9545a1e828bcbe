"""What fine-tuning is worth: a network trained on CIFAR-10 and then on a few photographs, beside the same
untrained.

    python benchmarks/finetune.py PRETRAIN PHOTOS [--image-shape 3,32,32] [--pretrain-epochs 5] [--seeds 3]

PRETRAIN and PHOTOS are folders that hold train/ and val/ (or test/) with a folder of images per class:
CIFAR-10 as pictures, and for example ants and bees (hymenoptera, 245 + 153 photographs). Trains a small
residual network on the first, then `imgcls-finetune` for five epochs on the second with three seeds, all of
it and the head alone; and the same network from its initial weights, with the same command, at two learning
rates. One thread, about six minutes, most of which are the training on CIFAR-10. Prints a line a run and the
means.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# 14 layers: small enough to be trained from scratch here, deep enough to have something to transfer.
NETWORK = ["--network", "resnet-v1", "--num-layers", "14", "--image-shape", "3,28,28"]


def main() -> int:
    """Pretrain once, then fine-tune each way with each seed."""
    args = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that the figures do not depend on the cores
    with tempfile.TemporaryDirectory() as folder:
        trained = args.pretrained or str(Path(folder, "cifar"))
        # An earlier checkpoint spares the minutes on CIFAR-10 while settings of the second part are tried.
        if not args.pretrained:
            _pretrain(args, trained)
        untrained = str(Path(folder, "untrained"))
        # The mean of ImageNet's images: close enough for any photographs, and the same for all four ways.
        tune = ["--batch-size", "16", "--mom", "0.9", "--num-epochs", str(args.num_epochs),
                "--image-shape", args.image_shape, "--rgb-mean", "123.68,116.779,103.939", "--rgb-std", "1",
                "--data-nthreads", "1"]
        # Untrained weights may want a larger rate than trained ones: with both rates from scratch the
        # comparison is not won by the choice of one.
        for what, source, flags in (
                ("fine-tuned", trained, ["--lr", "0.01"]),
                ("only the head", trained, ["--lr", "0.01", "--freeze", "body"]),
                ("from scratch, lr 0.01", untrained, ["--lr", "0.01"]),
                ("from scratch, lr 0.1", untrained, ["--lr", "0.1"])):
            # With so few photographs a seed moves the accuracy by per cents: all ways have the same seeds.
            accuracies = []
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                # Fine-tuning replaces the head, so the untrained body is drawn anew for each seed too.
                if source == untrained:
                    _write_untrained(untrained, seed)
                started = time.perf_counter()
                accuracies.append(_accuracy("finetune", "--pretrained-model", source, *_data(args.photos),
                                            *tune, *flags, "--seed", str(seed)))
                seconds = time.perf_counter() - started
                print(f"{what}, seed {seed}: {accuracies[-1]:.4f}  ({seconds:.0f} s)", flush=True)
            print(f"{what}: mean {statistics.mean(accuracies):.4f}", flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrain", help="folder of CIFAR-10's pictures: train/ and test/")
    parser.add_argument("photos", help="folder of the photographs: train/ and val/")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--pretrained", default="", metavar="PREFIX",
                        help="checkpoint of an earlier run of this script")
    parser.add_argument("--pretrain-epochs", type=int, default=5)
    parser.add_argument("--num-epochs", type=int, default=5)
    parser.add_argument("--image-shape", default="3,32,32")
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def _data(folder: str) -> list[str]:
    # CIFAR-10 comes as train/ and test/, photographs mostly as train/ and val/.
    val = next(name for name in ("val", "test") if Path(folder, name).is_dir())
    return ["--data-train", f"{folder}/train", "--data-val", f"{folder}/{val}"]


def _pretrain(args: argparse.Namespace, prefix: str) -> None:
    started = time.perf_counter()
    # bfloat16, since nearly all of the time goes here; the accuracy is printed, and compared with nothing.
    accuracy = _accuracy("train", "--dataset", "cifar10", *_data(args.pretrain), *NETWORK,
                         "--num-epochs", str(args.pretrain_epochs), "--lr", "0.1", "--lr-schedule", "cosine",
                         "--dtype", "bfloat16", "--data-nthreads", "1", "--model-prefix", prefix)
    print(f"trained on {args.pretrain}: {accuracy:.4f}  ({time.perf_counter() - started:.0f} s)", flush=True)


def _write_untrained(prefix: str, seed: int) -> None:
    """Write the network that `imgcls-train` begins with, as a checkpoint of epoch 0."""
    from imgcls import graph
    from imgcls.config.sections import NetworkConfig
    from imgcls.formats import params, symbol
    from imgcls.networks import build_network

    model = build_network(NetworkConfig(network="resnet-v1", num_layers=14, image_shape=(3, 28, 28)), seed)
    # As a checkpoint it goes through the same command as the trained one and gets a new head as well.
    symbol.save(f"{prefix}-symbol.json", graph.to_symbol(model))
    params.save(f"{prefix}-0000.params", graph.arrays(model))


def _accuracy(command: str, *flags: str) -> float:
    """Run a command and return the validation accuracy that it prints last."""
    done = subprocess.run([sys.executable, "-m", "imgcls", command, *flags], text=True, capture_output=True,
                          check=False)
    accuracy = re.search(r"^Validation-accuracy=(\S+)$", done.stdout, re.MULTILINE)
    # The command's own message is the end of stderr; CalledProcessError would not show it.
    if done.returncode or not accuracy:
        sys.exit(done.stderr[-2000:])
    return float(accuracy[1])


if __name__ == "__main__":
    sys.exit(main())
