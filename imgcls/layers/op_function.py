"""The row type of the tables of foreign operators: a function of inputs and settings, without parameters.

The tables themselves are by kind: `foreign_elementwise.py`, `foreign_reduction.py`, `foreign_shape.py`,
`foreign_spatial.py`. `operation.py` makes layers of their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imgcls.layers.base import OpSpec

#: reads an operator's settings from the attributes of a node; ValueError for those that are not supported
ReadSettings = Callable[[OpSpec], dict[str, Any]]


# A symbol is an untrusted file: each reader names the attributes that it supports, and `graph.read` refuses
# the rest.


def read_nothing(spec: OpSpec) -> dict[str, Any]:
    """Read the settings of an operator that has none."""
    return {}


@dataclass(frozen=True)
class OpFunction:
    """What an operator computes: `function(*inputs, **read(spec))`."""

    function: Callable[..., Any]
    read: ReadSettings = read_nothing
    #: None: any number
    num_inputs: int | None = 1
    keeps_shape: bool = False
    #: whether the function returns a tuple, one tensor for each output
    has_outputs: bool = False


def read_axes(spec: OpSpec) -> tuple[int, ...]:
    """Read `axis`, one or several; empty where it is not given."""
    return spec.integers("axis", ()) if spec.is_given("axis") else ()


def integer_lists(*names: str) -> ReadSettings:
    """Return a reader of lists of integers, empty ones where nothing is given."""
    return lambda spec: {name: spec.integers(name, ()) for name in names}


def ignoring(*names: str) -> ReadSettings:
    """Return a reader for operators with attributes that do not change what they compute, and no others."""
    def read(spec: OpSpec) -> dict[str, Any]:
        spec.ignore(*names)
        return {}
    return read
