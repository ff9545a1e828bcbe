"""Train a network on numpy arrays, save it, load it again and name one image.

    python examples/train_on_arrays.py [PREFIX]      # PREFIX of the checkpoint, model/arrays by default

Arrays of your own go in the same way: images uint8 (N, H, W) or (N, C, H, W), labels whole numbers from 0.
"""

from __future__ import annotations

import sys

import imgcls
from imgcls.datasets import digits


def main(prefix: str = "model/arrays") -> float:
    """Train, save, load and predict; return the validation accuracy."""
    train = digits.draw(2000, seed=1)  # images uint8 (2000, 1, 28, 28), labels int64 (2000,)
    # another seed, other digits: none of them is trained on
    images, labels = digits.draw(500, seed=2)
    # Any flag of imgcls-train is a keyword here. Each epoch writes a checkpoint under the prefix.
    # It prints nothing; verbose=True shows the log of imgcls-train.
    result = imgcls.fit(train, val=(images, labels), network="lenet", num_epochs=4, lr=0.05,
                        model_prefix=prefix)
    print(f"validation accuracy {result.metrics['accuracy']:.3f}")

    predictor = imgcls.Predictor(prefix, top=3)  # the newest epoch; scales pixels as training did
    for name, probability in predictor(images[0, 0]):
        print(f"{name}  {probability:.3f}")
    print(f"it is a {labels[0]}")
    return result.metrics["accuracy"]


if __name__ == "__main__":
    main(*sys.argv[1:])
