"""`mx.test_utils`, as far as scripts use it: comparisons, random arrays, a forward pass, the list of GPUs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imgcls.compat.mxnet import nd
from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.context import Context, current_context, num_gpus
from imgcls.compat.mxnet.gluon.utils import download as _download
from imgcls.compat.mxnet.nd import NDArray


def default_context() -> Context:
    """Return the current context."""
    return current_context()


def list_gpus() -> range:
    """Return the numbers of the GPUs."""
    return range(num_gpus())


def same(a: Any, b: Any) -> bool:
    """Return whether two arrays are equal."""
    return bool(np.array_equal(_values(a), _values(b)))


def almost_equal(a: Any, b: Any, rtol: float | None = None, atol: float | None = None,
                 equal_nan: bool = False, use_broadcast: bool = True) -> bool:
    """Return whether two arrays are equal within `rtol` (1e-4) and `atol` (1e-6)."""
    # defaults for float32; MXNet chooses them by type and device, and code that relies on that
    # gives its own
    return bool(np.allclose(_values(a), _values(b), rtol=1e-4 if rtol is None else rtol,
                            atol=1e-6 if atol is None else atol, equal_nan=equal_nan))


def assert_almost_equal(a: Any, b: Any, rtol: float | None = None, atol: float | None = None,
                        names: tuple[str, str] = ("a", "b"), equal_nan: bool = False, **kwargs: Any) -> None:
    """Raise an AssertionError where two arrays differ by more than `rtol` (1e-4) and `atol` (1e-6)."""
    # numpy's report shows the largest difference, which a failed test is read for
    np.testing.assert_allclose(_values(a), _values(b), rtol=1e-4 if rtol is None else rtol,
                               atol=1e-6 if atol is None else atol, equal_nan=equal_nan,
                               err_msg=" and ".join(names))


def rand_ndarray(shape: Any, stype: str = "default", dtype: Any = None, **kwargs: Any) -> NDArray:
    """Return an array of uniform random numbers in [-1, 1)."""
    return nd.array(np.random.uniform(-1.0, 1.0, shape), dtype=dtype)


def random_arrays(*shapes: Any) -> Any:
    """Return normal random numbers, a numpy array for each shape; for one shape the array itself."""
    # from numpy's generator, which tests seed
    arrays = [np.array(np.random.randn(*shape), dtype=np.float32) if shape else np.float32(np.random.randn())
              for shape in shapes]
    return arrays[0] if len(arrays) == 1 else arrays


def simple_forward(sym: Any, ctx: Any = None, is_train: bool = False, **inputs: Any) -> Any:
    """Return the outputs of a symbol for numpy arrays, as numpy arrays."""
    arrays = {name: nd.array(value) for name, value in inputs.items()}
    # without gradients: only a forward pass
    executor = sym.bind(ctx or current_context(), args=arrays)
    outputs = [output.asnumpy() for output in executor.forward(is_train=is_train)]
    return outputs[0] if len(outputs) == 1 else outputs


def download(url: str, fname: str | None = None, dirname: str | None = None, overwrite: bool = False,
             retries: int = 5) -> str:
    """Download a file unless it is there; return its path."""
    name = fname or url.split("/")[-1]
    if dirname is not None:
        os.makedirs(dirname, exist_ok=True)
        name = os.path.join(dirname, name)
    return _download(url, name, overwrite)


def _values(array: Any) -> Any:
    return array.asnumpy() if isinstance(array, NDArray) else np.asarray(array)


def __getattr__(name: str) -> Any:
    raise missing("mxnet.test_utils", name, [key for key in globals() if not key.startswith("_")])
