#!/usr/bin/env python3
"""Run the commands of the pages of docs/seeds, in order, from drawn archives to the score.

    scripts/seed_pages.py              all pages
    scripts/seed_pages.py theano       these

The archives are small and drawn anew, in a temporary folder. Commands that train get flags for a small
machine behind their own: no GPU, one epoch, four images a batch. Networks, sizes of images and formats are
those of the page. A page takes half a minute to two on two cores. Exit status 1 where a command failed; what
it printed is shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "seeds"
#: flags added to every command that trains, and more of them for single pages
SMALL = "--gpus none --num-epochs 1 --batch-size 4 --disp-batches 1 --dtype float32 --data-nthreads 2"
OF_PAGE: dict[str, str] = dict.fromkeys(["ilsvrc12", "torch", "caffe", "theano"], "--num-classes 7")
#: the script of examples/ that draws what a page begins with
DRAWN = {"full-imagenet": ["draw_classes.py", "fall11_whole.tar", "14"]}
ILSVRC12 = ["draw_ilsvrc12.py", ".", "7", "2", "8"]
#: what a page says for millions of images -> what suits some hundred
OF_SMALL_SET = {"MIN=501 VAL=50 RESIZE=480": "MIN=13 VAL=2 RESIZE=64"}


def commands(page: Path) -> str:
    """Return the lines of all blocks of shell commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return "".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def write_cifar(folder: Path) -> None:
    """Write CIFAR-10's binary files with four pictures each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (4, 3073)).astype(np.uint8)
        rows[:, 0] = np.arange(4)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_programs(folder: Path, flags: str) -> None:
    """Write the commands of the package, and a python, which train with the flags of a small machine."""
    folder.mkdir()
    # nothing is downloaded: what is fine-tuned was trained before on the same page
    tuned = f"{flags} --pretrained-model model/cifar10 --load-epoch 1"
    for path in (ROOT / "imgcls" / "cli").glob("[a-z]*.py"):
        name = path.stem.replace("_", "-")
        more = {"train": flags, "finetune": tuned, "score": "--gpus none", "predict": "--gpus none"}
        (folder / f"imgcls-{name}").write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m imgcls {name} "$@" {more.get(name, "")}\n')
    cifar = f"{flags} --data-dir cifar-10-batches-bin"
    cases = {"scripts/fine-tune*": tuned, "scripts/train_cifar10*": cifar, "scripts/train_*": flags, "*": ""}
    lines = "".join(f'{pattern}) more="{more}";;\n' for pattern, more in cases.items())
    (folder / "python").write_text(
        f'#!/bin/sh\ncase "$1" in\n{lines}esac\nexec "{sys.executable}" "$@" $more\n')
    for path in folder.iterdir():
        path.chmod(0o755)


def run_page(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's commands in an empty folder."""
    # pages are written for somebody in a checkout
    for name in ("examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IMGCLS_CACHE": str(folder / "cache"),
                   "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    if page.stem == "cifar10":
        write_cifar(folder / "cifar-10-batches-bin")
    else:
        draw = DRAWN.get(page.stem, ILSVRC12)
        subprocess.run([sys.executable, ROOT / "examples" / draw[0], *draw[1:]], cwd=folder, check=True)
    # in front of installed ones, which may be another version's
    write_programs(folder / "bin", f"{SMALL} {OF_PAGE.get(page.stem, '')}".strip())
    # one shell for the whole page: it changes folders and sets variables on the way
    script = commands(page)
    for large, small in OF_SMALL_SET.items():
        script = script.replace(large, small)
    return subprocess.run(["bash", "-euxo", "pipefail", "-c", script], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def main() -> int:
    """Run the pages that the command line names, or all."""
    names = sys.argv[1:] or sorted(path.stem for path in PAGES.glob("*.md"))
    num_failed = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="seed-pages-") as folder:
            done = run_page(PAGES / f"{name}.md", Path(folder))
        print(f"{name}: {'all commands ran' if not done.returncode else 'FAILED'}", flush=True)
        if done.returncode:
            num_failed += 1
            print(done.stdout[-4000:])
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
