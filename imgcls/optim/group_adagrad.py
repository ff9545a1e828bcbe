"""GroupAdaGrad of MXNet's contrib: AdaGrad with one sum of squares for each row of a weight.

Gupta et al. 2014, "Training Highly Multiclass Classifiers". MXNet's takes matrices alone, without weight
decay; here a row is an output channel of a convolution as well, a bias or gamma has rows of one number each,
which is AdaGrad, and the decay goes as AdaGrad's does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from imgcls.optim.adagrad import AdaGrad


class GroupAdaGrad(AdaGrad):
    """Rates that fall with the sum over updates of the mean squared gradient of a row."""

    # of a whole network MXNet has no .states of it: its biases are refused there
    is_mxnets = False
    is_elementwise = False

    def __init__(self, params: Iterable[Any], eps: float = 1e-5) -> None:
        super().__init__(params, eps=eps)

    def add_squares(self, history: list[Tensor], gradients: list[Tensor]) -> None:
        """Add the mean squares of the rows to the sums."""
        # kept as often as a row is long: a checkpoint holds states in the shape of their weights
        torch._foreach_add_(history, [_row_means(gradient.square()) for gradient in gradients])


def _row_means(values: Tensor) -> Tensor:
    """Return the mean over all but the first dimension, in the shape of `values`."""
    if values.ndim < 2:
        return values
    return values.mean(dim=tuple(range(1, values.ndim)), keepdim=True).expand_as(values)
