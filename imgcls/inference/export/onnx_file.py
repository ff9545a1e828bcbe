"""ONNX: written by torch's exporter, run by ONNX Runtime.

A file is read without trusting it: its size is bounded, it may name no other files, and its inputs and
outputs must be those of our exports.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from imgcls.errors import DataError, UsageError, first_line
from imgcls.inference.export.exported import INPUT, KEY, OUTPUT, Description, Exported
from imgcls.inference.export.packages import require
from imgcls.storage.reading import read_bounded

SUFFIX = ".onnx"
RUNTIME = "ONNX Runtime"
TAKES_PIXELS = True
HAS_CHECKSUM = True
_EXTRA = "'imgcls[export]'"
#: protobuf has no larger messages
MAX_BYTES = (1 << 31) - 1
#: every runtime of the last two years reads it, phones' too
_OPSET = 18
#: the operators that are computed in int8, which take most of the time; those between them stay float
_INT8_OPERATORS = ("Conv", "Gemm", "MatMul")


def check(output: str) -> None:
    """Raise UsageError where a package is missing: before anything is computed."""
    require("onnx", _EXTRA, "writing ONNX")
    require("onnxscript", _EXTRA, "writing ONNX")
    require("onnxruntime", _EXTRA, "running ONNX")


def write(exported: Exported, path: Path) -> list[Path]:
    """Write the network to `path`; return its files, which is that one."""
    with _quietly():
        program = torch.onnx.export(exported.program(), dynamo=True, opset_version=_OPSET, verbose=False,
                                    input_names=[INPUT], output_names=[OUTPUT])
    assert program is not None
    model = program.model_proto
    _name_axes(model, exported.description)
    _add_metadata(model, exported.description)
    # Before it is serialized: protobuf would end in an error that names no file and no size.
    if model.ByteSize() > MAX_BYTES:
        raise UsageError(f"`format` onnx: the network has {model.ByteSize() / 1e9:.1f} GB, and a file has at "
                         "most 2.1")
    path.write_bytes(model.SerializeToString())  # into a folder of ours; `run.py` keeps it if it is right
    return [path]


def check_int8() -> None:
    """Raise UsageError where a package for int8 is missing."""
    require("onnxruntime.quantization", _EXTRA, "int8")


def write_int8(exported: Exported, path: Path, batches: Iterable[np.ndarray]) -> list[Path]:
    """Write the network in int8, its ranges measured on `batches` of what the file takes.

    The weights have a scale for each channel, and the activations one for each tensor (QDQ).
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = path.with_name("plain.onnx"), path.with_name("ready.onnx")
    write(exported, plain)
    with _quietly():
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        model = onnx.load(plain)
        # the preprocessing is left out: it is exact, and no part of the network
        inside = [node.name for node in model.graph.node
                  if any("preprocessing" in entry.value for entry in node.metadata_props
                         if entry.key.endswith("name_scopes"))]
        quantization.quantize_static(
            # the other methods of a CalibrationDataReader are for reading in parts
            str(ready), str(path), cast("quantization.CalibrationDataReader", _Feeds(batches)),
            quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=list(_INT8_OPERATORS), nodes_to_exclude=inside)
    plain.unlink()
    ready.unlink()
    redescribe(path, exported.description)
    return [path]


def redescribe(path: Path, description: Description) -> None:
    """Replace the description of a file that was written here."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    _add_metadata(model, description)
    path.write_bytes(model.SerializeToString())


class _Feeds:
    """Batches as ONNX Runtime's quantizer fetches them, one call after the other."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the name of the input, None after the last one."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


class Runner:
    """Runs an ONNX file: `run(images)` gives probabilities (N, classes), float32."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file. DataError for one that is damaged, or was not written here."""
        onnxruntime = require("onnxruntime", _EXTRA, "running ONNX")
        # Read here and given as bytes: with a path, ONNX Runtime would look for weights beside the file.
        content = read_bounded(path, MAX_BYTES)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only: other errors are raised, and reported by us
        # as many as torch, which follows `num_threads` and OMP_NUM_THREADS: others may need the cores
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory(prefix="imgcls-") as empty:
            # weights that the file says are in other files: there are none in this folder
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
            try:
                self._session = onnxruntime.InferenceSession(content, options,
                                                             providers=["CPUExecutionProvider"])
            except _errors(onnxruntime) as error:
                raise DataError(path, f"ONNX Runtime cannot load it: {first_line(error)}") from error
        self._path = path
        self._errors = _errors(onnxruntime)
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise DataError(path, f"is no export of imgcls: its metadata have no entry {KEY}")
        self.description = Description.from_json(text, path)
        self._check_tensors()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch of images of one size."""
        try:
            return self._session.run([OUTPUT], {INPUT: images})[0]
        except self._errors as error:
            raise DataError(self._path, f"ONNX Runtime cannot run it: {first_line(error)}") from error

    def _check_tensors(self) -> None:
        """Raise DataError where inputs and outputs are not what the description says."""
        kind = "tensor(uint8)" if self.description.takes_pixels else "tensor(float)"
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(node.name, node.type, _sizes(node)) for node in (*inputs, *outputs)]
        expected = [(INPUT, kind, self.description.input_shape),
                    (OUTPUT, "tensor(float)", [None, self.description.num_classes])]
        # metadata may be another file's: what counts are the tensors that the runtime reports
        if found != expected:
            raise DataError(self._path, "takes or gives other tensors than its metadata say")


def _add_metadata(model: Any, description: Description) -> None:
    for key, value in description.metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def _errors(onnxruntime: Any) -> tuple[type[BaseException], ...]:
    """Return the errors of ONNX Runtime, each a separate class without a common one."""
    known = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    return (RuntimeError, ValueError, *(each for each in known
                                        if isinstance(each, type) and issubclass(each, Exception)))


def _sizes(node: Any) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in node.shape]


def _name_axes(model: Any, description: Description) -> None:
    """Name the sizes that may vary: batch, height, width, in place of torch's s12."""
    names = ["batch", "height", "width"] if description.takes_pixels else ["batch"]
    # Viewers of ONNX files show the names, and frameworks may look an axis up by its name.
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, name in zip(dimensions, names, strict=False):
        dimension.dim_param = name
    output = model.graph.output[0].type.tensor_type.shape.dim
    output[0].dim_param = "batch"
    output[1].dim_value = description.num_classes


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide what torch's exporter prints about its progress, and its warnings about coming versions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
