"""Measure the epochs of a set that is decoded once: ours beside MXNet and beside caches made by hand.

    python benchmarks/decoded_cache.py --images DIR [--mxnet-python PATH] [--rounds 3] [--tasks T1,T2,V]
        [--results FILE] [--folder DIR]

Tasks, record files and MXNet's settings are those of `loader.py`. Every peer runs in a process of its own,
the peers in turn; ratios are taken within a round. Batches of 128 of 3 x 224 x 224 bytes:

    imgcls none    every epoch decoded (`--decoded-cache-gb 0`)
    imgcls         the decoded cache; its first epoch, and the median of the four after it
    disk           `--decoded-cache-dir`: the first epoch of a run, and the median of a second run's
    mxnet          ImageRecordIter, tuned; its first epoch (later ones decode as much, but lose samples)
    dict           a dictionary of decoded tensors, filled before the clock starts, in torch's DataLoader with
                   two processes, torchvision v2 on top; `dict 0`: without processes
    tensor         of V: one uint8 tensor of the finished crops, indexed by batch in the DataLoader

`aa` resizes with antialiasing, `linear` without. FFCV is left out: its package is compiled on the spot and
needs OpenCV's C++ headers. `memory` at the end: two processes of a cache, what they hold together, the budget
and what is used of it, and the memory of one over 100 epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not
sys.path.insert(0, str(Path(__file__).parent))

import loader as one_epoch

# one that fills the cache, and four of which a median is taken
EPOCHS = 5
#: task -> peers; what a ratio compares with is the first word and how it resizes
PEERS = {
    "T1": ("imgcls linear", "disk linear", "none linear", "mxnet linear", "dict aa", "dict0 aa"),
    "T2": ("imgcls linear", "imgcls aa", "disk linear", "none linear", "mxnet linear", "dict linear",
           "dict aa", "dict0 aa"),
    # a dictionary of whole images would resize every time: for validation the finished crop is
    # what is kept
    "V": ("imgcls linear", "disk linear", "none linear", "mxnet linear", "tensor aa", "tensor0 aa")}


def main() -> int:
    """Make the record files, run all peers in turn, print a table for each task, then the memory."""
    args = one_epoch.arguments(__doc__, _add_arguments, repeat=4)
    if args.role:
        # the same file is the parent, which only starts processes, and each of the peers
        _measure(args)
        return 0
    with tempfile.TemporaryDirectory(prefix="imgcls-decoded-") as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "s256.rec").exists():
            one_epoch.make_records(args, folder)
        _touch_memory()
        for task in filter(None, args.tasks.split(",")):
            peers = [peer for peer in PEERS[task] if not peer.startswith("mxnet") or args.mxnet_python]
            records = Path(folder) / f"{one_epoch.TASKS[task][0]}.rec"
            # all peers once, and again: what slows the machine down for a minute slows all of them
            # down
            for _ in range(args.rounds):
                rounds = _rounds(args, task, {peer: _run(args, task, peer, records) for peer in peers})
            _table(task, rounds)
        if args.memory:
            _memory(args, Path(folder) / "s256.rec")
    return 0


def _touch_memory() -> None:
    """Write to memory once and give it back: a virtual machine's first touch of a page is its host's work."""
    import mmap

    size = 3 << 30
    with mmap.mmap(-1, size) as memory:
        for begin in range(0, size, 4096):
            memory[begin] = 1


def _rounds(args: argparse.Namespace, task: str, measured: dict[str, list[float]]) -> list[Any]:
    """Add a round to those of the task, in the file of results if there is one; return them."""
    _all_rounds.setdefault(task, [])
    if args.results:
        # a line for each round, so that rounds can be measured when a machine is idle for some minutes
        with open(args.results, "a+", encoding="ascii") as stream:
            print(json.dumps({"task": task, "measured": measured}), file=stream)
            stream.seek(0)
            lines = [json.loads(line) for line in stream]
        return [line["measured"] for line in lines if line["task"] == task]
    _all_rounds[task].append(measured)
    return _all_rounds[task]


#: the rounds of this run, by task
_all_rounds: dict[str, list[dict[str, list[float]]]] = {}


def _table(task: str, rounds: list[dict[str, list[float]]]) -> None:
    """Print images per second of the first epoch and of the later ones, and how much faster ours is."""
    print(f"\n{task}: images/s of the first epoch and of later ones; times the cache is faster, in a round")
    for peer in rounds[0]:
        first = statistics.median(r[peer][0] for r in rounds)
        text = f"  {peer:<15}{first:9.0f} {statistics.median(_later(r[peer]) for r in rounds):9.0f}"
        for own in [own for own in rounds[0] if own.startswith("imgcls") and own != peer]:
            # within a round, not of medians: the clock rate of two rounds may differ more than the
            # peers
            ratios = [_later(r[own]) / _later(r[peer]) for r in rounds]
            text += (f"   {own.split()[1]}: x{statistics.median(ratios):.2f} "
                     f"({min(ratios):.2f}-{max(ratios):.2f})")
        print(text, flush=True)
    ratios = [r["imgcls linear"][0] / statistics.median(r["none linear"]) for r in rounds]
    print(f"  the first epoch with the cache is x{statistics.median(ratios):.2f} as fast as one without")


def _later(speeds: list[float]) -> float:
    return statistics.median(speeds[1:] or speeds)


def _run(args: argparse.Namespace, task: str, peer: str, records: Path) -> list[float]:
    """Run one peer in a process of its own; return images per second of each epoch."""
    python = args.mxnet_python if peer.startswith("mxnet") else sys.executable
    return one_epoch.run_peer(args, python, __file__, task, peer, records)


def _measure(args: argparse.Namespace) -> None:
    """Take the epochs of a peer in this process and print images per second of each."""
    name, resize = args.role.split()
    epochs = ROLES[name](args, args.tasks, resize == "aa")
    speeds = []
    # an epoch is lazy: its work is done inside of `sum`
    for batches in epochs:
        started = time.perf_counter()
        count = sum(batches)
        speeds.append(count / (time.perf_counter() - started))
    print(json.dumps(speeds))
    sys.stdout.flush()
    os._exit(0)  # some peers hang in their own end


def imgcls_epochs(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[Iterator[int]]:
    """Yield the epochs of our loader with a cache that holds all; an epoch is the sizes of its batches."""
    from imgcls.data.decoded.segment import Segment

    made = one_epoch.streaming_loader(args, task, antialias)
    # large enough for all of the set: a cache that holds a part decodes the rest as if there were
    # none
    made.keep_in(Segment.create(4 << 30))
    for epoch in range(EPOCHS):
        yield (len(batch.indices) for batch in made.host_batches(epoch))


def disk_epochs(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[Iterator[int]]:
    """Yield the first epoch of a run with `decoded_cache_dir`, and then those of a second run."""
    from imgcls.config.sections import DeviceConfig
    from imgcls.distributed.topology import make_worker
    from imgcls.training import decoded_cache

    worker = make_worker(DeviceConfig(gpus=""))
    with tempfile.TemporaryDirectory(prefix="imgcls-decoded-", dir=Path(args.records).parent) as folder:
        for epochs in (1, EPOCHS - 1):
            made = one_epoch.streaming_loader(args, task, antialias)
            # with nothing but the files of the run before, as another process would find them
            decoded_cache.attach(4.0, made, None, worker, folder)
            assert ("from before" in made.note) == (epochs > 1), made.note
            for epoch in range(epochs):
                yield (len(batch.indices) for batch in made.host_batches(epoch))
            # which saves the tables
            del made


def none_epochs(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[Iterator[int]]:
    """Yield two epochs of our loader without a cache."""
    made = one_epoch.streaming_loader(args, task, antialias)
    # a second one shows that the first was not slow for being first
    for epoch in range(2):
        yield (len(batch.indices) for batch in made.host_batches(epoch))


def mxnet_epochs(args: argparse.Namespace, task: str, antialias: bool) -> Iterator[Iterator[int]]:
    """Yield MXNet's first epoch."""
    batches = one_epoch.mxnet_batches(args, task, antialias)
    # MXNet's threads have begun by then, as ours have before the clock starts
    next(batches)
    yield batches


def dict_epochs(args: argparse.Namespace, task: str, antialias: bool,
                num_workers: int = 2) -> Iterator[Iterator[int]]:
    """Yield the epochs of a DataLoader over a dictionary of decoded images."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    from imgcls.formats.recordio import RecordReader

    # torchvision's transforms run in the DataLoader's processes, and each would take all cores
    torch.set_num_threads(1)
    decoded = {index: decode_jpeg(torch.frombuffer(bytearray(record.image), dtype=torch.uint8),
                                  ImageReadMode.RGB)
               for index, record in enumerate(RecordReader(args.records))}
    steps = {"T1": [v2.RandomCrop(224)],
             "T2": [v2.RandomResizedCrop(224, one_epoch.AREA, one_epoch.ASPECT, antialias=antialias)]}[task]
    transform = v2.Compose([*steps, v2.RandomHorizontalFlip()])

    class Decoded(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(decoded)

        def __getitem__(self, index: int) -> torch.Tensor:
            return transform(decoded[index])

    yield from _loader_epochs(Decoded(), num_workers, shuffle=True)


def tensor_epochs(args: argparse.Namespace, task: str, antialias: bool,
                  num_workers: int = 2) -> Iterator[Iterator[int]]:
    """Yield the epochs of a DataLoader over one tensor of finished crops."""
    import torch

    # their content does not matter for the time that copying them takes
    from imgcls.formats.recordio import RecordReader

    crops = torch.randint(256, (len(RecordReader(args.records)), 3, 224, 224), dtype=torch.uint8)

    class Crops(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(crops)

        # a whole batch in one indexing: the fastest that a DataLoader can be given
        def __getitems__(self, indices: list[int]) -> torch.Tensor:
            return crops[indices]

    yield from _loader_epochs(Crops(), num_workers, shuffle=False, collate=lambda batch: batch)


def _loader_epochs(dataset: Any, num_workers: int, *, shuffle: bool,
                   collate: Callable[[object], object] | None = None) -> Iterator[Iterator[int]]:
    import torch

    batches = torch.utils.data.DataLoader(
        dataset, batch_size=one_epoch.BATCH, shuffle=shuffle, num_workers=num_workers, collate_fn=collate,
        # processes that stay: starting them anew in every epoch would be counted
        persistent_workers=num_workers > 0, prefetch_factor=4 if num_workers else None)
    for _ in range(EPOCHS):
        yield (len(batch) for batch in batches)


ROLES: dict[str, Callable[[argparse.Namespace, str, bool], Iterator[Iterator[int]]]] = {
    "imgcls": imgcls_epochs, "disk": disk_epochs, "none": none_epochs, "mxnet": mxnet_epochs,
    "dict": dict_epochs, "tensor": tensor_epochs, "dict0": lambda *words: dict_epochs(*words, num_workers=0),
    "tensor0": lambda *words: tensor_epochs(*words, num_workers=0)}


def _memory(args: argparse.Namespace, records: Path) -> None:
    """Print what a cache holds for one process and for two, and whether that stays so over 100 epochs."""
    from imgcls.data.decoded import images
    from imgcls.data.decoded.segment import Segment

    args.records = str(records)
    one, other = (one_epoch.streaming_loader(args, "T1", False) for _ in range(2))
    # less than the set: the cache must hold to it, and the table tells whether it does
    budget = 100_000_000
    segment = Segment.create(budget)
    one.keep_in(segment)
    _take(one, 0)
    used = images.ImageCache(segment, len(one.source), 3).used_bytes
    before = _shared_bytes()
    # by its address, as a second process of a node has it
    attached = Segment.attach(segment.address, segment.size)
    assert attached is not None
    other.keep_in(attached)
    for epoch in range(1, 4):
        _take(other, epoch)
    after = _shared_bytes()
    for epoch in range(4, 100):
        # the order of every epoch, of which a few batches are then taken: 100 epochs in seconds
        one.epoch_indices(epoch)
        _take(one, epoch, 2)
    print(f"\nmemory: budget {budget / 1e6:.1f} MB, in use {used / 1e6:.1f} MB, pages of this machine "
          f"{before / 1e6:.1f} MB with one loader, {after / 1e6:.1f} MB with two, "
          f"{_shared_bytes() / 1e6:.1f} MB after 100 epochs")


def _take(made: Any, epoch: int, count: int = 10**9) -> None:
    for number, _ in enumerate(made.host_batches(epoch)):
        if number + 1 >= count:
            return


def _shared_bytes() -> int:
    """Return the bytes of the segment's pages: of the file itself, however many have it mapped."""
    blocks = {}
    for handle in Path("/proc/self/fd").iterdir():
        try:
            # memory of the segment is counted once however many map it; a process's own figures count
            # it in each
            if "memfd:imgcls-decoded" in os.readlink(handle):
                status = os.stat(handle)
                # st_blocks is in units of 512 bytes whatever the block size is (stat(2))
                blocks[status.st_ino] = 512 * status.st_blocks
        except OSError:  # the folder's own handle
            continue
    return sum(blocks.values())


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--results", help="a file of rounds: those of this run are added, all are shown")
    parser.add_argument("--folder", help="keep the record files there for another run")


if __name__ == "__main__":
    sys.exit(main())
