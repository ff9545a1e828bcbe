"""torch.export: a `.pt2` that torch runs without imgcls.

torch reads such files with pickles, and evaluates expressions in them: `Runner` is for a file that was just
written; files from elsewhere are read by `pt2_graph`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imgcls.inference.export.exported import KEY, Description, Exported

SUFFIX = ".pt2"
RUNTIME = "torch"
TAKES_PIXELS = True
HAS_CHECKSUM = False  # a zip archive has a checksum of each of its files


def check(output: str) -> None:
    """Do nothing: torch is always there."""


def write(exported: Exported, path: Path) -> list[Path]:
    """Write the network to `path`; return its files, which is that one."""
    program = exported.program()
    # the blank images that it was recorded with are of no use in the file
    program._example_inputs = None
    # Into memory: torch's writer of files ends the process where the disk is full.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=exported.description.metadata())
    path.write_bytes(content.getbuffer())
    return [path]


class Runner:
    """Runs a `.pt2` of our own: `run(images)` gives probabilities (N, classes), float32."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file, which must be trusted."""
        extra = {KEY: ""}
        # torch fills in the text of `extra`: it reads the keys that are in it, and leaves others in the file.
        self._model: Callable[[Tensor], Tensor] = torch.export.load(path, extra_files=extra).module()
        self.description = Description.from_json(extra[KEY], path)

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch of images of one size."""
        return self._model(torch.from_numpy(images)).numpy()
