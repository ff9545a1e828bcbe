"""ExecuTorch: a `.pte` for phones and small devices, computed by XNNPACK.

Its memory is planned when it is written: batches and images have a largest size.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.errors import DataError, first_line
from imgcls.inference.export.exported import KEY, Description, Exported
from imgcls.inference.export.packages import require

SUFFIX = ".pte"
RUNTIME = "ExecuTorch"
TAKES_PIXELS = True
#: what memory is planned for: images of a batch, and the sides of an image that is given as it was decoded
MAX_BATCH = 8
MAX_SIDE = 4096
_WRITING = ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner",
            "executorch.exir.passes.sym_shape_eval_pass")


def check(output: str) -> None:
    """Raise UsageError where the package is missing: before anything is computed."""
    # all that is needed later: packages that it needs itself may be missing, too
    for module in (*_WRITING, "executorch.runtime"):
        _require(module)


def write(exported: Exported, path: Path) -> list[Path]:
    """Write the network to `path`; return its files, which is that one."""
    exir, xnnpack, passes = map(_require, _WRITING)
    with _quietly():
        # methods without arguments that return a constant: the metadata of a program
        described = {KEY: exported.description.to_json()}
        edge = exir.to_edge_transform_and_lower(
            # twice the batch: of 16 that were planned for, ExecuTorch had memory for 15
            exported.program(2 * MAX_BATCH, MAX_SIDE), constant_methods=described,
            partitioner=[xnnpack.XnnpackPartitioner()])
        config = exir.ExecutorchBackendConfig(sym_shape_eval_pass=passes.ConstraintBasedSymShapeEvalPass())
        path.write_bytes(edge.to_executorch(config).buffer)
    return [path]


class Runner:
    """Runs a `.pte` of our own: `run(images)` gives probabilities (N, classes), float32."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file, which must be trusted."""
        runtime = _require("executorch.runtime")
        with _quietly():
            self._program = runtime.Runtime.get().load_program(str(path))
            self._method = self._program.load_method("forward")
            (text,) = self._program.load_method(KEY).execute([])
        self.description = Description.from_json(text, path)
        self._path = path

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of images of one size within MAX_SIDE, MAX_BATCH at a time."""
        parts = [self._run(images[first:first + MAX_BATCH]) for first in range(0, len(images), MAX_BATCH)]
        return np.concatenate(parts)

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            (probabilities,) = self._method.execute([torch.from_numpy(images)])
        except RuntimeError as error:
            raise DataError(self._path, f"ExecuTorch cannot run it on {images.shape}: {first_line(error)}"
                            ) from error
        return probabilities.numpy().copy()


def _require(module: str) -> Any:
    with _quietly():
        return require(module, "executorch", "`format` pte")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what ExecuTorch's compiler says of torch's future off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
