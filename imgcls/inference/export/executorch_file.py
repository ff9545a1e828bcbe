"""ExecuTorch: a `.pte` for phones and small devices, computed by XNNPACK.

Its memory is planned when it is written: batches and images have a largest size.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from imgcls.errors import DataError, RunError, first_line
from imgcls.inference.export.exported import KEY, Description, Exported, Servable
from imgcls.inference.export.packages import require
from imgcls.layers import BatchNorm

SUFFIX = ".pte"
RUNTIME = "ExecuTorch"
TAKES_PIXELS = True
HAS_CHECKSUM = True
#: what memory is planned for: images of a batch, and the sides of an image that is given as it was decoded
MAX_BATCH = 8
MAX_SIDE = 4096
_QUANTIZING = ("executorch.backends.xnnpack.quantizer.xnnpack_quantizer",
               "torchao.quantization.pt2e.quantize_pt2e")
_ROOM = 1000
_WRITING = ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner",
            "executorch.exir.passes.sym_shape_eval_pass", "executorch.exir.passes")


def check(output: str) -> None:
    """Raise UsageError where the package is missing: before anything is computed."""
    # all that is needed later: packages that it needs itself may be missing, too
    for module in (*_WRITING, "executorch.runtime"):
        _require(module)


def check_int8() -> None:
    """Raise UsageError where a package for int8 is missing."""
    for module in _QUANTIZING:
        _require(module)


def write(exported: Exported, path: Path) -> list[Path]:
    """Write the network to `path`; return its files, which is that one."""
    return _write(exported, exported.servable, path, exported.description.to_json())


def write_int8(exported: Exported, path: Path, batches: Iterable[np.ndarray]) -> list[Path]:
    """Write the network in int8, its ranges measured on `batches` of what the file takes.

    The weights have a scale for each channel, and the activations one for each tensor (PT2E).
    """
    quantizers, pt2e = map(_require, _QUANTIZING)
    servable = exported.servable
    bare = Servable(servable.network, None)
    # Without the preprocessing, whose whole numbers no quantizer may touch.
    shape = exported.description.image_shape
    axes = {0: torch.export.Dim("batch", min=1, max=2 * MAX_BATCH)}
    with _quietly(), torch.no_grad():
        graph = torch.export.export(bare, (torch.zeros(2, *shape),), dynamic_shapes=(axes,)).module()
        quantizer = quantizers.XNNPACKQuantizer().set_global(
            quantizers.get_symmetric_quantization_config(is_per_channel=True))
        graph = pt2e.prepare_pt2e(graph, quantizer)
        for batch in batches:
            images = torch.from_numpy(batch)
            graph(servable.preprocessing(images) if servable.preprocessing else images)
        graph = pt2e.convert_pt2e(graph)
    # Blanks reserve space for the measured loss, which is not known before the file exists.
    text = exported.description.to_json() + " " * _ROOM
    return _write(exported, _Prepared(servable.preprocessing, graph), path, text)


def redescribe(path: Path, description: Description) -> None:
    """Replace the description of a file that `write_int8` wrote."""
    before = Runner(path).description_text.encode()
    after = description.to_json().encode().ljust(len(before))
    content = path.read_bytes()
    assert len(after) == len(before)
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


class _Prepared(nn.Module):
    """Preprocessing, where there is any, and a network that gives probabilities."""

    def __init__(self, preprocessing: nn.Module | None, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images if self.preprocessing is None else self.preprocessing(images))


def _write(exported: Exported, servable: nn.Module, path: Path, description: str) -> list[Path]:
    exir, xnnpack, shapes, passes = map(_require, _WRITING)
    with _quietly():
        # methods without arguments that return a constant: the metadata of a program
        described = {KEY: description}
        with _with_gammas(servable):
            # twice the batch: of 16 that were planned for, ExecuTorch had memory for 15
            program = exported.program(2 * MAX_BATCH, MAX_SIDE, servable)
        try:
            edge = exir.to_edge_transform_and_lower(program, constant_methods=described,
                                                    partitioner=[xnnpack.XnnpackPartitioner()])
        except Exception as error:
            # Not narrower: its pass manager ends in `raise Exception(...) from cause` whatever a pass raised,
            # and partitioners raise what they like. Nothing of ours runs in this call.
            cause = error.__cause__ or error
            raise RunError("`format` pte: ExecuTorch cannot compile this network: "
                           f"{type(cause).__name__} {first_line(cause)}") from error
        config = exir.ExecutorchBackendConfig(
            sym_shape_eval_pass=shapes.ConstraintBasedSymShapeEvalPass(),
            # The images stay where the caller has them: memory for the largest batch of the largest images
            # would be 755 MB, taken and cleared as soon as a phone loads the file.
            memory_planning_pass=passes.MemoryPlanningPass(alloc_graph_input=False))
        path.write_bytes(edge.to_executorch(config).buffer)
    return [path]


@contextlib.contextmanager
def _with_gammas(network: nn.Module) -> Iterator[None]:
    """Give each BatchNorm whose gamma is fixed at 1 a gamma of ones, for as long as the block lasts.

    ExecuTorch 1.5 names the constants of a normalisation after its gamma, and without a gamma all get the
    same name: the second normalisation got the numbers of the first.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, BatchNorm) and layer.fix_gamma]
    # The gamma of the checkpoint's file is not used, but other formats write it: it is put back afterwards.
    kept = [layer.gamma for layer in layers]
    for layer in layers:
        layer.fix_gamma = False
        layer.register_buffer("gamma", torch.ones_like(layer.gamma))
    try:
        yield
    finally:
        for layer, gamma in zip(layers, kept, strict=True):
            layer.fix_gamma = True
            layer.register_buffer("gamma", gamma)


class Runner:
    """Runs a `.pte`: `run(images)` gives probabilities (N, classes), float32."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file; DataError for one that ExecuTorch finds damaged, or that was not written here."""
        runtime = _require("executorch.runtime")
        try:
            with _quietly():
                # It checks that the structure is within the file, but not the data for XNNPACK.
                self._program = runtime.Runtime.get().load_program(str(path))
                if KEY not in self._program.method_names:
                    raise DataError(path, f"is no export of imgcls: it has no method {KEY}")
                self._method = self._program.load_method("forward")
                (self.description_text,) = self._program.load_method(KEY).execute([])
        except (RuntimeError, ValueError) as error:
            raise DataError(path, f"ExecuTorch cannot load it: {first_line(error)}") from error
        if not isinstance(self.description_text, str):
            raise DataError(path, f"is no export of imgcls: its method {KEY} gives no text")
        self.description = Description.from_json(self.description_text, path)
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
        return require(module, "executorch torchao", "`format` pte")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide the warnings of ExecuTorch's compiler about coming versions of torch."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
