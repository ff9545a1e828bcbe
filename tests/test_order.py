"""Order and augmentation are functions of (seed, epoch, sample), and stay what they are between versions."""

from __future__ import annotations

import numpy as np
import pytest

from imgcls.data import order


def test_every_epoch_is_another_permutation() -> None:
    first, second = order.permutation(1, 0, 1000), order.permutation(1, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert sorted(second) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert (first != order.permutation(2, 0, 1000)).mean() > 0.9
    assert (first == order.permutation(1, 0, 1000)).all()


def test_the_streams_are_frozen() -> None:
    """Runs that were begun with an older version must go on as they would have."""
    assert order.permutation(0, 0, 8).tolist() == [3, 4, 7, 2, 6, 1, 5, 0]
    draws = order.uniform(3, 1, np.arange(4), 0)
    assert (draws * 1e9).astype(int).tolist() == [924118507, 513363045, 263833135, 130104497]
    assert order.step_seed(0, 5) == 5289287744709197319


def test_a_draw_belongs_to_its_sample() -> None:
    """Whatever is asked for beside it, and in whatever order."""
    alone = order.uniform(7, 2, np.array([41]), 3)
    assert order.uniform(7, 2, np.arange(100)[::-1], 3)[58] == alone[0]


def test_draws_are_uniform_and_unrelated() -> None:
    samples = np.arange(100_000)
    first, second = order.uniform(0, 0, samples, 0), order.uniform(0, 0, samples, 1)
    next_epoch = order.uniform(0, 1, samples, 0)
    for values in (first, second, next_epoch):
        counts = np.histogram(values, 10, (0, 1))[0]
        assert abs(counts - 10_000).max() < 500
    for other in (second, next_epoch, np.roll(first, 1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.02


def test_integers_reach_both_ends() -> None:
    values = order.integers(0, 0, np.arange(10_000), 0, 9)
    assert (values.min(), values.max()) == (0, 8)


def test_the_order_made_ahead_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [order.permutation(3, epoch, 500) for epoch in range(4)]
    monkeypatch.setattr(order, "LARGE", 100)
    calls = []
    permutation = order.permutation
    monkeypatch.setattr(order, "permutation", lambda *args: calls.append(args) or permutation(*args))
    orders = order.EpochOrders()
    for epoch in (0, 1, 2, 1, 3):
        assert np.array_equal(orders.permutation(3, epoch, 500), expected[epoch])
    assert calls.count((3, 1, 500)) == 2  # ahead, and again after going back
