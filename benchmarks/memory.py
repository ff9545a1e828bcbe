"""Run the streaming loader over many epochs and see whether memory stays flat.

    python benchmarks/memory.py [--epochs 120] [--images 2000] [--threads 2] [--bad 20]

Small photographs are drawn and packed into a temporary record file, some of them damaged; then every batch of
every epoch is taken, cropped at random, mirrored and normalised. Prints the resident memory (RSS, MB) after
some epochs, and the most that there ever was. It goes up and down by a few batches of 6 MB, as the C library
keeps some of what is freed: the exit status is 1 where the least of the last ten epochs is more than the most
of epochs 5 to 14.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not

from imgcls.config.sections import AugmentConfig
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.record_source import RecordSource
from imgcls.formats.recordio import ImageHeader, RecordWriter, pack

# The first epochs fill buffers and caches; the ten after them are the level to compare with.
FIRST = 5
STRETCH = 10


def main() -> int:
    """Run the epochs and print what is held; return 1 if it grows."""
    args = _arguments()
    logging.disable(logging.WARNING)  # the photographs are damaged on purpose
    with tempfile.TemporaryDirectory(prefix="imgcls-memory-") as folder:
        path = Path(folder) / "small.rec"
        _draw(path, args.images, args.bad)
        # Small images: hundreds of epochs take minutes, on the same paths as large ones. Crops of random
        # area make allocations of ever other sizes, which is what fragments memory.
        loader = StreamingLoader(
            RecordSource([path]), batch_size=128, image_shape=(3, 64, 64), train=True, seed=0,
            threads=args.threads, device=torch.device("cpu"),
            augment_config=AugmentConfig(random_resized_crop=True, min_random_area=0.2, random_mirror=True,
                                         brightness=0.2))
        held: dict[int, float] = {}
        started = time.perf_counter()
        for epoch in range(1, args.epochs + 1):
            # Damaged samples are left out, so what is counted are the good ones.
            count = sum(batch.num_valid for batch in loader.epoch(epoch))
            assert count == args.images - args.bad, f"epoch {epoch} had {count} images"
            held[epoch] = _resident_mb()
            if epoch in (1, FIRST) or epoch % 10 == 0:
                print(f"epoch {epoch:4}: {held[epoch]:7.1f} MB, {count} images", flush=True)
    seconds = time.perf_counter() - started
    # ru_maxrss below is in KiB on Linux, the only system whose /proc is read here.
    values = list(held.values())[FIRST - 1:]
    before, after = values[:STRETCH], values[-STRETCH:]
    print(f"from {min(before):.1f} to {max(before):.1f} MB in epochs {FIRST} to {FIRST + STRETCH - 1}, from "
          f"{min(after):.1f} to {max(after):.1f} MB in the last {STRETCH} of {args.epochs} "
          f"({args.epochs * args.images} images, {seconds:.0f} s); "
          f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.1f} MB")
    # A leak raises even the least of an epoch; a few batches more or less do not.
    return int(min(after) > max(before))


def _resident_mb() -> float:
    # Not ru_maxrss, which never falls: the question is whether memory comes back.
    # the second number of statm: resident pages
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _draw(path: Path, count: int, bad: int) -> None:
    """Write noise of 60 to 200 pixels a side; `bad` of the files are cut in the middle."""
    rng = np.random.default_rng(0)
    cut = set(np.linspace(0, count - 1, bad, dtype=int).tolist())
    with RecordWriter(path) as writer:
        for i in range(count):
            height, width = rng.integers(60, 200, 2).tolist()
            # Coarse noise made larger: a JPEG of some kilobytes, as of a small photograph.
            coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
            data = cv2.imencode(".jpg", cv2.resize(coarse, (width, height)))[1].tobytes()
            writer.write(pack(ImageHeader(0, i % 10, i), data[:len(data) // 2] if i in cut else data))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bad", type=int, default=20)
    args = parser.parse_args()
    if args.epochs < FIRST + 2 * STRETCH:
        parser.error(f"--epochs {args.epochs}: must be at least {FIRST + 2 * STRETCH}")
    return args


if __name__ == "__main__":
    sys.exit(main())
