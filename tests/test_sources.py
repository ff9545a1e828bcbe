"""Sources: what a path means, labels and class names, and how damage is reported."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import mxnet_file, real_data

from imgcls.config.resolve import build
from imgcls.config.sections import DataConfig
from imgcls.data import sources
from imgcls.data.file_source import FolderSource, ListSource
from imgcls.data.record_source import RecordSource
from imgcls.data.sources import ArraySource, open_source
from imgcls.datasets import cifar10, imagenet, load_splits
from imgcls.errors import DataError, UsageError
from imgcls.formats import lists, recordio


def image(value: int) -> bytes:
    return cv2.imencode(".png", np.full((8, 9, 3), value, np.uint8))[1].tobytes()


def records(path: Path, labels: list, classes: list[str] | None = None) -> Path:
    """A record file with an image of value i for each label, and its class names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with recordio.RecordWriter(path) as writer:
        for i, label in enumerate(labels):
            writer.write(recordio.pack(recordio.ImageHeader(0, label, i + 100), image(i)), i)
    if classes:
        lists.write_class_names(lists.classes_path(path), classes)
    return path


def tree(root: Path, *names: str) -> Path:
    """Files with these names, each an image whose value is its number."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(i))
    return root


def value(data: bytes | memoryview | np.ndarray) -> int:
    """Which of the images above this is."""
    return int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[0, 0])


def test_records_of_one_file(tmp_path: Path) -> None:
    source = open_source(str(records(tmp_path / "a.rec", [3, 1, 2], ["x", "y", "z", "w"])), "`data_train`")
    assert isinstance(source, RecordSource)
    assert source.labels.tolist() == [3, 1, 2]
    assert source.labels.dtype == np.int64
    assert [value(source.read(i)) for i in (2, 0, 1)] == [2, 0, 1]
    assert source.class_names == ("x", "y", "z", "w")
    assert sources.num_classes(source) == 4
    assert sources.notes(source) == []
    (tmp_path / "a.idx").unlink()
    assert open_source(str(tmp_path / "a.rec"), "`data_train`").labels.tolist() == [3, 1, 2]


def test_records_of_several_files(tmp_path: Path) -> None:
    for name, labels in (("a", [0, 1]), ("b", [2]), ("c", [3, 4])):
        records(tmp_path / f"{name}.rec", labels)
    (tmp_path / "notes.txt").write_text("not a record")
    for text in (str(tmp_path), f"{tmp_path}/a.rec;{tmp_path}/b.rec;{tmp_path}/c.rec",
                 f"{tmp_path}/[abc].rec"):
        source = open_source(text, "`data_train`")
        assert source.labels.tolist() == [0, 1, 2, 3, 4]
        assert [value(source.read(i)) for i in range(5)] == [0, 1, 0, 0, 1]
        assert "c.rec: record 1 (id 101) is odd" not in str(source.problem(4, "is odd"))
        assert str(source.problem(4, "is odd")).startswith(f"{tmp_path}/c.rec at byte ")
        assert str(source.problem(4, "is odd")).endswith("record 1 (id 101) is odd")
    with pytest.raises(UsageError, match=r"an \.idx belongs to one \.rec file, here are 3"):
        open_source(str(tmp_path), "`data_train`", index=str(tmp_path / "a.idx"))


def test_a_label_in_an_array_and_the_image_behind_it(tmp_path: Path) -> None:
    """Written by hand, but MXNet reads it: one label, not in the header."""
    with recordio.RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(recordio.pack(recordio.ImageHeader(0, [7], 1), image(5)))
    source = open_source(str(tmp_path / "a.rec"), "`data_train`")
    assert source.labels.tolist() == [7]
    assert value(source.read(0)) == 5


def test_damage_is_skipped_and_reported_or_ends_the_run(tmp_path: Path) -> None:
    path = records(tmp_path / "a.rec", [0, 1.5, 2, [3, 4], 5])
    with recordio.RecordWriter(tmp_path / "b.rec") as writer:
        writer.write(b"short")
    source = open_source(f"{path};{tmp_path}/b.rec", "`data_train`")
    assert source.labels.tolist() == [0, 2, 5]
    assert [value(source.read(i)) for i in range(3)] == [0, 2, 4]
    text, = sources.notes(source)
    assert text.startswith("3 damaged samples of")
    assert "record 1 has the label 1.5, which is no class number" in text
    reasons = [str(problem) for problem in source.problems]
    assert any("record 3 (id 103) has 2 labels where 1 is expected" in reason for reason in reasons)
    assert any("b.rec" in reason and "its header alone needs 24" in reason for reason in reasons)
    with pytest.raises(DataError, match=r"no class number|2 labels"):
        open_source(str(path), "`data_train`", on_bad="stop")


def test_too_much_damage_is_never_skipped(tmp_path: Path) -> None:
    path = records(tmp_path / "a.rec", [0.5] * 11 + [1] * 20)
    with pytest.raises(DataError,
                       match="11 of 31 samples are damaged, too many to leave out; the first"):
        open_source(str(path), "`data_train`")
    records(path, [0.5] * 10 + [1] * 20)
    assert len(open_source(str(path), "`data_train`")) == 20
    records(path, [0.5] * 3)
    with pytest.raises(DataError, match=r"record 0 has the label 0\.5"):
        open_source(str(path), "`data_train`")


def test_class_folders_are_numbered_as_im2rec_does(tmp_path: Path) -> None:
    root = tree(tmp_path, "b/1.jpg", "b/0.png", "b/inner/2.JPEG", "a/3.jpg", "empty/readme.txt", "c/4.heic")
    source = open_source(str(root), "`data_train`")
    assert isinstance(source, FolderSource)
    assert source.class_names == ("a", "b", "b/inner")
    assert source.labels.tolist() == [0, 1, 1, 2]
    assert [value(source.read(i)) for i in range(4)] == [3, 1, 0, 2]
    assert str(source.problem(1, "is odd")) == f"{root}/b/0.png: is odd"
    (root / "b/0.png").unlink()
    with pytest.raises(DataError, match=r"b/0\.png: no such file or directory"):
        source.read(1)


def test_validation_folders_are_numbered_by_the_names_of_training(tmp_path: Path) -> None:
    train = open_source(str(tree(tmp_path / "train", "a/1.png", "b/2.png", "c/3.png")), "`data_train`")
    val = open_source(str(tree(tmp_path / "val", "c/1.png", "b/2.png")), "`data_val`",
                      class_names=train.class_names)
    assert val.labels.tolist() == [1, 2]
    assert val.class_names == train.class_names
    with pytest.raises(UsageError, match="d: the training data has no class of this name"):
        open_source(str(tree(tmp_path / "other", "d/1.png")), "`data_val`", class_names=train.class_names)
    packed = records(tmp_path / "v.rec", [0], ["a", "x", "c"])
    with pytest.raises(UsageError, match="class 1 is 'x' here and 'b' in the training data"):
        open_source(str(packed), "`data_val`", class_names=train.class_names)


def test_lists(tmp_path: Path) -> None:
    tree(tmp_path / "images", "a/1.png", "b/2 3.png")
    listing = tmp_path / "x.lst"
    listing.write_text("5\t1.0\ta/1.png\nnonsense\n6\t0.5\tb/2 3.png\n7\t0\tb/2 3.png\n")
    source = open_source(str(listing), "`data_train`", root=str(tmp_path / "images"))
    assert isinstance(source, ListSource)
    assert source.labels.tolist() == [1, 0]
    assert [value(source.read(i)) for i in range(2)] == [0, 1]
    assert len(source.problems) == 2
    (tmp_path / "images/x.lst").write_text("5\t1.0\ta/1.png\n")
    assert value(open_source(str(tmp_path / "images/x.lst"), "`data_train`").read(0)) == 0
    with pytest.raises(DataError, match="line 2 is no id, label and path"):
        open_source(str(listing), "`data_train`", on_bad="stop")


@pytest.mark.parametrize(("name", "message"), [
    ("nothing.rec", "data_train .*nothing.rec: no such file"),
    ("flat", "data_train .*flat: the folder holds neither .rec files nor a folder of images per class"),
    ("split", "data_train .*split: the folder holds train and val: give it to data_dir"),
    ("bare", "bare: holds no .jpg, .jpeg, .*, and neither do its folders"),
    ("text.rec", "text.rec at byte 0: "),
    ("s4://bucket/x.rec", r"data_train s4://bucket/x.rec: there is no s4://; did you mean s3://\?"),
])
def test_missing_data_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    tree(tmp_path / "flat", "1.png")
    tree(tmp_path / "split", "train/a/1.png", "val/a/1.png")
    (tmp_path / "bare/folder").mkdir(parents=True)
    (tmp_path / "text.rec").write_text("this is no record file at all")
    with pytest.raises((UsageError, DataError), match=message) as caught:
        open_source(name if "://" in name else str(tmp_path / name), "`data_train`")
    assert "\n" not in str(caught.value)


def test_imagenet_finds_the_files_of_a_folder(tmp_path: Path) -> None:
    tree(tmp_path / "t", "train/a/1.png", "train/b/2.png", "val/b/3.png")
    splits = imagenet.load(DataConfig(data_dir=str(tmp_path / "t")))
    assert splits.val is not None
    assert (splits.train.labels.tolist(), splits.val.labels.tolist()) == ([0, 1], [1])
    records(tmp_path / "r/train.rec", [0, 1])
    splits = imagenet.load(DataConfig(data_dir=str(tmp_path / "r")))
    assert splits.val is None
    unnamed, no_val = splits.notes
    assert no_val == f"{tmp_path / 'r'} holds no validation data, neither val.rec nor val"
    assert "train.classes.txt beside it names them" in unnamed
    records(tmp_path / "r/small.rec", [1])
    splits = imagenet.load(DataConfig(data_dir=str(tmp_path / "r"), train_dataset="small.rec",
                                      val_dataset="train.rec"))
    assert splits.val is not None
    assert (len(splits.train), len(splits.val)) == (1, 2)
    both = imagenet.load(DataConfig(data_train=str(tmp_path / "r/train.rec"),
                                    data_val=str(tmp_path / "r/small.rec")))
    assert both.val is not None
    assert (len(both.train), len(both.val)) == (2, 1)
    alone = imagenet.load_val(DataConfig(data_val=str(tmp_path / "r/small.rec")))
    assert alone is not None
    assert len(alone) == 1
    with pytest.raises(UsageError, match=r"data_dir .*: it holds neither train\.rec nor a folder train"):
        imagenet.load(DataConfig(data_dir=str(tmp_path)))
    with pytest.raises(UsageError, match="data_train is missing: name the data with"):
        imagenet.load(DataConfig())
    noise = build({**imagenet.DEFAULTS, "dataset": "imagenet"}, {"benchmark": True, "num_examples": 500})
    assert len(load_splits(noise).train) == 500


def test_cifar10_as_mxnet_shipped_it(tmp_path: Path) -> None:
    """Record files without class names: their order is the data set's."""
    train, val = records(tmp_path / "cifar10_train.rec", [9, 0]), records(tmp_path / "cifar10_val.rec", [3])
    records(tmp_path / "g1/train.rec", [1])
    records(tmp_path / "g1/test.rec", [2, 3])
    for config, sizes in ((DataConfig(data_train=str(train), data_val=str(val)), (2, 1)),
                          (DataConfig(data_dir=str(tmp_path)), (2, 1)),
                          (DataConfig(data_dir=str(tmp_path / "g1")), (1, 2))):
        splits = cifar10.load(config)
        assert splits.val is not None
        assert (len(splits.train), len(splits.val)) == sizes
        assert splits.train.class_names == splits.val.class_names == cifar10.CLASSES
        alone = cifar10.load_val(config)
        assert alone is not None
        assert len(alone) == sizes[1]


def test_arrays_are_read_as_pixels() -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    source = ArraySource(images, np.zeros(2, int), description="mine")
    assert np.array_equal(source.read(1), images[1].transpose(1, 2, 0))
    assert str(source.problem(1, "is odd")) == "mine: image 1 is odd"


@pytest.mark.real_data
def test_mxnets_own_files() -> None:
    source = RecordSource([real_data("mxnet-rec", "helmet-first") / name for name in sorted(
        f.name for f in real_data("mxnet-rec", "helmet-first").iterdir() if f.suffix == ".rec")])
    assert len(source) == 16
    assert value(source.read(15)) >= 0


def test_damaged_files_lose_records_and_invent_none() -> None:
    damaged = mxnet_file("damaged")
    intact = RecordSource([damaged / "good.rec"])
    assert intact.labels.tolist() == [10 * i for i in range(10)]
    for file in sorted(damaged.glob("*.rec")):
        if file.stat().st_size:
            try:
                source = RecordSource([file])
            except DataError as error:
                assert str(file) in str(error)  # noqa: PT017 - which files raise is not the point
            else:
                labels = set(source.labels.tolist())
                assert labels <= set(intact.labels.tolist()) or file.name.startswith("flag"), file


def test_hidden_files_are_no_images_and_inner_folders_are_told(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/young/2.jpg", "dog/3.jpg", ".4.jpg", "cat/._1.jpg", ".git/5.jpg", "dog/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "cat/young", "dog")
    assert (len(source), source.problems) == (3, [])
    note, = sources.names_note(source)
    assert f"{tmp_path}: the folder cat/young lies in a class folder and is a separate class" in note
    (tmp_path / "cat" / "young" / "2.jpg").unlink()
    assert sources.names_note(FolderSource(tmp_path)) == []
