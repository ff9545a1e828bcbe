"""`mx.gluon.Block`: the base of networks that are written in Python. `HybridBlock` and `SymbolBlock` derive.

A block has children, which are the blocks that are set as its attributes, and parameters. Files of
`save_parameters` name these by the path of attributes (`features.0.weight`), and are MXNet's byte for byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from imgcls.compat.mxnet import initializer, nd
from imgcls.compat.mxnet.gluon import _scope
from imgcls.compat.mxnet.gluon.parameter import Parameter
from imgcls.compat.mxnet.gluon.parameter_dict import ParameterDict, brief
from imgcls.compat.mxnet.nd import NDArray


class HookHandle:
    """The result of `register_forward_hook`: `detach` removes the hook."""

    def __init__(self, hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any]) -> None:
        self._hooks = hooks
        # by the handle and not by the hook: one function may be registered twice, and removed once
        hooks[id(self)] = hook

    def detach(self) -> None:
        """Remove the hook."""
        self._hooks.pop(id(self), None)

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.detach()


class Block:
    """A part of a network: derive from it, set children as attributes, and write `forward(*arrays)`."""

    #: whether a block is a container of others, which `summary` leaves out
    _is_row = False
    #: whether the prefix "" was given, so that the block adds nothing to the names of its children
    _is_anonymous: bool

    def __init__(self, prefix: str | None = None, params: ParameterDict | None = None) -> None:
        # None makes a name with a count, "" makes none: the children of such a block are named as
        # those of the block around it
        self._is_anonymous = prefix == ""
        self._prefix, self._params = _scope.begin(prefix, params, self._alias())
        self._name = self._prefix.removesuffix("_")
        self._scope = _scope.BlockScope(self)
        # in the order in which they were set, which is that of the parameters in a file
        self._children: dict[str, Block] = {}
        self._reg_params: dict[str, Parameter] = {}
        self._forward_hooks: dict[int, Callable[..., Any]] = {}
        self._forward_pre_hooks: dict[int, Callable[..., Any]] = {}

    # The beginning of names of this kind: conv, for conv0_ of a Conv2D.
    def _alias(self) -> str:
        return type(self).__name__.lower()

    def __repr__(self) -> str:
        lines = "".join(f"  ({key}): {_indented(repr(block))}\n"
                        # attributes, and not `_children`: a child of `register_child` alone is not
                        # printed by MXNet either
                        for key, block in self.__dict__.items() if isinstance(block, Block))
        return f"{type(self).__name__}(\n{lines.removesuffix(chr(10))}\n)"

    def __setattr__(self, name: str, value: Any) -> None:
        # a block may replace a block; any other value would leave a child that the attribute no
        # longer shows, and that is still trained and saved
        before = getattr(self, name, None)
        if isinstance(before, (Block, Parameter)) and not isinstance(value, type(before)) \
                and not (isinstance(before, Block) and isinstance(value, Block)):
            raise TypeError(f"Changing attribute type for {name} from {type(before)} to {type(value)} is not "
                            "allowed.")
        if isinstance(value, Block):
            self.register_child(value, name)
        elif isinstance(value, Parameter):
            if name in self._reg_params:
                raise AssertionError("Overriding Parameter attribute {name} is not allowed. If you want to "
                                     "share parameters between blocks, please set 'params' at Block "
                                     "construction instead.".replace("{name}", name))
            # a parameter set twice would be saved under one name and trained under two
            self._reg_params[name] = value
        super().__setattr__(name, value)

    @property
    def prefix(self) -> str:
        """The beginning of the names of this block's parameters."""
        return self._prefix

    @property
    def name(self) -> str:
        """The prefix without its last underscore."""
        return self._name

    @property
    def params(self) -> ParameterDict:
        """The parameters of this block alone, without those of its children."""
        return self._params

    def name_scope(self) -> _scope.BlockScope:
        """Return a scope: blocks made inside of `with block.name_scope():` are named as its children."""
        return self._scope

    def collect_params(self, select: str | None = None) -> ParameterDict:
        """Return the parameters of this block and its children; with `select`, a regular expression, those
        whose names begin with a match."""
        # a new dictionary: removing an item from it does not change the block
        found = ParameterDict(self._params.prefix)
        if select is None:
            found.update(self.params)
        else:
            # `match`, which begins at the start of the name, as in MXNet; ".*weight" finds weights
            matcher = re.compile(select)
            found.update({name: value for name, value in self.params.items() if matcher.match(name)})
        for child in self._children.values():
            found.update(child.collect_params(select))
        return found

    def _by_path(self, prefix: str = "") -> dict[str, Parameter]:
        """Return the parameters by their path of attributes, such as `features.0.weight`."""
        found = {prefix + name: parameter for name, parameter in self._reg_params.items()}
        for name, child in self._children.items():
            found.update(child._by_path(f"{prefix}{name}."))
        return found

    def save_parameters(self, filename: str | os.PathLike[str], deduplicate: bool = False) -> None:
        """Write all parameters by their paths; with `deduplicate` a shared one only once."""
        arrays, seen = {}, set()
        for name, parameter in self._by_path().items():
            # without `deduplicate` MXNet writes a shared weight at each of its paths, so that a
            # network that does not share it can read the file
            if not (deduplicate and id(parameter) in seen):
                arrays[name] = parameter.data()
            seen.add(id(parameter))
        nd.save(filename, arrays)

    def save_params(self, filename: str | os.PathLike[str]) -> None:
        """Write all parameters under their names without the block's prefix: the older form."""
        self.collect_params().save(filename, strip_prefix=self.prefix)

    # The older form is read as well: its names have no dots.
    def load_parameters(self, filename: str | os.PathLike[str], ctx: Any = None, allow_missing: bool = False,
                        ignore_extra: bool = False, cast_dtype: bool = False,
                        dtype_source: str = "current") -> None:
        """Set the parameters to those of a file of `save_parameters`, `save_params` or `export`.

        A name that is missing in the file is an AssertionError unless `allow_missing`, one that the block
        does not have an error unless `ignore_extra`. `cast_dtype` and `dtype_source` as in `Parameter.load`.
        """
        loaded = nd.load(filename)
        if not isinstance(loaded, dict):
            raise ValueError(f"{filename}: its arrays have no names, so they are no parameters")
        own = self._by_path()
        # a block without parameters wrote an empty file
        if not loaded and not own:
            return
        # names of `collect_params` have only underscores, those of `_by_path` a dot for each child; a
        # single layer has no dots either, and both forms then have the same names
        if not any("." in name for name in loaded):
            self.collect_params().load_dict(loaded, ctx, allow_missing, ignore_extra, self.prefix,
                                            f"file: {filename}", cast_dtype, dtype_source)
            return
        if not allow_missing:
            _check_missing(own, loaded, filename)
        extra = [name for name in loaded if name not in own]
        if extra and not ignore_extra:
            raise ValueError(f"Parameter '{extra[0]}' loaded from file '{filename}' is not present in "
                             f"Block, which contains parameters {brief(own)}. Set ignore_extra=True to "
                             "ignore.")
        for name, array in loaded.items():
            if name in own:
                own[name].load(array, ctx, str(filename), cast_dtype, dtype_source)

    def load_params(self, filename: str | os.PathLike[str], ctx: Any = None, allow_missing: bool = False,
                    ignore_extra: bool = False) -> None:
        """Do what `load_parameters` does, under its older name."""
        self.load_parameters(filename, ctx, allow_missing, ignore_extra)

    def load_dict(self, param_dict: dict[str, NDArray], ctx: Any = None, allow_missing: bool = False,
                  ignore_extra: bool = False, cast_dtype: bool = False,
                  dtype_source: str = "current") -> None:
        """Set parameters by their paths; missing and extra names as in `load_parameters`."""
        own = self._by_path()
        if not allow_missing:
            _check_missing(own, param_dict, "the dictionary")
        for name, array in param_dict.items():
            if name in own:
                own[name].load(array, ctx, "", cast_dtype, dtype_source)
            elif not ignore_extra:
                raise ValueError(f"Parameter '{name}' loaded from the dictionary is not present in Block")

    def register_child(self, block: Block, name: str | None = None) -> None:
        """Add a child, under a name or the next number."""
        # numbers, as in `Sequential`: they become the "0." of a file's names
        self._children[str(len(self._children)) if name is None else name] = block

    def register_forward_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Call `hook(block, inputs, outputs)` after each forward."""
        return HookHandle(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Call `hook(block, inputs)` before each forward."""
        return HookHandle(self._forward_pre_hooks, hook)

    def apply(self, fn: Callable[[Block], Any]) -> Block:
        """Call a function with each child, the children's children included, and with this block last."""
        for child in self._children.values():
            child.apply(fn)
        fn(self)
        return self

    def initialize(self, init: Any = None, ctx: Any = None, verbose: bool = False,
                   force_reinit: bool = False) -> None:
        """Initialize all parameters, by `init` or with uniform numbers in [-0.07, 0.07)."""
        self.collect_params().initialize(initializer.Uniform() if init is None else init, ctx, verbose,
                                         force_reinit)

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Let all children that are HybridBlocks compute as graphs."""
        for child in self._children.values():
            child.hybridize(active, **kwargs)

    def cast(self, dtype: Any) -> None:
        """Convert the parameters to another dtype."""
        for child in self._children.values():
            child.cast(dtype)
        for parameter in self.params.values():
            parameter.cast(dtype)

    def zero_grad(self) -> None:
        """Set all gradients to 0."""
        self.collect_params().zero_grad()

    def reset_ctx(self, ctx: Any) -> None:
        """Set the contexts of all parameters."""
        self.collect_params().reset_ctx(ctx)

    def __call__(self, *args: Any) -> Any:
        # a copy of the list: a hook may detach itself
        for hook in list(self._forward_pre_hooks.values()):
            hook(self, args)
        # hooks get the result of `forward`, for every kind of block; what they return is ignored, as
        # in MXNet
        result = self.forward(*args)
        for hook in list(self._forward_hooks.values()):
            hook(self, args, result)
        return result

    def forward(self, *args: Any) -> Any:
        """Return the block's result for arrays."""
        raise NotImplementedError("a block of your own must say what it computes in forward")

    def summary(self, *inputs: NDArray) -> None:
        """Print a table of the children with output shapes and numbers of parameters, for these inputs."""
        from imgcls.compat.mxnet.gluon._summary import print_summary

        print_summary(self, inputs)


def _check_missing(own: Iterable[str], given: dict[str, Any], source: object) -> None:
    for name in own:
        if name not in given:
            raise AssertionError(f"Parameter '{name}' is missing in file '{source}', which contains "
                                 f"parameters: {brief(given)}. Set allow_missing=True to ignore missing "
                                 "parameters.")


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


