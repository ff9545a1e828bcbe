"""Label smoothing, weights of classes, mixup and CutMix: the definitions, and the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imgcls.config.sections import RegularizationConfig
from imgcls.data import order
from imgcls.data.loaders.batch import Batch
from imgcls.data.mixing import _NUM_BETA, Mixing, beta, make_mixing
from imgcls.errors import UsageError
from imgcls.training.loss import Loss, class_weights, make_loss
from imgcls.training.metrics import Metrics


def batch_of(count: int, *, other: bool = False, share: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(5, (count,), generator=generator)
    return Batch(torch.rand(count, 3, 8, 8, generator=generator), labels, count, count,
                 other_labels=labels.roll(1) if other else None, share=share)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_the_loss_is_torchs_with_soft_labels_and_parts_add_up(smoothing: float, is_mixed: bool) -> None:
    batch = batch_of(12, other=is_mixed, share=0.3 if is_mixed else 1.0)
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    targets = F.one_hot(batch.labels, 5).float()
    if batch.other_labels is not None:
        targets = 0.3 * targets + 0.7 * F.one_hot(batch.other_labels, 5)
    loss = Loss(smoothing)
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, batch), expected)
    parts = list(batch.micro_batches(5))
    first = np.cumsum([0, *(part.num_valid for part in parts)])
    total = sum(loss(logits[a:b], part) for a, b, part in zip(first, first[1:], parts, strict=False))
    torch.testing.assert_close(total, expected)


def test_weights_of_classes() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = class_weights("balanced", labels, 5)
    assert weights is not None
    np.testing.assert_allclose(weights[labels].mean(), 1)
    assert weights[1] == pytest.approx(2 * weights[0])
    assert weights[3] == pytest.approx(6 * weights[0])
    np.testing.assert_allclose(weights, class_weights("1, 2,0,6,0", labels, 5))
    loss = make_loss(RegularizationConfig(class_weights="balanced"), labels, 5, torch.device("cpu"))
    logits = torch.randn(10, 5)
    batch = Batch(torch.zeros(10, 1), torch.from_numpy(labels), 10, 10)
    # torch divides by the weights of the batch, which over the whole training set is the number of images
    expected = F.cross_entropy(logits, batch.labels, weight=torch.tensor(weights).float())
    torch.testing.assert_close(loss(logits, batch), expected)
    for text in ("1,2", "balance", "1,2,3,4,-1", "nan,1,1,1,1", "0,0,1,0,0", "1e7,1,1,1,1"):
        with pytest.raises(UsageError, match="class_weights"):
            class_weights(text, labels, 5)


def test_beta_numbers_are_distributed_as_numpys() -> None:
    for alpha in (0.2, 1.0, 4.0):
        uniform = order.uniform(3, 0, np.arange(4000 * _NUM_BETA), 0).reshape(4000, -1)
        ours = np.sort([beta(alpha, row) for row in uniform])
        theirs = np.sort(np.random.default_rng(1).beta(alpha, alpha, 4000))
        grid = np.linspace(0.01, 0.99, 50)
        distance = np.abs(np.searchsorted(ours, grid) - np.searchsorted(theirs, grid)).max() / 4000
        assert distance < 1.63 * np.sqrt(2 / 4000), alpha  # Kolmogorov and Smirnov, 1 in 100
    assert all(0 <= beta(1e-3, row) <= 1 for row in uniform[:100])


def test_mixup_and_cutmix_are_torchvisions() -> None:
    batch = batch_of(6)
    batch = Batch(batch.images, batch.labels, 6, 6, partners=torch.tensor([5, 0, 1, 2, 3, 4]))
    boxes = areas = 0
    for number in range(40):
        mixing = Mixing(RegularizationConfig(mixup=0.5, cutmix=1.0), seed=7)
        mix, mixed = mixing.draw(2, number, (8, 8)), mixing(batch, 2, number)
        rolled = batch.images.roll(1, 0)
        if mix.box is None:
            torch.testing.assert_close(mixed.images, batch.images * mix.share + rolled * (1 - mix.share))
        else:
            top, left, bottom, right = mix.box
            expected = batch.images.clone()
            expected[:, :, top:bottom, left:right] = rolled[:, :, top:bottom, left:right]
            assert torch.equal(mixed.images, expected)
            assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / 64)
            boxes, areas = boxes + 1, areas + 1 - mix.share
        assert mixed.other_labels is not None
        assert torch.equal(mixed.other_labels, batch.labels.roll(1))
        assert mixed.share == mix.share
        assert torch.equal(mixed.labels, batch.labels)
    assert 10 < boxes < 30, "each is for half of the batches"
    assert 0.2 < areas / boxes < 0.5


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_who_is_mixed_with_whom_does_not_depend_on_processes(world: int) -> None:
    indices = order.permutation(0, 0, 11)
    damaged = {int(indices[3])}
    for number, size in ((0, 8), (1, 3)):
        pairs = {}
        for rank in range(world):
            local = order.local_batch(indices, number, 8, order.Shard(rank, world, has_partners=True))
            if not local.num_valid:
                assert local.partners is None
                continue
            good = ~np.isin(local.indices, list(damaged))
            assert local.partners is not None
            partners = order.remaining_partners(local.partners, good)
            kept = local.indices[good]
            pairs |= dict(zip(kept[:len(partners)].tolist(), kept[partners].tolist(), strict=True))
        batch = indices[8 * number:8 * number + 8].tolist()
        expected = {own: other if other not in damaged else own
                    for own, other in zip(batch, [batch[-1], *batch], strict=False) if own not in damaged}
        assert pairs == expected
        assert len(batch) == size


def test_accuracy_of_mixed_images_counts_both_labels_by_their_parts() -> None:
    metrics = Metrics(["accuracy"], torch.device("cpu"))
    logits = torch.eye(3)[[0, 1, 2, 0]]  # says 0, 1, 2, 0
    metrics.update(logits, torch.tensor([0, 0, 2, 1]), torch.tensor([1, 1, 2, 2]), 0.75)
    assert metrics.values() == {"accuracy": pytest.approx((0.75 + 0.25 + 1 + 0) / 4)}


def test_flat_rows_have_no_boxes() -> None:
    with pytest.raises(UsageError, match=r"cutmix 1: needs images.*mixup"):
        make_mixing(RegularizationConfig(cutmix=1.0), (784,), 0)
    mixing = make_mixing(RegularizationConfig(mixup=1.0), (784,), 0)
    assert mixing is not None
    rows = Batch(torch.rand(2, 784), torch.tensor([0, 1]), 2, 2, partners=torch.tensor([1, 0]))
    assert mixing(rows, 0, 0).images.shape == (2, 784)
