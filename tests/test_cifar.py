"""formats/cifar: both layouts, unpacked and in archives, and pickles that would do more than hold data."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import mxnet_file, real_data

from imgcls.config.sections import DataConfig
from imgcls.data import sources
from imgcls.datasets import cifar10
from imgcls.errors import DataError, UsageError
from imgcls.formats import cifar, lists, pickles, recordio


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def binary(data: np.ndarray, *labels: list[int]) -> bytes:
    return b"".join(bytes(row_labels) + row.tobytes() for *row_labels, row in zip(*labels, data, strict=True))


def pickled(data: np.ndarray, protocol: int = 2, **labels: list[int]) -> bytes:
    batch: dict[bytes, object] = {b"batch_label": b"training batch 1 of 5", b"data": data}
    batch |= {key.encode(): values for key, values in labels.items()}
    batch[b"filenames"] = [b"picture_%d.png" % i for i in range(len(data))]
    return pickle.dumps(batch, protocol)


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """As Python 2 wrote the published files: strings are byte strings, short ("U") or long ("T")."""
    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    content = data.tobytes()
    array = (b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02K\x00\x85" + short(b"b") +
             b"tRq\x03(K\x01J" + struct.pack("<i", len(data)) + b"M" + struct.pack("<H", 3072) + b"\x86"
             b"cnumpy\ndtype\nq\x04(" + short(b"u1") + b"K\x00K\x01tRq\x05"
             b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
             b"\x89T" + struct.pack("<i", len(content)) + content + b"tb")
    label_list = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x00(" + short(b"data") + array + short(b"labels") + label_list + b"u."


def save(folder: Path, content: bytes, name: str = "batch") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def refusal(path: Path, classes: int = 10) -> DataError:
    with pytest.raises(DataError) as caught:
        cifar.read(path, classes)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


# Reading


@pytest.mark.parametrize("write", [
    lambda data, labels: binary(data, labels),
    python2_pickle,
    lambda data, labels: pickled(data, 2, labels=labels),
    lambda data, labels: pickled(data, 4, labels=labels),
    lambda data, labels: pickle.dumps({"data": np.asfortranarray(data), "labels": labels}, 2),
], ids=["binary", "python 2", "protocol 2", "protocol 4", "text keys, column order"])
def test_reads_cifar10_in_every_layout(tmp_path: Path, write) -> None:
    data, labels = pictures(5), [3, 0, 9, 1, 1]
    batch = cifar.read(save(tmp_path, write(data, labels)))
    assert batch.images.dtype == np.uint8
    assert batch.images.flags.writeable
    assert batch.images.flags.c_contiguous
    np.testing.assert_array_equal(batch.images, data.reshape(5, 3, 32, 32))
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == labels
    assert batch.coarse_labels is None


@pytest.mark.parametrize("write", [
    lambda data, coarse, fine: binary(data, coarse, fine),
    lambda data, coarse, fine: pickled(data, fine_labels=fine, coarse_labels=coarse),
], ids=["binary", "pickle"])
def test_reads_cifar100_in_every_layout(tmp_path: Path, write) -> None:
    data, fine, coarse = pictures(3), [99, 0, 42], [19, 0, 7]
    batch = cifar.read(save(tmp_path, write(data, coarse, fine)), num_classes=100)
    np.testing.assert_array_equal(batch.images, data.reshape(3, 3, 32, 32))
    assert batch.labels.tolist() == fine
    assert batch.coarse_labels is not None
    assert batch.coarse_labels.tolist() == coarse


def test_reads_what_mxnet_reads() -> None:
    folder = mxnet_file("raw")
    expected = np.load(folder / "cifar.npz")
    for name, classes, labels in (("cifar10-data_batch_1", 10, "labels10"),
                                  ("cifar100-train", 100, "fine100")):
        for suffix in ("", ".bin"):
            batch = cifar.read(folder / (name + suffix), classes)
            np.testing.assert_array_equal(batch.images.transpose(0, 2, 3, 1), expected["images_nhwc"])
            np.testing.assert_array_equal(batch.labels, expected[labels])
    assert batch.coarse_labels is not None
    np.testing.assert_array_equal(batch.coarse_labels, expected["coarse100"])


@pytest.mark.real_data
def test_reads_real_pictures() -> None:
    batch = cifar.read(real_data("cifar10") / "data_batch_1_first4000.bin")
    assert batch.images.shape == (4000, 3, 32, 32)
    assert batch.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile


def parts10(suffix: str) -> dict[str, bytes]:
    """A whole CIFAR-10 of two pictures a file, both labelled with the number of the file (the test: 9)."""
    parts = {}
    for name, label in [*((f"data_batch_{i}", i) for i in range(1, 6)), ("test_batch", 9)]:
        data, labels = pictures(2, label), [label] * 2
        parts[name + suffix] = binary(data, labels) if suffix else pickled(data, labels=labels)
    return parts


def tar_of(parts: dict[str, bytes], mode: str = "w:gz", folder: str = "cifar-10/") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in parts.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".bin", ""])
@pytest.mark.parametrize("form", ["loose", "folder", "archive", "plain tar"])
def test_finds_all_files_wherever_they_are(tmp_path: Path, suffix: str, form: str) -> None:
    parts = parts10(suffix)
    folder = {"loose": "", "folder": "cifar-10-batches-bin" if suffix else "cifar-10-batches-py"}.get(form)
    if folder is None:
        archive = tar_of({"._data_batch_1": b"junk", **parts}, "w:gz" if form == "archive" else "w")
        save(tmp_path, archive, "cifar-10-binary.tar.gz" if suffix else "cifar-10-python.tar.gz")
    else:
        for name, content in parts.items():
            save(tmp_path / folder, content, name)
    splits = cifar.read_splits(tmp_path)
    assert splits is not None
    assert splits.train.labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    np.testing.assert_array_equal(splits.train.images[2:4], pictures(2, 2).reshape(2, 3, 32, 32))
    assert splits.test.labels.tolist() == [9, 9]


def test_nothing_is_unpacked_and_an_incomplete_form_is_no_form(tmp_path: Path) -> None:
    assert cifar.read_splits(tmp_path / "missing") is None
    save(tmp_path, parts10(".bin")["data_batch_1.bin"], "data_batch_1.bin")
    assert cifar.read_splits(tmp_path) is None
    save(tmp_path, tar_of(parts10("")), "cifar-10-python.tar.gz")
    assert cifar.read_splits(tmp_path) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-python.tar.gz", "data_batch_1.bin"]


def test_finds_cifar100(tmp_path: Path) -> None:
    for name, label in (("train", 50), ("test", 60)):
        content = pickled(pictures(1), fine_labels=[label], coarse_labels=[1])
        save(tmp_path / "cifar-100-python", content, name)
    splits = cifar.read_splits(tmp_path, num_classes=100)
    assert splits is not None
    assert (splits.train.labels.tolist(), splits.test.labels.tolist()) == ([50], [60])


# Damage


@pytest.mark.parametrize(("content", "message", "offset"), [
    (b"", "not a CIFAR-10 batch: 0 bytes", 0),
    (binary(pictures(2), [1, 2])[:-1], "no multiple of 3073", 3073),
    (binary(pictures(2), [1, 10]), "picture 1 has label 10, not 0 to 9", None),
    (pickled(pictures(2), labels=[1]), "2 pictures but 1 labels", None),
    (pickled(pictures(2), labels=[1, -1]), "picture 1 has label -1", None),
    (pickled(pictures(2)), "no list of numbers 'labels'", None),
    (pickled(pictures(2)[:, :100], labels=[1, 2]), "no uint8 array 'data' of (N, 3072)", None),
    (python2_pickle(pictures(0), []), "holds no pictures", None),
    (pickle.dumps([1, 2], 2), "holds no dict", None),
    (pickle.dumps({"data": [1], "labels": [1]}, 2), "no uint8 array", None),
])
def test_refuses_damage(tmp_path: Path, content: bytes, message: str, offset: int | None) -> None:
    error = refusal(save(tmp_path, content))
    assert message in str(error)
    assert error.offset == offset


def test_refuses_a_label_beyond_all_numbers(tmp_path: Path) -> None:
    error = refusal(save(tmp_path, pickled(pictures(2), labels=[1, 1 << 70])))
    assert "a number of more than 32 bits" in str(error)


def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for content in (python2_pickle(pictures(1), [1]), pickled(pictures(1), labels=[1])):
        for length in {*range(1, 200), *range(len(content) - 200, len(content))}:
            refusal(save(tmp_path, content[:length]))


def test_a_pickle_with_any_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    content = bytearray(python2_pickle(pictures(1), [1]))
    positions = [*range(200), *range(len(content) - 30, len(content))]
    for position in positions:
        for value in (0, 0x28, 0x2E, 0x52, 0x62, 0x80, 0xFF):
            changed = bytes(content[:position]) + bytes([value]) + bytes(content[position + 1:])
            try:
                cifar.read(save(tmp_path, changed))
            except DataError:
                continue


PARTS = parts10(".bin")
ARCHIVE = tar_of(PARTS)
HALF = len(ARCHIVE) // 2


def pax_tar(records: bytes) -> bytes:
    """Return a tar of one file behind a pax header with these records, in gzip."""
    header, file = tarfile.TarInfo("pax"), tarfile.TarInfo("data_batch_1.bin")
    header.type, header.size, file.size = tarfile.XHDTYPE, len(records), 900
    content = header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    return gzip.compress(content + file.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))


@pytest.mark.parametrize(("content", "message"), [
    (ARCHIVE[:HALF], "damaged or cut short"),
    (ARCHIVE[:HALF] + bytes(50) + ARCHIVE[HALF + 50:], "damaged or cut short"),
    (tar_of(PARTS, "w")[:25_000], "damaged or cut short"),
    (tar_of({name: PARTS[name] for name in PARTS if "4" not in name}), "the archive has no data_batch_4.bin"),
    (tar_of({**PARTS, "data_batch_4.bin": b"x"}), "data_batch_4.bin at byte 0: not a CIFAR-10 batch"),
    (b"<html>", "damaged or cut short"),
    *((pax_tar(record), "damaged or cut short") for record in (
        b"24 GNU.sparse.size=none\n", b"23 GNU.sparse.map=none\n22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")),
])
def test_refuses_a_damaged_archive(tmp_path: Path, content: bytes, message: str) -> None:
    path = save(tmp_path, content, "cifar-10-binary.tar.gz")
    with pytest.raises(DataError) as caught:
        cifar.read_splits(tmp_path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


# Malice


class Hostile:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class WithPersistentId(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return "id" if isinstance(obj, Hostile) else None


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, getattr, np.load, np.fromfile])
def test_a_hostile_pickle_is_not_run(tmp_path: Path, protocol: int, function) -> None:
    mark = tmp_path / "was-run"
    batch = {b"data": Hostile(function, f"touch {mark}"), b"labels": [1]}
    assert "refused" in str(refusal(save(tmp_path, pickle.dumps(batch, protocol))))
    assert not mark.exists()


@pytest.mark.parametrize("name", [
    b"numpy\nfromfile", b"numpy.core.multiarray\nfromstring", b"_codecs\nlookup", b"builtins\nbytearray",
    b"imgcls.formats.cifar\n_encode"])
def test_names_beside_the_allowed_ones_are_refused(tmp_path: Path, name: bytes) -> None:
    error = refusal(save(tmp_path, b"\x80\x02c" + name + b"\n)R."))
    assert name.replace(b"\n", b".").decode() in str(error)
    assert error.offset == 2


def test_persistent_ids_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    WithPersistentId(stream, 2).dump({b"data": Hostile(os.getcwd), b"labels": [1]})
    assert "refused" in str(refusal(save(tmp_path, stream.getvalue())))


@pytest.mark.parametrize("dtype", ["O", "f4", "V1", "i1", [("a", object)]])
def test_arrays_of_anything_but_bytes_are_refused(tmp_path: Path, dtype: object) -> None:
    array = np.zeros((1, 3072), dtype)  # type: ignore[call-overload]
    assert "refused" in str(refusal(save(tmp_path, pickle.dumps({b"data": array, b"labels": [1]}, 2))))


DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple ...: hashing or printing it would crash


@pytest.mark.parametrize("body", [
    b"\x8e" + struct.pack("<Q", 1 << 40),                                 # a terabyte of bytes, announced
    b"\x96" + struct.pack("<Q", 1 << 40),                                 # the same as a bytearray
    b"T\xff\xff\xff\xff",                                                 # a negative size
    b"Nr\xff\xff\xff\xff.",                                               # a huge memo
    b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",                          # numpy.ndarray(2147483647)
    b"cnumpy\nndarray\n}b.",                                              # a state for a class
    b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",    # another codec
    b"X\x00\x01\x00\x00" + b"a" * 256 + b"q\x00" +
    (b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R") * 100 + b".",      # one text, encoded 100 times
    b"}" + DEEP + b"Ns.",
    b"cnumpy\ndtype\n" + DEEP + b"\x85R.",
    DEEP + b"N\x93.",
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R(K\x01" + DEEP +
    b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R\x89C\x00tb.",
])
def test_bombs_are_refused_before_they_go_off(tmp_path: Path, body: bytes) -> None:
    path = save(tmp_path, b"\x80\x02" + body)
    tracemalloc.start()
    refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 128 << 20
    tracemalloc.stop()


def test_a_batch_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_LARGEST_FILE", 3073)
    path = save(tmp_path, binary(pictures(2), [1, 2]))
    assert "has 6146 bytes, more than any CIFAR batch" in str(refusal(path))


def test_too_many_instructions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 1000)
    assert "too many instructions" in str(refusal(save(tmp_path, b"\x80\x02" + b"]" * 2000 + b".")))


def test_archive_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_LARGEST_FILE", 1 << 20)
    monkeypatch.setattr(cifar, "_LARGEST_ARCHIVE", 8 << 20)
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 4 << 20
    bombs = {
        "a huge member": tar_of({"data_batch_1.bin": bytes(4 << 20)}, "w"),
        "a huge name": long_name.tobuf(tarfile.GNU_FORMAT) + bytes(5 << 20),
        "much before the first member": tar_of({f"zeros{i}": bytes(1 << 20) for i in range(9)}, "w"),
        "thousands of members": tar_of({f"empty{i}": b"" for i in range(1100)} | parts10(".bin"), "w"),
    }
    for bomb in bombs.values():
        save(tmp_path, gzip.compress(bomb), "cifar-10-binary.tar.gz")
        tracemalloc.start()
        with pytest.raises(DataError):
            cifar.read_splits(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


# Record files of the data set


def write_records(folder: Path, name: str, labels: list[int]) -> None:
    """Write a record file as MXNet's script downloaded: one picture per label, no class names beside it."""
    folder.mkdir(exist_ok=True)
    image = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    with recordio.RecordWriter(folder / name) as writer:
        for i, label in enumerate(labels):
            writer.write(recordio.pack(recordio.ImageHeader(0, label, i), image))


@pytest.mark.parametrize(("train", "test"),
                         [("cifar10_train.rec", "cifar10_val.rec"), ("train.rec", "test.rec")])
def test_records_without_class_names_have_those_of_the_data_set(tmp_path: Path, train: str,
                                                                test: str) -> None:
    write_records(tmp_path, train, [9, 0, 3])
    write_records(tmp_path, test, [1])
    config = DataConfig(data_dir=str(tmp_path))
    splits = cifar10.load(config)
    assert splits.val is not None
    val = cifar10.load_val(config)
    assert val is not None
    for source in (splits.train, splits.val, val):
        assert source.class_names == cifar10.CLASSES
        assert source.class_names[int(source.labels[0])] in ("truck", "automobile")
    named = cifar10.load(DataConfig(data_train=str(tmp_path / train), data_val=str(tmp_path / test)))
    assert named.train.class_names == cifar10.CLASSES


def test_records_of_other_classes_are_not_given_names(tmp_path: Path) -> None:
    write_records(tmp_path, "ten.rec", [10, 0])
    assert cifar10.load(DataConfig(data_train=str(tmp_path / "ten.rec"))).train.class_names == ()
    write_records(tmp_path, "own.rec", [1, 0])
    lists.write_class_names(tmp_path / "own.classes.txt", ["no", "yes"])
    assert cifar10.load(DataConfig(data_train=str(tmp_path / "own.rec"))).train.class_names == ("no", "yes")


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_of_images_in_the_data_folder(tmp_path: Path, test: str) -> None:
    image = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    for split in ("train", test):
        for name in cifar10.CLASSES:
            save(tmp_path / split / name, image, "0001.png")
    config = DataConfig(data_dir=str(tmp_path))
    splits = cifar10.load(config)
    assert splits.val is not None
    for source in (splits.train, splits.val, cifar10.load_val(config)):
        assert source is not None
        assert list(source.class_names) == list(cifar10.CLASSES)
        assert source.labels.tolist() == list(range(10))
    # classes of something else are somebody's own, which nothing is downloaded beside
    (tmp_path / "train" / "airplane").rename(tmp_path / "train" / "aeroplane")
    with pytest.raises(UsageError, match="nothing is downloaded"):
        cifar10.load(config)


def test_test_images_alone_are_opened_by_the_settings_of_their_file(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path, "test.rec", [1])
    (tmp_path / "test.idx").rename(tmp_path / "other.idx")
    opened, seen = sources.open_source, dict[str, object]()

    def open_source(path: str, flag: str, **settings: object) -> sources.Source:
        seen.update(settings, flag=flag)
        return opened(path, flag, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "open_source", open_source)
    config = DataConfig(data_val=str(tmp_path / "test.rec"), data_val_idx=str(tmp_path / "other.idx"), cache_gb=3)
    source = cifar10.load_val(config)
    assert source is not None
    assert source.labels.tolist() == [1]
    assert (seen["flag"], seen["index"], seen["cache_gb"]) == ("`data_val`", config.data_val_idx, 3)
