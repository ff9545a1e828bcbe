"""How fast is im2rec, beside MXNet's own im2rec.py?

    python benchmarks/packing.py --mxnet-python VENV/bin/python [--images DIR] [--count 2000] [--rounds 3]

Both pack the same images from the same list with two threads: `--resize 256 --quality 95`, then
`--pass-through`. They take turns. Times are of the whole process, interpreter start included; a run on a
single image tells what starting costs, and comes first, so that the bytecode of both is there. CPU time is
user + system of the process and its children. Without --images, photographs of 500x375 are drawn (blurred
noise, about 80 kB each). The images are read once before: they come from the page cache. The peer is the file
mxnet/tools/im2rec.py of the wheel (1.9.1), which starts processes where we start threads.

On 2 cores, 3 rounds of 2,000 ImageNet photographs (mean 110 kB), medians: --resize 2.5x, --pass-through 4.1x.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
#: the two ways people pack: encoded anew, which is arithmetic, and as they are, which is reading and writing
TASKS = {"resize 256, quality 95": ["--resize", "256", "--quality", "95"], "pass-through": ["--pass-through"]}


def main() -> int:
    """Write the lists, then compare the peers on each task."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # As it is with installed packages: no module is compiled anew in each run.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        # 500 drawn files are enough, since the list names them several times over.
        images = Path(args.images) if args.images else _draw(folder / "images", min(args.count, 500))
        _write_list(folder / "all.lst", images, args.count)
        _write_list(folder / "one.lst", images, 1)
        peers = {"ours": [sys.executable, "-m", "imgcls", "im2rec"]}
        if args.mxnet_python:
            # Warnings of its old numpy calls are no part of the work.
            peers["MXNet"] = [args.mxnet_python, "-W", "ignore", _mxnets_tool(args.mxnet_python)]
        print(f"{args.count} images of {images}, {args.threads} threads, {args.rounds} rounds; "
              "wall s (median), images/s, CPU ms per image")
        # The fastest task there is: what is left of its time is the start.
        _compare("one image", peers, [str(images), "--pass-through"], folder / "one", args.rounds, 1)
        for task, flags in TASKS.items():
            arguments = [str(images), *flags, "--num-thread", str(args.threads)]
            _compare(task, peers, arguments, folder / "all", args.rounds, args.count)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mxnet-python", default="",
                        help="an interpreter with mxnet 1.9.1 and cv2; without: no peer")
    parser.add_argument("--images", default="", help="a folder of images; without: drawn ones")
    parser.add_argument("--count", type=int, default=2000,
                        help="images to pack; files are taken several times over")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _compare(task: str, peers: dict[str, list[str]], arguments: list[str], prefix: Path, rounds: int,
             count: int) -> None:
    """Run the peers in turn, print a line for each, and whether they wrote the same bytes."""
    walls: dict[str, list[float]] = {name: [] for name in peers}
    cpus: dict[str, list[float]] = {name: [] for name in peers}
    files: dict[str, Path] = {}
    for _ in range(rounds):
        for name, command in peers.items():
            # A list, and so a record file, of its own: the bytes are compared at the end.
            own_prefix = prefix.with_name(f"{name}-{prefix.name}")
            shutil.copy(f"{prefix}.lst", f"{own_prefix}.lst")
            wall, cpu = _timed([*command, str(own_prefix), *arguments])
            walls[name].append(wall)
            cpus[name].append(cpu)
            files[name] = own_prefix.with_suffix(".rec")
    for name in peers:
        wall = statistics.median(walls[name])
        cpu = statistics.median(cpus[name])
        print(f"{task:24}{name:8}{wall:8.2f} s{count / wall:10.0f}/s{1000 * cpu / count:10.2f} ms",
              flush=True)
    if "MXNet" in peers:
        # Within a round, then the median: what else the machine does hits both.
        ratio = statistics.median(m / o for m, o in zip(walls["MXNet"], walls["ours"], strict=True))
        cpu_ratio = statistics.median(m / o for m, o in zip(cpus["MXNet"], cpus["ours"], strict=True))
        # Reported, not required: two versions of OpenCV may encode the same pixels to other bytes.
        is_same = files["ours"].read_bytes() == files["MXNet"].read_bytes()
        verdict = "the same bytes" if is_same else "other bytes"
        print(f"{task:24}ratio {ratio:.2f} wall, {cpu_ratio:.2f} CPU; {verdict}")
    for path in files.values():
        # The next task writes under the same names and needs the space on the disk.
        path.unlink()


def _timed(command: list[str]) -> tuple[float, float]:
    """Return (wall, CPU) seconds of a command and its children."""
    # MXNet's tool works in processes: waited-for children are counted with their own children, so CPU time
    # is that of all of them, and says what packing costs where cores are shared.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _mxnets_tool(python: str) -> str:
    """Return where that interpreter's mxnet has its im2rec.py."""
    code = "import mxnet, os; print(os.path.join(os.path.dirname(mxnet.__file__), 'tools', 'im2rec.py'))"
    done = subprocess.run([python, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split("\n")[-2]  # mxnet prints warnings before it


def _draw(folder: Path, count: int) -> Path:
    """Draw images that weigh about what photographs of their size do."""
    folder.mkdir()
    # the same pictures in every run, so that figures of two days can be compared
    rng = np.random.default_rng(0)
    for i in range(count):
        # Noise alone would make files several times as large as photographs, blots alone far smaller ones.
        noise = rng.integers(0, 256, (375, 500, 3), np.uint8)
        blots = rng.integers(0, 256, (6, 8, 3), np.uint8)
        coarse = cv2.resize(blots, (500, 375), interpolation=cv2.INTER_CUBIC)
        pixels = cv2.addWeighted(coarse, 0.8, cv2.GaussianBlur(noise, (3, 3), 0), 0.2, 0)
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (folder / f"{i}.jpg").write_bytes(encoded.tobytes())
    return folder


def _write_list(path: Path, images: Path, count: int) -> None:
    """Write a list of `count` of the images, some several times, and read them all once."""
    names = sorted(p.name for p in images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for name in names:
        (images / name).read_bytes()    # into the page cache
    path.write_text("".join(f"{i}\t{i % 10}\t{names[i % len(names)]}\n" for i in range(count)))


if __name__ == "__main__":
    sys.exit(main())
