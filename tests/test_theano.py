"""theano_alexnet's weights: what its own arithmetic does with them is what MXNet's does with the converted ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imgcls.cli import convert_theano
from imgcls.errors import DataError, UsageError
from imgcls.formats import npy, params, theano

#: (inputs, side, filters) of the convolutions, half of each where there are two groups, and of the hidden layers
CONVOLUTIONS = ((3, 11, 8), (4, 5, 6), (12, 3, 10), (5, 3, 4), (4, 3, 6))
HIDDEN = ((12, 7), (7, 9), (9, 5))


def write_weights(folder: Path, epoch: int = 65) -> dict[str, np.ndarray]:
    """Write small weights in the form of theano_alexnet; return them by file name."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for number, layer in enumerate(theano.LAYERS):
        for suffix in ("0", "1") if layer.num_groups > 1 else ("",):
            if number < 5:
                channels, side, filters = CONVOLUTIONS[number]
                shape: tuple[int, ...] = (channels, side, side, filters)
            else:
                shape = HIDDEN[number - 5]
            for letter, size in (("W", shape), ("b", shape[-1:])):
                array = rng.standard_normal(size).astype(np.float32)
                np.save(folder / f"{letter}{suffix}_{number}_{epoch}.npy", array)
                arrays[f"{letter}{suffix}_{number}_{epoch}.npy"] = array
    return arrays


def convolve(image: np.ndarray, kernels: np.ndarray, *, is_turned: bool) -> np.ndarray:
    """Return the convolution of (channels, side, side) with kernels of the same side: one value a filter.

    As the definition has it kernels are turned (Theano's cuDNN); cuda-convnet correlates.
    """
    kernels = kernels[:, ::-1, ::-1] if is_turned else kernels
    return np.einsum("cij,cijf->f", image.astype(float), kernels.astype(float))


@pytest.mark.parametrize("library", theano.LIBRARIES)
def test_converted_weights_compute_the_same(library: str, tmp_path: Path) -> None:
    files = write_weights(tmp_path / "in")
    arrays, notes = theano.load_weights(tmp_path / "in", 65, library)
    assert not notes
    assert theano.newest_epoch(tmp_path / "in") == 65
    rng = np.random.default_rng(1)
    image = rng.standard_normal((3, 11, 11))
    wanted = convolve(image, files["W_0_65.npy"], is_turned=library == "cudnn")
    assert np.allclose(np.einsum("cij,fcij->f", image, arrays["conv1_weight"]), wanted, atol=1e-4)
    image = rng.standard_normal((8, 5, 5))  # two groups: each sees half of the channels
    wanted = np.concatenate([convolve(image[:4], files["W0_1_65.npy"], is_turned=library == "cudnn"),
                             convolve(image[4:], files["W1_1_65.npy"], is_turned=library == "cudnn")])
    halves = arrays["conv2_weight"].reshape(2, 6, 4, 5, 5)
    got = [np.einsum("cij,fcij->f", image[4 * half:4 * half + 4], halves[half]) for half in range(2)]
    assert np.allclose(np.concatenate(got), wanted, atol=1e-4)
    assert np.array_equal(arrays["conv2_bias"], np.concatenate([files["b0_1_65.npy"], files["b1_1_65.npy"]]))
    # layers behind a dropout see half of it in Theano once training is over, and all of it in MXNet
    values = rng.standard_normal(7)
    assert np.allclose(arrays["fc7_weight"] @ values, 0.5 * values @ files["W_6_65.npy"], atol=1e-5)
    values = rng.standard_normal(12)
    assert np.allclose(arrays["fc6_weight"] @ values, values @ files["W_5_65.npy"], atol=1e-5)
    # and back: the very files
    theano.save_weights(tmp_path / "out", 65, arrays, library)
    for name, array in files.items():
        assert np.array_equal(np.load(tmp_path / "out" / name), array), name


def test_biases_that_its_scripts_never_save_and_files_that_are_wrong(tmp_path: Path) -> None:
    write_weights(tmp_path)
    for name in ("b0_1_65", "b1_1_65", "b0_4_65", "b1_4_65"):
        (tmp_path / f"{name}.npy").unlink()
    arrays, notes = theano.load_weights(tmp_path, 65)
    assert [note.split(": ")[1] for note in notes] == [
        "the bias of conv2 is 0.1, with which training begins", "the bias of conv5 is 0, with which training begins"]
    assert arrays["conv2_bias"].tolist() == [np.float32(0.1)] * 12
    np.save(tmp_path / "W1_1_65.npy", np.zeros((4, 5, 5, 7), np.float32))
    with pytest.raises(DataError, match="another shape than its other half"):
        theano.load_weights(tmp_path, 65)
    (tmp_path / "W_5_65.npy").unlink()
    (tmp_path / "W1_1_65.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"W1_1_65\.npy at byte 0: is no array of numpy's"):
        theano.load_weights(tmp_path, 65)
    with pytest.raises(DataError, match=r"W_0_66\.npy: no such file"):
        theano.load_weights(tmp_path, 66)
    with pytest.raises(DataError, match=r"holds no weights of theano_alexnet, such as W_0_65\.npy"):
        theano.newest_epoch(tmp_path.parent)
    with pytest.raises(UsageError, match=r"no layer conv1: .* variant theano"):
        theano.save_weights(tmp_path, 1, {"fc1_weight": np.zeros(3)})


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3, 4)), np.float32(3),
                                   np.zeros((0, 3), np.uint8)], ids=["int", "fortran", "scalar", "empty"])
def test_arrays_are_those_of_numpy(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array)
    assert np.array_equal(npy.load(path, 1 << 20), array)


def test_arrays_that_are_no_numbers_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="type object, which are no numbers"):
        npy.load(path, 1 << 20)
    np.save(path, np.zeros((3, 4)))
    good = path.read_bytes()
    for bad, message in ((good[:-1], "95 bytes do not make an array of 3x4 float64"),
                         (good.replace(b"(3, 4)", b"(9**9)"), "the header is not one that numpy writes"),
                         # as many bytes as there are, by sizes that no array has
                         (good.replace(b"(3, 4),", b"(-3,-4)"), "no array has the shape \\(-3, -4\\)"),
                         (good.replace(b"(3, 4),", b"(True,)")[:-88], "no array has the shape \\(True,\\)"),
                         (b"\x93NUMPY\x07\x00" + good[8:], "a version of numpy's format")):
        with pytest.raises(DataError, match=message):
            npy.loads(bad, "x")
    with pytest.raises(DataError, match="more than the 10 that are read"):
        npy.load(path, 10)


@pytest.mark.slow
def test_a_checkpoint_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real sizes, most values zero; classes are few, which the files tell."""
    folder, shapes = tmp_path / "models", {"0": (3, 11, 11, 96), "2": (256, 3, 3, 384), "5": (9216, 4096),
                                           "6": (4096, 4096), "7": (4096, 10)}
    halves = {"1": (48, 5, 5, 128), "3": (192, 3, 3, 192), "4": (192, 3, 3, 128)}
    folder.mkdir()
    for number, shape in (shapes | halves).items():
        for suffix in ("0", "1") if number in halves else ("",):
            for letter, size in (("W", shape), ("b", shape[-1:])):
                array = np.zeros(size, np.float32)
                array.flat[:5] = np.arange(5)
                np.save(folder / f"{letter}{suffix}_{number}_7.npy", array)
    np.save(tmp_path / "img_mean.npy", np.arange(3 * 256 * 256).reshape(3, 256, 256))
    prefix = tmp_path / "model" / "theano"
    command = [str(folder), str(prefix), "--mean-image", str(tmp_path / "img_mean.npy")]
    assert convert_theano.main(command) == 0
    assert "theano-0007.params: 16 arrays, 56," in capsys.readouterr().out
    mean = params.load(f"{prefix}-mean.bin")["mean_img"]
    assert mean.shape == (3, 227, 227)
    assert mean[1, 0, 0] == 65536 + 14 * 256 + 14  # the crop that its validation takes
    Path(f"{prefix}-metrics.jsonl").write_text("".join(
        json.dumps({"kind": "validation", "epoch": e, "accuracy": 0.5 + e / 10, "cross-entropy": 2.0 - e}) + "\n"
        for e in range(2)))
    assert convert_theano.main([str(prefix), str(tmp_path / "back")]) == 0
    assert "16 epochs" not in (printed := capsys.readouterr().out)
    assert "2 epochs in the validation record" in printed
    assert np.load(tmp_path / "back" / "val_record.npy").tolist() == [[0.5, 2.0], [pytest.approx(0.4), 1.0]]
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes(), path.name
    assert convert_theano.main([str(prefix), str(tmp_path / "b"), "--mean-image", "x.npy"]) == 2
    assert convert_theano.main([str(tmp_path / "none"), str(tmp_path / "b")]) == 2
