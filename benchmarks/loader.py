"""Measure how fast encoded photographs become batches: ours and its peers in turn, on the same cores.

    python benchmarks/loader.py --images DIR [--mxnet-python PATH] [--dali-python PATH] [--rounds 3]
        [--tasks T1,T2,V]

DIR holds photographs; PATH is the Python of an environment with mxnet==1.9.1 and numpy==1.23.5, and of one
with nvidia-dali. What is not there is left out; torchvision is taken from this Python. Record files are made
in a temporary folder, the photographs repeated. Every loader gives batches of 128 of 3 x 224 x 224 bytes:

    T1  records of short edge 256, quality 95: random crop and mirror
    T2  records of the photographs as they are: crop of random area 0.08-1 and aspect 3/4-4/3, resized, mirror
    V   the same records: short edge 256, centre crop

`seekable` is T2, linear, on the same photographs with restart markers (left out where there is no jpegtran).
`linear` resizes without antialiasing, as MXNet does; `aa` with it, as torchvision and DALI do. MXNet is tuned
(ctx='cpu', OMP_NUM_THREADS): by default it decodes with half of the cores. Prints images per second (median
over the rounds), CPU milliseconds per image (user and system, all processes), and the ratio to ours within a
round; then what the decoder alone takes for the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not

BATCH = 128  # of MXNet's ImageNet recipe
# Of the random resized crop, as in torchvision and in MXNet 1.3.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)

#: task -> record file, and the peers with the Python they need
TASKS = {
    "T1": ("s256", ("imgcls linear", "mxnet linear", "torchvision aa", "dali aa")),
    "T2": ("o", ("imgcls linear", "imgcls seekable", "imgcls aa", "mxnet linear", "torchvision aa",
                 "dali aa")),
    "V": ("o", ("imgcls linear", "imgcls aa", "mxnet linear", "torchvision aa", "dali aa")),
}


def main() -> int:
    """Make the record files, run all peers in turn, print a table for each task."""
    args = arguments(__doc__, lambda parser: parser.add_argument("--dali-python"), repeat=10)
    if args.role:
        _measure(args)
        return 0
    with tempfile.TemporaryDirectory(prefix="imgcls-loader-") as folder:
        make_records(args, Path(folder))
        for task in args.tasks.split(","):
            file, peers = TASKS[task]
            peers = [peer for peer in peers if _python(args, peer)]
            # All peers once, then all again: what else the machine does falls on each of them alike.
            rounds = [{peer: _run(args, task, peer, _records_of(peer, Path(folder), file)) for peer in peers}
                      for _ in range(args.rounds)]
            _table(task, rounds)
            # Under each table, to show how much of the time no loader could have saved.
            _decoder_alone(Path(folder) / f"{file}.rec", args.threads)
    return 0


def _table(task: str, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print speed and cost of each peer, and how much faster ours is within a round."""
    print(f"\n{task}: images/s and CPU ms per image, medians of {len(rounds)} rounds; "
          "times ours is faster, in a round")
    ours = [peer for peer in rounds[0] if peer.startswith("imgcls") and not peer.endswith("seekable")]
    for peer in rounds[0]:
        speed, cost = (statistics.median(r[peer][key] for r in rounds) for key in ("speed", "cpu_ms"))
        text = f"  {peer:<16}{speed:9.0f}  {cost:6.2f}"
        # A peer stands beside both of our ways to resize, and the reader picks the one that resizes alike;
        # seekable records only beside the plain ones that they were made from.
        for own in ours[:1] if peer.endswith("seekable") else ours if peer not in ours else ():
            ratios = [r[own]["speed"] / r[peer]["speed"] for r in rounds]
            # the other way up than the speeds, so that above 1 ours is better in both
            costs = [r[peer]["cpu_ms"] / r[own]["cpu_ms"] for r in rounds]
            text += (f"   {own.split()[1]}: x{statistics.median(ratios):.2f} "
                     f"({min(ratios):.2f}-{max(ratios):.2f}), CPU x{statistics.median(costs):.2f}")
        print(text, flush=True)


def _decoder_alone(path: Path, threads: int) -> None:
    """Print the limit: what libjpeg-turbo takes to decode every file, with nothing around it."""
    import cv2
    import numpy as np

    from imgcls.formats.recordio import RecordReader

    cv2.setNumThreads(1)  # CPU time is summed over threads, so one is enough to know what an image takes
    # The records repeat the photographs: a few hundred stand for all.
    images = [np.frombuffer(bytes(record.image), np.uint8) for record in RecordReader(path)][:400]
    # Since OpenCV 4.11 the decoder writes RGB itself; before that BGR, which takes as long.
    flag = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
    times = []
    for _ in range(4):
        started = time.process_time()
        for image in images:
            cv2.imdecode(image, flag)
        times.append((time.process_time() - started) / len(images) * 1e3)
    # The fastest of four passes: a limit is what the machine does when nothing disturbs it.
    print(f"  {'decoder alone':<16}{1e3 / min(times) * threads:9.0f}  {min(times):6.2f}   full images, "
          f"on {threads} cores if they were its own", flush=True)


def _run(args: argparse.Namespace, task: str, peer: str, records: Path) -> dict[str, float]:
    """Run one peer in a process of its own; return images per second and CPU ms per image of the epoch."""
    measured = run_peer(args, _python(args, peer), __file__, task, peer, records)
    return {"speed": measured["images"] / measured["seconds"],
            "cpu_ms": measured["cpu_seconds"] / measured["images"] * 1e3}


def run_peer(args: argparse.Namespace, python: str, script: str, task: str, peer: str,
             records: Path) -> Any:
    """Run a script as a peer in a process of its own; return what it prints last, as JSON."""
    # A process for each peer: none finds threads, caches or freed memory of the one before.
    command = [python, script, "--role", peer, "--tasks", task, "--records", str(records),
               "--threads", str(args.threads)]
    # all peers have as many threads, whatever their own default is
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads),
                   "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{peer}, {task}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(args: argparse.Namespace) -> None:
    """Take an epoch of batches in the process of a peer and print what it took.

    The clock runs from the first request to the last batch, so nobody gains from what was prepared before;
    imports and building are not counted.
    """
    name, resize = args.role.split()
    batches = PEERS[name](args, args.tasks, resize == "aa")
    next(batches)  # the 0: ready to begin
    # Wall time alone would hide on idle cores what a loader takes from the training beside it; so CPU time
    # too, user and system, with that of the processes a peer starts.
    cpu_before, started = sum(os.times()[:4]), time.perf_counter()
    images = sum(batches)
    seconds = time.perf_counter() - started
    cpu_seconds = sum(os.times()[:4]) - cpu_before  # with that of processes that have ended
    print(json.dumps({"images": images, "seconds": seconds, "cpu_seconds": cpu_seconds}))
    sys.stdout.flush()
    os._exit(0)  # some peers hang in their own end


def streaming_loader(args: argparse.Namespace, task: str, antialias: bool) -> Any:
    """Return our loader of a task; `args` has the path `records` and `threads`."""
    from imgcls.config.sections import AugmentConfig, DeviceConfig
    from imgcls.data.loaders.streaming import StreamingLoader
    from imgcls.data.record_source import RecordSource
    from imgcls.distributed.topology import make_worker

    settings = {
        "T1": {"random_crop": True, "random_mirror": True},
        "T2": {"random_resized_crop": True, "min_random_area": AREA[0], "max_random_area": AREA[1],
               "min_random_aspect_ratio": ASPECT[0], "max_random_aspect_ratio": ASPECT[1],
               "random_mirror": True},
        "V": {"val_resize": 256}}[task]
    augmentation = AugmentConfig(interpolation="antialias" if antialias else "bilinear", **settings)
    return StreamingLoader(
        RecordSource([Path(args.records)]), batch_size=BATCH, image_shape=(3, 224, 224), train=task != "V",
        seed=0, device=make_worker(DeviceConfig(gpus="")).device, threads=args.threads,
        augment_config=augmentation)


def imgcls_batches(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[int]:
    """Yield 0 when it is ready, then the sizes of the batches of an epoch; so do the others."""
    loader = streaming_loader(args, task, antialias)
    yield 0
    # Bytes on the host are what the peers give, too; normalising them is no part of the comparison.
    for filled in loader.host_batches(0):
        yield len(filled.indices)


def mxnet_batches(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[int]:
    """Yield the sizes of the batches of mx.io.ImageRecordIter, without the samples that it pads with."""
    import mxnet as mx

    settings = {
        "T1": {"rand_crop": True, "rand_mirror": True, "shuffle": True},
        "T2": {"random_resized_crop": True, "min_random_area": AREA[0], "max_random_area": AREA[1],
               "shuffle": True, "min_aspect_ratio": ASPECT[0], "max_aspect_ratio": ASPECT[1],
               "rand_mirror": True},
        # without rand_crop MXNet takes the centre
        "V": {"resize": 256}}[task]
    batches = mx.io.ImageRecordIter(
        path_imgrec=args.records, path_imgidx=str(Path(args.records).with_suffix(".idx")),
        data_shape=(3, 224, 224), batch_size=BATCH, preprocess_threads=args.threads, prefetch_buffer=4,
        dtype="uint8", ctx="cpu", **settings)  # ctx: MXNet's default decodes with half of the cores
    yield 0
    for batch in batches:
        batch.data[0].wait_to_read()  # MXNet is asynchronous: without this the batch may not be there yet
        # `pad` is right in the first epoch, and wrong in later ones: so only one is measured.
        yield BATCH - batch.pad


def torchvision_batches(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[int]:
    """Yield those of torch's DataLoader: worker processes with torchvision's decoder and transforms."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    from imgcls.formats.recordio import RecordReader

    torch.set_num_threads(1)  # the processes of the DataLoader inherit it: one core each
    steps = {
        "T1": [v2.RandomCrop(224), v2.RandomHorizontalFlip()],
        "T2": [v2.RandomResizedCrop(224, AREA, ASPECT, antialias=True), v2.RandomHorizontalFlip()],
        "V": [v2.Resize(256, antialias=True), v2.CenterCrop(224)]}[task]
    transform = v2.Compose(steps)

    # The same record file as the others read: torchvision has no reader of its own for it.
    class Photographs(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.reader = RecordReader(args.records)

        def __len__(self) -> int:
            return len(self.reader)

        def __getitem__(self, index: int) -> torch.Tensor:
            # bytearray: torch warns of memory that it may not write to
            data = torch.frombuffer(bytearray(self.reader[index].image), dtype=torch.uint8)
            return transform(decode_jpeg(data, ImageReadMode.RGB))

    loader = torch.utils.data.DataLoader(Photographs(), batch_size=BATCH, shuffle=task != "V",
                                         prefetch_factor=4, num_workers=args.threads)
    yield 0
    for batch in loader:
        yield len(batch)  # at the end its processes end as well, and their time is counted


def dali_batches(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[int]:
    """Yield the sizes of the batches of a DALI pipeline on the CPU."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=args.threads, device_id=None, seed=1)
    def pipeline() -> object:
        index = str(Path(args.records).with_suffix(".idx"))
        data, _ = fn.readers.mxnet(path=[args.records], index_path=[index],
                                   random_shuffle=task != "V", name="reader")
        if task == "T2":
            # DALI at its best: this operator decodes only what the crop needs.
            images = fn.decoders.image_random_crop(data, output_type=types.RGB, random_area=list(AREA),
                                                   random_aspect_ratio=list(ASPECT))
            images = fn.resize(images, size=(224, 224))
            return fn.flip(images, horizontal=fn.random.coin_flip())
        images = fn.decoders.image(data, output_type=types.RGB)
        if task == "V":
            return fn.crop(fn.resize(images, resize_shorter=256), crop=(224, 224))
        images = fn.crop(images, crop=(224, 224), crop_pos_x=fn.random.uniform(range=(0, 1)),
                         crop_pos_y=fn.random.uniform(range=(0, 1)))
        return fn.flip(images, horizontal=fn.random.coin_flip())

    running = pipeline()
    running.build()
    count = running.epoch_size("reader")
    yield 0
    # Only complete batches: DALI fills the last one up, and what it fills with is no work of this epoch.
    for _ in range(count // BATCH):
        images, = running.run()
        images.as_tensor()  # one array of the batch, as the others give it; it waits for the pipeline
        yield BATCH


PEERS: dict[str, Callable[[argparse.Namespace, str, bool], Iterator[int]]] = {
    "imgcls": imgcls_batches, "mxnet": mxnet_batches, "torchvision": torchvision_batches,
    "dali": dali_batches}


def _python(args: argparse.Namespace, peer: str) -> str:
    """Return the Python that a peer runs in; empty where there is none."""
    name, _, kind = peer.partition(" ")
    if kind == "seekable" and not shutil.which("jpegtran"):
        return ""
    if name in ("imgcls", "torchvision"):
        # Asked in a process of its own, as the peers run: this one stays small.
        probe = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
        return sys.executable if probe.returncode == 0 else ""
    return {"mxnet": args.mxnet_python, "dali": args.dali_python}[name] or ""


def _records_of(peer: str, folder: Path, file: str) -> Path:
    return folder / ("seekable.rec" if peer.endswith("seekable") else f"{file}.rec")


def make_records(args: argparse.Namespace, folder: Path) -> None:
    """Write o.rec, the photographs as they are, and s256.rec, of short edge 256 and quality 95.

    Both hold each photograph `--repeat` times.
    """
    import cv2
    import numpy as np

    from imgcls.data.packing.images import short_edge_size
    from imgcls.data.packing.pack import make_seekable
    from imgcls.formats import recordio

    files = sorted(file for file in Path(args.images).iterdir() if file.suffix.lower() in (".jpg", ".jpeg"))
    for name in ("o", "s256"):
        encoded = []
        for file in files:
            data = file.read_bytes()
            if name == "s256":
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                image = cv2.resize(image, short_edge_size(image.shape[1], image.shape[0], 256))
                data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            encoded.append(data)
        # 400 photographs several times over: an epoch long enough to measure, and all in the page cache.
        with recordio.RecordWriter(folder / f"{name}.rec") as writer:
            # By turns, not each photograph ten times in a row: neighbours differ as in a shuffled file.
            for index in range(args.repeat * len(files)):
                header = recordio.ImageHeader(0, index % len(files), index)
                writer.write(recordio.pack(header, encoded[index % len(files)]))
        mean_kb = sum(map(len, encoded)) / len(files) / 1e3
        print(f"{name}.rec: {args.repeat * len(files)} records of {mean_kb:.1f} kB")

    if shutil.which("jpegtran"):
        make_seekable(folder / "o.rec", folder / "seekable.rec", args.threads)


def arguments(doc: str | None, add: Callable[[argparse.ArgumentParser], object],
              repeat: int) -> argparse.Namespace:
    """Return the arguments of a benchmark of loaders; `add` gives it those of its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images")
    parser.add_argument("--mxnet-python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", default="T1,T2,V")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=repeat)
    # of the processes of the peers
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--records", help=argparse.SUPPRESS)
    add(parser)
    args = parser.parse_args()
    if not args.role and not args.images:
        parser.error("--images is missing: a folder of photographs")
    return args


if __name__ == "__main__":
    sys.exit(main())
