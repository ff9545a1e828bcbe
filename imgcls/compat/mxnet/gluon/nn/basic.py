"""`mx.gluon.nn`: fully connected layers, dropout, embeddings, flattening."""

from __future__ import annotations

from typing import Any

from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock
from imgcls.compat.mxnet.gluon.nn.activations import Activation


class Dense(HybridBlock):
    """act(x W^T + b), of shape (N, units); with `flatten` off it works on the last axis alone."""

    def __init__(self, units: int, activation: str | None = None, use_bias: bool = True, flatten: bool = True,
                 dtype: Any = "float32", weight_initializer: Any = None, bias_initializer: Any = "zeros",
                 in_units: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._flatten = flatten
        self._units = units
        self._in_units = in_units
        with self.name_scope():
            self.weight = self.params.get("weight", shape=(units, in_units), init=weight_initializer,
                                          dtype=dtype, allow_deferred_init=True)
            self.bias = self.params.get("bias", shape=(units,), init=bias_initializer, dtype=dtype,
                                        allow_deferred_init=True) if use_bias else None
            self.act = None if activation is None else Activation(activation, prefix=activation + "_")

    def hybrid_forward(self, F: Any, x: Any, weight: Any = None, bias: Any = None) -> Any:  # noqa: N803
        settings = {"num_hidden": self._units, "flatten": self._flatten, "no_bias": bias is None,
                    "name": "fwd"}
        inputs = (x, weight) if bias is None else (x, weight, bias)
        result = F.FullyConnected(*inputs, **settings)
        return result if self.act is None else self.act(result)

    def __repr__(self) -> str:
        shape = self.weight.shape or (self._units, 0)
        act = self.act or "linear"
        return f"{type(self).__name__}({shape[1] or None} -> {shape[0]}, {act})"


class Dropout(HybridBlock):
    """Sets a fraction `rate` of the values to 0 in training, and scales the others up."""

    def __init__(self, rate: float, axes: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rate = rate
        self._axes = axes

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        if self._rate > 0:
            return F.Dropout(x, p=self._rate, axes=self._axes, name="fwd", cudnn_off=False)
        return F.identity(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p = {self._rate}, axes={self._axes})"


class Embedding(HybridBlock):
    """Rows of a table by number."""

    def __init__(self, input_dim: int, output_dim: int, dtype: Any = "float32",
                 weight_initializer: Any = None, sparse_grad: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = {"input_dim": input_dim, "output_dim": output_dim, "dtype": dtype,
                          "sparse_grad": False}
        self.weight = self.params.get("weight", shape=(input_dim, output_dim), init=weight_initializer,
                                      dtype=dtype, allow_deferred_init=True)

    def hybrid_forward(self, F: Any, x: Any, weight: Any = None) -> Any:  # noqa: N803
        return F.Embedding(x, weight, name="fwd", **self._settings)

    def __repr__(self) -> str:
        sizes = self._settings
        return f"{type(self).__name__}({sizes['input_dim']} -> {sizes['output_dim']}, {sizes['dtype']})"


class Flatten(HybridBlock):
    """Reshape to (N, all other axes together)."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return F.Flatten(x)

    def __repr__(self) -> str:
        return type(self).__name__


