"""The learning rate that is chosen for fine-tuning follows the norm of the filters."""

from __future__ import annotations

import numpy as np
import pytest

from imgcls.config.sections import NetworkConfig
from imgcls.networks import build_network
from imgcls.pretrained.lr_scale import lr_scale


def arrays_of(network: str, num_layers: int | None = None) -> dict[str, np.ndarray]:
    config = NetworkConfig(network=network, num_layers=num_layers, num_classes=10, image_shape=(3, 32, 32))
    model = build_network(config, seed=0)
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def shortened(arrays: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    return {name: array * np.float32(factor) if array.ndim == 4 else array for name, array in arrays.items()}


@pytest.mark.parametrize(("network", "num_layers"), [("resnet", 18), ("resnet-28-small", None)])
def test_the_rate_follows_the_square_of_the_norm(network: str, num_layers: int | None) -> None:
    arrays = arrays_of(network, num_layers)
    assert lr_scale(shortened(arrays, 4)) == 1  # never more than what is usual
    longer, shorter = lr_scale(shortened(arrays, 0.4)), lr_scale(shortened(arrays, 0.2))
    assert longer == pytest.approx(4 * shorter, rel=1e-5)
    assert shorter < 0.1


def test_only_batch_normalisation_makes_norms_meaningless() -> None:
    arrays = shortened(arrays_of("lenet"), 0.1)
    assert lr_scale(arrays) == 1
    assert lr_scale(arrays | {"bn_moving_mean": np.zeros(3, np.float32)}) < 0.1
    assert lr_scale({"bn_moving_mean": np.zeros(3, np.float32)}) == 1


@pytest.mark.parametrize(("value", "scale"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, 0.01)])
def test_weights_that_are_no_measure(value: float, scale: float) -> None:
    arrays = {"conv_weight": np.full((2, 3, 3, 3), value, np.float16), "bn_running_mean": np.zeros(2)}
    assert lr_scale(arrays) == scale


def test_half_precision_does_not_overflow() -> None:
    arrays = {"conv_weight": np.full((2, 3, 3, 3), 300, np.float16), "bn_running_mean": np.zeros(2)}
    assert lr_scale(arrays) == 1
