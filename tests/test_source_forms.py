"""Every form of data is the same source: equal batches, exact resume, one line for what is wrong with it."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import os
import resource
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from faulty_server import FaultyServer

from imgcls.cli import doctor, im2rec, predict, score
from imgcls.cli import train as train_command
from imgcls.config.sections import AugmentConfig, DataConfig
from imgcls.data import chunks, folder_listing
from imgcls.data.decoded.segment import Segment
from imgcls.data.file_source import FolderSource
from imgcls.data.holdout import divide
from imgcls.data.loaders.make import make_loader
from imgcls.data.order import NO_SHARD, Shard
from imgcls.data.packed import parquet as parquet_images
from imgcls.data.packed import shards as shard_images
from imgcls.data.packed.files import expand
from imgcls.data.packed.shards import ChunkedShards
from imgcls.data.path_table import PathTable
from imgcls.data.sources import Source, notes, open_source, open_val
from imgcls.errors import DataError, ImgclsError, RunError, UsageError
from imgcls.formats import lists, recordio
from imgcls.formats.archives import index as archive_index
from imgcls.formats.csv_lists import CsvList
from imgcls.formats.datum import DATA_FILE, Datum, LmdbReader, LmdbWriter
from imgcls.formats.parquet import ParquetReader, ParquetWriter
from imgcls.formats.shards import ShardWriter
from imgcls.storage.remote import RemotePath

CLASSES = ("ant", "bee", "cat")
COUNT = 42
HAS_PARQUET = importlib.util.find_spec("pyarrow") is not None
needs_parquet = pytest.mark.skipif(not HAS_PARQUET, reason="no pyarrow")


def jpeg(number: int, encoding: str = ".jpg") -> bytes:
    pixels = cv2.resize(np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8), (30 + number % 7, 34))
    return cv2.imencode(encoding, pixels)[1].tobytes()


def label_of(number: int) -> int:
    return number * len(CLASSES) // COUNT


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_csv(path: Path, rows: list[tuple[object, ...]], delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


def write_parquet(path: Path, numbers: range, names: tuple[str, ...] = CLASSES) -> Path:
    with open(path, "wb") as stream:
        writer = ParquetWriter(stream, names)
        for number in numbers:
            writer.write(f"{number}.jpg", jpeg(number), label_of(number))
            if number % 5 == 4:
                writer._flush()  # several groups of rows
        writer.close()
    return path


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, in one order, in every form that data may have."""
    root = tmp_path_factory.mktemp("forms")
    paths = [f"photos/{CLASSES[label_of(n)]}/{n:03d}.jpg" for n in range(COUNT)]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(number))
    (root / "x.lst").write_text("".join(f"{n}\t{label_of(n)}\t{path}\n" for n, path in enumerate(paths)))
    names = [CLASSES[label_of(n)] for n in range(COUNT)]
    rows = [(name, "a", path) for name, path in zip(names, paths, strict=True)]
    write_csv(root / "names.csv", [("class", "split", "path"), *rows])
    write_csv(root / "plain.tsv", [(p, label_of(n)) for n, p in enumerate(paths)], "\t")
    with recordio.RecordWriter(root / "x.rec") as writer:
        for n in range(COUNT):
            writer.write(recordio.pack(recordio.ImageHeader(0, label_of(n), n), jpeg(n)), n)
    (root / "shards").mkdir()
    for part in range(3):
        with open(root / f"shards/train-{part:03d}.tar", "wb") as stream:
            shard = ShardWriter(stream)
            for n in range(part * 14, part * 14 + 14):
                shard.write(f"{n:05d}", "jpg", jpeg(n), label_of(n))
            shard.close()
    with LmdbWriter(root / "x_lmdb") as database:
        for n in range(COUNT):
            database.write(f"{n:05d}".encode(), Datum(0, 0, 0, jpeg(n), label_of(n), True))
    for stem in ("x", "plain", "shards/train", "x_lmdb"):
        lists.write_class_names(lists.classes_path(root / stem), CLASSES)
    if HAS_PARQUET:
        write_parquet(root / "p-00000-of-00002.parquet", range(20))
        write_parquet(root / "p-00001-of-00002.parquet", range(20, COUNT))
    return root


FORMS = ("photos", "x.lst", "names.csv", "plain.tsv", "shards", "shards/train-{000..002}.tar", "shards/*.tar",
         "x_lmdb", f"x_lmdb/{DATA_FILE}", pytest.param("p-*.parquet", marks=needs_parquet))


def loader(source: Source, shard: Shard = NO_SHARD) -> Any:
    config = AugmentConfig(random_resized_crop=True, random_mirror=True, min_random_area=0.3)
    return make_loader(source, batch_size=8, image_shape=(3, 20, 20), augment_config=config, train=True, seed=3,
                       device=torch.device("cpu"), threads=2, shard=shard)


def batches(source: Source, epoch: int, first: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(batch.images.numpy(), batch.labels.numpy()) for batch in loader(source).epoch(epoch, first)]


def assert_equal(found: list[tuple[np.ndarray, np.ndarray]], expected: list[tuple[np.ndarray, np.ndarray]]) -> None:
    assert len(found) == len(expected)
    for (images, labels), (right_images, right_labels) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images, right_images)
        np.testing.assert_array_equal(labels, right_labels)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_batches_of_the_records(forms: Path, form: str) -> None:
    source = open_source(str(forms / form), "`data_train`")
    records = open_source(str(forms / "x.rec"), "`data_train`")
    assert tuple(source.class_names) == CLASSES
    assert source.labels.tolist() == records.labels.tolist()
    assert [bytes(source.read(n)) for n in range(COUNT)] == [jpeg(n) for n in range(COUNT)]
    assert not notes(source)
    expected = batches(records, 1)
    assert_equal(batches(source, 1), expected)
    # a run that goes on inside an epoch
    assert_equal(batches(source, 1, 2), expected[2:])
    # what is held out, and with which order of the rest
    parts, right = divide(source, 0.3), divide(records, 0.3)  # type: ignore[arg-type]
    assert parts.held_out.labels.tolist() == right.held_out.labels.tolist()
    assert_equal(batches(parts.train, 0)[:1], batches(right.train, 0)[:1])


@pytest.mark.parametrize("form", ["x.lst", "names.csv", "shards", "x_lmdb",
                                  pytest.param("p-*.parquet", marks=needs_parquet)])
def test_commands_take_every_form(forms: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, prefix = str(forms / form), str(tmp_path / "m")
    common = ["--network", "mlp", "--image-shape", "3,20,20", "--batch-size", "8", "--num-epochs", "1",
              "--lr", "0.01", "--data-train", path, "--data-val", path, "--gpus", ""]
    assert train_command.main([*common, "--dry-run"]) == 0
    assert "dry run:" in capsys.readouterr().out
    assert train_command.main([*common, "--model-prefix", prefix]) == 0
    assert '"bee"' in (tmp_path / "m-meta.json").read_text()
    assert score.main(["--model", prefix, "--data-val", path]) == 0
    assert predict.main(["--model", prefix, path]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= COUNT
    assert doctor.main([path, "--no-near-duplicates", "--fix", str(tmp_path / "clean")]) in (0, 1)
    assert f"{COUNT} train images" in capsys.readouterr().out
    assert (tmp_path / "clean").is_dir()


def test_parts_of_a_batch_and_images_kept_decoded(forms: Path) -> None:
    """What workers have of a batch is the batch, and what is kept decoded changes nothing."""
    source, records = (open_source(str(forms / name), "`data_train`") for name in ("shards", "x.rec"))
    expected = batches(records, 2)
    parts = [[(batch.images.numpy(), batch.labels.numpy()) for batch in loader(source, Shard(rank, 2)).epoch(2)]
             for rank in range(2)]
    assert_equal([tuple(np.concatenate(arrays) for arrays in zip(*pair, strict=True))
                  for pair in zip(*parts, strict=True)], expected)
    keeping = loader(source)
    assert keeping.can_keep
    table_bytes, sample_bytes = keeping.kept_bytes()
    keeping.keep_in(Segment.create(table_bytes + 2 * sample_bytes * COUNT))
    for _ in range(2):
        assert_equal([(batch.images.numpy(), batch.labels.numpy()) for batch in keeping.epoch(2)], expected)


def test_a_folder_of_shards_in_a_store(forms: Path, memory: str, own_cache: Path) -> None:
    for number in range(3):
        content = (forms / f"shards/train-{number:03d}.tar").read_bytes()
        RemotePath(f"{memory}/set/train-{number:03d}.tar").write_bytes(content)
    for path in (f"{memory}/set", f"{memory}/set/train-*.tar", f"{memory}/set/train-{{000..002}}.tar"):
        assert open_source(path, "`data_train`").labels.tolist() == [label_of(n) for n in range(COUNT)]
    assert list(own_cache.glob("remote/*train-002.tar"))


def test_planes_of_pixels_are_the_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 7, 3), np.uint8)  # in RGB
    with LmdbWriter(tmp_path / "raw_lmdb") as writer:
        writer.write(b"0", Datum(3, 6, 7, pixels[:, :, ::-1].transpose(2, 0, 1).tobytes(), 1, False))
        writer.write(b"1", Datum(1, 6, 7, pixels[:, :, 0].tobytes(), 0, False))
        writer.write(b"2", Datum(2, 6, 7, bytes(84), 0, False))
        writer.write(b"3", Datum(3, 6, 7, bytes(84), 0, False))
    source = open_source(str(tmp_path / "raw_lmdb"), "`data_train`")
    np.testing.assert_array_equal(source.read(0), pixels)
    np.testing.assert_array_equal(source.read(1), pixels[:, :, :1])
    for index, message in ((2, "key 2 has 2 channels"), (3, "key 3 84 bytes are no image of 3x6x7")):
        with pytest.raises(DataError, match=message):
            source.read(index)


def test_keys_of_an_lmdb_come_in_their_order(tmp_path: Path) -> None:
    def write(*keys: bytes) -> None:
        with LmdbWriter(tmp_path / "x_lmdb") as writer:
            for key in keys:
                writer.write(key, Datum(0, 0, 0, jpeg(0), 0, True))

    with pytest.raises(RunError, match=r"the key .*1.* is not behind the one before"):
        write(b"2", b"1")
    assert not (tmp_path / "x_lmdb").exists()
    assert not list(tmp_path.iterdir())


def test_a_damaged_lmdb_is_one_line(forms: Path, tmp_path: Path) -> None:
    """The package maps the file and believes it: what ends its process must not end ours."""
    content = (forms / "x_lmdb" / DATA_FILE).read_bytes()
    endings = [content[:9000], content[:4096], bytes(20000),
               # pages that lead behind the end: the number of the root, in both copies of the head
               content[:128] + b"\xee" * 8 + content[136:4096 + 128] + b"\xee" * 8 + content[4096 + 136:]]
    for number, data in enumerate(endings):
        folder = tmp_path / f"{number}_lmdb"
        folder.mkdir()
        (folder / DATA_FILE).write_bytes(data)
        with pytest.raises(DataError, match="LMDB"):
            open_source(str(folder), "`data_train`")


def test_samples_that_are_bad_are_left_out_and_told(tmp_path: Path) -> None:
    path = tar(tmp_path / "w.tar", *((f"{n}.{end}", data) for n in range(12)
                                     for end, data in (("cls", str(n % 2).encode()), ("jpg", jpeg(n)))),
               ("no.jpg", jpeg(0)), ("float.cls", b"1.5"), ("float.jpg", jpeg(1)),
               ("huge.json", b'{"label": ' + b"9" * 300 + b"}"), ("huge.jpg", jpeg(1)), ("../up.jpg", jpeg(1)))
    source = open_source(str(path), "`data_train`")
    assert source.labels.tolist() == [0, 1] * 6
    note, = notes(source)
    assert note.startswith("4 damaged samples of")
    assert "no has no label (.cls or .json)" in note
    with pytest.raises(DataError, match="has no label"):
        open_source(str(path), "`data_train`", on_bad="stop")


def test_an_index_of_shards_is_kept_and_checked(forms: Path, tmp_path: Path, own_cache: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_images, "MIN_KEPT_BYTES", 0)
    path = str(shutil.copy(forms / "shards/train-000.tar", tmp_path / "t.tar"))
    labels = open_source(path, "`data_train`").labels.tolist()
    entry, = (own_cache / "shards").glob("*.kept")
    with monkeypatch.context() as patch:
        patch.setattr(shard_images, "index_shard", None)
        assert open_source(path, "`data_train`").labels.tolist() == labels
    # a spoilt entry is none, and another tar has another one
    entry.write_bytes(entry.read_bytes()[:-3] + b"abc")
    assert open_source(path, "`data_train`").labels.tolist() == labels
    tar(Path(path), ("0.cls", b"2"), ("0.jpg", jpeg(0)))
    assert open_source(path, "`data_train`").labels.tolist() == [2]


def test_the_list_of_a_folder_is_kept_until_a_folder_changes(forms: Path, tmp_path: Path, own_cache: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_listing, "MIN_KEPT_IMAGES", 1)
    root = Path(shutil.copytree(forms / "photos", tmp_path / "photos"))
    (root / "empty").mkdir()
    (root / "bee" / "x.heic").write_bytes(b"")
    # just made: it might change within a tick of the clock
    assert len(FolderSource(root)) == COUNT
    assert not list((own_cache / "folders").glob("*.kept"))
    monkeypatch.setattr(folder_listing, "_MIN_AGE_NS", -10**12)
    first = FolderSource(root)
    with monkeypatch.context() as patch:
        patch.setattr(folder_listing.image_folders, "walk", None)
        kept = FolderSource(root)
    assert [kept.path_of(n) for n in range(COUNT)] == [first.path_of(n) for n in range(COUNT)]
    assert (kept.class_names, kept.labels.tolist()) == (first.class_names, first.labels.tolist())
    assert kept.notes[0] == first.notes[0] == (
        f"{root}: 1 images are left out for what their names end in: .heic (1); taken are "
        f"{' '.join(folder_listing.image_folders.SUFFIXES)}")
    assert "is that of an earlier run; none of its 5 folders has changed since" in kept.notes[1]
    changes: list[Callable[[], object]] = [
        lambda: (root / "ant" / "zz.jpg").write_bytes(jpeg(0)), lambda: (root / "ant" / "zz.jpg").unlink(),
        lambda: (root / "bee" / "014.jpg").rename(root / "bee" / "13b.jpg"), lambda: (root / "empty").rmdir(),
        lambda: (root / "zoo").mkdir()]
    for change in changes:
        change()
        source = FolderSource(root)
        assert len(source.notes) == 1, "listed anew"
        listed = lists.walk(str(root), recursive=True)
        assert [str(source.path_of(n)) for n in range(len(source))] == [f"{root}/{e.path}" for e in listed.entries]


def test_names_of_files_are_kept_as_they_are() -> None:
    paths = ["a/1.jpg", "é.png", os.fsdecode(b"\xff\xfe.jpg"), "b/" + "x" * 300]
    table = PathTable.of(paths)
    assert list(table) == paths
    assert table[1:3] == paths[1:3]
    assert list(table.take(np.array([3, 0]))) == [paths[3], paths[0]]
    assert list(PathTable.of([])) == []


@needs_parquet
def test_parquet_that_is_more_than_memory_has_an_order_of_its_own(forms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_images, "MEMORY_BYTES", 40_000)
    source = open_source(str(forms / "p-*.parquet"), "`data_train`")
    assert isinstance(source, parquet_images.WindowedParquetSource)
    assert "groups of rows are shuffled together" in source.notes[0]
    order = source.order(1, 0)
    assert sorted(order.tolist()) == list(range(COUNT))
    assert order.tolist() == source.order(1, 0).tolist() != source.order(1, 1).tolist()
    expected = batches(source, 1)
    assert sum(len(labels) for _, labels in expected) == COUNT
    assert_equal(batches(source, 1, 3), expected[3:])


@needs_parquet
def test_paths_in_parquet_that_are_no_text_are_damage(tmp_path: Path) -> None:
    arrow = importlib.import_module("pyarrow")
    offsets, content = np.array([0, 2], np.int32).tobytes(), b"\xff\xfe"
    names = arrow.StringArray.from_buffers(1, arrow.py_buffer(offsets), arrow.py_buffer(content))
    images = arrow.StructArray.from_arrays([arrow.array([b"jpeg"]), names], ["bytes", "path"])
    table = arrow.table({"image": images, "label": arrow.array([1])})
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="row 0: "):
        list(ParquetReader(tmp_path / "x.parquet"))


@pytest.mark.parametrize("mark", ["\t", ";", ","])
def test_blank_lines_before_the_first_of_a_csv(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"\n \t\r\n{mark}{mark}\npath{mark}label\na b.jpg{mark}1\n")
    entry, = CsvList(path)
    assert not isinstance(entry, DataError)
    assert (entry.path, entry.labels) == ("a b.jpg", (1,))
    path.write_text(f"\n\n\nwhat{mark}ever\n")
    with pytest.raises(DataError, match="line 4 is 'what,ever', which neither names"):
        list(CsvList(path))
    path.write_text("\n\n")
    assert not list(CsvList(path))


def test_labels_of_digits_and_underscores_are_names(tmp_path: Path) -> None:
    found = CsvList(write_csv(tmp_path / "x.csv", [("a.jpg", "1_1"), ("b.jpg", "1_2"), ("c.jpg", "1_1")]))
    assert [entry.labels for entry in found if not isinstance(entry, DataError)] == [(0,), (1,), (0,)]
    assert found.names == {"1_1": 0, "1_2": 1}


@needs_parquet
def test_parquet_with_names_for_labels(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    for part, names in enumerate((["cat", "ant", None], ["bee"])):
        table = arrow.table({"jpg": [jpeg(n) for n in range(len(names))], "cls": names})
        parquet.write_table(table, tmp_path / f"{part}.parquet")
    source = open_source(str(tmp_path), "`data_train`")
    assert (tuple(source.class_names), source.labels.tolist()) == (CLASSES, [2, 0, 1])
    assert "row 2 has the label nan" in notes(source)[0]
    with pytest.raises(UsageError, match="cat: the training data has no class of this name"):
        open_source(str(tmp_path), "`data_val`", class_names=("ant", "bee"))


@pytest.mark.parametrize("name", ["names.csv", "shards/train-{000..002}.tar", f"x_lmdb/{DATA_FILE}",
                                  pytest.param("p-0000{0,1}-of-00002.parquet", marks=needs_parquet)])
def test_forms_behind_a_url(forms: Path, web: FaultyServer, name: str, own_cache: Path) -> None:
    """http lists no folders: a range in braces names each file."""
    for file in forms.rglob("*"):
        if file.is_file():
            web.objects[f"/{file.relative_to(forms)}"] = file.read_bytes()
    source = open_source(f"{web.url}/{name}", "`data_train`")
    assert source.labels.tolist() == [label_of(n) for n in range(COUNT)]
    assert [bytes(source.read(n)) for n in (0, 20, 41)] == [jpeg(n) for n in (0, 20, 41)]
    if not name.endswith((".csv", ".tar")):
        with pytest.raises(UsageError, match="GB are more than cache_gb 0 leaves room for"):
            open_source(f"{web.url}/{name}", "`data_train`", cache_gb=0)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: what a full disk is, for one process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", ["names.csv", "shards/train-{000..002}.tar", f"x_lmdb/{DATA_FILE}", "x.rec",
                                  pytest.param("p-00000-of-00002.parquet", marks=needs_parquet)])
def test_a_full_disk_while_copies_are_made(forms: Path, web: FaultyServer, name: str, own_cache: Path) -> None:
    """One line, and nothing is left of what was fetched."""
    for file in forms.rglob("*"):
        if file.is_file():
            web.objects[f"/{file.relative_to(forms)}"] = file.read_bytes()
    with full_disk(300), pytest.raises(RunError, match=r"cannot keep a copy of .* in .*: file too large") as caught:
        open_source(f"{web.url}/{name}", "`data_train`").read(0)
    assert "\n" not in str(caught.value)
    left = {file.suffix for file in (own_cache / "remote").iterdir() if file.stat().st_size}
    assert not left - {".idx"}
    # with room again it works
    source = open_source(f"{web.url}/{name}", "`data_train`")
    assert bytes(source.read(0)) == jpeg(0)


def test_a_full_disk_while_an_archive_is_indexed(forms: Path, own_cache: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """The index is kept as a file: one line that says where, and no part of it is left."""
    monkeypatch.setattr(archive_index, "MIN_KEPT_BYTES", 0)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(forms / "photos", "photos")
    with full_disk(5000):
        assert im2rec.main([f"{tmp_path}/out/x", f"{tmp_path}/photos.tar", "--recursive", "--list"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "cannot write the index of" in lines[-1]
    assert "IMGCLS_CACHE names another folder" in lines[-1]
    assert not list((own_cache / "archives").iterdir())
    assert not (tmp_path / "out").exists()
    # a shard's and a database's are kept where there is room, and made again where there is none
    monkeypatch.setattr(shard_images, "MIN_KEPT_BYTES", 0)
    with full_disk(200):
        assert len(open_source(str(forms / "shards"), "`data_train`")) == COUNT
    assert not [file for file in (own_cache / "shards").iterdir() if file.stat().st_size]


def test_shards_larger_than_the_cache(forms: Path, web: FaultyServer, own_cache: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in chunks like record files: the same samples, a few large requests, nothing on the disk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4000)
    for file in forms.glob("shards/*"):
        web.objects[f"/{file.name}"] = file.read_bytes()
    url = f"{web.url}/train-{{000..002}}.tar"
    web.faults = ["", "", "", "", "cut", "500"]
    source = open_source(url, "`data_train`", cache_gb=0)
    assert isinstance(source, ChunkedShards)
    assert source.labels.tolist() == [label_of(n) for n in range(COUNT)]
    assert "read in chunks of" in notes(source)[0]
    # known now: another run does not read the shards through
    web.seen.clear()
    source = open_source(url, "`data_train`", cache_gb=0)
    assert isinstance(source, ChunkedShards)
    assert web.count("GET") == 0
    orders = [source.order(1, epoch) for epoch in range(2)]
    assert orders[0].tolist() != orders[1].tolist()
    for order in orders:
        web.seen.clear()
        assert sorted(order.tolist()) == list(range(COUNT))
        source.prefetch(order)
        assert [bytes(source.read(n)) for n in order.tolist()] == [jpeg(n) for n in order.tolist()]
        assert web.count("GET") == source.chunks.num_chunks < COUNT
    assert bytes(source.read(20)) == jpeg(20)
    assert "train-001.tar" in str(source.problem(20, "is damaged"))
    with pytest.raises(UsageError, match="cannot be divided"):
        divide(source, .1)
    assert not list(own_cache.glob("remote/*.tar"))


def wrong(name: str, make: Callable[[Path], object], message: str, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param(name, make, message, id=message[:30], marks=marks)


@pytest.mark.parametrize(("name", "make", "message"), [
    wrong("x.csv", lambda p: p.write_bytes(b"photo,kind\na.jpg,cat\n"), "line 1 is 'photo,kind', which neither names"),
    wrong("x.csv", lambda p: p.write_bytes(b"path,label\n"), "holds no images"),
    wrong("x.csv", lambda p: p.write_bytes(b""), "holds no images"),
    wrong("x.csv", lambda p: p.write_bytes(b"a.jpg,1\nb.jpg,cat\n"), "labels are all numbers, or all names"),
    wrong("x.csv", lambda p: p.write_bytes(b"a.jpg,cat\nb.jpg,1\n"), "labels are all numbers, or all names"),
    wrong("x.csv", lambda p: p.write_bytes(b"a.jpg,1\n../b.jpg,1\n"), "outside of its root folder"),
    wrong("x.csv", lambda p: p.write_bytes(b"a.jpg,1\n/etc/b.jpg,1\n"), "outside of its root folder"),
    wrong("x.csv", lambda p: p.write_bytes(b"a.jpg,1\n" + b"b\0.jpg,1\n" * 11), "holds a zero byte|contains NUL"),
    wrong("x.csv", lambda p: p.write_bytes(b'a.jpg,1\n"' + b"b" * 200_000), "is no CSV: field larger"),
    wrong("x.csv", lambda p: p.write_bytes(b"a" * (1 << 21)), "line 1 has more than 1,048,576 characters"),
    wrong("x.csv", lambda p: p.write_bytes(b"a.jpg,1e300\n"), "which is no class number"),
    wrong("x.csv", lambda p: p.mkdir(), "is a directory|a folder"),
    wrong("x.lst", lambda p: p.write_bytes(b"a" * (1 << 21)), "line 1 has more than 1,048,576 characters"),
    wrong("x.tar", lambda p: p.write_bytes(b"abc"), "is cut|no tar"),
    wrong("x.tar", lambda p: tar(p, ("n1/a.jpg", jpeg(0))), "an archive of class folders is packed by imgcls-im2rec"),
    wrong("x.tar", lambda p: p.write_bytes(tar(p, ("a.jpg", jpeg(0)), ("a.cls", b"1")).read_bytes()[:1200]),
          "is cut|to have"),
    wrong("x-{0..3}.tar", lambda p: tar(p.with_name("x-0.tar"), ("a.jpg", jpeg(0)), ("a.cls", b"1")),
          "x-1.tar: no such file"),
    wrong("x-{9..3}.tar", lambda p: None, "must rise"),
    wrong("x-{0..999999}{0..9}.tar", lambda p: None, "means more than 1,000,000 files"),
    wrong("x-*.tar", lambda p: None, "no file matches it"),
    wrong("mix", lambda p: [p.mkdir(), *(tar(p / f"{s}-0.tar", ("a.jpg", jpeg(0)), ("a.cls", b"1"))
                                         for s in ("train", "val"))], "holds files of train and val"),
    wrong("x.parquet", lambda p: p.write_bytes(b"PAR1" * 5), "is no parquet file", needs_parquet),
    wrong("x_lmdb", lambda p: [p.mkdir(), (p / DATA_FILE).write_bytes(b"x" * 9000)], "LMDB"),
])
def test_wrong_data_is_one_line(tmp_path: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / name)
    with pytest.raises(ImgclsError, match=message) as caught:
        open_source(str(tmp_path / name), "`data_train`")
    assert "\n" not in str(caught.value)


def test_a_list_may_lead_outside_where_the_user_says_so(forms: Path, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(forms / "photos/ant/000.jpg", "ant")])
    with pytest.raises(DataError, match="outside of its root folder"):
        open_source(str(path), "`data_train`")
    assert bytes(open_source(str(path), "`data_train`", outside_root=True).read(0)) == jpeg(0)
    assert bytes(open_source(str(path), "`data_train`", root=str(forms)).read(0)) == jpeg(0)


def test_what_files_a_pattern_means(tmp_path: Path) -> None:
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b.tar", "{1..2}.tar", "note.txt"):
        (tmp_path / name).write_bytes(b"")

    def names(text: str) -> list[str]:
        return [path.name for path in expand(text, ".tar", "`data_train`")]

    assert names(f"{tmp_path}/a-{{08..10}}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert names(f"{tmp_path}/a-{{10,08}}.tar;{tmp_path}/b.tar") == ["a-10.tar", "a-08.tar", "b.tar"]
    assert names(f"{tmp_path}/{{1..2}}.tar") == ["{1..2}.tar"]
    assert names(f"{tmp_path}/[ab]*.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "b.tar"]


def test_readers_share_an_open_database(forms: Path) -> None:
    first, second = LmdbReader(forms / "x_lmdb"), LmdbReader(forms / "x_lmdb" / DATA_FILE)
    assert first.read(b"00003") == second.read(b"00003")
    with pytest.raises(ValueError, match="no longer"):
        first.read(b"nothing")


def test_a_group_of_rows_that_two_threads_read_counts_once() -> None:
    memory = parquet_images._GroupMemory(100)
    for _ in range(3):
        memory._keep((1, 0), "some", 60)
    memory._keep((1, 1), "others", 40)
    assert (memory._recall((1, 0)), memory._recall((1, 1))) == ("some", "others")


def test_an_index_for_a_folder_of_validation_data_names_its_own_setting(tmp_path: Path) -> None:
    (tmp_path / "val" / "a").mkdir(parents=True)
    config = DataConfig(data_dir=str(tmp_path), data_val_idx="x.idx")
    with pytest.raises(UsageError, match=r"^data_val_idx x\.idx: is for a \.rec"):
        open_val(config, str(tmp_path / "val"))


@pytest.mark.parametrize("name", ["shards/train-000.tar", "x.rec"])
def test_a_file_behind_a_url_may_be_named_twice(forms: Path, web: FaultyServer, name: str, own_cache: Path) -> None:
    web.objects["/" + name] = (forms / name).read_bytes()
    url = f"{web.url}/{name}"
    once, twice = (open_source(text, "`data_train`") for text in (url, f"{url};{url}"))
    assert twice.labels.tolist() == once.labels.tolist() * 2
    assert bytes(twice.read(len(once))) == bytes(once.read(0))
