"""A checkpoint of MXNet, `PREFIX-symbol.json` and `PREFIX-0001.params`, read and written for `mx.model`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from imgcls.compat.mxnet import nd, symbol
from imgcls.compat.mxnet.base import translated
from imgcls.compat.mxnet.nd import NDArray
from imgcls.compat.mxnet.symbol import Symbol
from imgcls.errors import DataError

Params = dict[str, NDArray]


# The symbol is written each time: a prefix that was used before may have had another network.
@translated
def save_checkpoint(prefix: str, epoch: int, symbol: Symbol | None, arg_params: Mapping[str, NDArray],
                    aux_params: Mapping[str, NDArray], remove_amp_cast: bool = True) -> None:
    """Write the symbol, if there is one, and the parameters, the same bytes as MXNet."""
    if symbol is not None:
        symbol.save(f"{prefix}-symbol.json", remove_amp_cast=remove_amp_cast)
    path = f"{prefix}-{epoch:04d}.params"  # MXNet's "%s-%04d.params"
    save_params(path, arg_params, aux_params)
    logging.info('Saved checkpoint to "%s"', path)


# In MXNet's order: so the file has the same bytes.
def save_params(path: str, arg_params: Mapping[str, NDArray], aux_params: Mapping[str, NDArray]) -> None:
    """Write parameters and auxiliary states to one file."""
    nd.save(path, {**{f"arg:{name}": array for name, array in arg_params.items()},
                   **{f"aux:{name}": array for name, array in aux_params.items()}})


@translated
def load_params(prefix: str, epoch: int) -> tuple[Params, Params]:
    """Return (arguments, auxiliary states) of `PREFIX-EPOCH.params`."""
    return read_params(f"{prefix}-{epoch:04d}.params")


# Names with another word before the colon are left out, as in MXNet.
def read_params(path: str) -> tuple[Params, Params]:
    """Return (arguments, auxiliary states) of a file; a DataError for arrays without arg: or aux:."""
    arrays = nd.load(path)
    if not isinstance(arrays, dict):
        if arrays:
            raise DataError(path, "its arrays have no names, so it is no checkpoint")
        # A warning only, in MXNet's words (python/mxnet/model.py): a network may have no parameters.
        logging.warning("Params file '%s' is empty", path)
        return {}, {}
    # Two groups, by the word before the colon.
    params: dict[str, Params] = {"arg": {}, "aux": {}}
    for name, array in arrays.items():
        kind, colon, rest = name.partition(":")
        if not colon:
            raise DataError(path, f"array {name!r} has no arg: or aux: before its name; a file of Gluon's "
                            "save_parameters is no checkpoint (mx.nd.load reads it)")
        params.setdefault(kind, {})[rest] = array
    return params["arg"], params["aux"]


# The symbol first: where it is missing the error is about the prefix.
@translated
def load_checkpoint(prefix: str, epoch: int) -> tuple[Symbol, Params, Params]:
    """Return (symbol, arguments, auxiliary states) of a checkpoint."""
    return (symbol.load(f"{prefix}-symbol.json"), *load_params(prefix, epoch))
