"""Run a `.pt2` that is not trusted: its graph is JSON and its weights are bytes, and nothing else is read.

`torch.export.load` unpickles what a file says is a pickle, and evaluates its expressions of sizes as Python.
Here the operators of the graph are called one after the other, and only those in a list of operators that do
nothing but compute.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgcls.errors import DataError, first_line, reason, verbatim
from imgcls.formats import json_text
from imgcls.inference.export.exported import KEY, Description
from imgcls.storage import memory

#: aten's operators that networks of ours, torchvision's and the graph's preprocessing are made of
_NAMES = """
    _to_copy adaptive_avg_pool2d adaptive_max_pool2d add add_ affine_grid_generator amax amin arange
    avg_pool2d baddbmm batch_norm bitwise_and bitwise_not bmm cat ceil chunk clamp clamp_ clamp_max
    clamp_min clone constant_pad_nd contiguous conv2d copy_ cumsum detach detach_ div div_ dropout
    dropout_ einsum elu elu_ eq exp expand expand_as feature_dropout fill_ flatten floor floor_divide full
    full_like ge gelu grid_sampler group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh
    hardtanh_ index index_select instance_norm layer_norm le leaky_relu leaky_relu_ lift_fresh_copy
    linalg_vector_norm linear log log2 log_softmax logical_and logical_not logical_or lt masked_fill
    masked_fill_ matmul max max_pool2d maximum mean min minimum mul mul_ native_layer_norm ne neg
    new_zeros ones ones_like pad permute pixel_shuffle pow prelu reciprocal relu relu6 relu6_ relu_
    reshape roll round rsqrt rsub scaled_dot_product_attention select sigmoid sigmoid_ silu silu_ slice
    softmax softplus split split_with_sizes sqrt squeeze stack sub sub_ sum swapaxes sym_size tanh tanh_
    to transpose unbind unflatten unsqueeze upsample_nearest2d view where zero_ zeros zeros_like
"""
# a list of what is allowed, and not of what is not: every version of torch adds operators, some
# of which open files or run code that they are given
_OPERATORS = frozenset(_NAMES.split())
#: operators that only check the program; left out, since it was checked when it was written
_CHECKS = ("torch.ops.aten._assert_tensor_metadata.", "torch.ops.aten._assert_scalar.",
           "torch.ops.aten.sym_constrain_range")
# numbers of torch._export.serde.schema.ScalarType, which torch promises to keep
_DTYPES = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
           7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
_LAYOUTS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
# aten alone: other namespaces hold what extensions have registered, which may do anything
_TARGET = re.compile(r"torch\.ops\.aten\.(\w{1,60})\.(\w{1,60})")
_MAX_GRAPH_BYTES = 1 << 26
#: no dtype has more bytes
_WIDEST = 8
#: results of fewer bytes are not compared with the memory that is free, which takes longer to find out
_SMALL_BYTES = 1 << 20
#: torch takes no larger numbers; a file may hold any
_MAX_NUMBER = 1 << 63
_PURPOSE = "a program of torch.export"


class _Node(NamedTuple):
    #: of the operator, as in `_NAMES`
    name: str
    operator: Any
    arguments: list[Any]
    keywords: dict[str, Any]
    outputs: list[str]
    #: values that no later node uses
    finished: list[str]


class Graph:
    """A `.pt2` of imgcls-export: `run(images)` gives probabilities (N, classes), float32."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file; DataError for one that is damaged, or calls what no export of imgcls calls."""
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                files = _Files(archive, path)
                self.description = Description.from_json(files.text(f"extra/{KEY}"), path)
                # bounded before it is parsed: Python's parser takes some ten times the bytes of the
                # text
                program = json_text.loads(files.read("models/model.json"), path, _PURPOSE, _MAX_GRAPH_BYTES)
                weights = files.tensors("weights") | files.tensors("constants")
            self._read(program["graph_module"], weights)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
            why = reason(error) if isinstance(error, OSError) else first_line(error)
            raise DataError(path, f"is no .pt2 file: {why}") from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise DataError(path, f"not {_PURPOSE}: {type(error).__name__} {first_line(error)}") from error

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch of images of one size."""
        values: dict[str, Any] = {**self._weights, self._input: torch.from_numpy(images)}
        try:
            for node in self._nodes:
                given = [_filled(argument, values) for argument in node.arguments]
                keywords = {name: _filled(argument, values) for name, argument in node.keywords.items()}
                # a few bytes of the file may request a tensor of terabytes
                _require_memory(_result_bytes(node.name, [*given, *keywords.values()]), self._path)
                found = node.operator(*given, **keywords)
                several = found if isinstance(found, (list, tuple)) else [found]
                # not strict: batch normalisation returns statistics that the graph does not name
                values.update(zip(node.outputs, several, strict=False))
                for name in node.finished:
                    # freed at once: otherwise all activations of the network would be in memory
                    # together
                    values.pop(name, None)
            return values[self._output].numpy()
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise DataError(self._path, f"torch cannot run it: {first_line(error)}") from error

    def _read(self, module: dict[str, Any], weights: dict[str, Tensor]) -> None:
        graph = module["graph"]
        self._weights: dict[str, Tensor] = {}
        inputs = []
        for spec in module["signature"]["input_specs"]:
            ((kind, content),) = spec.items()
            if kind == "user_input":
                inputs.append(content["arg"]["as_tensor"]["name"])
            else:
                self._weights[content["arg"]["name"]] = weights[content[f"{kind}_name"]]
        # one input and one output, or it is no program for images
        (self._input,) = inputs
        (output,) = graph["outputs"]
        self._output = output["as_tensor"]["name"]
        # backwards: the first node here that uses a value is the last one of a run to use it
        asked = {self._output, *self._weights}
        nodes = [self._node(node, asked) for node in reversed(graph["nodes"])
                 if not node["target"].startswith(_CHECKS)]
        self._nodes = nodes[::-1]

    def _node(self, node: dict[str, Any], asked: set[str]) -> _Node:
        match = _TARGET.fullmatch(node["target"])
        packet = getattr(torch.ops.aten, match[1]) if match and match[1] in _OPERATORS else None
        if not match or packet is None or match[2] not in packet.overloads():
            # allowed by name: among the others are some that read files, or change torch's state
            raise DataError(self._path, f"calls {verbatim(node['target'])}, which no network of imgcls does")
        operator = getattr(packet, match[2])
        arguments, keywords = [], {}
        for given in node["inputs"]:
            value = _argument(given["arg"])
            # ArgumentKind.KEYWORD of torch's schema; older files have no kinds, and positional arguments
            # only
            if given.get("kind") == 2:
                keywords[given["name"]] = value
            else:
                arguments.append(value)
        outputs = [name for output in node["outputs"] for name in _outputs(output)]
        given = _flat([arguments, list(keywords.values())])
        used = {value.name for value in given if isinstance(value, _Name)}
        # outputs that no node uses are freed as well
        finished = sorted((used | set(outputs)) - asked)
        asked |= used
        return _Node(match[1], operator, arguments, keywords, outputs, finished)


class _Name(NamedTuple):
    """An argument that is the result of an earlier operator, or an input."""

    name: str


class _Files:
    """The files inside a `.pt2`, by their names below its one folder."""

    def __init__(self, archive: zipfile.ZipFile, path: object) -> None:
        self._archive = archive
        self._path = path
        self._infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        # of two files with one name readers may take different ones
        if len(self._infos) != len(archive.infolist()) or any(name.startswith("data/aotinductor/")
                                                              for name in self._infos):
            raise DataError(path, "is machine code (`format` aot) or damaged: take the checkpoint, or "
                                  "another format")

    def read(self, name: str) -> bytes:
        """Return a file's bytes, which zipfile checks; DataError for one that is not there, or compressed."""
        info = self._infos.get(name)
        if info is None:
            raise DataError(self._path, f"is no export of imgcls: it has no {name}")
        # stored as they are, as torch writes them: none can be larger than the file
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DataError(self._path, f"not {_PURPOSE}: {verbatim(name)} is compressed")
        return self._archive.read(info)

    def text(self, name: str) -> str:
        """Return a file's text."""
        return self.read(name).decode("utf-8", "replace")

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Return the tensors of a kind, "weights" or "constants", by name; DataError for a pickle."""
        text = self.read(f"data/{kind}/model_{kind}_config.json")
        config = json_text.loads_object(text, self._path, _PURPOSE)
        found, loaded = {}, {}
        for name, entry in config["config"].items():
            meta, file = entry["tensor_meta"], entry["path_name"]
            if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d{1,9}", file):
                raise DataError(self._path, f"holds the pickle {verbatim(file)}, which is not read")
            if file not in loaded:
                # read once for all tensors that share a file; writable, or torch would warn
                loaded[file] = bytearray(self.read(f"data/{kind}/{file}"))
            sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
            dtype = _DTYPES[meta["dtype"]]
            flat = (torch.frombuffer(loaded[file], dtype=dtype) if loaded[file]
                    else torch.empty(0, dtype=dtype))
            # with a stride of 0 a few bytes are as many values as the file says
            num_bytes = math.prod(sizes) * flat.element_size()
            if num_bytes > len(loaded[file]):
                _require_memory(num_bytes, self._path)
            # torch checks that all of it is within the file's bytes
            found[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        return found


def _argument(argument: dict[str, Any]) -> Any:
    """Return the value of an argument, with a _Name wherever an earlier result is meant."""
    ((kind, value),) = argument.items()
    if kind in ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"):
        # JSON writes 1.0 as 1 in some versions, and operators distinguish floats from integers
        return float(value) if kind == "as_float" else value
    if kind == "as_none":
        return None
    if kind in ("as_tensor", "as_sym_int"):
        return _Name(value.get("name") or value["as_name"]) if "as_int" not in value else value["as_int"]
    if kind in ("as_tensors", "as_sym_ints"):
        single = kind.removesuffix("s")
        return [_argument({single: each}) for each in value]
    if kind == "as_optional_tensors":
        return [_argument(each) for each in value]
    if kind == "as_optional_tensor":
        return _argument(value)
    if kind == "as_scalar_type":
        return _DTYPES[value]
    if kind == "as_memory_format":
        return _LAYOUTS[value]
    if kind == "as_layout" and value == 7:
        return torch.strided
    if kind == "as_device":  # wherever it was written
        return torch.device("cpu")
    raise ValueError(f"an argument of the kind {kind}")


def _outputs(output: dict[str, Any]) -> list[str]:
    ((kind, value),) = output.items()
    if kind in ("as_tensors", "as_sym_ints"):
        return [each.get("name") or each["as_name"] for each in value]
    return [value.get("name") or value["as_name"]] if isinstance(value, dict) else []


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    if isinstance(argument, _Name):
        return values[argument.name]
    return [_filled(each, values) for each in argument] if isinstance(argument, list) else argument


def _require_memory(num_bytes: float, path: object) -> None:
    """Raise UsageError for a tensor larger than memory, before it is requested."""
    if num_bytes > _SMALL_BYTES:
        memory.require(min(num_bytes, _MAX_NUMBER), f"{verbatim(path)}: a tensor")


# Not known here, and left to torch: products of matrices, indexing, and two shapes that are broadcast. Nor is
# the sum of many tensors that are kept, for each of which there is memory.
def _result_bytes(name: str, arguments: list[Any]) -> float:
    """Return about how many bytes an operator's result takes, where its arguments say how large it is."""
    lists = [each for each in arguments if isinstance(each, list)]
    if name in ("cat", "stack"):
        return sum(each.numel() * each.element_size() for each in _flat(lists) if isinstance(each, Tensor))
    if name == "arange":
        return _WIDEST * _num_steps([each for each in arguments if type(each) in (int, float)])
    # the sizes of parts: together they are no larger than the whole
    if name == "split_with_sizes":
        return 0
    first = arguments[0] if arguments else None
    if isinstance(first, Tensor) and lists and all(type(each) in (int, float) for each in lists[0]):
        numbers = [min(each, _MAX_NUMBER) for each in lists[0]]
        are_ints = all(type(each) is int for each in numbers)
        if name == "expand" and are_ints:
            # -1 keeps a size; they are matched from the right
            kept = (*[1] * (len(numbers) - first.ndim), *first.shape)
            lists = [[old if size == -1 else size for size, old in zip(numbers, kept, strict=True)]]
        elif name in ("constant_pad_nd", "pad") and are_ints:
            return first.element_size() * _num_padded(first.shape, numbers)
        elif name in ("upsample_nearest2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"):
            # height and width, or, where there are none, what they are multiplied by
            shape = first.shape[:-2] if arguments[1] is not None else first.shape
            return first.element_size() * math.prod(shape) * math.prod(numbers[:2])
    # any of the lists may be a size: strides and numbers of axes are small anyway
    return max((_WIDEST * math.prod(size) for size in lists
                if all(type(each) is int and each >= 0 for each in size)), default=0)


def _num_steps(numbers: list[float]) -> float:
    """Return about how many numbers arange gives for (end), (start, end) or (start, end, step)."""
    numbers = [max(min(number, _MAX_NUMBER), -_MAX_NUMBER) for number in numbers]
    start, end, step = (0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1, 1, 1)[:3]
    return abs((end - start) / step) if step else 0


def _num_padded(shape: Sequence[int], widths: list[int]) -> int:
    """Return the values of a tensor with `widths` added: before and behind, of the last axis first."""
    sizes = list(shape)
    for axis, added in enumerate(map(sum, zip(widths[::2], widths[1::2], strict=False)), start=1):
        if axis <= len(sizes):
            sizes[-axis] += added
    return math.prod(max(size, 0) for size in sizes)
