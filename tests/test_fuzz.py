"""Every format is given spoilt inputs, always the same ones; `scripts/fuzz.py` tries others, for hours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz import mutations
from fuzz.targets import TARGETS

from imgcls.errors import ImgclsError

ROOT = Path(__file__).resolve().parents[1]


def test_an_input_follows_from_its_number() -> None:
    seeds = [b'{"a": [1, 2.5, "x"], "b": {"c": null}}', b"1\t2\tx.jpg\n3\t4\ty.jpg\n", bytes(range(256))]
    for structure in ("bytes", *mutations.STRUCTURES):
        first, again = ([mutations.mutate(Random(f"x/{number}"), seeds, structure) for number in range(300)]
                        for _ in range(2))
        assert first == again
        assert len(set(first)) > 200


@pytest.mark.slow
def test_what_a_fuzzer_begins_with_is_read(tmp_path: Path) -> None:
    """Inputs spoilt from what nobody can read would find nothing."""
    for target in TARGETS.values():
        num_read = 0
        for seed in target.seeds(tmp_path):
            try:
                target.read(seed, tmp_path)
            except ImgclsError:  # some are of another kind of the same format: labels where images are read
                continue
            num_read += 1
        if target.name not in ("idx", "cifar-binary", "cifar-pickle", "params", "states", "server"):
            assert num_read, target.name


@pytest.mark.slow
def test_no_format_is_fooled(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/fuzz.py", "--inputs", "0", "--out", tmp_path],
                          capture_output=True, text=True, check=False, timeout=900)
    problems = "\n".join(path.read_text(encoding="utf-8")[-2000:] for path in sorted(tmp_path.glob("*.txt")))
    assert not done.returncode, f"{done.stdout}\n{done.stderr}\n{problems}"
    assert done.stdout.count(" inputs in ") == len(TARGETS)


BAD_READERS = """
import os, sys
sys.path[:0] = ["tests", "."]
from pathlib import Path
from fuzz import runner, targets
from imgcls.errors import DataError

def read(data, folder):
    if len(data) == 4:
        raise KeyError("a bug")
    if len(data) == 5:
        os.abort()
    if len(data) == 6:
        bytearray(400 << 20)[::4096] = b"x" * (100 << 10)
    if len(data) == 7:
        raise MemoryError if bytearray(1 << 40) else ValueError
    raise DataError("x", "is damaged")

runner.MAX_SILENCE = 2
targets.TARGETS["bad"] = targets.Target("bad", "", lambda folder: [b"abcdefgh"[:n] for n in range(3, 8)], read)
print(len(runner.fuzz("bad", Path(sys.argv[1]), num_inputs=5).findings))
"""


@pytest.mark.slow
def test_the_fuzzer_sees_bugs_crashes_and_memory(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BAD_READERS, tmp_path], cwd=ROOT, capture_output=True, text=True,
                          check=True, timeout=60)
    assert done.stdout == "4\n"
    told = "".join(path.read_text() for path in tmp_path.glob("*.txt"))
    for word in ("a bug", "signal 6", "MB for 6 bytes", "MemoryError"):
        assert word in told
