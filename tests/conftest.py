"""What several tests share: the optional folder of outside fixtures, and running a command as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared(*parts: str) -> Path:
    """A path in the folder of outside fixtures beside the checkout; the test is skipped where it is absent."""
    path = ROOT.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"no {Path('shared', *parts)} beside the checkout")
    return path


def run_cli(command: str, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None,
            timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m imgcls <command> args...` in a process of its own, off a terminal."""
    return subprocess.run([sys.executable, "-m", "imgcls", command, *map(str, args)], cwd=cwd, text=True,
                          capture_output=True, timeout=timeout, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})})


def run_workers(script: str, count: int, *args: object, timeout: float = 120) -> None:
    """`python script RANK args...` for each rank at once; the first that fails fails the test with what it said."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([sys.executable, script, str(rank), *map(str, args)], env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for rank in range(count)]
    try:
        for rank, worker in enumerate(workers):
            said = worker.communicate(timeout=timeout)[0]
            assert worker.returncode == 0, f"rank {rank}:\n{said}"
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def write_digits(root: Path) -> Path:
    """Drawn digits in MNIST's four files: 320 for training, 64 for validation. Returns the folder."""
    from imgcls.datasets import digits
    from imgcls.formats import idx

    for part, count, seed in (("train", 320, 1), ("t10k", 64, 2)):
        images, labels = digits.draw(count, seed)
        idx.write_images(root / f"{part}-images-idx3-ubyte.gz", images[:, 0])
        idx.write_labels(root / f"{part}-labels-idx1-ubyte.gz", labels)
    return root
