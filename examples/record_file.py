"""Write a record file (`.rec`, with its index `.idx`) and read it back.

    python examples/record_file.py [FILE.rec]        # data/digits.rec by default

The bytes are MXNet's own format: MXNet reads this file, and its files are read the same way. To pack a folder
of photographs use imgcls-im2rec; to train on a record file, imgcls-train --data-train FILE.rec.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from imgcls.datasets import digits
from imgcls.formats import recordio


def main(file: str = "data/digits.rec") -> int:
    """Write 100 digits and read them again; return how many records there are."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    images, labels = digits.draw(100, seed=1)

    with recordio.RecordWriter(path) as writer:  # both files appear when the block ends well, not before
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            # PNG and not JPEG, so that what is read back can be compared exactly
            encoded = cv2.imencode(".png", image[0])[1].tobytes()
            # flag 0: one label, in the header itself; with several labels it is their number
            header = recordio.ImageHeader(flag=0, label=float(label), id=index)
            writer.write(recordio.pack(header, encoded))

    reader = recordio.RecordReader(path)  # needs no index: without one it searches the file
    record = reader[7]
    pixels = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert (pixels == images[7, 0]).all()  # PNG loses nothing
    print(f"{path}: {len(reader)} records; record {record.header.id} is a {int(record.labels[0])} "
          f"of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    print(f"records of each class: {np.bincount(reader.labels().astype(int))}")
    return len(reader)


if __name__ == "__main__":
    main(*sys.argv[1:])
