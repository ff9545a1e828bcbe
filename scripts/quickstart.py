#!/usr/bin/env python3
"""Go from nothing to a trained network: make .venv, train lenet on drawn digits, name a picture with it.

    python3 scripts/quickstart.py [flags of imgcls-train]

Needs Python 3.10 or newer and a package index; may be run again and again.
"""

import os
import subprocess
import sys

from _environment import ROOT, ensure

# Runs in the new environment, since this interpreter has neither numpy nor OpenCV.
PICTURE = """
import cv2, sys
from imgcls.datasets import digits
from imgcls.config.sections import DataConfig
val = digits.load(DataConfig(dataset="digits")).val
first = [int(label) for label in val.labels].index(7)
cv2.imwrite(sys.argv[1], cv2.resize(val.images[first, 0], (28, 28)))
"""


def main() -> int:
    """Train, draw a seven, predict; return the exit status of the first command that fails."""
    python = ensure("test")  # what scripts/test.py needs: both share the environment
    os.chdir(ROOT)  # the commands that are printed work from here
    prefix, picture = "model/digits", "model/seven.png"
    train = subprocess.run([python, "-m", "imgcls", "train", "--dataset", "digits", "--model-prefix", prefix,
                            *sys.argv[1:]], check=False)
    if train.returncode:
        return train.returncode
    subprocess.run([python, "-c", PICTURE, picture], check=True)
    # The command is shown as a user would type it, to be tried with other pictures.
    print(f"\n$ .venv/bin/imgcls-predict --model {prefix} {picture}", flush=True)
    predict = subprocess.run([python, "-m", "imgcls", "predict", "--model", prefix, picture], check=False)
    return predict.returncode


if __name__ == "__main__":
    sys.exit(main())
