"""The table that `Block.summary` prints, MXNet's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet.nd import NDArray

_LINE = "{:>20}  {:>42} {:>15}"


def _shapes(values: Any) -> Any:
    if isinstance(values, (list, tuple)):
        return [_shapes(value) for value in values]
    return values.shape if isinstance(values, NDArray) else values


def _shape_text(values: Any) -> str:
    found = _shapes(values)
    return str(found)[1:-1] if isinstance(found, list) else str(found)


# A parameter that two blocks share is counted in both rows, and once in the sum below.
def print_summary(block: Any, inputs: Sequence[NDArray]) -> None:
    """Print a row for each block inside of `block`, but for plain containers, from a forward pass."""
    rows: list[tuple[str, str, int]] = [("Input", _shape_text(inputs), 0)]
    totals = {"all": 0, "trainable": 0, "shared": 0}
    seen: set[int] = set()
    hooks = []

    def note(child: Any, _: Any, outputs: Any) -> None:
        count = 0
        for parameter in child.params.values():
            size = parameter.data().size
            count += size
            totals["trainable"] += 0 if parameter.grad_req == "null" else size
            totals["shared"] += size if id(parameter) in seen else 0
            seen.add(id(parameter))
        totals["all"] += count
        rows.append((f"{type(child).__name__}-{len(rows)}", _shape_text(outputs), count))

    # the rows are written by hooks, in the order in which the forward pass reaches the blocks
    def watch(child: Any) -> None:
        if getattr(child, "_is_active", False):
            raise AssertionError(f'"{child.name}" must not be hybridized to print summary.')
        if not child._is_row:
            hooks.append(child.register_forward_hook(note))

    try:
        block.apply(watch)
        block(*inputs)
    finally:
        for hook in hooks:
            hook.detach()
    print("-" * 80)
    print(_LINE.format("Layer (type)", "Output Shape", "Param #"))
    print("=" * 80)
    for row in rows:
        print(_LINE.format(*row))
    print("=" * 80)
    print("Parameters in forward computation graph, duplicate included")
    print(f"   Total params: {totals['all']}")
    print(f"   Trainable params: {totals['trainable']}")
    print(f"   Non-trainable params: {totals['all'] - totals['trainable']}")
    print(f"Shared params in forward computation graph: {totals['shared']}")
    print(f"Unique parameters in model: {totals['all'] - totals['shared']}")
    print("-" * 80)
