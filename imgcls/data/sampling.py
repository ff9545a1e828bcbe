"""Which samples an epoch has where not each comes once: equally many of every class, or repeats in a batch.

Functions of (seed, epoch) and the labels. A sample that comes again gets draws of its own, so that its crops
and colours differ (`order.repeated`). Called where a training loader is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgcls.config.sections import RegularizationConfig
from imgcls.data import order
from imgcls.data.order import EpochOrders
from imgcls.data.sources import Ordered, Source
from imgcls.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """Equally many samples of each class where `is_balanced`; each sample `repeats` times in its batch.

    An epoch stays as long as the data set: some samples do not come in it.
    """

    is_balanced: bool = False
    repeats: int = 1

    def orders(self, labels: np.ndarray, batch_size: int) -> EpochOrders:
        """Return what gives the order of each epoch of samples with these labels, int64 (N,)."""
        if self == EACH_ONCE:
            return EpochOrders()
        return _SampledOrders(self, labels, batch_size)

    def check_shard(self, shard: order.Shard, batch_size: int) -> None:
        """Raise UsageError where workers of dist_async, each with every n-th sample of the order, would have
        the repeats of one sample in batches of different workers."""
        count = shard.count if shard.is_independent else 1
        num_others = -(-batch_size // self.repeats)  # places between a sample and its next repeat
        if self.repeats > 1 and num_others % count:
            good = max(num_others // count, 1) * count * self.repeats
            raise UsageError(f"`aug_repeats` {self.repeats}: with `kv_store` dist_async, {count} workers and "
                             f"`batch_size` {batch_size} the repeats of an image would be in batches of "
                             f"different workers; take `batch_size` {good}")

    def check(self, source: Source) -> None:
        """Raise UsageError for a source that determines the order itself (`Ordered`)."""
        if self != EACH_ONCE and isinstance(source, Ordered):
            setting = "`balanced_order`" if self.is_balanced else f"`aug_repeats` {self.repeats}"
            raise UsageError(f"{setting}: the record files are more than `cache_gb` and are read in chunks, "
                             "each once; a larger `cache_gb` keeps them here")


#: the usual epoch: each sample once
EACH_ONCE = Sampling()


def make_sampling(config: RegularizationConfig) -> Sampling:
    """Return the sampling of these settings; UsageError where rare classes would be compensated for twice."""
    if config.balanced_order and config.class_weights.strip().lower() == "balanced":
        raise UsageError("`balanced_order` and `class_weights` balanced exclude each other: rare classes "
                         "would count twice as much as meant; leave one out")
    return Sampling(config.balanced_order, config.aug_repeats)


class _SampledOrders(EpochOrders):
    """Orders in which samples come more than once, or not at all."""

    def __init__(self, sampling: Sampling, labels: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self._sampling = sampling
        self._labels = labels
        self._batch_size = batch_size

    def permutation(self, seed: int, epoch: int, count: int) -> np.ndarray:
        """Return int64 (count,): the entries of an epoch's order, encoded as by `order.repeated`."""
        indices = super().permutation(seed, epoch, count)
        if self._sampling.is_balanced:
            indices = balanced(self._labels, seed, epoch)[indices]
        return repeated_in_batches(indices, self._sampling.repeats, self._batch_size)


def balanced(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return int64 (N,): equally many samples of each class that occurs, to within one, sorted by class.

    All samples of a small class come, equally often to within one; of a large class a part, drawn anew in
    each epoch. Encoded as by `order.repeated`.
    """
    # By class, and at random inside of each class: sorted by hash, as the order of an epoch is.
    by_class = np.lexsort((order.uniform(seed, epoch, np.arange(len(labels)), order.BALANCE), labels))
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    share, rest = divmod(len(labels), len(counts))
    # one sample more for some classes, others in each epoch
    lucky = np.argsort(order.uniform(seed, epoch, len(labels) + np.arange(len(counts)), order.BALANCE))
    # The rest goes to classes at random: the same classes each time would be preferred.
    wanted = np.full(len(counts), share)
    wanted[lucky[:rest]] += 1
    which = np.repeat(np.arange(len(counts)), wanted)
    number = np.arange(len(labels)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    return order.repeated(by_class[first[which] + number % counts[which]], number // counts[which])


def repeated_in_batches(indices: np.ndarray, repeats: int, batch_size: int) -> np.ndarray:
    """Return the order int64 (N,) of an epoch in whose batches each sample comes `repeats` times.

    Hoffer et al. 2020, "Augment Your Batch". The samples of a batch come one after the other, and then all
    again: so neighbours are different samples, which matters where they are mixed.
    """
    if repeats == 1:
        return indices
    # all at once: a loop over the batches of an epoch of ImageNet would take a second
    position = np.arange(len(indices))
    batch, place = position // batch_size, position % batch_size
    sizes = np.minimum(batch_size, len(indices) - batch * batch_size)
    num_others = -(-sizes // repeats)
    # the last batch may be smaller; it begins where the full ones before it end
    first = batch * -(-batch_size // repeats)
    return order.repeated_again(indices[first + place % num_others], place // num_others, repeats)
