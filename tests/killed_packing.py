"""Packing runs that end by kill -9 at random moments: which process is killed, and what is packed."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import tarfile
import time

import cv2
import numpy as np
from conftest import ROOT

#: im2rec that says when it begins, packs slowly, and keeps a journal line for every 20 kB to go on from
CODE = """
import sys, time
from imgcls.cli.im2rec import main
from imgcls.data.packing import pipeline, resumable
pipeline.SYNC_BYTES = 20_000
add = resumable.ResumableWriter.add
resumable.ResumableWriter.add = lambda self, skipped: (time.sleep(0.001), add(self, skipped))[1]
print("begins", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def tar_of_tars(num_images: int = 150) -> bytes:
    """Return a tar of three class tars with as many images each."""
    def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for c in range(3):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as class_tar:
                for i in range(num_images):
                    coarse = np.random.default_rng(num_images * c + i).integers(0, 256, (6, 8, 3), np.uint8)
                    image = cv2.imencode(".jpg", cv2.resize(coarse, (320, 240)))[1].tobytes()
                    add(class_tar, f"n{c}_{i:03}.JPEG", image)
            add(tar, f"n{c}.tar", inner.getvalue())
    return whole.getvalue()


def start(prefix: str, *words: str) -> subprocess.Popen[str]:
    """Return a packing run that begins now."""
    process = subprocess.Popen([sys.executable, "-c", CODE, prefix, *words], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def pack(prefix: str, *words: str) -> float:
    """Pack undisturbed; return how many seconds that took."""
    process = start(prefix, *words)
    begin = time.monotonic()
    text = process.communicate()
    assert process.returncode == 0, text
    return time.monotonic() - begin


def pack_killed(prefix: str, *words: str, whole_s: float, num_kills: int = 10) -> tuple[int, int]:
    """Pack, killed as often at random moments, and to the end; return how often it was killed and went on."""
    rng, num_killed, num_resumed = random.Random(time.time_ns()), 0, 0
    while True:
        process = start(prefix, *words)
        is_killed = False
        try:
            process.wait(rng.uniform(0, 0.4) * whole_s if num_killed < num_kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            is_killed = True
        text = process.communicate()[1]
        num_resumed += "resuming from there" in text or "complete since an earlier run" in text
        if not is_killed:
            assert process.returncode == 0, text
            return num_killed, num_resumed
        num_killed += 1
