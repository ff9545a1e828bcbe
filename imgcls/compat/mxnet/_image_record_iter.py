"""What `mx.io.ImageRecordIter` makes: the streaming loader of `imgcls.data` behind MXNet's face.

MXNet's arguments become an AugmentConfig; the records, with their labels, a Source; and the epochs with filled up
last batches an order of samples. Everything that touches pixels is the loader's, but for the last step, MXNet's way
of normalising.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from imgcls.compat.mxnet.io import DataDesc, DataIter
from imgcls.compat.mxnet.nd import NDArray
from imgcls.config.sections import AugmentConfig
from imgcls.data import normalize, order
from imgcls.data.crops import METHODS
from imgcls.data.loaders.host_batch import HostBatch
from imgcls.data.loaders.make import make_mean_image
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.errors import DataError, UsageError, nearest
from imgcls.formats import lists, recordio

#: MXNet's arguments that are ours under the same or another name; the others are in _OTHERS
_AUGMENT = {"resize": "resize", "max_rotate_angle": "max_random_rotate_angle",
            "max_shear_ratio": "max_random_shear_ratio", "max_random_scale": "max_random_scale",
            "min_random_scale": "min_random_scale", "pad": "pad_size", "fill_value": "fill_value",
            "rand_crop": "random_crop", "random_resized_crop": "random_resized_crop",
            "max_random_area": "max_random_area", "min_random_area": "min_random_area",
            "max_aspect_ratio": "max_random_aspect_ratio", "min_aspect_ratio": "min_random_aspect_ratio",
            "max_crop_size": "max_crop_size", "min_crop_size": "min_crop_size", "brightness": "brightness",
            "contrast": "contrast", "saturation": "saturation", "random_h": "max_random_h",
            "random_s": "max_random_s", "random_l": "max_random_l", "pca_noise": "pca_noise",
            "rand_mirror": "random_mirror"}
_AUGMENT_DEFAULTS = {**{name: getattr(AugmentConfig(), field) for name, field in _AUGMENT.items()},
                     "resize": -1, "fill_value": 255}
_OTHERS: dict[str, Any] = {
    "path_imgrec": "", "path_imgidx": "", "path_imglist": "", "data_shape": (), "batch_size": 0, "label_width": 1,
    "shuffle": False, "seed": 0, "seed_aug": None, "num_parts": 1, "part_index": 0, "round_batch": True,
    "mirror": False, "inter_method": 1, "mean_img": "", "mean_r": 0.0, "mean_g": 0.0, "mean_b": 0.0, "mean_a": 0.0,
    "std_r": 1.0, "std_g": 1.0, "std_b": 1.0, "std_a": 1.0, "scale": 1.0, "dtype": "float32", "preprocess_threads": 4,
    "data_name": "data", "label_name": "softmax_label"}
#: how the work is done in MXNet: of no meaning here, results do not depend on it
_MEANINGLESS = {"ctx": "gpu", "device_id": 0, "prefetch_buffer": 4, "verbose": True, "shuffle_chunk_size": 0,
                "shuffle_chunk_seed": 0}
#: known, but only as they are where nobody asked for them
_ONLY_DEFAULT = {"aug_seq": "aug_default", "rotate": -1, "max_img_size": 1e10, "min_img_size": 0.0,
                 "max_random_contrast": 0.0, "max_random_illumination": 0.0}
_DEFAULTS = {**_AUGMENT_DEFAULTS, **_OTHERS, **_MEANINGLESS, **_ONLY_DEFAULT}
#: where the default is None, what else it may be
_OPTIONAL: dict[str, Callable[[Any], Any]] = {"min_aspect_ratio": float, "seed_aug": int}
_DTYPES = {"float32": np.float32, "none": np.float32, "uint8": np.uint8, "int8": np.int8}
_METHOD_NAMES = {number: name for name, number in METHODS.items() if name != "antialias"}


class ImageRecords(DataIter):
    """See `mx.io.ImageRecordIter`. `getindex` gives the ids of the records (MXNet: zeros)."""

    def __init__(self, **kwargs: Any) -> None:
        options = _read_options(kwargs)
        super().__init__(options["batch_size"])
        shape = options["data_shape"]
        self._dtype: Any = options["dtype"]
        if options["mirror"]:
            options["rand_mirror"] = False  # all are mirrored, once
        config = AugmentConfig(interpolation=options["inter_method"], mean_image=options["mean_img"],
                               **{field: options[name] for name, field in _AUGMENT.items()})
        source = _Records(options)
        threads = options["preprocess_threads"]
        if config.mean_image and not Path(config.mean_image).exists():
            make_mean_image(config.mean_image, source, shape, config, threads, "stop")
        self._source, self._round, self._mirror = source, options["round_batch"], options["mirror"]
        if self._round and len(source) < self.batch_size:
            raise UsageError(f"batch_size {self.batch_size}: {source.description} has only {len(source)} records; take "
                             "a smaller one, or round_batch=False")
        self._loader = _Loader(source, options, config, threads)
        self._normalize = _Normalizer(options, config, shape)
        width = options["label_width"]
        self.provide_data = [DataDesc(options["data_name"], (self.batch_size, *shape), self._dtype)]
        self.provide_label = [DataDesc(options["label_name"], (self.batch_size, *([width] if width > 1 else [])))]
        self._epoch = self._taken = 0
        self._batches: Generator[HostBatch, None, None] | None = None

    def reset(self) -> None:
        """Begin the next epoch; where nothing of this one was taken, it has begun already."""
        if not self._taken:
            return
        whole = self._taken == self._loader.batches_per_epoch
        self._stop()
        self._loader.skip = self._loader.pad if whole and self._round else 0
        self._epoch += 1
        self._taken = 0

    def iter_next(self) -> bool:
        if self._batches is None:
            if self._taken:
                return False
            self._loader.begin()
            self._batches = self._loader.batches(self._epoch)
        filled = next(self._batches, None)
        if filled is None:
            self._batches = None
            return False
        self._taken += 1
        self._samples = filled.indices
        self._data = NDArray(self._normalize(filled))
        return True

    def getdata(self) -> list[NDArray]:
        return [self._data]

    def getlabel(self) -> list[NDArray]:
        return [NDArray(self._source.all_labels[self._samples])]

    def getindex(self) -> np.ndarray:
        """uint64 (batch,): the ids of the records."""
        return self._source.ids[self._samples]

    def getpad(self) -> int:
        return self._loader.pad if self._taken == self._loader.batches_per_epoch else 0

    def _stop(self) -> None:
        """End the threads of an epoch that is not taken to its end."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __del__(self) -> None:
        if getattr(self, "_batches", None) is not None:
            self._stop()


class _Records:
    """The Source: the records of a part, and their labels, which need be no class numbers."""

    class_names: tuple[str, ...] = ()

    def __init__(self, options: dict[str, Any]) -> None:
        files = recordio.expand(options["path_imgrec"], "path_imgrec")
        index = options["path_imgidx"]
        if index and len(files) > 1:
            raise UsageError(f"path_imgidx {index}: belongs to one record file, path_imgrec names {len(files)}")
        self._readers = [recordio.RecordReader(file, index=index or None) for file in files]
        for reader in self._readers:
            for problem in [*reader.problems, *reader.header_problems().values()]:
                raise problem
        self.description = str(options["path_imgrec"])
        part = recordio.part_range(self._readers, options["num_parts"], options["part_index"], indexed=bool(index))
        if not len(part):
            raise UsageError(f"part_index {options['part_index']} of num_parts {options['num_parts']}: "
                             f"{self.description} has no record for this part")
        firsts = np.cumsum([0, *map(len, self._readers)])
        numbers = np.arange(part.start, part.stop)
        self._files = np.searchsorted(firsts, numbers, side="right") - 1
        self._numbers = numbers - firsts[self._files]
        headers = np.concatenate([reader.headers() for reader in self._readers])[part.start:part.stop]
        self.ids = headers["id"]
        self._begins = 24 + 4 * headers["flag"].astype(np.int64)
        self.all_labels = self._listed(options) if options["path_imglist"] else self._own(options["label_width"])[
            part.start:part.stop]

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), for the loader, which is asked for pixels only."""
        return np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int) -> bytes | memoryview:
        reader = self._readers[self._files.item(index)]
        return reader.payload(self._numbers.item(index))[self._begins.item(index):]

    def problem(self, index: int, reason: str) -> DataError:
        reader, number = self._readers[self._files.item(index)], self._numbers.item(index)
        return DataError(reader.path, f"record {number} (id {self.ids[index]}) {reason}", reader.offsets.item(number))

    def _own(self, width: int) -> np.ndarray:
        """float32 (N,) or (N, width) of all files."""
        return np.concatenate([reader.labels(width) for reader in self._readers])

    def _listed(self, options: dict[str, Any]) -> np.ndarray:
        """The same of this part from `path_imglist`, by id."""
        path, width = options["path_imglist"], options["label_width"]
        found = {entry.id: entry.labels[:width] for entry in lists.read(path).entries}
        rows = []
        for index, id_ in enumerate(self.ids.tolist()):
            if len(found.get(id_, ())) != width:
                what = f"has {len(found[id_])} labels where {width} are wanted" if id_ in found else "is not there"
                raise DataError(path, f"id {id_} {what}, which is that of record {self._numbers[index]}")
            rows.append(found[id_])
        table = np.array(rows, np.float32)
        return table[:, 0] if width == 1 else table


class _Loader(StreamingLoader):
    """The streaming loader with MXNet's epochs: `skip` samples were in the last epoch already, and the last batch is
    filled up with `pad` from the beginning of the next one."""

    def __init__(self, source: _Records, options: dict[str, Any], config: AugmentConfig, threads: int) -> None:
        seed, self._shuffle = options["seed"], options["shuffle"]
        super().__init__(source, batch_size=options["batch_size"], image_shape=options["data_shape"],
                         augment_config=config, train=True, threads=threads, on_bad="stop",
                         seed=seed if options["seed_aug"] is None else options["seed_aug"],
                         device=torch.device("cpu"))
        self._order_seed = seed
        self.skip = self.pad = 0

    def begin(self) -> None:
        """Lay out an epoch from `skip` on."""
        count = self.num_samples - self.skip
        self.batches_per_epoch = -(-count // self.batch_size)
        self.pad = self.batches_per_epoch * self.batch_size - count

    def batches(self, epoch: int) -> Generator[HostBatch, None, None]:
        """The batches of the epoch that was laid out, in bytes; to be closed where it is not taken to its end."""
        yield from self.host_batches(epoch)

    def epoch_indices(self, epoch: int) -> np.ndarray:
        following = np.resize(self._shuffled(epoch + 1), self.pad)
        return np.concatenate([self._shuffled(epoch)[self.skip:], following])

    def _shuffled(self, epoch: int) -> np.ndarray:
        count = self.num_samples
        return order.permutation(self._order_seed, epoch, count) if self._shuffle else np.arange(count)


class _Normalizer:
    """uint8 (n, H, W, C) -> (n, C, H, W): float32 (x - mean) * (scale / std), in MXNet's order of rounding; uint8 as it
    is; int8 less the mean, cut at -128 and 127."""

    def __init__(self, options: dict[str, Any], config: AugmentConfig, shape: tuple[int, ...]) -> None:
        mean, std = (np.array([options[f"{name}_{c}"] for c in "rgba"[:shape[0]]], np.float32)
                     for name in ("mean", "std"))
        if (std == 0).any():
            raise UsageError(f"std_r, std_g, std_b {std.tolist()}: must not be 0")
        self._dtype, self._mirror = options["dtype"], options["mirror"]
        self._mean = torch.from_numpy(mean)[:, None, None]
        self._factor = torch.from_numpy(np.float32(options["scale"]) / std)[:, None, None]
        self._mean_image = None
        if config.mean_image:
            image = torch.from_numpy(normalize.read_mean_image(config.mean_image, shape))
            self._mean_image = torch.stack([image, image.flip(2)])

    def __call__(self, filled: HostBatch) -> np.ndarray:
        pixels = filled.pixels.permute(0, 3, 1, 2)
        if self._mirror:
            pixels = pixels.flip(3)
        if self._dtype is np.uint8:
            return pixels.numpy().copy("C")  # the buffer is used again
        if self._dtype is np.int8:
            return (pixels.short() - torch.round(self._mean).short()).clamp(-128, 127).to(torch.int8).numpy().copy("C")
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if self._mean_image is None:
            values -= self._mean
        else:
            values -= self._mean_image[torch.from_numpy(filled.mirrored ^ self._mirror).long()]
        return values.mul_(self._factor).numpy()


class _Wanted(NamedTuple):
    """What a value has to be."""

    kind: Callable[[Any], Any]
    words: str


def _read_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments with their values; text stands for a value as in MXNet. Wrong ones are refused by name."""
    for name in kwargs:
        if name not in _DEFAULTS:
            meant = "".join(f": did you mean {close}?" for close in nearest(name, _DEFAULTS)[:1])
            raise TypeError(f"ImageRecordIter has no argument {name}{meant}")
    options = {**_DEFAULTS, **{name: _value(name, value) for name, value in kwargs.items()}}
    for name in ("path_imgrec", "data_shape", "batch_size"):
        if not options[name]:
            raise UsageError(f"ImageRecordIter needs {name}")
    for name, value in _ONLY_DEFAULT.items():
        if options[name] != value:
            raise UsageError(f"{name} {options[name]}: is not offered here, leave it out")
    if len(options["data_shape"]) != 3:
        raise UsageError(f"data_shape {options['data_shape']}: is (channels, height, width)")
    if options["batch_size"] < 1 or options["label_width"] < 1:
        raise UsageError(f"batch_size {options['batch_size']}, label_width {options['label_width']}: must be above 0")
    if options["dtype"].lower() not in _DTYPES:
        raise UsageError(f"dtype {options['dtype']}: must be float32, uint8 or int8")
    if options["inter_method"] not in _METHOD_NAMES:
        raise UsageError(f"inter_method {options['inter_method']}: must be one of {sorted(_METHOD_NAMES)}")
    options["dtype"] = _DTYPES[options["dtype"].lower()]
    options["inter_method"] = _METHOD_NAMES[options["inter_method"]]
    options["resize"] = max(options["resize"], 0)  # MXNet's -1 is ours 0
    return options


def _value(name: str, value: Any) -> Any:
    default = _DEFAULTS[name]
    wanted = _wanted(name, default)
    try:
        return default if value is None and (default is None or name == "dtype") else wanted.kind(value)
    except (ValueError, TypeError, SyntaxError):
        raise UsageError(f"{name} {value!r}: must be {wanted.words}") from None


def _wanted(name: str, default: Any) -> _Wanted:
    if isinstance(default, bool):
        return _Wanted(_switch, "True or False")
    if isinstance(default, tuple):
        return _Wanted(_sizes, "a tuple of whole numbers")
    if name == "dtype":
        return _Wanted(lambda value: value if isinstance(value, str) else np.dtype(value).name, "a type")
    kind = _OPTIONAL[name] if default is None else type(default)
    if kind is int:
        return _Wanted(_whole, "a whole number")
    return _Wanted(float, "a number") if kind is float else _Wanted(str, "text")


def _switch(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "1", "false", "0"):
        raise ValueError(value)
    return text in ("true", "1")


def _whole(value: Any) -> int:
    if int(value) != float(value):
        raise ValueError(value)
    return int(value)


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = ast.literal_eval(value) if isinstance(value, str) else value
    return tuple(_whole(size) for size in sizes)
