"""Training from and to s3://, against moto's server behind one of our own that counts requests and fails on
demand."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import killed_packing
import numpy as np
import pytest
from conftest import ROOT, run_cli, write_digits
from faulty_server import FaultyServer, serving

from imgcls.cli import convert as convert_command
from imgcls.cli import im2rec as im2rec_command
from imgcls.cli import predict as predict_command
from imgcls.cli import score as score_command
from imgcls.cli import train as train_command
from imgcls.data.sources import open_source
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import recordio
from imgcls.formats.shards import ShardWriter
from imgcls.storage import drivers, retries
from imgcls.storage.cache import Cache
from imgcls.storage.remote import RemotePath
from imgcls.training import checkpoint
from imgcls.training.checkpoint.files import read_latest

if not all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask")):
    pytest.skip("needs s3fs and moto[s3,server]", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(botocore|aiobotocore|moto|s3fs|aiohttp|werkzeug).*"),
    # connections to a server that has ended, seen when their session is collected
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: of a packing run that goes on after each; more of them take as much longer
NUM_KILLS = 5
FLAGS = ("--batch-size", "32", "--network", "mlp", "--num-epochs", "2")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """host:port of a store in memory."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The way to the store: what s3fs finds by AWS_ENDPOINT_URL. The bucket `dmlc` is there and empty."""
    for name, value in {"IMGCLS_CACHE": str(tmp_path / "cache"), "AWS_ACCESS_KEY_ID": "key",
                        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
                        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                        "AWS_EC2_METADATA_DISABLED": "true", "no_proxy": "*"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retries, "PAUSE_S", 0.01)
    monkeypatch.setattr(drivers, "DRIVER_ATTEMPTS", 1)
    with serving(moto) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        forget()
        fs, _ = drivers.open_driver("s3://dmlc")
        if fs.exists("dmlc"):
            fs.rm("dmlc", recursive=True)
        fs.mkdir("dmlc")
        server.seen.clear()
        yield server
        forget()


def forget() -> None:
    """The next file system is made anew, with the endpoint of then."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits in MNIST's files."""
    return write_digits(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a local run gives."""
    prefix = tmp_path_factory.mktemp("local") / "net"
    assert train_command.main([*FLAGS, "--data-dir", str(folder), "--model-prefix", str(prefix)]) == 0
    return prefix


@pytest.fixture
def data(s3: FaultyServer, folder: Path) -> str:
    """The files of `folder` in the store."""
    for path in folder.iterdir():
        RemotePath(f"s3://dmlc/mnist/{path.name}").upload(path)
    s3.seen.clear()
    return "s3://dmlc/mnist/"


def same(prefix: str, local_prefix: Path, epoch: int) -> bool:
    """Return whether an epoch has the same parameters in the store and on this disk."""
    end = f"-{epoch:04d}.params"
    return RemotePath(f"{prefix}{end}").read_bytes() == Path(f"{local_prefix}{end}").read_bytes()


def names(folder: str) -> list[str]:
    return [path.name for path in RemotePath(folder).iterdir()]


def train(*args: object) -> int:
    return train_command.main([*FLAGS, *map(str, args)])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ended with."""
    lines = [line for line in capsys.readouterr().err.splitlines()
             if "error: " in line or "Traceback" in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_the_seeds_command_trains_and_resumes(data: str, s3: FaultyServer, undisturbed: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    prefix = "s3://dmlc/model/ilsvrc12"
    args = [*FLAGS[:-1], "1", "--data-dir", data, "--model-prefix", prefix, "--kv-store", "local"]
    done = run_cli("train", *args)  # as a user does, in a process of its own
    assert done.returncode == 0, done.stderr
    assert 'Saved checkpoint to "s3://dmlc/model/ilsvrc12-0001.params"' in done.stderr
    assert s3.count("GET", "train-images-idx3-ubyte.gz") == 1
    assert train("--data-dir", data, "--model-prefix", prefix, "--load-epoch", "1") == 0
    assert s3.count("GET", "train-images-idx3-ubyte.gz") == 1  # the second run finds it in the cache
    assert same(prefix, undisturbed, 1)
    assert same(prefix, undisturbed, 2)
    assert names("s3://dmlc/model") == [f"ilsvrc12-{end}" for end in (
        "0001.params", "0001.states", "0002.params", "0002.states", "latest.json", "meta.json",
        "metrics.jsonl", "report.html", "symbol.json")]
    assert read_latest(prefix)["params"] == "ilsvrc12-0002.params"
    capsys.readouterr()
    assert score_command.main(["--model", prefix, "--data-dir", data, "--top-k", "0"]) == 0
    assert "accuracy=" in capsys.readouterr().out
    assert predict_command.main(["--model", prefix, "nothing.png"]) == 1
    assert "nothing.png: no such file" in error_of(capsys)


def test_kill_9_in_the_middle_of_an_upload(data: str, s3: FaultyServer, undisturbed: Path) -> None:
    prefix = "s3://dmlc/model/net"
    s3.fault = lambda method, path: "hang" if method == "PUT" and "net-0002.params" in path else ""
    argv = [sys.executable, "-m", "imgcls", "train", *FLAGS, "--data-dir", data, "--model-prefix", prefix,
            "--load-epoch", "auto"]
    run = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not s3.count("PUT", "net-0002.params") and time.monotonic() < end and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait(10) == -signal.SIGKILL
    s3.fault = lambda *_: ""
    assert "net-0002.params" not in names("s3://dmlc/model")
    assert same(prefix, undisturbed, 1)
    assert checkpoint.load(prefix, "auto").position.epoch == 1  # type: ignore[union-attr]
    assert train("--data-dir", data, "--model-prefix", prefix, "--load-epoch", "auto") == 0
    assert same(prefix, undisturbed, 2)


def test_packing_to_a_store_killed_in_the_middle_of_an_upload(s3: FaultyServer, tmp_path: Path) -> None:
    """Nothing half visible; --resume keeps what is complete, and ends with the bytes of a run on this disk."""
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "photos" / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (40, 40, 3), np.uint8))
    flags = [str(tmp_path / "photos"), "--recursive", "--chunks", "3", "--resume"]
    assert im2rec_command.main([f"{tmp_path}/local/x", *flags]) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}
    target = "s3://dmlc/packs/x"
    s3.fault = lambda method, path: "hang" if method in ("PUT", "POST") and "x_1.rec" in path else ""
    run = subprocess.Popen([sys.executable, "-m", "imgcls", "im2rec", target, *flags], stdout=subprocess.DEVNULL,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not s3.count("PUT", "x_1.rec") and time.monotonic() < end and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait(10) == -signal.SIGKILL
    s3.fault = lambda *_: ""
    there = {path.name: path.read_bytes() for path in RemotePath("s3://dmlc/packs").iterdir()}
    assert "x_0.rec" in there
    assert not {"x_1.rec", "x_1.pack.json", "x_2.rec"} & set(there)
    assert there.items() <= expected.items()
    s3.seen.clear()
    assert im2rec_command.main([target, *flags]) == 0
    assert not s3.count("PUT", "x_0.rec"), "it was complete"
    assert {path.name: path.read_bytes() for path in RemotePath("s3://dmlc/packs").iterdir()} == expected


def test_packing_from_and_to_a_store_killed_at_random_moments(s3: FaultyServer, tmp_path: Path) -> None:
    """Killed while it reads, packs or uploads: the bytes of a run on this disk, and no part of a file beside them."""
    RemotePath("s3://dmlc/raw/whole.tar").write_bytes(content := killed_packing.tar_of_tars(60))
    (tmp_path / "whole.tar").write_bytes(content)
    flags = ["--recursive", "--chunks", "3", "--num-thread", "2", "--resume"]
    assert im2rec_command.main([f"{tmp_path}/local/x", f"{tmp_path}/whole.tar", *flags]) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}
    whole_s = killed_packing.pack("s3://dmlc/first/x", "s3://dmlc/raw/whole.tar", *flags)
    counts = killed_packing.pack_killed("s3://dmlc/packs/x", "s3://dmlc/raw/whole.tar", *flags, whole_s=whole_s,
                                        num_kills=NUM_KILLS)
    # whether one of so few was killed late enough to be resumed is chance; the test above holds that it is
    assert counts[0] > 0
    forget()
    for folder in ("first", "packs"):
        there = {path.name: path.read_bytes() for path in RemotePath(f"s3://dmlc/{folder}").iterdir()}
        for name in expected:
            assert name.endswith(".pack.json") or there[name] == expected[name], name
        assert set(there) == set(expected)
    assert not [path for path in (tmp_path / "cache" / "pack").rglob("*") if path.is_file()]


def test_records_in_several_parts(s3: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    """What is larger than a part is uploaded in parts: one that fails is sent again; an upload that fails for good
    leaves no object and no parts."""
    from s3fs import core

    monkeypatch.setattr(core, "calculate_chunksize", lambda size, chunksize=None: 5 << 20)  # S3's smallest part
    for number in range(3):
        path = tmp_path / f"photos/c{number}/x.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((1100, 1300, 3), 80 * number, np.uint8))
    command = [str(tmp_path / "photos"), "--recursive", "--encoding", ".npy"]
    assert im2rec_command.main([f"{tmp_path}/x", *command]) == 0
    expected = (tmp_path / "x.rec").read_bytes()
    assert len(expected) > 12 << 20
    fs, _ = drivers.open_driver("s3://dmlc")

    def uploads() -> int:
        return len(fs.call_s3("list_multipart_uploads", Bucket="dmlc").get("Uploads", []))

    s3.fault = lambda method, path: "500" if method == "PUT" and "partNumber=2" in path else ""
    capsys.readouterr()
    assert im2rec_command.main(["s3://dmlc/packs/x", *command]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("imgcls-im2rec: error: s3://dmlc/packs/x.rec: cannot be written: ")
    assert uploads() == 0
    assert not RemotePath("s3://dmlc/packs/x.rec").exists()
    # the next run sends what the first has packed, and one failure costs a part
    faults = ["500"]
    s3.fault = lambda method, path: faults.pop() if faults and method == "PUT" and "partNumber=2" in path else ""
    assert im2rec_command.main(["s3://dmlc/packs/x", *command, "--resume"]) == 0
    assert RemotePath("s3://dmlc/packs/x.rec").read_bytes() == expected
    assert uploads() == 0
    assert s3.count("PUT", "x.rec") > 3


def test_archives_and_shards_in_a_store(s3: FaultyServer, tmp_path: Path) -> None:
    """Read where they are, by ranges, through requests that fail; nothing is copied."""
    for number in range(12):
        path = tmp_path / f"photos/c{number % 3}/{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in sorted((tmp_path / "photos").rglob("*.jpg")):
            tar.add(path, path.relative_to(tmp_path / "photos"))
    RemotePath("s3://dmlc/raw/x.tar").upload(tmp_path / "x.tar")
    for flags in ([], ["--no-shuffle"]):
        flags = ["--recursive", "--pass-through", *flags]
        folders = [tmp_path / f"{name}{len(flags)}" for name in ("local", "store")]
        assert im2rec_command.main([f"{folders[0]}/x", f"{tmp_path}/photos", *flags]) == 0
        s3.faults = ["", "500", "", "500"]
        assert im2rec_command.main([f"{folders[1]}/x", "s3://dmlc/raw/x.tar", *flags]) == 0
        for end in ("rec", "lst", "idx"):
            assert (folders[1] / f"x.{end}").read_bytes() == (folders[0] / f"x.{end}").read_bytes()
    with open(tmp_path / "shard.tar", "wb") as stream:
        shard = ShardWriter(stream)
        for number in range(12):
            shard.write(f"{number}", "jpg", (tmp_path / f"photos/c{number % 3}/{number:02}.jpg").read_bytes(), number)
        shard.close()
    RemotePath("s3://dmlc/shards/train-000.tar").upload(tmp_path / "shard.tar")
    s3.faults = ["500"]
    source = open_source("s3://dmlc/shards", "`data_train`", cache_gb=0)
    assert source.labels.tolist() == list(range(12))
    assert bytes(source.read(7)) == (tmp_path / "photos/c1/07.jpg").read_bytes()  # type: ignore[arg-type]
    assert not list((tmp_path / "cache").glob("remote/*.tar"))


def test_csv_lmdb_and_parquet_in_a_store(s3: FaultyServer, tmp_path: Path) -> None:
    """The samples of the files on this disk; the names in a CSV are relative to its place in the store."""
    forms = ["photos.csv"]
    for number in range(9):
        path = tmp_path / f"photos/c{number % 3}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8))
    paths = sorted((tmp_path / "photos").rglob("*.jpg"))
    (tmp_path / "photos.csv").write_text("".join(f"photos/{path.parent.name}/{path.name},{path.parent.name}\n"
                                                 for path in paths))
    assert im2rec_command.main([f"{tmp_path}/x", f"{tmp_path}/photos", "--recursive", "--pass-through",
                                "--no-shuffle"]) == 0
    for name, package in (("x_lmdb", "lmdb"), ("x.parquet", "pyarrow")):
        if importlib.util.find_spec(package):
            assert convert_command.main([f"{tmp_path}/x.rec", f"{tmp_path}/{name}"]) == 0
            forms.append(name)
    for path in tmp_path.rglob("*"):
        if path.is_file() and "cache" not in path.parts:
            RemotePath(f"s3://dmlc/data/{path.relative_to(tmp_path)}").upload(path)
    for name in forms:
        local, remote = (open_source(f"{root}/{name}", "`data_train`") for root in (tmp_path, "s3://dmlc/data"))
        assert local.labels.tolist() == remote.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2], name
        assert remote.class_names == ("c0", "c1", "c2"), name
        assert [bytes(remote.read(n)) for n in range(9)] == [path.read_bytes() for path in paths], name  # type: ignore
    assert train("--data-train", "s3://dmlc/data/photos.csv", "--image-shape", "3,16,16", "--batch-size", "3",
                 "--val-ratio", "0") == 0
    for name, message in (("none.csv", "no such file"), ("none_lmdb", "none_lmdb"), ("none.parquet", "no such file")):
        with pytest.raises((UsageError, DataError), match=message) as caught:
            open_source(f"s3://dmlc/data/{name}", "`data_train`")
        assert "\n" not in str(caught.value)


def test_a_broken_upload_leaves_the_old_object(s3: FaultyServer, tmp_path: Path) -> None:
    path = RemotePath("s3://dmlc/net-position.states")
    path.write_bytes(b"old")
    s3.fault = lambda method, _: "reset" if method in ("PUT", "POST") else ""
    message = r"^s3://dmlc/net-position.states: cannot be written: .*\(tried \d+ times\)$"
    with pytest.raises(RunError, match=message):
        path.write_bytes(bytes(1 << 20))
    s3.fault = lambda *_: ""
    assert path.read_bytes() == b"old"
    s3.faults = ["500", "reset"]
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_faults_are_survived_by_a_run(data: str, s3: FaultyServer, undisturbed: Path) -> None:
    request_index = iter(range(10_000))
    faults = {3: "500", 6: "cut", 9: "reset", 14: "500", 21: "reset", 26: "cut"}
    s3.fault = lambda *_: faults.get(next(request_index), "")
    assert train("--data-dir", data, "--model-prefix", "s3://dmlc/net") == 0
    assert same("s3://dmlc/net", undisturbed, 2)
    assert next(request_index) > 26


@pytest.mark.parametrize("fault", ["500", "cut", "reset"])
def test_lasting_faults_end_in_one_line(data: str, s3: FaultyServer, fault: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    s3.fault = lambda method, path: fault if method == "GET" and "images" in path else ""
    assert train("--data-dir", data) == 1
    assert "error: s3://dmlc/mnist/t" in (line := error_of(capsys))
    assert "(tried " in line


def test_a_lost_store_ends_the_run_in_one_line(data: str, s3: FaultyServer, folder: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    s3.fault = lambda method, path: "500" if method == "PUT" and "0001" in path else ""
    assert train("--data-dir", folder, "--model-prefix", "s3://dmlc/net") == 1
    assert "error: s3://dmlc/net-0001.states: cannot be written: " in error_of(capsys)


def test_records_are_fetched_once(s3: FaultyServer, tmp_path: Path) -> None:
    pixels = bytes(3000)
    with recordio.RecordWriter(tmp_path / "a.rec") as writer:
        for i in range(500):
            writer.write(recordio.pack(recordio.ImageHeader(0, i % 7, i), pixels), i)
    for name in ("a.rec", "a.idx"):
        RemotePath(f"s3://dmlc/train/{name}").upload(tmp_path / name)
    s3.seen.clear()
    code = ("import sys; from imgcls.data.sources import open_source\n"
            "print(len(open_source(sys.argv[1], '--data-train')))")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", code, "s3://dmlc/train/"], env=env,
                             stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["500", "500"]
    assert (s3.count("GET", "a.rec"), s3.count("GET", "a.idx")) == (1, 1)
    shutil.rmtree(Cache().folder)
    source = open_source("s3://dmlc/train/", "--data-train", cache_gb=0)  # by ranges
    s3.seen.clear()
    order = source.order(0, 0)  # type: ignore[union-attr]
    source.prefetch(order)  # type: ignore[union-attr]
    assert all(bytes(source.read(i)) == pixels for i in order.tolist())
    assert [(path.partition("?")[0], byte_range) for _, path, byte_range in s3.seen] == [
        ("/dmlc/train/a.rec", f"bytes=0-{500 * 3032 - 1}")]


def test_every_error_is_one_line(s3: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    for args, line in {
        ("--data-dir", "s3://nobucket/x"): "s3://nobucket/x: there is no bucket nobucket",
        ("--data-train", "s3://dmlc/none.rec"): "--data-train s3://dmlc/none.rec: no such file",
        ("--data-dir", folder, "--model-prefix", "s3://nobucket/x"): "there is no bucket nobucket",
        ("--data-dir", folder, "--model-prefix", "s3://dmlc/x", "--load-epoch", "3"):
            "s3://dmlc/x-0003.params does not exist; no epoch was saved there",
    }.items():
        assert train(*args) in (1, 2)
        assert line in error_of(capsys)
    s3.fault = lambda *_: "403"
    with pytest.raises(DataError, match=r"s3://dmlc/x: cannot be listed: access denied"):
        RemotePath("s3://dmlc/x").iterdir()
    s3.fault = lambda *_: ""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    forget()
    message = r"unable to locate credentials: set AWS_ACCESS_KEY_ID .* FSSPEC_S3_ANON"
    with pytest.raises(DataError, match=message):
        RemotePath("s3://dmlc/x").exists()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    forget()
    with pytest.raises(RunError, match=r"s3://dmlc/x: cannot be read: could not connect"):
        RemotePath("s3://dmlc/x").exists()
    with pytest.raises(UsageError, match="there is no s3x://; did you mean s3://"):
        open_source("s3x://dmlc/x.rec", "--data-train")
