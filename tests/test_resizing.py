"""Progressive resizing: sizes by epoch, batches on the device, and networks that cannot."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgcls.config.sections import NetworkConfig, TrainConfig
from imgcls.data.loaders.batch import Batch
from imgcls.data.resizing import Resizing, make_resizing
from imgcls.errors import UsageError
from imgcls.layers import Pooling
from imgcls.networks import build_network

CPU = torch.device("cpu")


def test_images_grow_from_the_scale_to_full_size() -> None:
    resizing = Resizing(TrainConfig(num_epochs=20, progressive_scale=0.5), (224, 192))
    sizes = [resizing.size(epoch) for epoch in range(20)]
    assert sizes[:11] == [(112, 96)] * 11
    assert sizes[11:16] == [(140, 120), (168, 144), (168, 144), (196, 168), (224, 192)]
    assert set(sizes[16:]) == {(224, 192)}
    given = Resizing(TrainConfig(progressive_scale=0.5, progressive_epochs=(1, 3)), (32, 32))
    assert [given.size(epoch)[0] for epoch in range(5)] == [16, 16, 24, 32, 32]
    at_once = Resizing(TrainConfig(progressive_scale=0.3, progressive_epochs=(2, 2)), (32, 32))
    assert [at_once.size(epoch)[0] for epoch in range(4)] == [12, 12, 32, 32]


def test_batches_are_resized_and_keep_everything_else() -> None:
    resizing = Resizing(TrainConfig(num_epochs=10, progressive_scale=0.5), (16, 16))
    images = torch.rand(3, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    batch = Batch(images, torch.arange(3), 2, 2, partners=torch.tensor([2, 0]))
    small = resizing(batch, 0, 0)
    torch.testing.assert_close(small.images, F.interpolate(images, (8, 8), mode="bilinear", antialias=True))
    assert small.partners is batch.partners
    assert small.num_valid == 2
    assert resizing(batch, 9, 0) is batch


def test_airbench_takes_smaller_images_first() -> None:
    config = NetworkConfig(network="airbench", image_shape=(3, 32, 32), multiplier=0.125)
    model = build_network(config, 0)
    assert make_resizing(TrainConfig(progressive_scale=0.75), (3, 32, 32), model, CPU) is not None
    # a symbol of before has a kernel of three pixels there: the same numbers at 32, and no others
    before = build_network(config, 0)
    before.pool = Pooling(3, "max", stride=3)
    results = []
    for network in (model, before):
        images = torch.arange(8 * 3 * 32 * 32).remainder(7).view(8, 3, 32, 32).float()
        with torch.autocast("cpu", torch.bfloat16):  # of few digits, and so with equal values in a map
            logits = network(images)
        logits.float().square().sum().backward()
        results.append((logits, network.get_parameter("group3_conv2.weight").grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match="does not run on images of 24 x 24"):
        make_resizing(TrainConfig(progressive_scale=0.75), (3, 32, 32), before, CPU)


def test_what_cannot_be_resized_is_refused() -> None:
    config = TrainConfig(progressive_scale=0.5)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4))
    assert make_resizing(config, (3, 16, 16), pooled, CPU) is not None
    assert pooled.training
    assert int(pooled[3].num_batches_tracked) == 0
    assert make_resizing(TrainConfig(), (3, 16, 16), pooled, CPU) is None
    with pytest.raises(UsageError, match="does not run on images of 8 x 8"):
        make_resizing(config, (3, 16, 16), nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), CPU)
    class OfOneSize(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch._assert(images.shape[2] == 16, "Wrong image height!")
            return images

    with pytest.raises(UsageError, match="does not run on images of 8 x 8"):
        make_resizing(config, (3, 16, 16), OfOneSize(), CPU)

    class Large(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")

    with pytest.raises(RuntimeError, match="not enough memory"):
        make_resizing(config, (3, 16, 16), Large(), CPU)
    with pytest.raises(UsageError, match="is of flat rows"):
        make_resizing(config, (784,), pooled, CPU)
    with pytest.raises(UsageError, match="the first must not be after the second"):
        make_resizing(TrainConfig(progressive_scale=0.5, progressive_epochs=(4, 2)), (3, 16, 16), pooled, CPU)
