"""Measure reading the same photographs with WebDataset, litdata and ours: from this disk, and from a slow S3.

    python benchmarks/remote_loading.py --images DIR [--rounds 1] [--latency-ms 30] [--mb-s 40] [--repeat 4]

DIR holds photographs, which are repeated and packed in the format of each: 8 tars, chunks of 32 MB, 8 record
files. The S3 is moto behind a server of ours, which answers every request `--latency-ms` late, sends `--mb-s`
megabytes a second on each connection, counts what it sends, and sends the objects itself (moto copies an
object for every range that is asked for). All decode with the same crop of random area, mirrored at random,
in batches of 128 x 3 x 224 x 224 bytes, in two processes (WebDataset, litdata: torchvision's decoder) or
threads (ours).

Prints for each: seconds from making the loader to its first batch (imports are not counted, starting
processes is), images per second of the first epoch, from making the loader on, and of the second; megabytes
fetched and requests in the first and in both; CPU milliseconds an image in the first, without the server's.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, installed or not

BATCH, NUM_WORKERS, NUM_SHARDS, NUM_EPOCHS = 128, 2, 8, 2
BUCKET = "photographs"
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of the random resized crop, as in torchvision
_PIECE_BYTES = 1 << 16  # sent at a time


def main() -> int:
    """Pack, start the server, let each read in a process of its own, print the table."""
    args = _arguments()
    if args.role:
        return _read(args)
    with tempfile.TemporaryDirectory(prefix="imgcls-remote-") as name:
        folder = Path(args.packed or name)
        if not (folder / "data").exists():
            pack_all(args, folder)
        if args.pack_only:
            return 0
        server = Store(folder / "data", args.latency_ms / 1e3, args.mb_s * 1e6)
        print(f"{'':<24}{'first batch s':>15}{'epoch 1 img/s':>15}{'epoch 2 img/s':>15}"
              f"{'MB, requests':>18}{'both epochs':>18}{'CPU ms':>9}")
        for _ in range(args.rounds):
            for place in args.places.split(","):
                for peer in args.peers.split(","):
                    _print_row(f"{place} {peer}", run(args, folder, server, peer, place))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="a folder of photographs")
    parser.add_argument("--repeat", type=int, default=4, help="how often each is packed")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--mb-s", type=float, default=40, help="of each connection")
    parser.add_argument("--peers", default="imgcls,webdataset,litdata")
    parser.add_argument("--places", default="disk,s3")
    parser.add_argument("--packed", help="a folder that keeps what is packed, for the next time")
    parser.add_argument("--pack-only", action="store_true")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    return parser.parse_args()


# Packing


def pack_all(args: argparse.Namespace, folder: Path) -> None:
    """Write data/tar, data/rec and data/lit."""
    photographs = [path.read_bytes() for path in sorted(Path(args.images).iterdir())] * args.repeat
    for kind in ("tar", "rec", "lit"):
        (folder / "data" / kind).mkdir(parents=True)
    # Dealt out in turn: each shard has photographs of all kinds, as a shuffled list gives it.
    for shard in range(NUM_SHARDS):
        _pack_shard(folder / "data", shard, list(enumerate(photographs))[shard::NUM_SHARDS])
    if "litdata" in args.peers:
        # In a process of its own: it starts further ones, which import this file again.
        command = [sys.executable, __file__, "--role", "pack-litdata", "--data", str(folder / "data"),
                   "--images", args.images, "--repeat", str(args.repeat)]
        subprocess.run(command, check=True, capture_output=True)


def _pack_shard(data: Path, shard: int, images: list[tuple[int, bytes]]) -> None:
    """Write one tar, one record file, its index and list; the label is the number of the photograph."""
    from imgcls.formats import lists, recordio

    entries = [lists.ListEntry(number, (float(number % 1000),), f"{number}.jpg") for number, _ in images]
    lists.write(data / "rec" / f"train-{shard:02d}.lst", entries)
    with (tarfile.open(data / "tar" / f"train-{shard:02d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar,
          recordio.RecordWriter(data / "rec" / f"train-{shard:02d}.rec") as records):
        for number, image in images:
            for suffix, content in (("jpg", image), ("cls", str(number % 1000).encode())):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            records.write(recordio.pack(recordio.ImageHeader(0, float(number % 1000), number), image), number)


def _pack_litdata(args: argparse.Namespace) -> None:
    from litdata import optimize

    paths = sorted(str(path) for path in Path(args.images).iterdir()) * args.repeat
    optimize(fn=_litdata_sample, inputs=list(enumerate(paths)), output_dir=f"{args.data}/lit",
             chunk_bytes="32MB", num_workers=1)


def _litdata_sample(numbered: tuple[int, str]) -> dict[str, Any]:
    return {"image": Path(numbered[1]).read_bytes(), "label": numbered[0] % 1000}


# The store


class Store(http.server.ThreadingHTTPServer):
    """An S3 with latency: lists of moto's, objects of a folder."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, latency_s: float, bytes_s: float) -> None:
        """`bytes_s` are sent each second on each connection."""
        import boto3
        from moto.server import ThreadedMotoServer

        super().__init__(("127.0.0.1", 0), _Handler)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.folder = folder
        self.latency_s = latency_s
        self.bytes_s = bytes_s
        self.num_bytes = self.num_requests = 0
        self.lock = threading.Lock()
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        self.upstream = "{}:{}".format(*moto.get_host_and_port())
        client = boto3.client("s3", endpoint_url=f"http://{self.upstream}", **credentials())
        client.create_bucket(Bucket=BUCKET)
        #: ETag by path
        self.etags: dict[str, str] = {}
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            key = path.relative_to(folder).as_posix()
            self.etags[f"/{BUCKET}/{key}"] = client.put_object(Bucket=BUCKET, Key=key,
                                                               Body=path.read_bytes())["ETag"]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that has gone."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(self.server.latency_s)
        path = self.path.partition("?")[0]
        sent = self._send_object(path) if path in self.server.etags else self._forward()
        with self.server.lock:
            self.server.num_requests += 1
            self.server.num_bytes += sent

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send_object(self, path: str) -> int:
        """Send an object or a range of it, no faster than the server is meant to be; return the bytes."""
        file = self.server.folder / path.removeprefix(f"/{BUCKET}/")
        size = file.stat().st_size
        begin, end = 0, size
        if wanted := self.headers.get("Range", "").removeprefix("bytes="):
            first, _, last = wanted.partition("-")
            begin, end = int(first), min(int(last) + 1 if last else size, size)
        self.send_response(206 if wanted else 200)
        for name, value in (("Content-Length", end - begin), ("ETag", self.server.etags[path]),
                            ("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT"), ("Accept-Ranges", "bytes"),
                            ("Content-Type", "binary/octet-stream")):
            self.send_header(name, str(value))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return 0
        # The speed is that of a connection and not of the store: several at a time are faster, as with S3.
        started = time.perf_counter()
        with open(file, "rb") as stream:
            stream.seek(begin)
            position = begin
            while position < end:
                piece = stream.read(min(_PIECE_BYTES, end - position))
                self.wfile.write(piece)
                position += len(piece)
                early_s = (position - begin) / self.server.bytes_s - (time.perf_counter() - started)
                if early_s > 0.002:  # shorter sleeps cost more than they take
                    time.sleep(early_s)
        return end - begin

    def _forward(self) -> int:
        """Pass a request on to moto, and its answer back."""
        connection = http.client.HTTPConnection(self.server.upstream)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return len(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def credentials() -> dict[str, str]:
    """Return what any S3 client needs."""
    return {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


# Reading


def run(args: argparse.Namespace, folder: Path, server: Store, peer: str, place: str) -> dict[str, Any]:
    """Let one read in a process of its own, with an empty cache; return what it measured."""
    # What an earlier one fetched counts for none: each has a cache of its own and counters from zero.
    server.num_bytes = server.num_requests = 0
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "no_proxy": "*",
        "AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
    data = str(folder / "data") if place == "disk" else f"s3://{BUCKET}"
    with tempfile.TemporaryDirectory(prefix="imgcls-cache-", dir=folder) as cache:
        environment["IMGCLS_CACHE"] = cache
        command = [sys.executable, __file__, "--role", peer, "--data", data]
        running = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        assert running.stdout and running.stderr  # noqa: PT018
        lines, fetched = [], []
        for line in running.stdout:  # one for each epoch: what was fetched is read when it ends
            if line.startswith("{"):
                lines.append(json.loads(line))
                fetched.append((server.num_bytes, server.num_requests))
        errors = running.stderr.read()
    if len(lines) < NUM_EPOCHS:
        raise SystemExit(f"{peer}, {place}: {errors[-2000:]}")
    return {**lines[0], "second_speed": lines[1]["images"] / lines[1]["seconds"], "fetched": fetched}


def _print_row(name: str, result: dict[str, Any]) -> None:
    fetched = "".join(f"{num_bytes / 1e6:>11.1f},{requests:>6}" for num_bytes, requests in result["fetched"])
    print(f"{name:<24}{result['first_s']:>15.2f}{result['images'] / result['seconds']:>15.0f}"
          f"{result['second_speed']:>15.0f}{fetched}{result['cpu_s'] / result['images'] * 1e3:>9.2f}",
          flush=True)


def _read(args: argparse.Namespace) -> int:
    """Read two epochs in this process; print a line of JSON for each."""
    if args.role == "pack-litdata":
        _pack_litdata(args)
        return 0
    next(epochs := PEERS[args.role](args.data))  # imported
    for _ in range(NUM_EPOCHS):
        cpu_before, started = sum(os.times()[:4]), time.perf_counter()
        # Making the loader is inside of the first epoch's time: `epochs` makes it when it is asked.
        first_s, images = 0.0, 0
        for size in next(epochs):
            first_s = first_s or time.perf_counter() - started
            images += size
        print(json.dumps({"first_s": first_s, "images": images, "seconds": time.perf_counter() - started,
                          "cpu_s": sum(os.times()[:4]) - cpu_before}), flush=True)
    os._exit(0)  # some peers hang in their own end


def imgcls_epochs(data: str) -> Iterator[Any]:
    """Yield None when all is imported, then the sizes of the batches of each epoch; so do the others."""
    import torch

    from imgcls.config.sections import AugmentConfig
    from imgcls.data.loaders.streaming import StreamingLoader
    from imgcls.data.sources import open_source

    if data.startswith("s3://"):
        import s3fs  # noqa: F401
    yield None
    loaders: list[StreamingLoader] = []

    def epoch(number: int) -> Iterator[int]:
        if not loaders:
            augmentation = AugmentConfig(
                random_resized_crop=True, min_random_area=AREA[0], max_random_area=AREA[1],
                min_random_aspect_ratio=ASPECT[0], max_random_aspect_ratio=ASPECT[1], random_mirror=True,
                interpolation="antialias")
            loaders.append(StreamingLoader(
                open_source(f"{data}/rec", "`data_train`"), batch_size=BATCH, image_shape=(3, 224, 224),
                train=True, seed=0, device=torch.device("cpu"), threads=NUM_WORKERS,
                augment_config=augmentation))
        for batch in loaders[0].host_batches(number):
            yield len(batch.indices)

    for number in range(NUM_EPOCHS):
        yield epoch(number)


def _transform() -> Callable[[bytes], Any]:
    """Return what makes pixels of an encoded image, as torchvision's users do."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    steps = v2.Compose([v2.RandomResizedCrop(224, AREA, ASPECT, antialias=True), v2.RandomHorizontalFlip()])

    def make(image: bytes) -> Any:
        return steps(decode_jpeg(torch.frombuffer(bytearray(image), dtype=torch.uint8), ImageReadMode.RGB))

    return make


def webdataset_epochs(data: str) -> Iterator[Any]:
    """Yield those of WebDataset in torch's DataLoader; from S3 through curl, which it starts for URLs."""
    import torch
    import webdataset

    transform = _transform()
    yield None
    root = data if not data.startswith("s3://") else f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}"
    urls = [f"{root}/tar/train-{shard:02d}.tar" for shard in range(NUM_SHARDS)]
    loaders: list[Any] = []

    def epoch() -> Iterator[int]:
        if not loaders:
            open_shards: Any = vars(webdataset)["WebDataset"]  # its module does not say what it exports
            dataset = (open_shards(urls, shardshuffle=NUM_SHARDS, seed=0).shuffle(1000)
                       .to_tuple("jpg", "cls").map_tuple(transform, int).batched(BATCH))
            loaders.append(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=NUM_WORKERS))
        for images, _ in loaders[0]:
            yield len(images)

    for _ in range(NUM_EPOCHS):
        yield epoch()


def litdata_epochs(data: str) -> Iterator[Any]:
    """Yield those of litdata's StreamingDataset and StreamingDataLoader, shuffled."""
    import litdata
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the store here has no TLS
    transform = _transform()

    class Photographs(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return transform(sample["image"]), sample["label"]

    yield None
    loaders: list[Any] = []

    def epoch() -> Iterator[int]:
        if not loaders:
            storage = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], **credentials()}
            dataset = Photographs(f"{data}/lit", shuffle=True, cache_dir=os.environ["IMGCLS_CACHE"],
                                  storage_options=storage if data.startswith("s3://") else {})
            loaders.append(litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=NUM_WORKERS))
        for images, _ in loaders[0]:
            yield len(images)

    for _ in range(NUM_EPOCHS):
        yield epoch()


PEERS: dict[str, Callable[[str], Iterator[Any]]] = {
    "imgcls": imgcls_epochs, "webdataset": webdataset_epochs, "litdata": litdata_epochs}


if __name__ == "__main__":
    sys.exit(main())
