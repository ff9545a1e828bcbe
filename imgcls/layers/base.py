"""`Layer`, a torch module that is one node of a symbol, and `OpSpec`, what a file says about such a node.

Every operator here is a `Layer`. `attrs` are the operator's attributes as text, only those that were
given: MXNet stores no defaults, so neither do we, which keeps our symbol.json equal to MXNet's own.
Parameters keep torch's layout, which is MXNet's too; `PARAMETER_NAMES` of a class says what MXNet calls each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from imgcls.formats.symbol import Attributes, Node

#: height and width, or one number for both
Size = int | tuple[int, int]
#: of a tensor, with or without the batch
Shape = tuple[int, ...]


class OpSpec(Attributes):
    """What a layer is made from when a file is read: attributes as text, and sizes that are not among them.

    `shape` is that of the first input where it is known, `stored` has those of the parameters in the file, by
    torch attribute. What cannot be made is a ValueError whose text completes "node 'x' (Operator): ...".
    """

    def __init__(self, node: Node, shape: Shape | None, stored: Mapping[str, Shape]) -> None:
        super().__init__(node)
        self.op = node.op
        self.num_inputs = len(node.inputs)
        self.shape = shape
        self.stored = stored

    def size(self, axis: int, parameter: str, dimension: int = 0) -> int:
        """Return the size of the input's axis or, if that is unknown, of a stored parameter's dimension."""
        if self.shape is not None:
            return _size_of("an input", self.shape, axis)
        if parameter in self.stored:
            return _size_of(parameter, self.stored[parameter], dimension)
        raise ValueError(f"{parameter} is in no file, and without an input shape its own is not known")

    def groups(self, channels: int, num_filter: int) -> int:
        """Return `num_group`, which must divide both numbers of channels."""
        groups = self.integer("num_group", 1)
        # Where they do not divide, the shape of the weight would silently be rounded.
        if groups < 1 or channels % groups or num_filter % groups:
            raise ValueError(f"{channels} channels, {num_filter} filters do not divide into {groups} groups")
        return groups

    def pair(self, name: str, default: int) -> tuple[int, int]:
        """Return height and width; an empty list is the default, and no size may be below it."""
        sizes = self.integers(name, ()) or (default, default)
        if len(sizes) != 2:  # MXNet has the same operators for one and for three dimensions
            raise ValueError(f"{name}={self.attrs[name]}: only two dimensions (height, width) are supported")
        if min(sizes) < default:
            raise ValueError(f"{name}={self.attrs[name]}: at least {default} is needed")
        return sizes[0], sizes[1]

    def optional_flag(self, name: str) -> bool | None:
        """Return a flag that may be absent or None."""
        return self.flag(name) if self.is_given(name) else None


def _size_of(what: str, shape: Shape, axis: int) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"cannot work with {what} of shape {shape}")
    return shape[axis]


class Layer(nn.Module):
    """One node of a symbol. Subclasses set `op`; `forward` takes the node's inputs in MXNet's order.

    A layer that was read from a file carries `node_name` where the module's own path cannot be that name, and
    in `variables` the names and attributes of its parameters where they are not MXNet's automatic ones.
    """

    #: MXNet's operator
    op: str = ""
    #: set by a network that has filled this layer's weights itself: the initializer then leaves them alone
    is_initialized: bool = False
    #: the operator's attributes as a symbol.json has them
    attrs: dict[str, str]
    #: "": the module's path with underscores
    node_name: str = ""
    #: torch attribute -> MXNet's suffix, in the order of the operator's inputs
    PARAMETER_NAMES: ClassVar[dict[str, str]] = {}
    #: those of them that MXNet calls auxiliary states (running statistics)
    AUXILIARY: frozenset[str] = frozenset()
    #: how many inputs it takes beside its parameters; None: any number
    num_inputs: int | None = 1
    #: whether `forward` returns a tuple, one tensor for each output
    has_outputs = False
    #: whether the output has the shape of the first input
    keeps_shape = False

    def __init__(self, attrs: dict[str, str] | None = None) -> None:
        super().__init__()
        self.attrs = dict(attrs or {})
        # torch attribute -> the variable in the file, where it is not what MXNet would make itself
        self.variables: dict[str, Node] = {}

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        """Return the layer that a node of a file describes."""
        return cls()

    @classmethod
    def num_data(cls, spec: OpSpec) -> int:
        """Return how many of a node's inputs are not parameters."""
        return 1 if cls.PARAMETER_NAMES else spec.num_inputs

    def parameter_slots(self) -> list[str]:
        """Return the torch attributes of this layer's parameters, in the order of the operator's inputs."""
        return [name for name in self.PARAMETER_NAMES if getattr(self, name) is not None]

    def infer(self, *data: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what `forward` would, for tensors on the meta device, that have shapes and no values.

        Raises ValueError for shapes that do not go together.
        """
        # Nearly all layers keep the shape, and many of torch's functions spend a second on imports when they
        # first see a meta tensor: those layers are not run, as their shape is known.
        return data[0] if self.keeps_shape else self(*data)

    def extra_repr(self) -> str:  # what print(model) shows behind the class
        return ", ".join(f"{k}={v}" for k, v in self.attrs.items())


def pair(size: Size) -> tuple[int, int]:
    """Return 3 as (3, 3), and a pair as it is."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def optional_pairs(**sizes: Size | None) -> dict[str, tuple[int, int] | None]:
    """Return each size as a pair, and None where it was not given."""
    return {name: None if size is None else pair(size) for name, size in sizes.items()}


def to_attrs(**settings: object) -> dict[str, str]:
    """Return settings as MXNet writes attributes (Python text), without those left at None."""
    return {name: str(value) for name, value in settings.items() if value is not None}


def map_shape(data: Tensor) -> Shape:
    """Return the shape of a batch of maps (N, C, H, W); ValueError for any other number of axes."""
    if data.ndim != 4:
        raise ValueError(f"it works on maps (N, C, H, W), not on shape {tuple(data.shape)}")
    return tuple(data.shape)


def num_windows(size: int, kernel: int, stride: int, pad: int, is_ceil: bool = False) -> int:
    """Return how many windows of a convolution or pooling fit along an axis; 0 if not even one.

    With `is_ceil` the last one may reach over the border (MXNet's pooling_convention=full).
    """
    # MXNet's formula (pooling-inl.h). torch's ceil_mode has one window less where the last begins in the
    # padding.
    room = size + 2 * pad - kernel
    if room < 0:
        return 0
    return (-(-room // stride) if is_ceil else room // stride) + 1


def output_sides(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int],
                 is_ceil: bool = False) -> list[int]:
    """Return `num_windows` along each axis; ValueError where the map is too small for a single one."""
    counts = [num_windows(*axis, is_ceil) for axis in zip(sizes, kernel, stride, pad, strict=True)]
    if min(counts) < 1:
        raise ValueError(f"a kernel of {tuple(kernel)} does not fit into a map of {tuple(sizes)}: "
                         "the image is too small")
    return counts


def first_of_equal_shapes(*data: Tensor) -> Tensor:
    """Return the first of tensors that must have one shape; ValueError where they have several."""
    # MXNet's `elemwise_` operators do not broadcast, as torch would.
    if any(tensor.shape != data[0].shape for tensor in data):
        raise ValueError(f"cannot combine shapes {', '.join(str(tuple(tensor.shape)) for tensor in data)}")
    return data[0]


def empty_on_meta(*shape: int) -> Tensor:
    """Return a tensor that has this shape and no values."""
    return torch.empty(shape, device="meta")
