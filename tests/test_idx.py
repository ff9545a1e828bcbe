"""formats/idx: reading what others wrote, and refusing everything else with the byte where it went wrong."""

from __future__ import annotations

import gzip
import random
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import mxnet_file, real_data

from imgcls.errors import DataError
from imgcls.formats import idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 255], np.uint8)
IMAGE_BYTES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, *range(24)])
LABEL_BYTES = bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 255])


@pytest.fixture
def file(tmp_path: Path):
    """Write bytes to a file and return its path."""

    def write(content: bytes, name: str = "file") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reads_plain_and_gzipped_files_under_any_name(file, pack) -> None:
    images = idx.read_images(file(pack(IMAGE_BYTES), "images.gz"))
    labels = idx.read_labels(file(pack(LABEL_BYTES), "labels"))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.writeable
    assert images.flags.c_contiguous


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_writes_what_it_reads(tmp_path: Path, name: str) -> None:
    idx.write_images(tmp_path / name, IMAGES)
    content = (tmp_path / name).read_bytes()
    assert (gzip.decompress(content) if name.endswith(".gz") else content) == IMAGE_BYTES
    idx.write_labels(tmp_path / name, LABELS)
    np.testing.assert_array_equal(idx.read_labels(tmp_path / name), LABELS)


@pytest.mark.parametrize(("content", "message", "offset"), [
    (b"", "truncated: the header has 0 of 16", 0),
    (IMAGE_BYTES[:11], "truncated: the header has 11 of 16", 11),
    (IMAGE_BYTES[:-5], "truncated", 16),
    (IMAGE_BYTES + b"x", "unknown bytes follow the 2 images", 40),
    (LABEL_BYTES, "holds labels, not images", 0),
    (b"<html><body>Not found</body></html>", "not an idx file", 0),
])
def test_damage_is_refused_with_its_offset(file, content: bytes, message: str, offset: int) -> None:
    path = file(content)
    with pytest.raises(DataError) as caught:
        idx.read_images(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.offset == offset


def test_many_members_cost_no_more_than_their_bytes(file) -> None:
    """Each of the empty ones would copy all that follows: 300 GB."""
    cut = random.Random(0).sample(range(1, 40), 9)
    parts = [IMAGE_BYTES[a:b] for a, b in zip([0, *sorted(cut)], [*sorted(cut), 40], strict=True)]
    empty = gzip.compress(b"", mtime=0) * 20_000
    before = time.process_time()
    images = idx.read_images(file(empty.join(gzip.compress(part, mtime=0) + bytes(3) for part in parts) + bytes(9)))
    assert time.process_time() - before < 20
    np.testing.assert_array_equal(images, IMAGES)


def test_what_is_given_to_zlib_in_pieces(file) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    content = gzip.compress(struct.pack(">4I", 2051, *noise.shape) + noise.tobytes(), mtime=0)
    np.testing.assert_array_equal(idx.read_images(file(content)), noise)
    for end in (len(content) - 1, len(content) - 9, 1 << 12, (1 << 12) + 1, 3 << 12, 11):
        with pytest.raises(DataError, match="cut short"):
            idx.read_images(file(content[:end]))


@pytest.mark.parametrize(("content", "message", "offset"), [
    (gzip.compress(IMAGE_BYTES[:-5], mtime=0), "truncated: 19 of 24", 35),
    (gzip.compress(IMAGE_BYTES + b"x", mtime=0), "unknown bytes follow", 40),
    (gzip.compress(IMAGE_BYTES, mtime=0)[:-12], "damaged or cut short", None),
    (gzip.compress(IMAGE_BYTES, mtime=0)[:-8] + bytes(8), "damaged or cut short", None),
    (gzip.compress(IMAGE_BYTES[:20], mtime=0) + gzip.compress(IMAGE_BYTES[20:] + b"x", mtime=0),
     "unknown bytes follow", 40),
])
def test_refuses_damaged_gzip(file, content: bytes, message: str, offset: int | None) -> None:
    with pytest.raises(DataError) as caught:
        idx.read_images(file(content))
    assert message in str(caught.value)
    assert caught.value.offset == offset
    assert "\n" not in str(caught.value)


def test_images_where_labels_should_be(file) -> None:
    with pytest.raises(DataError, match="holds images, not labels"):
        idx.read_labels(file(IMAGE_BYTES))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(60000, 28, 28), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_header_that_promises_too_much_takes_no_memory(file, pack, shape: tuple[int, ...]) -> None:
    path = file(pack(struct.pack(">4I", 2051, *shape) + bytes(100)))
    tracemalloc.start()
    with pytest.raises(DataError, match="truncated"):
        idx.read_images(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_gzip_bomb_is_not_inflated(file) -> None:
    path = file(gzip.compress(IMAGE_BYTES + bytes(64 << 20), mtime=0))
    tracemalloc.start()
    with pytest.raises(DataError, match="unknown bytes follow"):
        idx.read_images(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        idx.read_labels(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"is a (folder|directory)"):
        idx.read_labels(tmp_path)


def test_reads_what_mxnet_reads() -> None:
    folder = mxnet_file("raw")
    images = idx.read_images(folder / "images-idx3-ubyte.gz")
    np.testing.assert_array_equal(images, idx.read_images(folder / "images-idx3-ubyte"))
    batch = np.load(folder / "mnist-iter.npz")["data"].reshape(-1, 28, 28)  # all but an incomplete batch
    np.testing.assert_array_equal(images[:len(batch)], np.round(batch * 256).astype(np.uint8))
    assert idx.read_labels(folder / "labels-idx1-ubyte.gz").tolist() == [i % 10 for i in range(24)]


@pytest.mark.real_data
def test_reads_all_of_mnist() -> None:
    images = idx.read_images(real_data("mnist") / "train-images-idx3-ubyte.gz")
    assert images.shape == (60000, 28, 28)
    assert round(float(images.mean()), 3) == 33.318  # x / 255: the well-known 0.1307


def test_a_small_file_that_unzips_to_a_gigabyte_is_refused_by_its_header(tmp_path: Path) -> None:
    header = struct.pack(">4I", 2051, 1_500_000, 28, 28)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(header + bytes(1000), mtime=0) + bytes(1_200_000))
    with pytest.raises(DataError, match="announces 1176000000 bytes"):
        idx.read_images(path)
    blank = np.zeros((60_000, 28, 28), np.uint8)
    idx.write_images(tmp_path / "blank.gz", blank)
    assert (idx.read_images(tmp_path / "blank.gz") == blank).all()
