"""Draw a tar of class tars, as fall11_whole.tar of ImageNet is one: classes of 5 to 25 small JPEGs.

    python examples/draw_classes.py OUT.tar 300

Names are like those of ImageNet, `n00000131.tar` with `n00000131_23.JPEG` in it; members are in no order.
"""

from __future__ import annotations

import io
import sys
import tarfile

import cv2
import numpy as np


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def draw_class(rng: np.random.Generator, name: str) -> bytes:
    """Return the tar of a class: pictures of its own colour with noise."""
    colour = rng.integers(0, 256, 3)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        # numbers as ImageNet has them: with gaps, in no order
        for number in rng.permutation(1000)[:rng.integers(5, 26)]:
            noise = rng.integers(-40, 41, (32, 40, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            add(tar, f"{name}_{number}.JPEG", cv2.imencode(".jpg", pixels)[1].tobytes())
    return stream.getvalue()


def main() -> int:
    """Write the tar that the command line names."""
    path, num_classes = sys.argv[1], int(sys.argv[2])
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(num_classes):
            name = f"n{number * 131:08d}"
            add(tar, f"{name}.tar", draw_class(rng, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
