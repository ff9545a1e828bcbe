"""Write CIFAR-10 as record files: cifar10_train.rec and cifar10_val.rec, PNGs of 32 x 32 pixels, shuffled.

    python examples/cifar10_records.py FOLDER OUT_FOLDER

FOLDER holds what CIFAR-10 is downloaded as, or is empty: then it is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

from imgcls.config.sections import DataConfig
from imgcls.data.sources import ArraySource
from imgcls.datasets import cifar10
from imgcls.formats.lists import shuffle
from imgcls.formats.recordio import ImageHeader, RecordWriter, pack


def write(source: ArraySource, path: Path) -> None:
    """Write each picture as a record, in an order that mixes the classes."""
    # readers that shuffle nearby records alone would learn nothing of a sorted file
    order = list(range(len(source)))
    shuffle(order)
    with RecordWriter(path) as writer:
        for index in order:
            pixels = cv2.cvtColor(source.read(index), cv2.COLOR_RGB2BGR)
            # PNG: at 32 x 32 pixels a JPEG's loss is visible
            image = cv2.imencode(".png", pixels)[1].tobytes()
            writer.write(pack(ImageHeader(0, float(source.labels[index]), index), image), index)


def main() -> int:
    """Write the two files."""
    splits = cifar10.load(DataConfig(dataset="cifar10", data_dir=sys.argv[1]))
    out = Path(sys.argv[2])
    for source, name in ((splits.train, "cifar10_train"), (splits.val, "cifar10_val")):
        assert isinstance(source, ArraySource)
        write(source, out / f"{name}.rec")
        (out / f"{name}.classes.txt").write_text("".join(f"{label}\n" for label in splits.train.class_names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
