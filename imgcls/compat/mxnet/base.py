"""`mx.base`: the error that MXNet raises, and decorators that turn errors of this package into it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from imgcls.errors import ImgclsError, UsageError

__all__ = ["MXNetError", "translated", "translated_class"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Class = TypeVar("_Class", bound=type)


# A RuntimeError as in MXNet, and one of ours, so that our commands show it as one line.
class MXNetError(UsageError, RuntimeError):
    """The error that scripts for MXNet catch: about an operator, a file or a device."""


def translated(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Return the function with every ImgclsError raised as an MXNetError with the same message."""
    @functools.wraps(function)
    def call(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except MXNetError:
            raise
        except ImgclsError as error:
            raise MXNetError(error.message) from error

    return call


# `__next__` and the like raise as well, so dunder methods are included.
def translated_class(cls: _Class) -> _Class:
    """Apply `translated` to all methods that a class defines itself."""
    for name, member in list(vars(cls).items()):
        if callable(member) and not isinstance(member, type):
            setattr(cls, name, translated(member))
        elif isinstance(member, staticmethod):
            setattr(cls, name, staticmethod(translated(member.__func__)))
    return cls
