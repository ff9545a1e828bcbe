"""`mx.gluon.utils`: division of batches for several contexts, clipping of gradients, downloads."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet.base import MXNetError, translated
from imgcls.compat.mxnet.nd import NDArray
from imgcls.errors import verbatim
from imgcls.storage.download import fetch


def split_data(data: NDArray, num_slice: int, batch_axis: int = 0, even_split: bool = True) -> list[NDArray]:
    """Return a batch in `num_slice` parts along an axis, all of the same size unless `even_split` is off."""
    size = data.shape[batch_axis]
    if even_split and size % num_slice:
        raise ValueError(f"data with shape {data.shape} cannot be evenly split into {num_slice} slices along "
                         f"axis {batch_axis}. Use a batch size that's multiple of {num_slice} or set "
                         "even_split=False to allow uneven partitioning of data.")
    if size < num_slice:
        raise ValueError(f"Too many slices for data with shape {data.shape}. Arguments are "
                         f"num_slice={num_slice} and batch_axis={batch_axis}.")
    # an uneven remainder is distributed: all of it in the last part could double that part
    ends = [round(size / num_slice * i) if not even_split else size // num_slice * i
            for i in range(num_slice)] + [size]
    return [data.slice_axis(axis=batch_axis, begin=ends[i], end=ends[i + 1]) for i in range(num_slice)]


def split_and_load(data: Any, ctx_list: Sequence[Any], batch_axis: int = 0,
                   even_split: bool = True) -> list[NDArray]:
    """Return a batch in one part for each context."""
    array = data if isinstance(data, NDArray) else nd.array(data, ctx=ctx_list[0])
    # a single part: not divided, and not copied
    if len(ctx_list) == 1:
        return [array.as_in_context(ctx_list[0])]
    parts = split_data(array, len(ctx_list), batch_axis, even_split)
    return [part.as_in_context(ctx) for part, ctx in zip(parts, ctx_list, strict=True)]


def clip_global_norm(arrays: Sequence[NDArray], max_norm: float, check_isfinite: bool = True) -> Any:
    """Scale arrays in place so that their common norm is at most `max_norm`; return the norm before.

    A float with `check_isfinite`, where nan or inf is a warning; otherwise an NDArray of one element.
    """
    # each array in float32, the sum in Python's double: many small terms are not lost beside a
    # large one
    total = math.sqrt(sum(float(np.square(array._data, dtype=np.float32).sum()) for array in arrays))
    if check_isfinite and not math.isfinite(total):
        warnings.warn("nan or inf is detected. Clipping results will be undefined.", stacklevel=2)
    # never above 1: shorter gradients are not enlarged to the norm
    scale = min(max_norm / (total + 1e-8), 1.0)
    for array in arrays:
        array *= scale
    return total if check_isfinite else nd.array([total])


def check_sha1(filename: str | os.PathLike[str], sha1_hash: str) -> bool:
    """Return whether a file has this SHA-1."""
    # MXNet's model lists have SHA-1; it detects damage, and does not protect against a forged
    # file
    digest = hashlib.sha1(usedforsecurity=False)
    with open(filename, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == sha1_hash


@translated
def download(url: str, path: str | None = None, overwrite: bool = False, sha1_hash: str | None = None,
             retries: int = 5, verify_ssl: bool = True) -> str:
    """Download a file unless it is there; return its path. MXNetError where its SHA-1 is another one."""
    name = url.split("/")[-1]
    target = name if path is None else os.path.join(path, name) if os.path.isdir(path) else path
    if overwrite or not os.path.exists(target) or (sha1_hash and not check_sha1(target, sha1_hash)):
        folder = os.path.dirname(os.path.abspath(target))
        os.makedirs(folder, exist_ok=True)
        # aside first: `fetch` takes a file that is there as it is, and an old one stays where this fails
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as aside:
            fetched = os.path.join(aside, os.path.basename(target))
            fetch([url], fetched)
            if sha1_hash and not check_sha1(fetched, sha1_hash):
                raise MXNetError(f"{verbatim(url)}: its SHA-1 is not {verbatim(sha1_hash)}")
            os.replace(fetched, target)
    return target
