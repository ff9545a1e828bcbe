"""How fast is im2rec from archives, beside the folder that they would be when extracted?

    python benchmarks/packing_archives.py [--count 4000] [--rounds 5] [--threads 2] [--size 256]

Photographs are drawn (blurred noise) into 20 class folders, and the same bytes into a tar of class tars, one
plain tar and a zip. Each round packs all four from a shuffled list, in turn, `--resize` and `--pass-through`;
the records are compared. Times are of the whole process from lists that are there, headers of the archives
read anew each time (they are small, so no index is kept). Everything comes from the page cache. Extraction,
which archives save, is timed beside: `tar -xf` of the tar and of each class tar, synced.

With --memory COUNT ... peak memory is measured instead: a tar of so many tiny images each, listed and packed.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
#: enough for a tar of tars, few enough that a class has some hundred images
NUM_CLASSES = 20
#: as they are, which is reading and writing, and encoded anew, which is arithmetic
TASKS = {"pass-through": ["--pass-through"], "resize 128": ["--resize", "128"]}


def main() -> int:
    """Draw the images, then compare the sources on each task."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.memory:
            _compare_memory(folder, args.memory)
            return 0
        sources = _draw(folder, args.count, args.size)
        print(f"{args.count} images, {args.threads} threads, {args.rounds} rounds; wall s (median), "
              "images/s, user + system s, times as fast as the folder")
        for task, flags in TASKS.items():
            _compare(task, sources, [*flags, "--num-thread", str(args.threads)], folder, args)
        print(f"{'tar -xf and sync':16}{'':12}{_time_extraction(folder):8.2f} s")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="pixels of the short edge")
    parser.add_argument("--memory", type=int, nargs="+", help="numbers of images to measure peak memory with")
    return parser.parse_args()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _draw(folder: Path, count: int, size: int) -> dict[str, Path]:
    """Write the same images as a folder and as archives; return name -> path."""
    rng = np.random.default_rng(0)
    images = []
    # noise alone would weigh more than photographs do
    for _ in range(min(count, 200)):  # taken several times over
        noise = cv2.GaussianBlur(rng.integers(0, 256, (size, size * 4 // 3, 3), np.uint8), (3, 3), 0)
        images.append(cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    sources = {"folder": folder / "photos", "tar of tars": folder / "whole.tar", "tar": folder / "plain.tar",
               "zip": folder / "photos.zip"}
    with (tarfile.open(sources["tar of tars"], "w") as whole, tarfile.open(sources["tar"], "w") as plain,
          zipfile.ZipFile(sources["zip"], "w") as packed):
        for number in range(NUM_CLASSES):
            name = f"n{number:03d}"
            (sources["folder"] / name).mkdir(parents=True)
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as class_tar:
                for i in range(number, count, NUM_CLASSES):
                    # numbered through, so that the list's order mixes all classes
                    data = images[i % len(images)]
                    (sources["folder"] / name / f"{i}.jpg").write_bytes(data)
                    _add(class_tar, f"{i}.jpg", data)
                    _add(plain, f"{name}/{i}.jpg", data)
                    packed.writestr(f"{name}/{i}.jpg", data)
            _add(whole, f"{name}.tar", inner.getvalue())
    return sources


def _compare(task: str, sources: dict[str, Path], flags: list[str], folder: Path,
             args: argparse.Namespace) -> None:
    """Pack from each source in turn and print a line for each."""
    # each source has a value a round: a ratio is taken within the round
    walls: dict[str, list[float]] = {name: [] for name in sources}
    cpus: dict[str, list[float]] = {name: [] for name in sources}
    _im2rec(str(folder / "all"), str(sources["folder"]), "--list", "--recursive")
    records = set()
    for _ in range(args.rounds):
        for name, path in sources.items():
            prefix = folder / name.replace(" ", "-")
            shutil.copy(folder / "all.lst", f"{prefix}.lst")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            _im2rec(str(prefix), str(path), *flags)
            walls[name].append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            records.add(Path(f"{prefix}.rec").read_bytes())
            Path(f"{prefix}.lst").unlink()  # `tar` is the beginning of `tar-of-tars`
    for name in sources:
        wall = statistics.median(walls[name])
        # within a round, then the median: what else the machine does hits both
        ratio = statistics.median(f / o for f, o in zip(walls["folder"], walls[name], strict=True))
        cpu = statistics.median(cpus[name])
        print(f"{task:16}{name:12}{wall:8.2f} s{args.count / wall:9.0f}/s{cpu:8.2f} s   x{ratio:.2f}",
              flush=True)
    print(f"{task:16}{'the same bytes' if len(records) == 1 else 'OTHER BYTES'}")


def _im2rec(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "imgcls", "im2rec", *words], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})


def _time_extraction(folder: Path) -> float:
    """Return the seconds that the tutorial's loop takes to extract the tar of tars."""
    loop = ("mkdir out && tar -xf whole.tar -C out && for i in out/*.tar; do j=${i%.*}; mkdir $j; "
            "tar -xf $i -C $j; rm $i; done; sync -f out")
    # as the tutorial has it, and synced, since records are synced as well
    start = time.perf_counter()
    subprocess.run(["bash", "-c", loop], check=True, cwd=folder)
    return time.perf_counter() - start


def _compare_memory(folder: Path, counts: list[int]) -> None:
    """Print the peak memory of listing and packing tars of so many images."""
    image = cv2.imencode(".jpg", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    code = ("import sys; from imgcls.cli.im2rec import main; from imgcls.storage.memory import peak_bytes; "
            "status = main(sys.argv[1:]); print(peak_bytes(), file=sys.stderr); sys.exit(status)")
    for count in counts:
        path = folder / f"{count}.tar"
        with tarfile.open(path, "w") as tar:
            for i in range(count):
                _add(tar, f"n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG", image)
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every name
        # the smallest images there are: what grows is what is kept of each
        flags = ["--recursive", "--pass-through", "--num-thread", "2"]
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, str(folder / f"x{count}"), str(path), *flags],
                              check=True, capture_output=True, text=True, cwd=ROOT)
        seconds = time.perf_counter() - start
        peak = int(done.stderr.splitlines()[-1])
        print(f"{count:10} images: peak {peak / 1e6:7.1f} MB, {seconds:6.1f} s", flush=True)
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
