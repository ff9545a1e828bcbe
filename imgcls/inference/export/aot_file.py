"""AOTInductor: a `.pt2` of machine code for this kind of CPU, which torch runs in Python and in C++.

Such a file is a program: `Runner` is for one that was just written, and imgcls loads none from elsewhere.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from imgcls.errors import RunError, UsageError, first_line
from imgcls.inference.export.exported import KEY, Description, Exported

SUFFIX = ".pt2"
RUNTIME = "torch, compiled"
TAKES_PIXELS = True
HAS_CHECKSUM = False  # a zip archive has a checksum of each of its files
#: what torch looks for where CXX names none
_COMPILERS = ("g++", "c++", "clang++")


def check(output: str) -> None:
    """Raise UsageError where there is no compiler."""
    compiler = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in ([compiler] if compiler else _COMPILERS)):
        raise UsageError("`format` aot: needs a C++ compiler (apt-get install g++, or CXX); pt2 needs none")


def write(exported: Exported, path: Path) -> list[Path]:
    """Compile the network to `path`, which takes minutes; return its files, which is that one."""
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import CppCompileError

    settings = {"aot_inductor.metadata": exported.description.metadata()}
    try:
        # For the instructions of this processor: on an older one the file may end in an illegal instruction.
        aoti_compile_and_package(exported.program(), package_path=str(path), inductor_configs=settings)
    except CppCompileError as error:
        raise RunError(f"`format` aot: the C++ compiler failed: {first_line(error)}") from error
    return [path]


class Runner:
    """Runs a package of our own: `run(images)` gives probabilities (N, classes), float32."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file, which must be trusted."""
        from torch._inductor import aoti_load_package

        # It unpacks a shared library and loads it: the author of the file runs code here.
        self._model = aoti_load_package(str(path))
        self.description = Description.from_json(self._model.loader.get_metadata().get(KEY, ""), path)

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch of images of one size."""
        return self._model(torch.from_numpy(images)).numpy()
