"""`mx.gluon.ParameterDict`: the parameters of a block by name, and their files."""

from __future__ import annotations

import os
import re
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet.gluon.parameter import Constant, Parameter
from imgcls.compat.mxnet.nd import NDArray


class ParameterDict:
    """Parameters by name, in the order of the network; `get` takes those that `shared` has from there."""

    def __init__(self, prefix: str = "", shared: ParameterDict | None = None) -> None:
        self._prefix = prefix
        self._parameters: dict[str, Parameter] = {}
        # looked up and never changed: new parameters are not added there
        self._shared = shared

    @property
    def prefix(self) -> str:
        """The beginning of the names of new parameters."""
        return self._prefix

    def __repr__(self) -> str:
        name = f"{self._prefix} " if self._prefix else ""
        lines = "".join(f"\n  {parameter}" for parameter in self._parameters.values())
        return f"{name}({lines}\n)"

    def __getitem__(self, key: str) -> Parameter:
        return self._parameters[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __contains__(self, key: object) -> bool:
        return key in self._parameters

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self._parameters.keys()

    def values(self) -> ValuesView[Parameter]:
        """Return the parameters."""
        return self._parameters.values()

    def items(self) -> ItemsView[str, Parameter]:
        """Return names and parameters."""
        return self._parameters.items()

    def _find(self, name: str) -> Parameter | None:
        if name not in self._parameters and self._shared is not None:
            shared = self._shared._parameters.get(name)
            if shared is not None:
                # added here as well, so that a file of this block contains it
                self._parameters[name] = shared
        return self._parameters.get(name)

    # Layers get their weights by it; a second layer with the same ParameterDict gets the same objects.
    def get(self, name: str, **kwargs: Any) -> Parameter:
        """Return the parameter of the prefix and this name, made with these settings if it is new."""
        full = self._prefix + name
        found = self._find(full)
        if found is None:
            found = self._parameters[full] = Parameter(full, **kwargs)
            return found
        shape = kwargs.get("shape")
        if shape is not None:
            own = found.shape or ()
            # 0 stands for a size that is not known yet; it is taken from the other shape
            sizes = (shape,) if isinstance(shape, int) else tuple(shape)
            if len(own) == len(sizes):
                found.shape = [a or b for a, b in zip(own, sizes, strict=True)]
            elif own:
                raise AssertionError(f"Cannot retrieve Parameter '{full}' because desired attribute does not "
                                     f"match with stored for attribute 'shape': desired '{sizes}' vs stored "
                                     f"'{own}'.")
        return found

    def get_constant(self, name: str, value: Any = None) -> Constant:
        """Return the constant of this name, made with `value` if it is new."""
        full = self._prefix + name
        found = self._find(full)
        if found is None:
            if value is None:
                raise KeyError(f"No constant named '{full}'. Please specify value if you want to create a "
                               "new constant.")
            found = self._parameters[full] = Constant(full, value)
        assert isinstance(found, Constant), full
        return found

    def update(self, other: ParameterDict | Mapping[str, Parameter]) -> None:
        """Add other parameters; two different ones of the same name are a ValueError."""
        for name, parameter in other.items():
            if self._parameters.setdefault(name, parameter) is not parameter:
                raise ValueError(f"Cannot update self with other because they have different Parameters with "
                                 f"the same name '{name}'")

    def initialize(self, init: Any = None, ctx: Any = None, verbose: bool = False,
                   force_reinit: bool = False) -> None:
        """Initialize all values, each by its own initializer or by `init`, which is Uniform by default."""
        from imgcls.compat.mxnet import initializer

        # uniform in [-0.07, 0.07): MXNet's default, which its documentation of Gluon relies on
        default = initializer.Uniform() if init is None else initializer.create(init)
        if verbose and hasattr(default, "set_verbosity"):
            default.set_verbosity(verbose)
        for parameter in self._parameters.values():
            parameter.initialize(None, ctx, default, force_reinit=force_reinit)

    def zero_grad(self) -> None:
        """Set all gradients to 0."""
        for parameter in self._parameters.values():
            parameter.zero_grad()

    def reset_ctx(self, ctx: Any) -> None:
        """Set the contexts of all parameters."""
        for parameter in self._parameters.values():
            parameter.reset_ctx(ctx)

    def list_ctx(self) -> list[Any]:
        """Return the contexts of all parameters, each once."""
        return list(dict.fromkeys(ctx for parameter in self.values() for ctx in parameter.list_ctx()))

    def setattr(self, name: str, value: Any) -> None:
        """Set an attribute of all parameters, such as `grad_req` or `lr_mult`."""
        for parameter in self._parameters.values():
            setattr(parameter, name, value)

    # A regular expression, matched from the start of the name.
    def select(self, pattern: str) -> ParameterDict:
        """Return the parameters whose names begin with a match of the pattern."""
        matcher = re.compile(pattern)  # the caller's own, never from a file
        found = ParameterDict(self._prefix)
        found.update({name: parameter for name, parameter in self.items() if matcher.match(name)})
        return found

    def save(self, filename: str | os.PathLike[str], strip_prefix: str = "") -> None:
        """Write the arrays to a file, names without the prefix."""
        arrays: dict[str, NDArray] = {}
        for name, parameter in self.items():
            if not name.startswith(strip_prefix):
                raise ValueError(f"Prefix '{strip_prefix}' is to be striped before saving, but Parameter's "
                                 f"name '{name}' does not start with '{strip_prefix}'. this may be due to "
                                 "your Block shares parameters from other Blocks or you forgot to use 'with "
                                 "name_scope()' when creating child blocks.")
            # without the prefix, which has a count of the process's blocks: the next run may have
            # another one
            arrays[name[len(strip_prefix):]] = parameter.data()
        nd.save(filename, arrays)

    # The prefixes arg: and aux: are those of checkpoints; Gluon's own files have none.
    def load(self, filename: str | os.PathLike[str], ctx: Any = None, allow_missing: bool = False,
             ignore_extra: bool = False, restore_prefix: str = "", cast_dtype: bool = False,
             dtype_source: str = "current") -> None:
        """Set the parameters to those of a file, a checkpoint's or Gluon's; see `load_dict`."""
        arrays = nd.load(filename)
        if not isinstance(arrays, dict):
            raise ValueError(f"{filename}: its arrays have no names, so they are no parameters")
        self.load_dict(arrays, ctx, allow_missing, ignore_extra, restore_prefix, f"file: {filename}",
                       cast_dtype, dtype_source)

    # All names are compared before the first value is set: a wrong file does not change the block.
    def load_dict(self, param_dict: Mapping[str, NDArray], ctx: Any = None, allow_missing: bool = False,
                  ignore_extra: bool = False, restore_prefix: str = "", filename: str | None = None,
                  cast_dtype: bool = False, dtype_source: str = "current") -> None:
        """Set parameters by name. A missing name is an AssertionError unless `allow_missing`, an extra one
        unless `ignore_extra`; `restore_prefix` is put in front of the given names."""
        source = filename or "the dictionary"
        given = {restore_prefix + (name[4:] if name.startswith(("arg:", "aux:")) else name): array
                 for name, array in param_dict.items()}
        missing = [name for name in self if name not in given]
        if missing and not allow_missing:
            raise AssertionError(f"Parameter '{missing[0].removeprefix(restore_prefix)}' is missing in "
                                 f"{source}, which contains parameters: {brief(given)}. Please make sure "
                                 "source and target networks have the same prefix.")
        extra = [name for name in given if name not in self]
        if extra and not ignore_extra:
            raise AssertionError(f"Parameter '{extra[0].removeprefix(restore_prefix)}' loaded from {source} "
                                 f"is not present in ParameterDict, choices are: {brief(self)}. Set "
                                 "ignore_extra to True to ignore. Please make sure source and target "
                                 "networks have the same prefix.")
        for name, array in given.items():
            if name in self:
                self[name].load(array, ctx, source, cast_dtype, dtype_source)


def brief(names: Any) -> str:
    """Return some names for a message."""
    listed = list(names)
    shown = listed if len(listed) <= 6 else [*listed[:3], "...", *listed[-3:]]
    return ", ".join(f"'{name}'" if name != "..." else name for name in shown)
