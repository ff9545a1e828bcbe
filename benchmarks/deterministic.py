"""What `--deterministic` costs in training: the same epochs with it and without it, by turns.

    python benchmarks/deterministic.py [--only lenet,resnet-20] [--rounds 5] [--device cpu]

Trains on random uint8 images in memory, as `imgcls-train` does. Prints a line for each network: images per
second without and with it (medians over the rounds), the quotient, and whether the weights of both are the
same bits, as on a CPU they have to be.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

#: name -> settings, image shape, classes, batch, batches of an epoch
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int], int, int, int]] = {
    "lenet": ({"network": "lenet"}, (1, 28, 28), 10, 64, 100),
    "resnet-20": ({"network": "resnet", "num_layers": 20}, (3, 28, 28), 10, 128, 6),
    "resnet-50": ({"network": "resnet", "num_layers": 50}, (3, 224, 224), 1000, 8, 2),
}


def main() -> int:
    """Measure each network and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a GPU")
    args = parser.parse_args()
    print(f"{'network':<10} {'without':>10} {'with':>10} {'with / without':>15}  same bits")
    for name in args.only.split(","):
        speeds: dict[bool, list[float]] = {False: [], True: []}
        weights: dict[bool, bytes] = {}
        for number in range(args.rounds):
            # whichever is first pays for what warms up: by turns
            for is_on in ((False, True) if number % 2 else (True, False)):
                speed, weights[is_on] = measure(name, is_on, args.device)
                speeds[is_on].append(speed)
        without, with_it = (statistics.median(speeds[is_on]) for is_on in (False, True))
        same = "yes" if weights[False] == weights[True] else "no"
        print(f"{name:<10} {without:>10.1f} {with_it:>10.1f} {with_it / without:>15.3f}  {same}", flush=True)
    return 0


def measure(name: str, is_on: bool, device: str) -> tuple[float, bytes]:
    """Return images per second of a run's second epoch, and the bytes of its weights after it."""
    import numpy as np

    import imgcls
    from imgcls.training.trainer import Trainer

    settings, shape, classes, batch, num_batches = CASES[name]
    images = np.random.default_rng(0).integers(0, 256, (batch * num_batches, *shape), np.uint8)
    train_epoch, seconds = Trainer.train_epoch, []

    def timed_epoch(self: Trainer) -> dict[str, float]:
        begun = time.perf_counter()
        # its end reads the sums of the epoch, and so waits for a GPU
        metrics = train_epoch(self)
        seconds.append(time.perf_counter() - begun)
        return metrics

    # from outside: a run needs no clock of its own for this
    Trainer.train_epoch = timed_epoch
    try:
        result = imgcls.fit((images, np.arange(len(images)) % classes), batch_size=batch, num_epochs=2,
                            lr=1e-3, image_shape=",".join(map(str, shape)), num_classes=classes,
                            deterministic=is_on, gpus="" if device == "cpu" else device, **settings)
    finally:
        Trainer.train_epoch = train_epoch
    values = [value.numpy(force=True).tobytes() for value in result.model.state_dict().values()]
    return len(images) / seconds[-1], b"".join(values)


if __name__ == "__main__":
    sys.exit(main())
