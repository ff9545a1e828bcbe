"""Measure the speed of inference, of training or of reading data: benchmark_score.py and more."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgcls.cli._run import loading_torch, run_main
from imgcls.config import lookup, rules
from imgcls.config import resolve as configuration
from imgcls.config.flags import convert, flag, flags_of
from imgcls.config.resolve import FIELDS, Config
from imgcls.config.sections import MAX_THREADS, AugmentConfig, DataConfig, NetworkConfig
from imgcls.errors import ImgclsError, UsageError, spell_settings, tell, verbatim
from imgcls.report import speeds
from imgcls.report.speeds import Speed

if TYPE_CHECKING:
    from imgcls.distributed.process_group import Worker

NAME = "imgcls-benchmark"
EXAMPLES = """examples:
  imgcls-benchmark --network resnet-50 --batch-size 1,32       forward passes on the CPU
  imgcls-benchmark --gpus 0                                    all of MXNet's networks and batch sizes
  imgcls-benchmark --mode train --network resnet-50 --gpus 0   training steps
  imgcls-benchmark --mode loader --data-train train.rec        the data alone, with 1, 2, 4, ... threads
  imgcls-benchmark --network lenet --format json -o lenet.json
"""

#: what MXNet's benchmark_score.py measures without --network and --batch-size; the last two are Gluon's
NETWORKS = ("alexnet", "vgg-16", "resnetv1-50", "resnet-50", "resnet-152", "inception-bn", "inception-v3",
            "inception-v4", "inception-resnet-v2", "mobilenet", "densenet121", "squeezenet1.1")
BATCH_SIZES = (1, 32, 64, 128, 256)
#: Gluon's networks are torchvision's
_GLUON = {"densenet121": "torchvision:densenet121", "squeezenet1.1": "torchvision:squeezenet1_1",
          "squeezenet1.0": "torchvision:squeezenet1_0"}
#: image shape of a network without an IMAGE_SHAPE of its own, and MXNet's where the network's own differs
_IMAGE_SHAPE = (3, 224, 224)
_SHAPES = {"mlp": (1, 28, 28), "inception-resnet-v2": _IMAGE_SHAPE}
#: networks for images up to this many pixels high are for ten classes, others for ImageNet's
_SMALL_SIDE = 32
_DTYPES = ("float32", "bfloat16", "float16")
#: at most so many sizes or networks are measured in one call
_MAX_PARTS = 100

#: the flags of training that make sense with every mode, with a network, in training, and with a loader
_ALL = ("image_shape", "data_shape", "gpus", "num_threads", "seed")
_NETWORK = ("num_layers", "num_classes", "add_stn", "batch_norm", "num_group", "multiplier", "variant",
            "compile")
_TRAIN = ("optimizer", "mom", "wd", "lr", "clip_gradient", "micro_batches", "cuda_graphs")
_LOADER = (*(name for name in flags_of(DataConfig)
             if name not in ("data_val", "data_val_idx", "val_dataset", "num_examples", "batch_size",
                             "data_nthreads", "benchmark")), *flags_of(AugmentConfig))
USED = (*_ALL, *_NETWORK, *_TRAIN, *_LOADER)
#: the settings that -h shows
COMMON = ("mode", "networks", "batch_sizes", "dtypes", "threads", "image_shape", "data_train",
          "gpus", "format", "output")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmark"""

    mode: str = flag("score", "score: forward passes, train: training steps, both on noise; loader: the "
                     "training data without a network", choices=("score", "train", "loader"))
    networks: str = flag("all", "networks, with commas: vgg-16,lenet,torchvision:resnet50; all: those of "
                         "MXNet's script", since="g2", metavar="NAMES", aliases=("--network",))
    # MXNet's 0 stands for its five sizes
    batch_sizes: str = flag("0", "batch sizes, with commas; 0: 1,32,64,128,256 (with --mode loader: 128)",
                            since="g2", metavar="SIZES", aliases=("--batch-size",))
    dtypes: str = flag("auto", "number types, with commas: float32, bfloat16, float16 (on a GPU); auto: "
                       "float32, and on a GPU float16 as well", since="g2", metavar="NAMES",
                       aliases=("--dtype",))
    threads: str = flag("auto", "with --mode loader: numbers of threads, with commas; auto: 1, 2, 4, ... up "
                        "to the cores", since="g2", metavar="NUMBERS", aliases=("--data-nthreads",))
    warm_up: int = flag(5, "warm-up batches, not timed", metavar="N", minimum=0, maximum=10**6)
    num_batches: int = flag(10, "batches that are timed together", metavar="N", minimum=1, maximum=10**6)
    repeats: int = flag(3, "number of repetitions; the median is reported", metavar="N", minimum=1,
                        maximum=10**4)
    format: str = flag("table", "output format: text to read, csv and json for programs",
                       choices=("table", "csv", "json"))
    output: str = flag("", "file to write (if not given: stdout)", metavar="FILE", short="-o")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    The table goes to stdout, MXNet's lines (`batch size 32, dtype float32, images/sec: 1.0`) to stderr.
    """
    return run_main(_start, argv, NAME, BenchmarkConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog=NAME, examples=EXAMPLES, own=BenchmarkConfig, used=USED,
                                 common=COMMON,
                                 # the images are noise: at a usual learning rate the weights diverge
                                 defaults={"lr": 0.001})
    own: BenchmarkConfig = config.own
    _check_settings(config)
    # mistakes are reported before anything is measured, which may take hours
    sizes = _numbers(own.batch_sizes, "batch_sizes", 1, int(FIELDS["batch_size"].metadata["maximum"]))
    _check_dtypes(config)
    if own.mode == "loader":
        counts = _numbers(own.threads, "threads", 0, MAX_THREADS)
    else:
        counts = []
    if own.output and os.path.isdir(own.output):
        raise UsageError(f"`output` {verbatim(own.output)}: is a folder")
    with loading_torch():
        from imgcls.distributed.topology import make_worker

    worker = make_worker(config.device)
    measuring = (_loader_speeds(config, sizes, counts, worker) if own.mode == "loader"
                 else _network_speeds(config, sizes, worker))
    rows: list[Speed] = []
    try:
        # Kept one by one: at Ctrl-C, perhaps after hours, what was measured so far is still written.
        for row in measuring:
            rows.append(row)
    except KeyboardInterrupt:
        _write(own, rows, _describe(worker))  # an interrupted measurement is written, too
        raise
    _write(own, rows, _describe(worker))
    return 0


def _check_settings(config: Config) -> None:
    """Raise UsageError for a flag on the command line without effect in this mode, or for missing data."""
    mode = config.own.mode
    useless = {"score": {*_TRAIN, *_LOADER, "threads"}, "train": {*_LOADER, "threads"},
               "loader": {*_NETWORK, *_TRAIN, "networks", "dtypes"}}[mode]
    for name, source in config.explicit.items():
        # a file or the environment may be shared with other commands
        if name in useless and source == "the command line":
            raise UsageError(f"`{name}`: has no effect with `mode` {mode}")
    if mode == "loader" and not config.is_explicit("data_train", "data_dir", "dataset"):
        raise UsageError("`data_train` is missing: give the data to read, such as --data-train train.rec")


def _numbers(text: str, name: str, minimum: int, maximum: int) -> list[int]:
    """Return the numbers of a list; [] for the default (0 or auto), which leaves the choice to us."""
    default = flags_of(BenchmarkConfig)[name].default
    if text.strip() in (default, ""):
        return []
    # converted as every whole number is, so the messages are the same, with the name of the list
    number: Any = flag(0, "", minimum=minimum, maximum=maximum)
    number.name, number.type = name, "int"
    parts = [part for part in text.split(",") if part.strip()]
    if not parts or len(parts) > _MAX_PARTS:
        raise UsageError(f"`{name}` {verbatim(text[:50])}: must be whole numbers, such as 1,32,64")
    return [convert(number, part.strip()) for part in parts]


def _check_dtypes(config: Config) -> None:
    if not _dtypes(config):
        raise UsageError(f"`dtypes` {verbatim(config.own.dtypes[:50])}: must be {', '.join(_DTYPES)} or auto")
    for dtype in _dtypes(config):
        if dtype not in _DTYPES:
            raise UsageError(f"`dtypes` {verbatim(dtype[:50])}: must be {', '.join(_DTYPES)} or auto")
        if dtype == "float16" and not config.device.gpus:
            raise UsageError("`dtypes` float16: is measured on a GPU only; name one with `gpus`")


def _dtypes(config: Config) -> list[str]:
    """Return the number types to measure; as in MXNet's script half precision is for a GPU."""
    text = config.own.dtypes.strip().lower()
    if text in ("auto", ""):
        return ["float32", "float16"] if config.device.gpus else ["float32"]
    return [part.strip() for part in text.split(",") if part.strip()]


def _network_speeds(config: Config, sizes: Sequence[int], worker: Worker) -> Iterator[Speed]:
    """Measure every network with every batch size and number type, and print MXNet's line for each."""
    from imgcls.training import speed

    networks = _networks(config)
    plan = speed.Plan(config.own.warm_up, config.own.num_batches, config.own.repeats)
    for network in networks:
        _log(f"network: {speed.network_name(network)}")
        _log(f"device: {'gpu' if worker.device.type == 'cuda' else 'cpu'}({worker.device.index or 0})")
        for dtype in _dtypes(config):
            for size in sizes or BATCH_SIZES:
                row = speed.measure_network(config, network, size, dtype, worker, plan,
                                            is_training=config.own.mode == "train")
                result = row.note or f"images/sec: {row.median:f}"
                _log(f"batch size {size:2d}, dtype {dtype}, {result}")
                yield row


def _networks(config: Config) -> list[NetworkConfig]:
    """Return the networks to measure, checked; UsageError for one that cannot be."""
    from imgcls.networks import check_network

    names = [name.strip() for name in config.own.networks.split(",") if name.strip()]
    is_default = names == ["all"]
    if not names or len(names) > _MAX_PARTS:
        raise UsageError("`networks`: must be names, such as vgg-16,lenet, or all")
    networks = []
    for name in NETWORKS if is_default else names:
        network = _network(config, _GLUON.get(name, name))
        try:
            check_network(network)
        except UsageError as error:
            # two of the default networks come from torchvision, which need not be installed
            if not is_default or ":" not in network.network:
                raise
            tell(f"note: left out: {spell_settings(error.message, config.spelling)}")
            continue
        networks.append(network)
    return networks


def _network(config: Config, name: str) -> NetworkConfig:
    """Return the section of one network: what the user set, else the images and classes it was made for."""
    has_shape = config.is_explicit("image_shape", "data_shape")
    shape = config.network.image_shape if has_shape else _IMAGE_SHAPE
    explicit = {*config.explicit, "network", *(("image_shape",) if has_shape else ())}
    network = dataclasses.replace(config.network, network=name, image_shape=shape)
    network = rules.resolve_network(network, explicit)
    if not has_shape and network.image_shape == _IMAGE_SHAPE and ":" not in network.network:
        module = lookup.module("networks", network.network, "`networks`")
        own = _SHAPES.get(network.network) or getattr(module, "IMAGE_SHAPE", _IMAGE_SHAPE)
        network = dataclasses.replace(network, image_shape=own)
    if not config.is_explicit("num_classes"):
        is_small = network.image_shape[-1] <= _SMALL_SIDE
        network = dataclasses.replace(network, num_classes=10 if is_small else 1000)
    return network


def _loader_speeds(config: Config, sizes: Sequence[int], counts: Sequence[int],
                   worker: Worker) -> Iterator[Speed]:
    """Measure the loader of training with every batch size and number of threads."""
    from imgcls.datasets import load_splits
    from imgcls.training import loaders, speed

    splits = load_splits(config)
    config = loaders.infer_num_classes(config, splits)
    plan = speed.Plan(config.own.warm_up, config.own.num_batches, config.own.repeats)
    for size in sizes or [flags_of(DataConfig)["batch_size"].default]:
        sized = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=size))
        for count in counts or _thread_counts():
            row = speed.measure_loader(sized, splits, count, worker, plan)
            result = row.note or f"images/sec: {row.median:f}"
            _log(f"batch size {size:2d}, threads {count}, {result}")
            yield row


def _thread_counts() -> list[int]:
    """Return 1, 2, 4, ... and the number of cores that this process may use, at most 16."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    # 16: training takes no more by itself
    cores = min(len(affinity(0)) if affinity else os.cpu_count() or 1, 16)
    return sorted({count for count in (1, 2, 4, 8, 16) if count <= cores} | {cores})


def _describe(worker: Worker) -> str:
    """Return the device and the versions that decide how fast it is, in a line."""
    import torch

    if worker.device.type == "cuda":
        return f"device: {worker.description}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    cores = f"{os.cpu_count()} cores, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"device: {worker.description}, {cores}, torch {torch.__version__}"


def _log(message: str) -> None:
    # the lines of benchmark_score.py, which people's scripts look for
    tell(f"INFO:root:{message}")


def _write(own: BenchmarkConfig, rows: Sequence[Speed], device: str) -> None:
    if own.format == "table":
        text = speeds.as_text(rows, device)
    else:
        device = device.removeprefix("device: ")
        text = {"csv": speeds.as_csv, "json": speeds.as_json}[own.format](rows, device, own.mode)
    if not own.output or own.output == "-":
        print(text, end="", flush=True)
        return
    from imgcls.storage.atomic import write_bytes

    try:
        write_bytes(own.output, text.encode("utf-8", "surrogateescape"))
    except ImgclsError:
        print(text, end="", flush=True)  # measuring took long: its result must not be lost
        raise
    tell(own.output, sys.stdout)
