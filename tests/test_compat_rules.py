"""Rules of imgcls.compat.mxnet that scripts rest on, with what MXNet 1.9.1 gave for the same calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import imgcls.compat.mxnet as mx

#: module -> the public names that it has in MXNet 1.9.1, by `dir`
NAMES = {words[0]: words[1:] for words in map(str.split, (
    ROOT / "tests" / "fixtures" / "compat" / "names.txt").read_text().splitlines())}


@pytest.mark.parametrize(("source", "shape"), [
    (5, ()), (5.5, ()), (np.array(5), ()), (np.int64(5), ()), ([1, 2], (2,)), ((1, 2, 3), (3,)), ([], (0,)),
    (range(3), (3,)), ([True, False], (2,)), (np.ones((2, 3), np.uint8), (2, 3))])
def test_what_array_makes_is_float32_of_the_shape_of_its_source(source: Any, shape: tuple[int, ...]) -> None:
    made = mx.nd.array(source)
    assert made.shape == shape
    assert made.dtype is np.float32


def test_an_array_without_axes_is_what_it_is_in_mxnet() -> None:
    number = mx.nd.array(5)
    assert repr(number) == "\n5.0\n<NDArray  @cpu(0)>"
    assert number.asscalar() == 5
    assert number.reshape((1, 1)).shape == (1, 1)
    with pytest.raises(IndexError):
        len(number)


@pytest.mark.parametrize("name", ["uint16", "int16", "uint32", "uint64", "complex64"])
def test_types_that_mxnet_lacks_are_refused(name: str) -> None:
    for error in (KeyError, mx.MXNetError):  # MXNet raises one or the other, by function
        with pytest.raises(error, match=f"dtype {name}: MXNet's arrays are bool, float16"):
            mx.nd.zeros(2, dtype=name)
    with pytest.raises(KeyError):
        mx.nd.array([1.7], dtype=name)
    with pytest.raises(KeyError):
        mx.nd.ones(2).astype(name)


def test_casts_of_arrays_change_their_type() -> None:
    assert mx.nd.cast(mx.nd.ones(2), "float16").dtype is np.float16
    assert mx.nd.full(2, 3.7, dtype="int32").asnumpy().tolist() == [3, 3]


@pytest.mark.parametrize("source", ["abc", {"a": 1}, [[1, 2], [3]]])
def test_what_is_no_array_is_a_type_error(source: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be array like"):
        mx.nd.array(source)
    with pytest.raises(TypeError, match="save takes an NDArray"):
        mx.nd.save(tmp_path / "x", {"a": source})


def test_printed_transforms_look_like_gluons() -> None:
    transforms = mx.gluon.data.vision.transforms
    composed = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(),
                                   transforms.Normalize(0.5, 0.2)])
    assert repr(composed) == ("Compose(\n  (0): Resize(\n  )\n  (1): CenterCrop(\n  )\n  (2): HybridSequential(\n"
                              "    (0): ToTensor(\n    )\n    (1): Normalize(\n    )\n  )\n)")


# 2 of 3 right in each: the coefficient of [[1, 0], [1, 1]], and of these four numbers, as MXNet gives them.
def test_metrics_of_correlation() -> None:
    found = mx.metric.create("mcc")
    found.update([mx.nd.array([0, 1, 1])], [mx.nd.array([[.7, .3], [.6, .4], [.1, .9]])])
    assert found.get() == ("mcc", 0.5)
    found = mx.metric.create("pearsonr")
    found.update([mx.nd.array([[1.0], [2], [4]])], [mx.nd.array([[1.5], [2], [3]])])
    assert found.get() == ("pearsonr", pytest.approx(1.0))
    with pytest.raises(AssertionError, match="is not known"):
        mx.metric.create("zzz")


def _bucket(key: int) -> Any:
    data = mx.sym.sum(mx.sym.Reshape(mx.sym.Variable("data"), shape=(-1, key, 4)), axis=1)
    layer = mx.sym.FullyConnected(data, num_hidden=3, name="fc")
    symbol = mx.sym.SoftmaxOutput(layer, mx.sym.Variable("softmax_label"), name="softmax")
    return symbol, ("data",), ("softmax_label",)


def _batch(key: int) -> Any:
    values = mx.nd.array(np.arange(2 * key * 4).reshape(2, key * 4) / 50)
    return mx.io.DataBatch([values], [mx.nd.array([0, 1])], bucket_key=key, provide_data=[("data", (2, key * 4))],
                           provide_label=[("softmax_label", (2,))])


#: the first row of each batch's probabilities, and the bias after four updates, from MXNet 1.9.1
RECORDED = [[0.001569, 0.038805, 0.959626], [0.055384, 0.307022, 0.637594], [0.085596, 0.307, 0.607404],
            [0.010295, 0.583399, 0.406306]]
RECORDED_BIAS = [0.189145, 1.054713, 1.756142]


def test_labels_that_name_no_class_have_no_target() -> None:
    symbol = mx.sym.SoftmaxOutput(mx.sym.Variable("data"), name="softmax")
    executor = symbol.simple_bind(mx.cpu(), data=(3, 4))
    executor.arg_dict["data"][:] = mx.nd.array(np.arange(12).reshape(3, 4) % 5)
    executor.forward(is_train=True, softmax_label=mx.nd.array([-1, 4, 2]))
    executor.backward()
    expected = executor.outputs[0].asnumpy()
    expected[2, 2] -= 1
    assert np.array_equal(executor.grad_dict["data"].asnumpy(), expected)


def test_buckets_share_their_parameters() -> None:
    module = mx.mod.BucketingModule(_bucket, default_bucket_key=6)
    module.bind([("data", (2, 24))], [("softmax_label", (2,))])
    weight = mx.nd.array(np.arange(12).reshape(3, 4) / 10)
    module.init_params(arg_params={"fc_weight": weight, "fc_bias": mx.nd.array([0, 1, 2])}, aux_params={})
    module.init_optimizer(optimizer_params={"learning_rate": .1})
    found = []
    for key in (6, 3, 2, 6):
        module.forward_backward(_batch(key))
        module.update()
        found.append(module.get_outputs()[0].asnumpy()[0])
    np.testing.assert_allclose(found, RECORDED, atol=1e-5)
    np.testing.assert_allclose(module.get_params()[0]["fc_bias"].asnumpy(), RECORDED_BIAS, atol=1e-5)
    module.set_params({"fc_weight": weight * 0, "fc_bias": mx.nd.zeros(3)}, {})
    for key in (3, 6):
        module.forward(_batch(key), is_train=False)
        np.testing.assert_allclose(module.get_outputs()[0].asnumpy(), 1 / 3, atol=1e-6)


def test_an_executor_grows_only_when_it_is_told_to() -> None:
    executor = mx.sym.relu(mx.sym.var("x")).simple_bind(mx.cpu(), x=(2, 3))
    with pytest.raises(mx.MXNetError, match="larger than original"):
        executor.reshape(x=(4, 3))
    assert executor.reshape(x=(1, 3)).forward()[0].shape == (1, 3)
    assert executor.reshape(allow_up_sizing=True, x=(4, 3)).forward()[0].shape == (4, 3)


@pytest.mark.parametrize("path", NAMES)
def test_each_name_of_mxnet_is_there_or_one_line_names_it(path: str) -> None:
    module = mx
    for part in path.split(".")[1:]:
        module = getattr(module, part)
    found = 0
    for name in NAMES[path]:
        try:
            getattr(module, name)
            found += 1
        except AttributeError as error:
            text = str(error)
            assert text.startswith("imgcls.compat.mxnet"), text
            assert f" has no {name}" in text, text
            assert "\n" not in text
    assert found


def test_rows_of_a_csv_file_come_as_mxnet_gives_them(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "d.csv", np.arange(14).reshape(7, 2), delimiter=",")
    np.savetxt(tmp_path / "l.csv", np.arange(7), delimiter=",")
    rows = mx.io.CSVIter(data_csv=tmp_path / "d.csv", data_shape=(2,), label_csv=tmp_path / "l.csv", batch_size=3)
    assert [(batch.label[0].asnumpy().tolist(), batch.pad) for batch in rows] == [
        ([0, 1, 2], 0), ([3, 4, 5], 0), ([6, 0, 1], 2)]
    rows.reset()
    assert [(batch.label[0].asnumpy().tolist(), batch.pad) for batch in rows] == [([2, 3, 4], 0), ([5, 6, 0], 1)]
    (tmp_path / "bad.csv").write_text("1,__import__('os')\n")
    with pytest.raises(mx.MXNetError, match="no file of numbers"):
        mx.io.CSVIter(data_csv=tmp_path / "bad.csv", data_shape=(2,), batch_size=1)


def test_iterators_side_by_side() -> None:
    both = mx.io.PrefetchingIter([mx.io.NDArrayIter(np.ones((4, 2)), np.zeros(4), 2),
                                  mx.io.NDArrayIter(np.ones((4, 3)), np.ones(4), 2)],
                                 rename_data=[{"data": "a"}, {"data": "b"}])
    assert [(one.name, one.shape) for one in both.provide_data] == [("a", (2, 2)), ("b", (2, 3))]
    assert [[array.shape for array in batch.data] for batch in both] == [[(2, 2), (2, 3)]] * 2
