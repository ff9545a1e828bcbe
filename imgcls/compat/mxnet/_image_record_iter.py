"""The iterator of `mx.io.ImageRecordIter`: the streaming loader of `imgcls.data` with MXNet's interface.

MXNet's arguments become an AugmentConfig (`_arguments.py`); the records, with their labels, a Source
(`_record_source.py`); and the epochs, whose last batches are filled up, an order of samples. The loader does
all work on pixels but the last step, MXNet's normalisation. `io.py` imports this, and torch with it, when an
iterator is made.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.compat.mxnet._arguments import augment_config, read_arguments
from imgcls.compat.mxnet._data_iter import DataDesc, DataIter
from imgcls.compat.mxnet._record_source import RecordSource
from imgcls.compat.mxnet.base import MXNetError, translated_class
from imgcls.compat.mxnet.nd import NDArray
from imgcls.config.sections import AugmentConfig
from imgcls.data import normalize, order
from imgcls.data.loaders.host_batch import HostBatch
from imgcls.data.loaders.make import make_mean_image
from imgcls.data.loaders.streaming import StreamingLoader


@translated_class
class ImageRecords(DataIter):
    """See `mx.io.ImageRecordIter`. `getindex` gives the ids of the records (MXNet: zeros)."""

    def __init__(self, **kwargs: Any) -> None:
        args = read_arguments(kwargs)
        super().__init__(args["batch_size"])
        shape = args["data_shape"]
        config = augment_config(args)
        self._source = RecordSource(args)
        # MXNet makes the mean image of the records where the file is not there yet.
        if config.mean_image and not Path(config.mean_image).exists():
            make_mean_image(config.mean_image, self._source, shape, config, args["preprocess_threads"],
                            "stop")
        self._round_batch: bool = args["round_batch"]
        # MXNet refuses it too (iter_batchloader.h): one batch would hold some samples twice.
        if self._round_batch and len(self._source) < self.batch_size:
            raise MXNetError(f"batch_size {self.batch_size}: {self._source.description} has only "
                             f"{len(self._source)} records; take a smaller one, or round_batch=False")
        self._loader = _EpochLoader(self._source, args, config)
        # Not the loader's normalisation: MXNet's rounds differently, and can return uint8 and int8.
        self._normalize = _Normalizer(args, config, shape)
        width = args["label_width"]
        # MXNet drops the axis of a single label, and SoftmaxOutput relies on that.
        label_shape = (self.batch_size, width) if width > 1 else (self.batch_size,)
        self.provide_data = [DataDesc(args["data_name"], (self.batch_size, *shape), args["dtype"])]
        self.provide_label = [DataDesc(args["label_name"], label_shape)]
        self._epoch = 0
        #: batches of this epoch that the caller has taken
        self._num_taken = 0
        #: the epoch's batches; None before its first and behind its last
        self._batches: Generator[HostBatch, None, None] | None = None

    def reset(self) -> None:
        """Begin the next epoch; does nothing where no batch of this one was taken."""
        if not self._num_taken:
            return
        is_complete = self._num_taken == self._loader.batches_per_epoch
        self._stop()
        # Only if the last batch was taken have the samples been seen that filled it up.
        self._loader.skip = self._loader.pad if is_complete and self._round_batch else 0
        self._epoch += 1
        self._num_taken = 0

    def iter_next(self) -> bool:
        """Go to the next batch, if there is one."""
        # Threads start with the first batch that is requested, not with the constructor or `reset`.
        if self._batches is None:
            if self._num_taken:
                return False
            self._loader.plan_epoch()
            self._batches = self._loader.batches(self._epoch)
        batch = next(self._batches, None)
        if batch is None:
            self._batches = None
            return False
        self._num_taken += 1
        # Data are copied now: the buffer is good only until the next batch is requested.
        self._indices = batch.indices
        self._data = NDArray(self._normalize(batch))
        return True

    def getdata(self) -> list[NDArray]:
        """Return the batch's images."""
        return [self._data]

    def getlabel(self) -> list[NDArray]:
        """Return the batch's labels."""
        return [NDArray(self._source.all_labels[self._indices])]

    def getindex(self) -> np.ndarray:
        """Return uint64 (batch,): the ids of the records."""
        return self._source.ids[self._indices]

    def getpad(self) -> int:
        """Return how many samples fill the batch up."""
        return self._loader.pad if self._num_taken == self._loader.batches_per_epoch else 0

    def _stop(self) -> None:
        """End the threads of an epoch that is not taken to its end."""
        if self._batches is not None:
            self._batches.close()  # a generator's close() runs its `finally`, which joins the threads
            self._batches = None

    # Scripts that use MXNet do not close iterators; their threads must not outlive them.
    def __del__(self) -> None:
        if getattr(self, "_batches", None) is not None:  # not where __init__ raised
            self._stop()


class _EpochLoader(StreamingLoader):
    """The streaming loader with MXNet's epochs: the last batch is filled up from the next epoch."""

    def __init__(self, source: RecordSource, args: dict[str, Any], config: AugmentConfig) -> None:
        seed = args["seed"]
        super().__init__(source, batch_size=args["batch_size"], image_shape=args["data_shape"],
                         augment_config=config, train=True, threads=args["preprocess_threads"], on_bad="stop",
                         seed=seed if args["seed_aug"] is None else args["seed_aug"],
                         device=torch.device("cpu"))
        # Not the base's seed: `seed_aug` is for the augmentation alone.
        self._order_seed = seed
        self._shuffle: bool = args["shuffle"]
        #: samples of the epoch that were in the last one already, where they filled its last batch up
        self.skip = 0
        #: samples that fill up the last batch
        self.pad = 0

    def plan_epoch(self) -> None:
        """Set how many batches the epoch has from `skip` on, and how many samples fill up the last."""
        count = self.num_samples - self.skip
        self.batches_per_epoch = -(-count // self.batch_size)
        self.pad = self.batches_per_epoch * self.batch_size - count

    def batches(self, epoch: int) -> Generator[HostBatch, None, None]:
        """Yield the epoch's batches, in bytes; to be closed where it is not taken to its end."""
        yield from self.host_batches(epoch)

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Return int64: the epoch's samples from `skip` on, then those that fill the last batch up."""
        # resize repeats them where the whole epoch is smaller than the batch.
        following = np.resize(self._shuffled(epoch + 1), self.pad)
        return np.concatenate([self._shuffled(epoch)[self.skip:], following])

    def _shuffled(self, epoch: int) -> np.ndarray:
        count = self.num_samples
        return order.permutation(self._order_seed, epoch, count) if self._shuffle else np.arange(count)


class _Normalizer:
    """uint8 (n, H, W, C) -> (n, C, H, W), normalised as MXNet's iterator does.

    float32 is (x - mean) * (scale / std), rounded as in MXNet; uint8 is not changed; int8 is x minus the
    mean, clipped to -128 .. 127.
    """

    def __init__(self, args: dict[str, Any], config: AugmentConfig, shape: tuple[int, ...]) -> None:
        channels = "rgba"[:shape[0]]
        mean = np.array([args[f"mean_{c}"] for c in channels], np.float32)
        std = np.array([args[f"std_{c}"] for c in channels], np.float32)
        if (std == 0).any():  # MXNet divides, and trains on infinities
            raise MXNetError(f"std_r, std_g, std_b {std.tolist()}: must not be 0")
        self._dtype = args["dtype"]
        self._mirror: bool = args["mirror"]
        self._mean = torch.from_numpy(mean)[:, None, None]
        # One factor, rounded to float32, as in MXNet: the loader's own normalisation rounds differently.
        self._factor = torch.from_numpy(np.float32(args["scale"]) / std)[:, None, None]
        self._mean_images = None
        if config.mean_image:
            image = torch.from_numpy(normalize.read_mean_image(config.mean_image, shape))
            self._mean_images = torch.stack([image, image.flip(2)])  # as it is, and mirrored

    def __call__(self, batch: HostBatch) -> np.ndarray:
        """Return the batch's images, a copy: its buffer is used again."""
        pixels = batch.pixels.permute(0, 3, 1, 2)
        # `mirror` is for all images alike; `rand_mirror` was done by the loader.
        if self._mirror:
            pixels = pixels.flip(3)
        if self._dtype is np.uint8:
            return pixels.numpy().copy("C")
        if self._dtype is np.int8:
            shifted = (pixels.short() - torch.round(self._mean).short()).clamp(-128, 127)
            return shifted.to(torch.int8).numpy().copy("C")
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if self._mean_images is None:
            # In place from here on: a batch of 256 at 224 is 150 MB, and each copy costs as much as a pass
            # over it.
            values -= self._mean
        else:
            # The mean image is mirrored with the sample.
            values -= self._mean_images[torch.from_numpy(batch.mirrored ^ self._mirror).long()]
        return values.mul_(self._factor).numpy()
