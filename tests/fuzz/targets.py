"""What is fuzzed: for every format the inputs that a reader must understand, and the reader.

A target may raise `ImgclsError`, the error that a user is told in one line (or the one named at the target), and
nothing else. Imports stand in the functions: a process loads only what its target needs.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.errors import ImgclsError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
#: numbers that are the same in every process
_DRAW = np.random.default_rng(7)
PIXELS = _DRAW.integers(0, 256, (24, 20, 3), np.uint8)


@dataclass(frozen=True)
class Target:
    """One format: `seeds(folder)` gives inputs that are right, `read(data, folder)` reads one from the folder's files.

    `structure` is what `mutations` knows about it; `num_inputs` what the suite gives it.
    """

    name: str
    about: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    structure: str = "bytes"
    allowed: tuple[type[Exception], ...] = (ImgclsError,)
    num_inputs: int = 1000


TARGETS: dict[str, Target] = {}


def target(about: str, seeds: Callable[[Path], list[bytes]], **options: Any
           ) -> Callable[[Callable[[bytes, Path], object]], Callable[[bytes, Path], object]]:
    """Make the decorated reader a target under its own name, with dashes."""
    def add(read: Callable[[bytes, Path], object]) -> Callable[[bytes, Path], object]:
        name = read.__name__.strip("_").replace("_", "-")
        TARGETS[name] = Target(name, about, seeds, read, **options)
        return read
    return add


def fixtures(*names: str) -> Callable[[Path], list[bytes]]:
    """Return what gives the content of these files of tests/fixtures."""
    return lambda _folder: [(FIXTURES / name).read_bytes() for name in names]


def written(folder: Path, name: str, data: bytes) -> Path:
    """Write an input to a file of that name."""
    path = folder / name
    path.write_bytes(data)
    return path


# ---- record files


def _images() -> list[bytes]:
    import cv2

    tall = cv2.resize(PIXELS, (20, 64))
    return [bytes(cv2.imencode(ending, image)[1]) for image in (PIXELS, PIXELS[:, :, 0], tall)
            for ending in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm", ".gif")
            if not (ending == ".ppm" and image.ndim == 2) and cv2.haveImageWriter(f"x{ending}")]


def _records(_folder: Path) -> list[bytes]:
    from imgcls.formats.recordio import framing, image_record

    files = [(FIXTURES / "records" / name).read_bytes() for name in ("framing.rec", "several.rec", "shuffled.rec")]
    stream = io.BytesIO()
    for number, image in enumerate(_images()[:6]):
        label = np.arange(number, dtype=np.float32) if number % 2 else np.float32(number)
        header = image_record.ImageHeader(number % 2 and number, label, number, 0)
        framing.write_record(stream, image_record.pack(header, image))
    return [*files, stream.getvalue()]


@target("record files, .rec", _records)
def _rec(data: bytes, folder: Path) -> None:
    from imgcls.formats.recordio.image_record import unpack
    from imgcls.formats.recordio.reader import RecordReader

    path = written(folder, "x.rec", data)
    (folder / "x.idx").unlink(missing_ok=True)
    for resync in (True, False):
        reader = RecordReader(path, resync=resync)
        reader.header_problems()
        reader.labels(strict=False)
        for index in range(min(len(reader), 50)):
            try:
                unpack(reader.payload(index))
            except (ImgclsError, ValueError):  # documented: the caller names the record
                continue


@target("the index of a record file, .idx", fixtures(
    "records/framing.idx", "records/several.idx", "records/shuffled.idx"), structure="lines")
def _rec_idx(data: bytes, folder: Path) -> None:
    from imgcls.formats.recordio.index import Index
    from imgcls.formats.recordio.reader import RecordReader

    path = written(folder, "y.idx", data)
    (folder / "y.rec").write_bytes((FIXTURES / "records/several.rec").read_bytes())
    reader = RecordReader(folder / "y.rec")
    reader.check_index()
    for index in range(min(len(reader), 20)):
        reader.payload(index)
    Index.read(path)


@target("image lists, .lst, and class names", fixtures(
    "records/plain.lst", "records/several.lst", "records/shuffled.lst"), structure="lines")
def _lst(data: bytes, folder: Path) -> None:
    from imgcls.formats import lists

    path = written(folder, "x.lst", data)
    listing = lists.read(path)
    for problem in listing.problems[:20]:
        assert "\n" not in str(problem)
    for width, parts in ((1, 1), (2, 3)):
        lists.read_blank_separated(path, width, parts, parts - 1)
    written(folder, "x.classes.txt", data)
    lists.class_names(path)
    lists.write(folder / "again.lst", listing.entries)


@target("image lists as CSV", lambda _folder: [
    b"path,label\na/1.jpg,cat\n\"b, c.png\",dog\n", b"a.jpg,1\r\nb.png,2\r\n", b"label\timage\n3\tx.webp\n",
    b"class;set;file\ncat;train;1.jpg\n"], structure="lines")
def _csv(data: bytes, folder: Path) -> None:
    from imgcls.data.sources import notes, open_source

    source = open_source(str(written(folder, "x.csv", data)), "`data_train`")
    notes(source)
    assert len(source.labels) == len(source)
    assert not source.class_names or source.labels.max() < len(source.class_names)


# ---- many samples to a file


def _shards(_folder: Path) -> list[bytes]:
    from imgcls.formats.shards import ShardWriter

    stream = io.BytesIO()
    writer = ShardWriter(stream)
    for number, image in enumerate(_images()[:4]):
        writer.write(f"{'d' * 60 * number}/{number}", "jpg", image, number)
    writer.close()
    return [stream.getvalue()]


@target("tar shards", _shards)
def _shard(data: bytes, folder: Path) -> None:
    from imgcls.data.sources import notes, open_source

    source = open_source(str(written(folder, "x.tar", data)), "`data_train`", on_bad="count")
    notes(source)
    for index in range(len(source)):
        source.read(index)
        str(source.problem(index, "is odd"))


@target("messages of Caffe's LMDB", lambda _folder: [
    b"\x08\x03\x10\x02\x18\x01\x22\x06123456\x28\xfb\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x22\x03abc\x28\x07\x38\x01"], allowed=(ValueError,))
def _datum(data: bytes, _folder: Path) -> None:
    from imgcls.formats.datum import datum_label, decode_datum

    assert datum_label(data) == decode_datum(data).label
    datum = decode_datum(data)
    if not datum.is_encoded:  # else the bytes are a file's, and the decoder's to read
        datum.pixels()


# ---- MXNet's files


@target("parameters, .params, and mean images", fixtures(
    "bridge/arrays.params", "bridge/small-0001.params", "bridge/sparse.params"))
def _params(data: bytes, folder: Path) -> None:
    from imgcls.data.normalize import read_mean_image
    from imgcls.formats import params

    params.loads(data)
    read_mean_image(str(written(folder, "mean.bin", data)), (3, 4, 4))


def _symbols(_folder: Path) -> list[bytes]:
    operators = json.loads(gzip.decompress((FIXTURES / "bridge/operators.json.gz").read_bytes()))
    texts = [json.dumps(value) for value in _symbols_in(operators)][:40]
    return [(FIXTURES / "bridge/small-symbol.json").read_bytes(), *(text.encode() for text in texts)]


def _symbols_in(value: Any) -> list[Any]:
    if isinstance(value, str) and '"nodes"' in value:
        return [json.loads(value)]
    if isinstance(value, dict) and "nodes" in value:
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for part in parts for found in _symbols_in(part)]


@target("a network's symbol, -symbol.json, read and built", _symbols, structure="json", num_inputs=600)
def _symbol(data: bytes, _folder: Path) -> None:
    from imgcls import graph
    from imgcls.formats import symbol
    from imgcls.formats.symbol import dumps

    network = symbol.loads(data)
    dumps(network)
    graph.from_symbol(network, input_shape=(3, 16, 16))


@target("a symbol with the parameters that belong to it", lambda _folder: [
    (FIXTURES / "bridge/small-symbol.json").read_bytes()], structure="json", num_inputs=300)
def _network(data: bytes, _folder: Path) -> None:
    from imgcls import graph
    from imgcls.formats import params, symbol

    arrays = params.load(FIXTURES / "bridge/small-0001.params")
    graph.from_symbol(symbol.loads(data), arrays)


@target("MXNet's optimizer states, a pickle", fixtures("bridge/adam.states"))
def _mxnet_states(data: bytes, _folder: Path) -> None:
    from imgcls.formats import states

    states.loads(data)


def _pickles(_folder: Path) -> list[bytes]:
    value = {"a": [1, 2.5, None, True], b"b": ("x", b"y" * 300), 3: {"c": []}, "d": {"e": (1,)}}
    return [pickle.dumps(value, protocol) for protocol in range(5)]


@target("pickles of plain data", _pickles)
def _plain_pickle(data: bytes, _folder: Path) -> None:
    from imgcls.formats import pickles

    pickles.load(data, {("_codecs", "encode"): pickles.encoder(len(data))}, "x", encoding="bytes")


# ---- our own files


def _meta_data(_folder: Path) -> list[bytes]:
    meta = {"imgcls": "1", "run": "ab", "earlier_epochs": [1, 2], "network": "mlp", "class_names": ["a", "é"],
            "preprocessing": {"image_shape": [1, 28, 28], "mean": [0.0], "std": [255.0], "val_resize": 256,
                              "interpolation": "bilinear", "channels": "RGB", "range": "0-255"},
            "command": "imgcls-train", "versions": {"python": "3"}, "config": {"lr": 0.1, "dataset": "mnist"},
            "job": ""}
    latest = {"format": 1, "run": "a", "writer": "b", "epoch": 3, "params": "x-0003.params", "position": ""}
    return [json.dumps(meta).encode(), json.dumps(latest).encode()]


@target("a checkpoint's -meta.json and -latest.json", _meta_data, structure="json")
def _meta(data: bytes, folder: Path) -> None:
    from imgcls.pretrained import checkpoint_files
    from imgcls.training.checkpoint.files import read_latest

    written(folder, "m-meta.json", data)
    reference = checkpoint_files.describe(str(folder / "m"), "auto")
    list(map(str, reference.class_names))
    written(folder, "l-latest.json", data)
    read_latest(str(folder / "l"))


def _network_settings(_folder: Path) -> list[bytes]:
    from imgcls.config.sections import NetworkConfig

    return [json.dumps(asdict(NetworkConfig())).encode()]


@target("a network's settings, -network.json", _network_settings, structure="json")
def _network_json(data: bytes, folder: Path) -> None:
    from imgcls.pretrained import checkpoint_files

    written(folder, "n-network.json", data)
    checkpoint_files.describe(str(folder / "n"), "auto")


def _states_files(_folder: Path) -> list[bytes]:
    import torch

    from imgcls.training.checkpoint import Position, Saved, states

    position = Position(3, 2, 32, ([1.0, 2.0], 5), ([0.5, 1.0], 2), (1.5, 2), (0.5, 1), 64, 2)
    saved = Saved("x", {"arg:w": np.ones((2, 3), np.float32), "aux:m": np.zeros(2, np.float64)}, position,
                  {"w/momentum_buffer": torch.ones(2, 3), "w/step": torch.tensor(3.0)}, "SGD",
                  {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                   "_growth_tracker": 0}, "run")
    return [states.encode(saved, with_weights=True), states.encode(saved, with_weights=False)]


@target("our training states, .states", _states_files, structure="safetensors")
def _states(data: bytes, _folder: Path) -> None:
    from imgcls.training.checkpoint import states

    states.decode(data, "x.states")
    states.decode(data, "x.states", {"arg:w": np.ones((2, 3), np.float32)})


CONFIG = b"""# settings
network: resnet
num_layers: 20
image_shape: [3, 28, 28]
lr: 0.1
lr-step-epochs: "10,20"
rgb_mean: 1,2,3
gpus:
add_stn: false
anchors: &a {x: 1}
"""


@target("--config files, YAML and JSON", lambda _folder: [
    CONFIG.replace(b"anchors: &a {x: 1}\n", b""), b"<<: &b {lr: 0.1}\nmom: 0.9\n", b'{"lr": 0.1, "network": "mlp"}',
    CONFIG, b"lr: 2001-01-01\nwd: 1:30\nmom: 0o17\n? a\n: !!int 3\n"], structure="lines")
def _config(data: bytes, folder: Path) -> None:
    from imgcls.config import resolve

    resolve.parse(["--config", str(written(folder, "c.yaml", data))], prog="fuzz", examples="")


# ---- data sets


def _idx_files(_folder: Path) -> list[bytes]:
    images = b"\0\0\x08\x03" + np.array([3, 5, 4], ">u4").tobytes() + bytes(range(60))
    labels = b"\0\0\x08\x01" + np.array([5], ">u4").tobytes() + bytes(range(5))
    packed = [gzip.compress(data, mtime=0) for data in (images, labels)]
    return [images, labels, *packed, packed[0][:20] + packed[1], gzip.compress(images[:30], mtime=0) + packed[1]]


@target("MNIST's idx files, plain and gzip", _idx_files, structure="gzip")
def _idx(data: bytes, folder: Path) -> None:
    from imgcls.formats import idx

    path = written(folder, "x-idx3-ubyte", data)
    try:
        idx.read_images(path)
    finally:
        idx.read_labels(path)


def _cifar_rows() -> bytes:
    rows = _DRAW.integers(0, 256, (2, 3073), np.uint8)
    rows[:, 0] = 3, 7
    return rows.tobytes()


@target("CIFAR's binary batches", lambda _folder: [_cifar_rows(), b"\1" + _cifar_rows()[:3073]])
def _cifar_binary(data: bytes, folder: Path) -> None:
    from imgcls.formats import cifar

    path = written(folder, "data_batch_1.bin", data)
    try:
        cifar.read(path)
    finally:
        cifar.read(path, 100)


def _cifar_pickles(_folder: Path) -> list[bytes]:
    pixels = np.zeros((2, 3072), np.uint8)
    batches = [{"data": pixels, "labels": [1, 2]}, {b"data": pixels, b"fine_labels": [5, 6], b"coarse_labels": [1, 2]}]
    return [pickle.dumps(batch, protocol) for batch in batches for protocol in (2, 3, 4)]


@target("CIFAR's pickled batches", _cifar_pickles)
def _cifar_pickle(data: bytes, folder: Path) -> None:
    from imgcls.formats import cifar

    path = written(folder, "data_batch_1", data)
    try:
        cifar.read(path)
    finally:
        cifar.read(path, 100)


def _cifar_archives(_folder: Path) -> list[bytes]:
    archives = []
    for mode in ("w", "w:gz"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode, compresslevel=1) if mode == "w:gz" else tarfile.open(
                fileobj=stream, mode=mode) as archive:
            for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = 3073
                archive.addfile(info, io.BytesIO(_cifar_rows()[:3073]))
        data = stream.getvalue()
        archives.append(data[:4] + bytes(4) + data[8:] if mode == "w:gz" else data)  # without the time
    return archives


@target("CIFAR's archives", _cifar_archives, structure="gzip", num_inputs=300)
def _cifar_tar(data: bytes, folder: Path) -> None:
    from imgcls.formats import cifar

    (folder / "cifar").mkdir(exist_ok=True)
    written(folder / "cifar", "cifar-10-binary.tar.gz", data)
    cifar.read_splits(folder / "cifar")


def _caffe_means(_folder: Path) -> list[bytes]:
    values = np.arange(12, dtype="<f4").tobytes()
    old = b"\x08\x01\x10\x03\x18\x02\x20\x02" + b"\x2a" + bytes([len(values)]) + values
    new = b"\x3a\x06\x0a\x04\x01\x03\x02\x02" + b"\x2a" + bytes([len(values)]) + values
    single = b"\x08\x01\x10\x03\x18\x02\x20\x02" + b"".join(b"\x2d" + values[i:i + 4] for i in range(0, 48, 4))
    return [old, new, single]


@target("Caffe's mean images, .binaryproto", _caffe_means)
def _caffe_mean(data: bytes, _folder: Path) -> None:
    from imgcls.formats import caffe

    caffe.loads_mean(data)


def _torch_files(folder: Path) -> list[bytes]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    state = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict()
    files = []
    for is_zip in (True, False):
        torch.save(state, folder / "seed.pth", _use_new_zipfile_serialization=is_zip)
        files.append((folder / "seed.pth").read_bytes())
    return files


@target("torch's weights, .pth", _torch_files, structure="zip")
def _pth(data: bytes, folder: Path) -> None:
    from imgcls.pretrained import torchvision_weights

    torchvision_weights._read_state_dict(written(folder, "x.pth", data), "resnet18")


# ---- images


@target("images, from their headers to their pixels", lambda _folder: _images(), num_inputs=1500)
def _image(data: bytes, _folder: Path) -> None:
    from imgcls.data.image_bounds import BadImageError
    from imgcls.data.opencv import decode

    try:
        decode(data, 1)
    except BadImageError as error:
        raise ImgclsError(str(error)) from error


# ---- logs and the network


def _logs(_folder: Path) -> list[bytes]:
    lines = [
        "2024-01-01 10:00:00,123 Node[0] start with arguments Namespace(lr=0.1, network='mlp', num_epochs=3)",
        "INFO:root:Epoch[0] Batch [0-20]\tSpeed: 1000.00 samples/sec\taccuracy=0.500000\tcross-entropy=1.200000",
        "INFO:root:Epoch[0] Train-accuracy=0.600000", "INFO:root:Epoch[0] Time cost=1.500",
        'INFO:root:Saved checkpoint to "x-0001.params"', "INFO:root:Epoch[0] Validation-accuracy=0.700000",
        "INFO:root:Update[30]: Change learning rate to 1.00000e-02", "INFO:root:Epoch[1] Train-accuracy=0.8"]
    metrics = [{"kind": "batch", "epoch": 0, "batch": 20, "update": 21, "speed": 10.0, "loss": 1.0, "lr": 0.1,
                "accuracy": 0.5}, {"kind": "train", "epoch": 0, "update": 30, "loss": 1.0, "seconds": 2.0,
                                   "speed": 3.0, "lr": 0.1, "accuracy": 0.4},
               {"kind": "validation", "epoch": 0, "update": 30, "accuracy": 0.7}]
    return ["\n".join(lines).encode(), "\n".join(map(json.dumps, metrics)).encode()]


@target("logs of MXNet's and ours, metrics.jsonl", _logs, structure="lines")
def _log(data: bytes, folder: Path) -> None:
    from imgcls.cli.parse_log import read_epochs
    from imgcls.report.find import read_run
    from imgcls.training.log_files import MetricsFile

    written(folder, "x-metrics.jsonl", data)
    MetricsFile(str(folder / "x-metrics.jsonl")).resume(25)
    read_epochs(data.decode("utf-8", "replace").splitlines(), ["accuracy"])
    for name in ("y-metrics.jsonl", "y.log"):
        read_run(written(folder, name, data))


@target("host files", lambda _folder: [
    b"a\nb:22 slots=4\nuser@c slots=2 # x\n10.0.0.1:99\n"], structure="lines")
def _hostfile(data: bytes, folder: Path) -> None:
    from imgcls.launch.hosts import assign_workers, read_hostfile

    assign_workers(read_hostfile(str(written(folder, "hosts", data))), 4)


def _rendezvous_states(_folder: Path) -> list[bytes]:
    node, now = ["host", 12, 0], "2024-01-01T10:00:00+00:00"
    return [json.dumps({"round": 1, "complete": True, "deadline": now, "closed": False, "participants": [[*node, 0]],
                        "wait_list": [node], "redundancy_list": [], "last_heartbeats": [[*node, now]]}).encode()]


@target("the state of a rendezvous, from the network", _rendezvous_states, structure="json")
def _rendezvous(data: bytes, _folder: Path) -> None:
    from torch.distributed.elastic.rendezvous.api import RendezvousStateError

    from imgcls.launch.rendezvous import to_pickle

    try:
        to_pickle(data.decode("utf-8", "replace"))
    except RendezvousStateError as error:  # torch's name for it, told in one line above
        raise ImgclsError(str(error)) from error


@target("what agents and workers say of their end", lambda _folder: [
    b'\x1e{"kind": "error", "line": "x", "status": 1}', b'{"message": {"message": "x", "extraInfo": {}}}',
    b'{"rank": 1, "host": "h", "status": 1, "message": "x", "time": 1.5, "cause": 1, "is_final": false}'])
def _message(data: bytes, folder: Path) -> None:
    from imgcls.launch.failures import decode_failure, read_failure
    from imgcls.launch.messages import decode_message

    decode_message(data.decode("utf-8", "replace"))
    read_failure(0, "host", 1, str(written(folder, "error.json", data)), ended_by_agent=False)
    decode_failure(data)


@target("paths, URLs and patterns of record files", lambda _folder: [
    b"s3://bucket/a-*.rec", b"http://host:80/x.rec?y#z", b"/tmp/a;/tmp/b", b"file:///x%20y", b"hdfs://n/x", b"~/x",
    b"C:\\x", b"a{1..3}.rec", b".*[0-9]+\\.rec", b"memory://x/y.rec"], structure="lines")
def _url(data: bytes, folder: Path) -> None:
    from imgcls.formats.recordio import expand
    from imgcls.storage.paths import to_path
    from imgcls.storage.urls import url_scheme

    text = data.decode("utf-8", "surrogateescape")
    url_scheme(text)
    # nothing is asked of a server: only what a name means
    if not url_scheme(text) and "://" not in text:
        to_path(text, "`data_train`")
        expand(str(folder / "none" / text.lstrip("/~")), "`data_train`")


@target("what workers send to a parameter server", lambda _folder: [
    np.array([kind, 0.1, 2, 0], "<f8").tobytes() + np.ones(5, "<f4").tobytes() for kind in range(1, 8)], num_inputs=300)
def _server(data: bytes, _folder: Path) -> None:
    from imgcls.distributed.parameter_server.server import Server

    groups = [{"lr": 0.1, "momentum": 0.9, "lr_mult": 1.0}]
    server = Server(optimizer="SGD", groups=groups, pieces=[(0, 5)], num_workers=1)
    server._has_weights.set()
    try:
        server.serve(_Wire(data), 0, 0.1)
    except RuntimeError as error:  # a worker that is gone, or that talks nonsense: the server ends with a line
        raise ImgclsError(" ".join(str(error).split())[:500]) from error


class _Wire:
    """Stands for a connection: gives what the input holds, and takes everything."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, tensors: list[Any], _source: int, _tag: int) -> _Wire:
        import torch

        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            if len(self._data) < size:
                raise RuntimeError("connection closed by peer")
            if size:
                content = torch.frombuffer(bytearray(self._data[:size]), dtype=tensor.dtype)
                tensor.copy_(content.view_as(tensor))
            self._data = self._data[size:]
        return self

    def send(self, _tensors: list[Any], _target: int, _tag: int) -> _Wire:
        return self

    def wait(self) -> None:
        """Nothing is on its way."""
