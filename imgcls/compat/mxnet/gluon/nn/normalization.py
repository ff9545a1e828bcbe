"""`mx.gluon.nn`: normalisation over the batch, a group of channels, or a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgcls.compat.mxnet.gluon.hybrid_block import HybridBlock


# Common to all kinds: a scale and an offset for each channel.
class _Normalization(HybridBlock):
    """A block with `gamma` and `beta`; `_settings` are shown by `print`."""

    _settings: dict[str, Any]
    _shows_none = False

    def _make(self, channels: int, center: bool, scale: bool, beta: Any, gamma: Any,
              **kwargs: Any) -> None:
        # "null" and not left out: without a scale gamma stays 1, and files contain it nevertheless
        self.gamma = self.params.get("gamma", grad_req="write" if scale else "null", shape=(channels,),
                                     init=gamma, allow_deferred_init=True, **kwargs)
        self.beta = self.params.get("beta", grad_req="write" if center else "null", shape=(channels,),
                                    init=beta, allow_deferred_init=True, **kwargs)

    def __repr__(self) -> str:
        content = ", ".join(f"{key}={value!r}" for key, value in self._settings.items())
        channels = (self.gamma.shape or (0,))[0]
        shown = None if self._shows_none and not channels else channels
        return f"{type(self).__name__}({content}, in_channels={shown})"


class BatchNorm(_Normalization):
    """Batch normalisation; `axis` is that of the channels."""

    _shows_none = True

    def __init__(self, axis: int = 1, momentum: float = 0.9, epsilon: float = 1e-5, center: bool = True,
                 scale: bool = True, use_global_stats: bool = False, beta_initializer: Any = "zeros",
                 gamma_initializer: Any = "ones", running_mean_initializer: Any = "zeros",
                 running_variance_initializer: Any = "ones", in_channels: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # in MXNet's order, in which `print` shows them
        self._settings = {"axis": axis, "eps": epsilon, "momentum": momentum, "fix_gamma": not scale,
                          "use_global_stats": use_global_stats}
        self._axis = axis
        self._make(in_channels, center, scale, beta_initializer, gamma_initializer)
        self.running_mean = self._statistic("running_mean", in_channels, running_mean_initializer)
        self.running_var = self._statistic("running_var", in_channels, running_variance_initializer)

    def _statistic(self, name: str, channels: int, init: Any) -> Any:
        return self.params.get(name, grad_req="null", shape=(channels,), init=init, allow_deferred_init=True,
                               # updated from the batch's statistics, and not by a gradient
                               differentiable=False)

    def cast(self, dtype: Any) -> None:
        """Convert the parameters to another dtype; for float16 they stay float32, as in MXNet."""
        super().cast("float32" if np.dtype(dtype) == np.float16 else dtype)

    def hybrid_forward(self, F: Any, x: Any, gamma: Any = None, beta: Any = None,  # noqa: N803
                       running_mean: Any = None, running_var: Any = None) -> Any:
        return F.BatchNorm(x, gamma, beta, running_mean, running_var, name="fwd", **self._settings)


class SyncBatchNorm(BatchNorm):
    """BatchNorm: one device computes here, so there is nothing to synchronise."""

    def __init__(self, in_channels: int = 0, num_devices: int | None = None, **kwargs: Any) -> None:
        super().__init__(in_channels=in_channels, **kwargs)


class BatchNormReLU(BatchNorm):
    """Batch normalisation and a relu."""

    def hybrid_forward(self, F: Any, x: Any, gamma: Any = None, beta: Any = None,  # noqa: N803
                       running_mean: Any = None, running_var: Any = None) -> Any:
        return F.contrib.BatchNormWithReLU(x, gamma, beta, running_mean, running_var, name="fwd",
                                           **self._settings)


class InstanceNorm(_Normalization):
    """Normalise each channel of each sample separately."""

    def __init__(self, axis: int = 1, epsilon: float = 1e-5, center: bool = True, scale: bool = False,
                 beta_initializer: Any = "zeros", gamma_initializer: Any = "ones", in_channels: int = 0,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = {"eps": epsilon, "axis": axis, "center": center, "scale": scale}
        self._axis = axis
        self._epsilon = epsilon
        self._make(in_channels, center, scale, beta_initializer, gamma_initializer)

    def hybrid_forward(self, F: Any, x: Any, gamma: Any = None, beta: Any = None) -> Any:  # noqa: N803
        if self._axis == 1:
            return F.InstanceNorm(x, gamma, beta, name="fwd", eps=self._epsilon)
        turned = F.InstanceNorm(x.swapaxes(1, self._axis), gamma, beta, name="fwd", eps=self._epsilon)
        return turned.swapaxes(1, self._axis)


class LayerNorm(_Normalization):
    """Normalise each sample along one axis."""

    def __init__(self, axis: int = -1, epsilon: float = 1e-5, center: bool = True, scale: bool = True,
                 beta_initializer: Any = "zeros", gamma_initializer: Any = "ones", in_channels: int = 0,
                 prefix: str | None = None, params: Any = None) -> None:
        super().__init__(prefix=prefix, params=params)
        self._settings = {"eps": epsilon, "axis": axis, "center": center, "scale": scale}
        self._axis = axis
        self._epsilon = epsilon
        self._make(in_channels, center, scale, beta_initializer, gamma_initializer)

    def hybrid_forward(self, F: Any, data: Any, gamma: Any = None, beta: Any = None) -> Any:  # noqa: N803
        return F.LayerNorm(data, gamma=gamma, beta=beta, axis=self._axis, eps=self._epsilon)


class GroupNorm(_Normalization):
    """Normalise each group of channels of each sample separately."""

    def __init__(self, num_groups: int = 1, epsilon: float = 1e-5, center: bool = True, scale: bool = True,
                 beta_initializer: Any = "zeros", gamma_initializer: Any = "ones", prefix: str | None = None,
                 params: Any = None, in_channels: int = 0) -> None:
        super().__init__(prefix=prefix, params=params)
        self._settings = {"eps": epsilon, "num_groups": num_groups, "center": center, "scale": scale}
        self._make(in_channels, center, scale, beta_initializer, gamma_initializer)

    def hybrid_forward(self, F: Any, data: Any, gamma: Any = None, beta: Any = None) -> Any:  # noqa: N803
        return F.GroupNorm(data, gamma=gamma, beta=beta, num_groups=self._settings["num_groups"],
                           eps=self._settings["eps"])

    def __repr__(self) -> str:
        content = ", ".join(f"{key}={value!r}" for key, value in self._settings.items())
        return f"{type(self).__name__}({content})"
