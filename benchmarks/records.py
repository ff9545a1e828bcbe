"""Measure how fast record files are read, beside MXNet's own reader.

    python benchmarks/records.py --mxnet-python /path/to/venv/bin/python [--count 1000000] [--rounds 3]

Writes a file of `count` records of 1,000 bytes to a temporary folder (1 GB; it must fit in memory beside the
rest, so that disks do not matter) and measures, each time in a fresh process, the peers taking turns:
    open       a reader with its index of a million lines
    search     finding all records without an index
    sequential iterating over every record: bytes objects in both
    random     200,000 records in random order: one at a time, and (ours) in groups of 256 as a loader asks
               for them; both read the bytes, `payload` and `payloads` with one system call a record

On 2 cores, 3 rounds, medians: open 0.08 s (MXNet 0.36), search 0.16 s, sequential 4.5x. Random was measured
at 9.7x while files were mapped and nothing was copied; read by position, a record takes about 2.5 us, of the
1,000 us and more that its image takes to decode (`formats/recordio/record_file.py` says why).
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# the checkout, installed or not
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAYLOAD_BYTES = 1000  # small: what a record costs beside its bytes is what differs

# The peer's whole program: it runs in an environment that does not have this package.
PEER = '''
import json, sys, time
import numpy as np
import mxnet as mx
folder, count = sys.argv[1], int(sys.argv[2])
start = time.perf_counter()
indexed = mx.recordio.MXIndexedRecordIO(folder + "/x.idx", folder + "/x.rec", "r")
opened = time.perf_counter()
plain, seen = mx.recordio.MXRecordIO(folder + "/x.rec", "r"), 0
while plain.read() is not None:
    seen += 1
read = time.perf_counter()
order = np.random.default_rng(0).permutation(count)[:200000].tolist()
begun = time.perf_counter()
for i in order:
    indexed.read_idx(i)
ended = time.perf_counter()
assert seen == count
print(json.dumps({"open s": opened - start, "sequential /s": seen / (read - opened),
                  "random /s": len(order) / (ended - begun)}))
'''


def main() -> int:
    """Write the file, run the peers in turn, print medians and ratios."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        # Once for all rounds: just written, the file is in the page cache for both.
        _write(Path(folder), args.count)
        peers = {"ours": [sys.executable, __file__, "--measure", folder, "--count", str(args.count)]}
        if args.mxnet_python:
            peers["MXNet"] = [args.mxnet_python, "-W", "ignore", "-c", PEER, folder, str(args.count)]
        results: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
        # A fresh process each time: nothing of the file's index is left from the round before.
        for _ in range(args.rounds):
            for name, command in peers.items():
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                # the last line: whatever MXNet prints on import comes before it
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, rounds in results.items():
        for what in rounds[0]:
            print(f"{name:8}{what:28}{statistics.median(r[what] for r in rounds):14,.3f}")
    # Ratios of the same round, so that a slow moment of the machine falls on both.
    if args.mxnet_python:
        # In groups we copy each payload, as MXNet's read_idx does; `payload` is shown as it is used.
        for ours, theirs in (("sequential /s", "sequential /s"), ("random, payload /s", "random /s"),
                             ("random, payloads as bytes /s", "random /s")):
            pairs = zip(results["ours"], results["MXNet"], strict=True)
            print(f"ratio   {ours:28}{statistics.median(o[ours] / m[theirs] for o, m in pairs):14.2f}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mxnet-python", default="",
                        help="an interpreter with mxnet 1.9.1; without one only ours runs")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(Path(args.measure), args.count)))
        sys.exit(0)
    return args


def _write(folder: Path, count: int) -> None:
    """Write x.rec and x.idx in blocks; only the magic number matters of what is in the records."""
    # 8 bytes before each payload: the magic number and the length.
    size = 8 + PAYLOAD_BYTES
    block = np.zeros((10_000, size), np.uint8)
    block[:, :8] = np.frombuffer(struct.pack("<II", 0xCED7230A, PAYLOAD_BYTES), np.uint8)
    # The first 24 bytes stay 0, which is a valid header of an image record.
    block[:, 8 + 24:] = np.random.default_rng(0).integers(0, 256, (len(block), PAYLOAD_BYTES - 24), np.uint8)
    # Blocks of 10 MB: a million calls of a writer would take longer than the measurement.
    with open(folder / "x.rec", "wb") as records:
        for first in range(0, count, len(block)):
            records.write(block[:count - first].tobytes())
    (folder / "x.idx").write_text("".join(f"{i}\t{i * size}\n" for i in range(count)))


def _measure(folder: Path, count: int) -> dict[str, float]:
    from imgcls.formats.recordio import RecordReader

    path, now = folder / "x.rec", time.perf_counter
    times = [now()]
    RecordReader(path, use_index=False)
    times.append(now())
    reader = RecordReader(path)
    times.append(now())
    # The payload is asked for, since MXNet's read() returns it: finding the record alone would be cheaper.
    seen = sum(1 for record in reader if record.payload)
    times.append(now())
    order = np.random.default_rng(0).permutation(count)[:200_000]
    # 256 at a time, as a loader asks for the records of a batch.
    groups = np.array_split(order, max(1, len(order) // 256))
    numbers = order.tolist()
    random_times = [now()]
    for i in numbers:
        reader.payload(i)
    random_times.append(now())
    for group in groups:
        for view in reader.payloads(group):
            bytes(view)
    random_times.append(now())
    assert seen == count
    # Differences of one list of readings: no time falls between two tasks.
    search, opened, sequential = np.diff(times).tolist()
    single, grouped = np.diff(random_times).tolist()
    return {"open s": opened, "search s": search, "sequential /s": count / sequential,
            "random, payload /s": len(order) / single, "random, payloads as bytes /s": len(order) / grouped}


if __name__ == "__main__":
    sys.exit(main())
