"""Operators of foreign symbols that move, cut or join values without computing new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.layers.base import OpSpec
from imgcls.layers.op_function import OpFunction, integer_lists, read_axes


def reshaped(shape: Sequence[int], codes: Sequence[int], reverse: bool = False) -> list[int]:
    """Return the shape that MXNet's Reshape gives, with at most one -1 left in it.

    0 keeps a size, -1 is worked out, -2 keeps all that remain, -3 joins two, -4 splits one into the next two
    codes. With `reverse` sizes and codes are matched from the right.
    """
    if reverse:  # matched from the right: the same on lists turned round
        return reshaped(shape[::-1], codes[::-1])[::-1]
    sizes = list(shape)
    result: list[int] = []
    axis = code_index = 0  # the next size to be used, and the next code
    while code_index < len(codes):
        code = codes[code_index]
        if code == -2:
            result += sizes[axis:]
            axis = len(sizes)
        elif code == -3:
            result.append(sizes[axis] * sizes[axis + 1])
            axis += 2
        elif code == -4:
            left, right = codes[code_index + 1:code_index + 3]
            size = sizes[axis]
            result += [size // right if left == -1 else left, size // left if right == -1 else right]
            axis += 1
            code_index += 2  # the two codes that follow -4 are its operands
        else:
            result.append(sizes[axis] if code == 0 else code)
            axis += 1
        code_index += 1
    return result


def _reshape(data: Tensor, shape: tuple[int, ...], reverse: bool, target: tuple[int, ...],
             highest: bool) -> Tensor:
    if shape:
        return data.reshape(reshaped(data.shape, shape, reverse))
    sizes = [-1 if size == 0 else size for size in target]  # the form of 0.7, where 0 meant "what is left"
    return data.reshape([data.shape[0], *sizes[1:]] if highest else sizes)


def _read_reshape(spec: OpSpec) -> dict[str, Any]:
    settings = {"shape": spec.integers("shape", ()), "reverse": spec.flag("reverse"),
                "target": spec.integers("target_shape", ()), "highest": spec.flag("keep_highest")}
    if not settings["shape"] and not settings["target"]:
        raise ValueError("shape is missing")
    # Two -1 are possible: one of them may be an operand of -4.
    if sum(size == -1 for size in settings["shape"]) > 2 or any(size < -4 for size in settings["shape"]):
        raise ValueError(f"shape={settings['shape']} is not possible")
    return settings


def _transpose(data: Tensor, axes: tuple[int, ...]) -> Tensor:
    # without axes MXNet turns their order round
    return data.permute(axes or tuple(reversed(range(data.ndim))))


def _read_swap_axis(spec: OpSpec) -> dict[str, Any]:
    return {"dim0": spec.integer("dim1", 0), "dim1": spec.integer("dim2", 0)}  # torch calls them dim0, dim1


def _expand_dims(data: Tensor, axis: int) -> Tensor:
    return data.unsqueeze(axis)


def _read_axis(spec: OpSpec) -> dict[str, Any]:
    return {"axis": spec.integer("axis")}


def _squeeze(data: Tensor, axis: tuple[int, ...]) -> Tensor:
    return data.squeeze(axis) if axis else data.squeeze()  # torch would take () for "no axis"


def _read_squeeze(spec: OpSpec) -> dict[str, Any]:
    return {"axis": read_axes(spec)}


def _slice_axis(data: Tensor, axis: int, begin: int, end: int | None) -> Tensor:
    # one full slice for each axis before the one that is cut
    return data[(slice(None),) * (axis % data.ndim) + (slice(begin, end),)]


def _read_slice_axis(spec: OpSpec) -> dict[str, Any]:
    end = spec.integer("end") if spec.is_given("end") else None
    return {"axis": spec.integer("axis"), "begin": spec.integer("begin"), "end": end}


def _slice(data: Tensor, begin: Sequence[int | None], end: Sequence[int | None],
           step: Sequence[int | None]) -> Tensor:
    # `step` may be shorter, or absent. MXNet takes negative steps and torch does not: those end in an error.
    steps = [*step, *([None] * (len(begin) - len(step)))]
    return data[tuple(slice(*bounds) for bounds in zip(begin, end, steps, strict=True))]


def _read_slice(spec: OpSpec) -> dict[str, Any]:
    return {name: spec.slices(name) for name in ("begin", "end", "step")}


def _slice_like(data: Tensor, like: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes or range(data.ndim):  # without axes along all of them
        data = data.narrow(axis, 0, like.shape[axis])
    return data


def _split(data: Tensor, num_outputs: int, axis: int, squeeze: bool) -> tuple[Tensor, ...]:
    if data.shape[axis] % num_outputs:  # torch would make the last one smaller
        raise ValueError(f"axis {axis} of {tuple(data.shape)} does not divide into {num_outputs} outputs")
    outputs = data.split(data.shape[axis] // num_outputs, axis)
    # squeeze_axis is for outputs of size 1 along the axis
    return tuple(output.squeeze(axis) for output in outputs) if squeeze else tuple(outputs)


def _read_split(spec: OpSpec) -> dict[str, Any]:
    return {"num_outputs": spec.integer("num_outputs"), "axis": spec.integer("axis", 1),
            "squeeze": spec.flag("squeeze_axis")}


def _stack(*data: Tensor, axis: int) -> Tensor:
    return torch.stack(data, axis)


def _read_stack(spec: OpSpec) -> dict[str, Any]:
    spec.ignore("num_args")  # the inputs are counted
    return {"axis": spec.integer("axis", 0)}


def _reverse(data: Tensor, axis: tuple[int, ...]) -> Tensor:
    return data.flip(axis)


def _tile(data: Tensor, reps: tuple[int, ...]) -> Tensor:
    return data.tile(reps)


def _broadcast_like(data: Tensor, like: Tensor) -> Tensor:
    return data.expand_as(like)


def _broadcast_to(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    return data.expand([-1 if size == 0 else size for size in shape])  # MXNet's 0 and torch's -1: as it is


def _broadcast_axis(data: Tensor, axis: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    sizes = dict(zip((a % data.ndim for a in axis), size, strict=True))
    return data.expand([sizes.get(a, -1) for a in range(data.ndim)])


def _pad(data: Tensor, mode: str, pad_width: tuple[int, ...], value: float) -> Tensor:
    # MXNet lists before and after from the first axis on, torch from the last.
    axes = reversed(range(len(pad_width) // 2))
    widths = [width for axis in axes for width in pad_width[2 * axis:2 * axis + 2]]
    if mode == "constant":
        return F.pad(data, widths, value=value)
    # torch's other modes pad height and width only, and must not be given the zeros of the other axes
    return F.pad(data, widths[:2 * (data.ndim - 2)], "replicate" if mode == "edge" else "reflect")


def _read_pad(spec: OpSpec) -> dict[str, Any]:
    settings = {"mode": spec.choice("mode", "", ("constant", "edge", "reflect")),
                "pad_width": spec.integers("pad_width"), "value": spec.real("constant_value", 0.0)}
    if len(settings["pad_width"]) % 2 or min(settings["pad_width"], default=-1) < 0:
        raise ValueError(f"pad_width={settings['pad_width']} is not a pair for every axis")
    if settings["mode"] != "constant" and any(settings["pad_width"][:4]):
        raise ValueError("only height and width can be padded with edge or reflect")
    return settings


SHAPE: dict[str, OpFunction] = {
    # other axes
    "Reshape": OpFunction(_reshape, _read_reshape),
    "transpose": OpFunction(_transpose, integer_lists("axes")),
    "SwapAxis": OpFunction(torch.transpose, _read_swap_axis),
    "expand_dims": OpFunction(_expand_dims, _read_axis),
    "squeeze": OpFunction(_squeeze, _read_squeeze),
    # cutting and joining
    "slice_axis": OpFunction(_slice_axis, _read_slice_axis),
    "slice": OpFunction(_slice, _read_slice),
    "slice_like": OpFunction(_slice_like, integer_lists("axes"), num_inputs=2),
    "SliceChannel": OpFunction(_split, _read_split, has_outputs=True),
    "stack": OpFunction(_stack, _read_stack, num_inputs=None),
    # repeating and turning round
    "reverse": OpFunction(_reverse, integer_lists("axis")),
    "tile": OpFunction(_tile, integer_lists("reps")),
    "broadcast_like": OpFunction(_broadcast_like, num_inputs=2),
    "broadcast_to": OpFunction(_broadcast_to, integer_lists("shape")),
    "broadcast_axis": OpFunction(_broadcast_axis, integer_lists("axis", "size")),
    "Pad": OpFunction(_pad, _read_pad),
}
