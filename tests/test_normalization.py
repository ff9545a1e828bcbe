"""Batch normalisation of the smaller batch at the end of an epoch: one image with a map of one pixel."""

from __future__ import annotations

import pytest
import torch

from imgcls.layers import BatchNorm


@pytest.mark.parametrize("fix_gamma", [False, True])
def test_a_single_value_of_each_channel_becomes_beta(fix_gamma: bool) -> None:
    norm = BatchNorm(3, fix_gamma=fix_gamma).train()
    with torch.no_grad():
        norm.beta.copy_(torch.tensor([1.0, 2.0, 3.0]))
    data = torch.tensor([[4.0, 5.0, 6.0]])[:, :, None, None].requires_grad_()
    normalised = norm(data)
    assert normalised.flatten().tolist() == [1, 2, 3], "as of any batch whose values are equal"
    normalised.sum().backward()
    assert data.grad is not None
    assert not data.grad.any(), "no value has an effect, and none is without a gradient"
    assert norm.beta.grad is not None
    assert norm.beta.grad.tolist() == [1, 1, 1]
    assert torch.allclose(norm.moving_mean, 0.1 * data.flatten())
    assert norm.moving_var.tolist() == [1, 1, 1], "one value has no variance"
    # all equal, two of them: the same
    assert BatchNorm(3).train()(data.detach().expand(2, -1, -1, -1)).any().item() is False
