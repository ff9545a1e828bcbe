"""Load a checkpoint that MXNet wrote and compute with it.

    python examples/mxnet_checkpoint.py                    # a small one that MXNet 1.9.1 wrote for the tests
    python examples/mxnet_checkpoint.py PREFIX PICTURE     # your PREFIX-symbol.json and PREFIX-0010.params

Nothing is converted: the network is built from the symbol as it is read, and what is trained from there on is
saved in the same two files, which MXNet loads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import imgcls

BRIDGE = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "bridge"


def compare_with_mxnet() -> float:
    """Run a network of MXNet's on MXNet's input; return the largest difference from MXNet's logits."""
    model = imgcls.load_model(BRIDGE / "small", 1)  # an nn.Module in evaluation mode that returns logits
    # MXNet computed these logits from the same weights and images.
    with np.load(BRIDGE / "small.npz") as arrays, torch.no_grad():
        logits = model(torch.from_numpy(arrays["data"]))  # data is float32 (3, 2, 8, 8)
        difference = float(np.abs(logits.numpy() - arrays["logits"]).max())
    # a network gives logits, as training wants them; MXNet's checkpoints end in the softmax
    for row in logits.softmax(1):
        print(f"class {int(row.argmax())} with probability {float(row.max()):.3f}")
    print(f"largest difference from MXNet's logits: {difference:.1e}")
    # not 0: two libraries add in different orders
    return difference


def name_picture(prefix: str, picture: str) -> None:
    """Print the five best classes of a picture. Class numbers stand for names that the files do not have."""
    for name, probability in imgcls.Predictor(prefix)(picture):
        print(f"{name}  {probability:.3f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        name_picture(sys.argv[1], sys.argv[2])
    else:
        compare_with_mxnet()
