"""Draw what ILSVRC2012 is downloaded as, small: a tar of class tars, one of validation images, the devkit.

    python examples/draw_ilsvrc12.py FOLDER [CLASSES] [IMAGES_PER_CLASS] [VALIDATION_IMAGES]

Writes ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, with the real names
inside: n01440764.tar with n01440764_10026.JPEG, ILSVRC2012_val_00000001.JPEG, meta.mat and the ground truth.
"""

from __future__ import annotations

import io
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def draw(rng: np.random.Generator, colour: np.ndarray) -> bytes:
    """Return a JPEG of smooth noise around a colour, its sides between 260 and 320 pixels."""
    height, width = rng.integers(260, 321, 2).tolist()
    coarse = np.clip(colour + rng.integers(-90, 91, (9, 12, 3)), 0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image)[1].tobytes()


def meta_mat(names: list[str]) -> bytes:
    """Return MATLAB's file with the structure `synsets`, ILSVRC2012_ID and WNID of each class."""
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind: int, shape: tuple[int, int], name: str, content: bytes) -> bytes:
        return element(14, element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *shape))
                       + element(1, name.encode()) + content)

    columns = b"ILSVRC2012_ID".ljust(20, b"\0") + b"WNID".ljust(20, b"\0")
    fields = struct.pack("<HHi", 5, 4, 20) + element(1, columns)
    cells = b"".join(matrix(6, (1, 1), "", element(9, struct.pack("<d", number)))
                     + matrix(4, (1, len(name)), "", element(4, name.encode("utf-16-le")))
                     for number, name in enumerate(names, 1))
    packed = zlib.compress(matrix(2, (len(names), 1), "synsets", fields + cells))
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def main() -> int:
    """Write the three files into the folder that the command line names."""
    folder = Path(sys.argv[1])
    num_classes, num_train, num_val = (int(word) for word in (*sys.argv[2:], 10, 30, 100)[:3])
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    colours = rng.integers(60, 196, (num_classes, 3))
    # the devkit numbers classes in an order of its own
    names = [f"n{1440764 + 1009 * number:08d}" for number in rng.permutation(num_classes).tolist()]
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as tar:
        for name, colour in sorted(zip(names, colours, strict=True), key=lambda pair: pair[0]):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as class_tar:
                for number in rng.permutation(99999)[:num_train]:
                    # numbers as ImageNet has them: with gaps, in no order
                    add(class_tar, f"{name}_{number}.JPEG", draw(rng, colour))
            add(tar, f"{name}.tar", stream.getvalue())
    # equally many of each class, in no order
    truth = rng.permutation(np.arange(num_val) % num_classes)
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for number, label in enumerate(truth.tolist(), 1):
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", draw(rng, colours[label]))
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta_mat(names))
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            "".join(f"{label + 1}\n" for label in truth.tolist()).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
