"""Exports against their checkpoints: labels equal on real images, the loss of int8, size and time.

    python benchmarks/exports.py lenet=model/mnist=mnist/ mobilenet=model/pets=photos/
    python benchmarks/exports.py --formats onnx,pt2 --num-images 100 lenet=model/mnist=mnist/

Each argument is NAME=PREFIX=IMAGES, IMAGES as --images of imgcls-export has it: with a folder for each
class the accuracies are known. Prints the rows of the table in docs/export.md; exits with 1 where a format of
float32 has another label than the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imgcls.errors import ImgclsError
from imgcls.inference.export.run import FORMATS, Request, export

#: formats in the order of the columns; of those with -int8 the loss is shown
COLUMNS = ("onnx", "pt2", "pte", "onnx-int8", "pte-int8")


def main() -> int:
    """Export each network in each format; print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME=PREFIX=IMAGES")
    parser.add_argument("--formats", default=",".join(COLUMNS))
    parser.add_argument("--num-images", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # what is compared is the result; the time is that of one core
    columns = arguments.formats.split(",")
    print(f"| network | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    has_failed = False
    for text in arguments.networks:
        name, prefix, images = text.split("=")
        cells = []
        for column in columns:
            cell, is_right = _cell(prefix, images, column, arguments.num_images)
            has_failed |= not is_right
            cells.append(cell)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 1 if has_failed else 0


def _cell(prefix: str, images: str, column: str, num_images: int) -> tuple[str, bool]:
    """Return the cell of a format, and whether the format passes: its labels are right, or it is int8."""
    kind, _, int8 = column.partition("-")
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, f"net{FORMATS[kind].SUFFIX}"))
        request = Request(prefix, "auto", "", kind, output, images, num_images, True, bool(int8), 100, 1.0)
        try:
            result = export(request, {}, lambda line: print(line, file=sys.stderr))
        except ImgclsError as error:
            print(error, file=sys.stderr)
            return "failed", bool(int8)
    compared = result.comparison
    text = (f"{compared.num_equal} of {compared.num_images}, {compared.max_difference:.0e}, "
            f"{result.num_bytes / 1e6:.2f} MB, {compared.num_images / compared.seconds:.0f}/s")
    if result.drop is not None and result.drop.accuracy is not None:
        text += f", top-1 {result.drop.checkpoint_accuracy:.3f} -> {result.drop.accuracy:.3f}"
    return text, True


if __name__ == "__main__":
    sys.exit(main())
