"""Operators of foreign symbols that resample maps (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgcls.layers.base import OpSpec
from imgcls.layers.op_function import OpFunction, ignoring


def _grid(data: Tensor, kind: str, target: tuple[int, int]) -> Tensor:
    """Return sampling positions (N, 2, H, W), x then y in [-1, 1].

    `data` is an affine map (N, 6), or a flow (N, 2, H, W) in pixels.
    """
    if kind == "affine":
        size = [data.shape[0], 1, *target]
        return F.affine_grid(data.reshape(-1, 2, 3), size, align_corners=True).permute(0, 3, 1, 2)
    # warp: each pixel is moved by its flow, and positions in pixels become positions in [-1, 1]
    height, width = data.shape[2:]
    rows = torch.arange(height, device=data.device, dtype=data.dtype).reshape(-1, 1)
    columns = torch.arange(width, device=data.device, dtype=data.dtype)
    # max(..., 1): a map of one pixel has no distance between its corners
    x = (data[:, 0] + columns) * (2 / max(width - 1, 1)) - 1
    y = (data[:, 1] + rows) * (2 / max(height - 1, 1)) - 1
    return torch.stack([x, y], 1)


def _read_grid(spec: OpSpec) -> dict[str, Any]:
    return {"kind": spec.choice("transform_type", "", ("affine", "warp")),
            "target": spec.pair("target_shape", 0)}


def _sample(data: Tensor, grid: Tensor) -> Tensor:
    # MXNet has the axis of x and y second, torch last; outside of the map are zeros, in both
    return F.grid_sample(data, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros",
                         align_corners=True)


def _resize(data: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return F.interpolate(data, (height, width), mode="bilinear", align_corners=align_corners)


def _read_resize(spec: OpSpec) -> dict[str, Any]:
    spec.choice("mode", "size", ("size",))  # the others follow a second input, or round to odd or even sizes
    if spec.is_given("scale_height") or spec.is_given("scale_width"):
        raise ValueError("scale_height and scale_width are not supported")
    return {"height": spec.integer("height", 1), "width": spec.integer("width", 1),
            "align_corners": spec.flag("align_corners", True)}


def _read_adaptive_pooling(spec: OpSpec) -> dict[str, Any]:
    sizes = spec.integers("output_size", ()) or (1,)  # without a size: one pixel, an average over all
    return {"output_size": sizes * 2 if len(sizes) == 1 else sizes[:2]}


def _depth_to_space(data: Tensor, block: int) -> Tensor:
    # torch's pixel_shuffle has the block's axes behind the channels, MXNet before them.
    n, c, h, w = data.shape
    blocks = data.reshape(n, block, block, c // block**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(data: Tensor, block: int) -> Tensor:
    # the inverse of the above, with the block's axes before the channels again
    n, c, h, w = data.shape
    blocks = data.reshape(n, c, h // block, block, w // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _read_block(spec: OpSpec) -> dict[str, Any]:
    return {"block": spec.integer("block_size")}


SPATIAL: dict[str, OpFunction] = {
    "GridGenerator": OpFunction(_grid, _read_grid),
    "BilinearSampler": OpFunction(_sample, ignoring("cudnn_off"), num_inputs=2),
    "_contrib_BilinearResize2D": OpFunction(_resize, _read_resize),
    "_contrib_AdaptiveAvgPooling2D": OpFunction(F.adaptive_avg_pool2d, _read_adaptive_pooling),
    "depth_to_space": OpFunction(_depth_to_space, _read_block),
    "space_to_depth": OpFunction(_space_to_depth, _read_block),
}
