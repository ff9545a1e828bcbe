"""Measure every form of data beside record files: the same photographs, in fresh processes, taking turns.

    python benchmarks/sources.py --images DIR [--count 1200] [--rounds 1] [--folder DIR] [--make-only]
    python benchmarks/sources.py --million FOLDER

DIR holds photographs, which are repeated until there are `count`, as JPEGs of short edge 256 in eight
classes; all forms are made of them in a temporary folder (or in `--folder`, once). For each form:

    open s     from the path to a source with labels: the first time, and once more with what the first kept
    batch s    from there to the first training batch of 64 x 3 x 224 x 224 (random resized crop, mirror)
    img/s      training batches of three epochs after the first, all cores
    reads /s   the encoded bytes alone, in random order, one thread

`--million` lists a folder of class folders twice, and prints seconds and memory of both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# the checkout, installed or not
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BATCH, NUM_CLASSES, NUM_SHARDS, NUM_EPOCHS = 64, 8, 8, 3
#: form -> its path in the folder
FORMS = {"record file": "x.rec", "folder": "photos", ".lst": "x.lst", "CSV": "x.csv",
         "tar shards": "shards/train_{0..7}.tar", "LMDB": "x_lmdb", "parquet": "parquet/x_*.parquet"}


def main() -> int:
    """Make the forms, measure each in turn, print a table."""
    args = _arguments()
    if args.measure:
        print(json.dumps(_measure(args.measure)))
        return 0
    if args.million:
        print(json.dumps([_child({"IMGCLS_CACHE": f"{args.million}.cache"}, args.million) for _ in range(2)]))
        return 0
    with tempfile.TemporaryDirectory(prefix="imgcls-sources-") as temporary:
        folder = Path(args.folder or temporary)
        if not (folder / "x.rec").exists():
            _make(folder, args.images, args.count)
        if args.make_only:
            return 0
        rounds = []
        for number in range(args.rounds):
            # a cache folder of its own each round: the first opening of a form finds nothing
            environment = {"IMGCLS_CACHE": f"{temporary}/cache{number}"}
            rounds.append({form: (_child(environment, str(folder / path), "--no-epoch"),
                                  _child(environment, str(folder / path))) for form, path in FORMS.items()})
    print(f"{'':14}{'open s':>9}{'again s':>9}{'batch s':>9}{'img/s':>9}{'of .rec':>9}{'reads /s':>11}")
    for form in FORMS:
        first = statistics.median(one[form][0]["open"] for one in rounds)
        again, batch, rate, reads = (statistics.median(one[form][1][what] for one in rounds)
                                     for what in ("open", "batch", "images", "reads"))
        # of the same round, so that a slow moment of the machine falls on both
        share = statistics.median(one[form][1]["images"] / one["record file"][1]["images"] for one in rounds)
        print(f"{form:14}{first:9.3f}{again:9.3f}{batch:9.3f}{rate:9.1f}{share:9.2f}{reads:11,.0f}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="")
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", default="")
    parser.add_argument("--make-only", action="store_true")
    parser.add_argument("--million", default="", metavar="FOLDER")
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    parser.add_argument("--no-epoch", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(environment: dict[str, str], path: str, *flags: str) -> dict[str, float]:
    # a fresh process: nothing of the one before is open or in its memory
    done = subprocess.run([sys.executable, __file__, "--measure", path, *flags], check=True,
                          capture_output=True, text=True, env={**os.environ, **environment})
    return json.loads(done.stdout.splitlines()[-1])


def _make(folder: Path, images: str, count: int) -> None:
    """Write the photographs in every form."""
    import cv2

    from imgcls.cli import convert, im2rec

    files = sorted(Path(images).glob("*.*"))
    for number in range(count):
        # a photograph comes several times: what is measured is reading and decoding
        image = cv2.imread(str(files[number % len(files)]))
        assert image is not None, files[number % len(files)]
        scale = 256 / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        path = folder / "photos" / f"c{number * NUM_CLASSES // count}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for name in ("shards", "parquet"):
        (folder / name).mkdir(exist_ok=True)
    rec, shards = str(folder / "x.rec"), ("--shards", str(NUM_SHARDS))
    os.chdir(folder)
    _run(im2rec.main, "x", "photos", "--recursive", "--no-shuffle", "--pass-through")
    _run(convert.main, rec, "shards/train.tar", *shards)
    _run(convert.main, rec, "parquet/x.parquet", *shards)
    _run(convert.main, rec, "x_lmdb")
    # the same order in the lists, which are relative to the folder of the photographs
    rows = [line.split("\t") for line in (folder / "x.lst").read_text().splitlines()]
    (folder / "x.csv").write_text("path,label\n" + "".join(
        f"photos/{path},{os.path.dirname(path)}\n" for _, _, path in rows))
    (folder / "x.lst").write_text("".join(f"{key}\t{label}\tphotos/{path}\n" for key, label, path in rows))


def _run(command: Callable[[list[str]], int], *arguments: str) -> None:
    if command(list(arguments)):
        raise SystemExit(f"{command.__module__} {arguments} failed")


def _measure(path: str) -> dict[str, float]:
    """Return what opening, the first batch, an epoch and bare reads take."""
    import numpy as np
    import torch

    from imgcls.config.sections import AugmentConfig
    from imgcls.data.loaders.make import make_loader
    from imgcls.data.sources import open_source

    start = time.perf_counter()
    source = open_source(path, "`data_train`")
    found = {"open": time.perf_counter() - start, "images": 0.0,
             "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if "--no-epoch" in sys.argv or len(source) > 100_000:
        return found
    # what photographs are trained with
    config = AugmentConfig(random_resized_crop=True, random_mirror=True, min_random_area=0.08)
    loader = make_loader(source, batch_size=BATCH, image_shape=(3, 224, 224), augment_config=config,
                         train=True, seed=0, device=torch.device("cpu"))
    start = time.perf_counter()
    for number, _ in enumerate(loader.epoch(0)):
        if number == 0:
            found["batch"] = time.perf_counter() - start
    # the first epoch brings the files into memory: disks are not what is compared
    start = time.perf_counter()
    for epoch in range(1, 1 + NUM_EPOCHS):
        for _ in loader.epoch(epoch):
            pass
    found["images"] = NUM_EPOCHS * len(source) / (time.perf_counter() - start)
    # opened again: nothing that the epoch brought into memory helps
    source = open_source(path, "`data_train`")
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    start = time.perf_counter()
    for index in order:
        source.read(index)
    found["reads"] = len(order) / (time.perf_counter() - start)
    return found


if __name__ == "__main__":
    sys.exit(main())
