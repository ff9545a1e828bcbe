"""Operators on boxes, for the code behind a detector: overlaps (IoU), and non-maximum suppression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imgcls.layers import OpSpec
from imgcls.layers.op_function import OpFunction

_FORMATS = ("corner", "center")


def _corners(boxes: Tensor, box_format: str) -> Tensor:
    if box_format == "corner":
        return boxes
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], -1)


def _areas(boxes: Tensor) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    # A box whose corners are swapped has no area.
    return torch.where((sides < 0).any(-1), torch.zeros_like(sides[..., 0]), sides.prod(-1))


# Every box of `lhs` with every box of `rhs`; both may have any number of axes before the last.
def _box_iou(lhs: Tensor, rhs: Tensor, box_format: str) -> Tensor:
    left, right = (_corners(boxes.reshape(-1, 4), box_format) for boxes in (lhs, rhs))
    top = torch.maximum(left[:, None, :2], right[None, :, :2])
    bottom = torch.minimum(left[:, None, 2:], right[None, :, 2:])
    common = (bottom - top).clamp(min=0).prod(-1)
    union = _areas(left)[:, None] + _areas(right)[None] - common
    overlap = torch.where(union > 0, common / union, torch.zeros_like(common))
    return overlap.reshape(*lhs.shape[:-1], *rhs.shape[:-1])


def _read_iou(spec: OpSpec) -> dict[str, Any]:
    return {"box_format": spec.choice("format", "corner", _FORMATS)}


# Rows that stay come first, by falling score; those that are dropped become -1 and stand behind them.
def _box_nms(data: Tensor, settings: dict[str, Any]) -> Tensor:
    rows = data.reshape(-1, *data.shape[-2:])
    return torch.stack([_suppressed(batch, settings) for batch in rows]).reshape(data.shape)


def _suppressed(rows: Tensor, settings: dict[str, Any]) -> Tensor:
    result = torch.full_like(rows, -1)
    scores = rows[:, settings["score_index"]]
    valid = scores > settings["valid_thresh"]
    classes = settings["id_index"]
    if classes >= 0 and settings["background_id"] >= 0:
        valid &= rows[:, classes] != settings["background_id"]
    order = torch.nonzero(valid).flatten()
    order = order[scores[order].argsort(descending=True, stable=True)]
    if settings["topk"] > 0:
        order = order[:settings["topk"]]
    chosen = rows[order]
    begin = settings["coord_start"]
    overlap = _box_iou(chosen[:, begin:begin + 4], chosen[:, begin:begin + 4], settings["in_format"])
    if classes >= 0 and not settings["force_suppress"]:
        overlap = overlap * (chosen[:, classes][:, None] == chosen[:, classes][None])
    # greedy: a box that is kept drops all later ones that overlap it too much
    is_kept = torch.ones(len(order), dtype=torch.bool)
    for row in range(len(order)):
        if is_kept[row]:
            is_kept[row + 1:] &= overlap[row, row + 1:] <= settings["overlap_thresh"]
    kept = chosen[is_kept].clone()
    if settings["in_format"] != settings["out_format"]:
        kept[:, begin:begin + 4] = _reformatted(kept[:, begin:begin + 4], settings["out_format"])
    result[:len(kept)] = kept
    return result


def _reformatted(boxes: Tensor, box_format: str) -> Tensor:
    if box_format == "corner":
        return _corners(boxes, "center")
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], -1)


def _read_nms(spec: OpSpec) -> dict[str, Any]:
    return {"settings": {
        "overlap_thresh": spec.real("overlap_thresh", 0.5), "valid_thresh": spec.real("valid_thresh", 0.0),
        "topk": spec.integer("topk", -1), "coord_start": spec.integer("coord_start", 2),
        "score_index": spec.integer("score_index", 1), "id_index": spec.integer("id_index", -1),
        "background_id": spec.integer("background_id", -1), "force_suppress": spec.flag("force_suppress"),
        "in_format": spec.choice("in_format", "corner", _FORMATS),
        "out_format": spec.choice("out_format", "corner", _FORMATS)}}


def _boolean_mask(data: Tensor, index: Tensor, axis: int) -> Tensor:
    return data.index_select(axis, torch.nonzero(index.flatten()).flatten())


def _read_axis(spec: OpSpec) -> dict[str, Any]:
    return {"axis": spec.integer("axis", 0)}


#: operator -> what it computes
DETECTION: dict[str, OpFunction] = {
    "_contrib_box_iou": OpFunction(_box_iou, _read_iou, num_inputs=2),
    "_contrib_box_nms": OpFunction(_box_nms, _read_nms),
    "_contrib_boolean_mask": OpFunction(_boolean_mask, _read_axis, num_inputs=2),
}
