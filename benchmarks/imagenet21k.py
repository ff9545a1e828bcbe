"""Measure what a set of ImageNet-21k's size costs: 14,197,122 records of 21,841 classes, of 159 bytes each.

    python benchmarks/imagenet21k.py make FOLDER [--share 1]           # 6 GB, half an hour
    python benchmarks/imagenet21k.py measure FOLDER [--workers 256]    # under two minutes

`make` writes one tar a class and has `imgcls-im2rec` list all of them and pack 200,000 images; the records of
all are written by the same writer. A step that is done is not done again. The tars are 64 different ones
under 21,841 names (hard links), so the list, the index and the records are of full size and the tars take no
room. Every image is the same grey JPEG of 8 x 8 pixels: nothing here depends on the images but how much of
the disk is read for a header.

`measure` does what a worker does before its first batch, each in a process of its own that has torch and
OpenCV loaded, as a worker has: seconds, and the largest memory that the process ever held (MB, and how much
of it came with the step). Files are in the page cache, as after packing. `--share .01` makes a hundredth of
all, to see that it works.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from imgcls.data.sources import Source

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, installed or not

#: of ImageNet's release of autumn 2011
NUM_RECORDS, NUM_CLASSES = 14_197_122, 21_841
#: classes of so many sizes, 20 images apart
_NUM_SIZES = 64
_SMALLEST_CLASS = 20
#: images that im2rec packs, in the order of the shuffled list: each from another tar; and records of a block
_PACKED, _RECORDS_AT_ONCE = 200_000, 10_000
#: samples of a batch over all workers
_BATCH = 8192


def main() -> None:
    """Make the set, or measure it."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=["make", "measure", *STEPS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the records and the classes")
    parser.add_argument("--workers", type=int, default=256)
    args = parser.parse_args()
    if args.role == "make":
        make(args.folder, args.share)
    elif args.role == "measure":
        measure(args)
    else:
        _step(args)


def make(folder: Path, share: float) -> None:
    """Write tars, lists and records, and print what each step took and how large its files are."""
    tars = folder / "tars"
    prefix = str(folder / "full")
    if not (folder / "tars.done").exists():
        _timed("class tars", lambda: _write_tars(tars, int(NUM_RECORDS * share), int(NUM_CLASSES * share)))
        (folder / "tars.done").touch()
    if not (folder / "full.lst").exists():
        _timed("im2rec --list: read the headers of all tars, sort, shuffle, write the list",
               lambda: _im2rec(prefix, str(tars), "--list", "--recursive"))
    if not (folder / "part.rec").exists():
        _write_part(folder / "full.lst", folder / "part.lst", _PACKED)
        _timed(f"im2rec --pass-through: pack the first {_PACKED:,} images",
               lambda: _im2rec(str(folder / "part"), str(tars), "--pass-through"))
    if not (folder / "full.rec").exists():
        _timed("write all records", lambda: _write_records(folder))
    for path in sorted(folder.glob("full*")):
        print(f"  {path.name:<20}{path.stat().st_size / 1e6:9.0f} MB")


def _write_tars(folder: Path, num_images: int, num_classes: int) -> None:
    """Write one tar a class; sizes repeat, and the last class has what is left."""
    import cv2
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    # with Huffman tables of its own, which a grey square hardly needs
    image = cv2.imencode(".jpg", np.full((8, 8), 128, np.uint8), [cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()
    left = num_images
    originals: dict[int, Path] = {}
    for number in range(num_classes):
        path = folder / f"n{number:08d}.tar"
        size = _SMALLEST_CLASS * (1 + number % _NUM_SIZES) if number < num_classes - 1 else max(left, 1)
        left -= size
        # a name more for the same file: no bytes, and im2rec reads its headers all the same
        if size in originals:
            path.unlink(missing_ok=True)
            os.link(originals[size], path)
            continue
        originals[size] = path
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(size):
                member = tarfile.TarInfo(f"n_{i}.JPEG")
                member.size = len(image)
                tar.addfile(member, io.BytesIO(image))


def _im2rec(*arguments: str) -> None:
    command = [sys.executable, "-m", "imgcls", "im2rec", *arguments]
    # it prints a line for each class, and for each thousand images
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def _write_part(source: Path, path: Path, num_lines: int) -> None:
    with open(source, "rb") as lines, open(path, "wb") as part:
        part.writelines(itertools.islice(lines, num_lines))


def _write_records(folder: Path) -> None:
    """Write the records of the whole list, as im2rec would but without reading the same image again."""
    from imgcls.errors import DataError
    from imgcls.formats import lists, recordio

    image = recordio.RecordReader(folder / "part.rec")[0].image
    block = recordio.Block()
    with recordio.RecordWriter(folder / "full.rec") as writer:
        for entry in lists.iterate(folder / "full.lst"):
            assert not isinstance(entry, DataError)
            head = recordio.pack(recordio.ImageHeader(0, entry.labels[0], entry.id), b"")
            block.reserve(len(head), len(image))[:] = image
            block.append(head, len(image), entry.id)
            if len(block.keys) == _RECORDS_AT_ONCE:
                writer.write_block(block)
                block.clear()
        writer.write_block(block)


def _timed(what: str, work: Callable[[], object]) -> None:
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])
    work()
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    print(f"{what}: {time.perf_counter() - started:.0f} s, CPU {sum(os.times()[:4]) - cpu_started:.0f} s, "
          f"at most {peak_mb:.0f} MB", flush=True)


def measure(args: argparse.Namespace) -> None:
    """Print a line for each step of a worker."""
    print(f"{'step':<66}{'s':>8}{'CPU s':>8}{'peak MB':>10}{'of the step':>12}")
    for role in STEPS:
        command = [sys.executable, __file__, role, str(args.folder), "--workers", str(args.workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        for line in done.stdout.splitlines():
            result = json.loads(line)
            print(f"{result['what']:<66}{result['seconds']:>8.2f}{result['cpu_seconds']:>8.2f}"
                  f"{result['peak_mb']:>10.0f}{result['added_mb']:>12.0f}", flush=True)


def _step(args: argparse.Namespace) -> None:
    """Take one step in this process, and print what it took as JSON."""
    import torch  # a worker has it, and its memory counts

    torch.set_num_threads(1)
    import imgcls.data.loaders.streaming  # noqa: F401 - a worker has this as well, and OpenCV with it

    STEPS[args.role](args)


def _timed_step(what: str, work: Callable[[], T]) -> T:
    """Return what `work` returns; print its seconds, and the most memory that the process has held so far."""
    before_mb = _peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    print(json.dumps({"what": what, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": _peak_mb(),
                      "added_mb": _peak_mb() - before_mb}), flush=True)
    return result


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _index(args: argparse.Namespace) -> None:
    """Read the index, and compare it with the records."""
    from imgcls.formats.recordio import RecordReader

    reader = _timed_step("read the index", lambda: RecordReader(args.folder / "full.rec"))
    assert not reader.index_problem
    problem = _timed_step("hold all of it against the records (imgcls-verify)", reader.check_index)
    assert problem is None


def _search(args: argparse.Namespace) -> None:
    """Find the records without an index."""
    from imgcls.formats.recordio import RecordReader

    _timed_step("find the records without an index",
                lambda: RecordReader(args.folder / "full.rec", use_index=False))


def _first_open(args: argparse.Namespace) -> None:
    """Open the records on a machine that has not seen them: headers come from the file."""
    # A cache folder of its own: nothing is kept from the last time.
    with tempfile.TemporaryDirectory(prefix="imgcls-") as folder:
        os.environ["IMGCLS_CACHE"] = folder
        _open_source(args, "open them for training: the first time on a machine")


def _open(args: argparse.Namespace) -> None:
    """Open the records as every worker but the first of a machine does."""
    _open_source(args, "the same, every further time")


def _open_source(args: argparse.Namespace, what: str) -> Source:
    """Return the source that a training opens, and print how long opening took."""
    from imgcls.data.record_source import RecordSource

    return _timed_step(what, lambda: RecordSource([args.folder / "full.rec"]))


def _order(args: argparse.Namespace) -> None:
    """Put an epoch in order, and cut batches for all workers from it."""
    import numpy as np

    from imgcls.data import order

    count = _num_records(args)
    indices = _timed_step("order of an epoch", lambda: order.permutation(0, 1, count))
    shards = [order.Shard(i, args.workers) for i in range(args.workers)]
    rows = _timed_step(f"all batches of {_BATCH} of an epoch, the rows of one of {args.workers}", lambda: [
        order.local_batch(indices, number, _BATCH, shards[3]).indices
        for number in range(-(-count // _BATCH))])
    assert abs(sum(map(len, rows)) - count / args.workers) <= len(rows)
    parts = _timed_step(f"the same of all {args.workers}", lambda: [
        order.local_batch(indices, number, _BATCH, shard).indices
        for number in range(-(-count // _BATCH)) for shard in shards])
    seen = np.bincount(np.concatenate(parts), minlength=count)
    assert (seen >= 1).all()
    assert seen.sum() - count < args.workers  # those that do not count, in a small last batch


def _worker(args: argparse.Namespace) -> None:
    """Do all that a worker does up to its first batch, and some more batches."""
    import torch

    from imgcls.config.sections import AugmentConfig
    from imgcls.data import order
    from imgcls.data.loaders.streaming import StreamingLoader

    # in one process, since what is opened stays in memory while the rest is done
    source = _open_source(args, f"one of {args.workers} workers: open")
    loader = StreamingLoader(
        source, batch_size=_BATCH, image_shape=(3, 224, 224), train=True, seed=0, device=torch.device("cpu"),
        threads=1, augment_config=AugmentConfig(random_resized_crop=True, min_random_area=.08),
        shard=order.Shard(3, args.workers))
    batches = loader.host_batches(0)
    _timed_step("  its first batch", lambda: next(batches))
    _timed_step("  100 more, while the next epoch is put in order",
                lambda: list(itertools.islice(batches, 100)))


def _num_records(args: argparse.Namespace) -> int:
    with open(args.folder / "full.idx", "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


#: name -> what a process does, in the order of the table
STEPS = {"index": _index, "search": _search, "first-open": _first_open, "open": _open, "order": _order,
         "worker": _worker}

if __name__ == "__main__":
    main()
