"""Common to the functions of `mx.sym` and of `mx.nd`: binding of arguments, and errors for wrong names.

MXNet makes both from one list of operators; here that is `_operators.signatures`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgcls.compat.mxnet._operators import Signature, signatures, to_text
from imgcls.compat.mxnet.base import MXNetError
from imgcls.errors import nearest
from imgcls.formats.symbol.dialects import HIDDEN, is_hidden

# For names of MXNet that are missing here an error can say more than the nearest spelling.
#: what is in MXNet and not here -> what there is instead, for `missing`
_INSTEAD = {
    "kv": "imgcls-train --kv-store", "kvstore": "imgcls-train --kv-store",
    "onnx": "imgcls-export",
    "use_np": "mx.nd, or numpy", "set_np": "mx.nd, or numpy", "npx": "mx.nd", "np": "mx.nd, or numpy",
    "numpy": "numpy",
    "numpy_extension": "numpy", "sparse": "dense arrays, mx.nd.array(values.asnumpy())",
    "monitor": "imgcls-train --monitor", "mon": "imgcls-train --monitor", "rtc": "torch",
    "profiler": "torch.profiler", "contrib": "mx.sym.contrib and mx.nd.contrib", "rnn": "torch.nn.LSTM",
    "engine": "nothing: calls here are done when they return", "operator": "torch.autograd.Function",
    "DataLoader": "mx.gluon.data.DataLoader",
    "LibSVMIter": "NDArrayIter",
    "ImageDetRecordIter": "ImageRecordIter, for classification", "ImageIter": "mx.image.ImageIter",
    "linalg": "mx.nd.linalg_gemm2, or numpy.linalg", "notebook": "imgcls-report",
    "th": "torch", "torch": "torch",
    **dict.fromkeys(("Conv1D", "Conv1DTranspose", "MaxPool1D", "AvgPool1D", "GlobalMaxPool1D",
                     "GlobalAvgPool1D"), "the layer for two dimensions, with a height of 1"),
    **dict.fromkeys(("Conv3D", "Conv3DTranspose", "MaxPool3D", "AvgPool3D", "GlobalMaxPool3D",
                     "GlobalAvgPool3D"), "torch.nn, whose layers have three dimensions"),
    "SequentialModule": "mx.mod.Module of one symbol",
}


# MXNet raises an AssertionError.
class InputError(TypeError, AssertionError):
    """An input of an operator that is neither an array nor a symbol."""


# An AttributeError, so that hasattr and getattr with a default work.
def missing(module: str, name: str, choices: Any) -> AttributeError:
    """Return the error for a name that this module does not have, in one line with advice."""
    close = nearest(name, [choice for choice in choices if not choice.startswith("_")])[:3]  # no internals
    if name in _INSTEAD:
        advice = f"; instead there is {_INSTEAD[name]}"
    else:
        advice = f"; nearest are {', '.join(close)}" if close else ""
    return AttributeError(f"imgcls.compat.{module} has no {name}{advice} (docs/compat.md lists what there "
                          "is)")


# `Convolution` is named convolution0, `_PlusScalar` _plusscalar0: by how it was called.
def find(name: str, prefix: str = "") -> tuple[Signature, str] | None:
    """Return (operator, the beginning of its nodes' names) for a function's name; None if there is none."""
    signature = signatures().get(prefix + name)
    return None if signature is None else (signature, name.lower())


# By position inputs come first, then settings, in MXNet's order; both may also be given by name.
def bind_arguments(function: str, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any],
                   is_input: Callable[[Any], bool]) -> tuple[list[Any] | dict[str, Any], dict[str, str]]:
    """Return the inputs (by name, or those of a list) and the settings as text.

    A name that the operator does not have is an MXNetError with the nearest one, a wrong input an InputError.
    """
    if signature.takes_list:
        inputs: list[Any] = list(args)
        settings = dict(kwargs)
        # UpSampling's weight is the one input of a list that has a name
        inputs += [settings.pop(name) for name in list(settings) if is_input(settings[name])]
        if "num_args" in signature.settings:
            settings.setdefault("num_args", len(inputs))
        return inputs, _settings(function, signature, settings)
    # Positions go through the inputs first.
    names = (*signature.inputs, *signature.settings)
    if len(args) > len(names):
        raise TypeError(f"{function} takes {len(names)} arguments at most, not {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        # Python checks this itself for an ordinary function; these have only *args and **kwargs.
        if name in given:
            raise TypeError(f"{function} got two values of {name}")
        given[name] = value
    by_name = {name: given.pop(name) for name in list(given)
               if name in signature.inputs and (given[name] is None or is_input(given[name]))}
    wrong = next((name for name in given if name in signature.inputs), None)
    if wrong is not None:
        raise InputError(f"{function}: {wrong} is a {type(given[wrong]).__name__}, which is no input")
    return ({name: value for name, value in by_name.items() if value is not None},
            _settings(function, signature, given))


# MXNet checks the names when a node is made, and values when it is bound.
def _settings(function: str, signature: Signature, given: dict[str, Any]) -> dict[str, str]:
    attrs = {}
    for name, value in given.items():
        key = f"__{name}__" if name in HIDDEN else name  # as MXNet spells attributes for its own use
        if not (is_hidden(key) or name in signature.settings or name.endswith(HIDDEN)):
            close = nearest(name, [*signature.inputs, *signature.settings])[:1]
            hint = f": did you mean {close[0]}?" if close else ""
            raise MXNetError(f"{function} has no setting {name}{hint}")
        attrs[key] = to_text(name, value)
    return attrs
