"""Order and augmentation are functions of (seed, epoch, sample), and stay what they are between versions."""

from __future__ import annotations

import numpy as np
import pytest

from imgcls.config.sections import RegularizationConfig
from imgcls.data import order, sampling
from imgcls.errors import UsageError


def test_an_order_is_by_hash_also_where_hashes_agree_in_their_upper_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def sorted_by_hash(count: int) -> np.ndarray:
        return np.argsort(order._hash(order._key(3, 1, 0), np.arange(count, dtype=np.uint64)), kind="stable")

    for count in (0, 1, 2, 3, 1000, 65_537):
        assert np.array_equal(order.permutation(3, 1, count), sorted_by_hash(count))
    # a worse hash, no two of which are equal: groups of eight differ in their lowest bits alone
    monkeypatch.setattr(order, "_hash", lambda key, counters: (
        counters ^ np.uint64(5) | (counters >> np.uint64(3)) << np.uint64(40)))
    for count in (1, 2, 9, 1000):
        assert np.array_equal(order.permutation(3, 1, count), sorted_by_hash(count))


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


# ---- samples that come more than once


def test_a_balanced_epoch_has_as_many_of_each_class() -> None:
    labels = np.repeat([0, 1, 4], [500, 30, 7])
    epochs = [sampling.Sampling(is_balanced=True).orders(labels, 16).permutation(3, epoch, 537) for epoch in range(2)]
    for drawn in epochs:
        assert len(set(drawn.tolist())) == len(drawn) == 537, "nothing is drawn for twice"
        samples = order.sample_of(drawn)
        assert np.bincount(labels[samples]).tolist() == [179, 179, 0, 0, 179]
        times = np.bincount(samples, minlength=537)
        assert (times[:500] <= 1).all()
        assert set(times[500:530]) <= {5, 6}
        assert set(times[530:]) <= {25, 26}
    assert not np.array_equal(*(np.sort(order.sample_of(drawn)) for drawn in epochs)), "others of the large class"
    classes = labels[order.sample_of(epochs[0])]
    assert abs(np.corrcoef(classes[1:], classes[:-1])[0, 1]) < 0.15


def test_repeated_samples_stand_in_one_batch_and_apart() -> None:
    drawn = sampling.Sampling(repeats=3).orders(np.zeros(50, np.int64), 8).permutation(0, 0, 50)
    plain = order.permutation(0, 0, 50)
    assert len(set(drawn.tolist())) == len(drawn) == 50
    samples = order.sample_of(drawn)
    for batch in range(7):
        part = samples[8 * batch:8 * batch + 8]
        expected = plain[3 * batch:3 * batch + (3 if len(part) == 8 else 1)]
        assert part.tolist() == np.tile(expected, 3)[:len(part)].tolist()
    draws = order.Draws(0, 0, drawn).uniform(order.COLOR, 14)
    assert len(np.unique(draws)) == draws.size, "each time as another image"
    both = sampling.Sampling(is_balanced=True, repeats=2).orders(np.repeat([0, 1], [38, 2]), 8).permutation(0, 0, 40)
    assert len(set(both.tolist())) == 40


def test_repeats_stay_with_their_worker_of_dist_async_or_are_refused() -> None:
    repeated = sampling.Sampling(repeats=3)
    shards = [order.Shard(index, 2, is_independent=True) for index in range(2)]
    for size, better in ((15, 12), (1, 6)):
        with pytest.raises(UsageError, match=f"batch_size {size} the repeats .* take batch_size {better}$"):
            repeated.check_shard(shards[0], size)
    for size in (16, 12):
        repeated.check_shard(shards[0], size)
        drawn = repeated.orders(np.zeros(4 * size, np.int64), size).permutation(0, 0, 4 * size)
        parts = [set(order.sample_of(shard.of_epoch(drawn)).tolist()) for shard in shards]
        assert not parts[0] & parts[1]
    repeated.check_shard(order.Shard(0, 2), 15)
    sampling.Sampling().check_shard(order.Shard(0, 2, is_independent=True), 15)


def test_what_contradicts_is_refused() -> None:
    with pytest.raises(UsageError, match="balanced_order and class_weights balanced exclude each other"):
        sampling.make_sampling(RegularizationConfig(balanced_order=True, class_weights="balanced"))
