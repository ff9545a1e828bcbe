"""What imgcls.compat.mxnet says of wrong calls, and that nothing is computed before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compat_cases import mlp, small_net
from conftest import ROOT

import imgcls.compat.mxnet as mx
from imgcls.errors import UsageError
from imgcls.formats import idx


def bound_module(**kwargs: Any) -> Any:
    module = mx.mod.Module(mlp(mx), **kwargs)
    module.bind([("data", (2, 12))], [("softmax_label", (2,))])
    return module


@pytest.mark.parametrize(("expression", "text"), [
    ("mx.sym.Convoluton", "has no Convoluton; nearest are Convolution"),
    ("mx.nd.foo", "mxnet.nd has no foo"),
    ("mx.io.LibSVMIter", "instead there is NDArrayIter"),
    ("mx.io.ImageIter", f"instead there is mx.image.{mx.image.ImageIter.__name__}"),
    ("mx.gluon.DataLoader", f"instead there is mx.gluon.data.{mx.gluon.data.DataLoader.__name__}"),
    ("mx.sym.contrib.Proposal", "symbol.contrib has no Proposal"),
    ("mx.kv", "imgcls-train --kv-store"),
])
def test_a_name_that_is_missing_says_what_there_is_instead(expression: str, text: str) -> None:
    with pytest.raises(AttributeError) as caught:
        eval(expression)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("expression", "text"), [
    ("mx.sym.Convolution(mx.sym.var('x'), num_filters=3)", "no setting num_filters: did you mean num_filter"),
    ("mx.sym.FullyConnected(mx.sym.var('x'), num_hidden=3, name='f').infer_shape(x=(2, 3), f_weight=(3, 4))",
     "error in operator f (FullyConnected): f_weight is (3, 4)"),
    ("mx.sym.Convolution(mx.sym.var('x'), kernel=(3, 3), num_filter=2, name='c').infer_shape(x=(2, 3))",
     "error in operator c (Convolution)"),
    ("mx.sym.repeat(mx.sym.var('x'), repeats=4000000000, name='r').infer_shape(x=(2, 3))",
     "error in operator r (repeat): a result of more than 2147483648 values is too large"),
    ("mx.sym.one_hot(mx.sym.var('x'), depth=10000000000, name='o').infer_shape(x=(2,))", "is too large"),
    ("mx.sym.tile(mx.sym.var('x'), reps=(100000, 100000), name='t').infer_shape(x=(2, 3))", "is too large"),
    ("mx.sym.UpSampling(mx.sym.var('x'), scale=100000, sample_type='nearest').infer_shape(x=(1, 3, 2, 2))",
     "is too large"),
    ("mx.sym.Pad(mx.sym.var('x'), mode='constant', pad_width=(0, 0, 0, 0, 100000, 0, 0, 100000))"
     ".infer_shape(x=(1, 3, 2, 2))", "is too large"),
    ("mx.nd.dot(mx.nd.ones((2, 3)), mx.nd.ones((2, 3)))", "error in operator dot"),
    ("mx.nd.zeros(2, ctx=mx.gpu(99))", "write mx.cpu()"),
    ("mx.nd.Convolution(mx.nd.ones((1, 1, 3, 3)), kernel=(1, 1), num_filter=1)", "weight"),
    ("mx.init.create('xavir')", "initializer xavir is not known; there is xavier"),
    ("mx.metric.create('accurcy')", "metric accurcy is not known; there is accuracy"),
    ("mx.optimizer.create('sdg')", "optimizer sdg is not known"),
])
def test_wrong_values_are_one_line(expression: str, text: str) -> None:
    with pytest.raises((UsageError, ValueError, TypeError)) as caught:
        eval(expression)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flat", [True, False])
def test_mnist_without_images_is_refused(flat: bool, tmp_path: Path) -> None:
    idx.write_images(tmp_path / "images", np.zeros((0, 28, 28), np.uint8))
    idx.write_labels(tmp_path / "labels", np.zeros(0, np.uint8))
    with pytest.raises(mx.MXNetError, match="images: holds no images"):
        mx.io.MNISTIter(image=str(tmp_path / "images"), label=str(tmp_path / "labels"), flat=flat)


def test_modules_say_what_is_to_be_done_first() -> None:
    module = mx.mod.Module(mlp(mx))
    batch = mx.io.DataBatch([mx.nd.zeros((2, 12))], [mx.nd.zeros(2)])
    with pytest.raises(AssertionError, match="call bind first"):
        module.forward(batch)
    module = bound_module()
    with pytest.raises(AssertionError, match="call init_params"):
        module.forward(batch)
    with pytest.raises(RuntimeError, match="fc1_bias is not presented"):
        module.set_params({}, {})
    module.init_params()
    with pytest.raises(AssertionError, match="init_optimizer"):
        module.update()
    with pytest.raises(mx.MXNetError, match="imgcls-launch"):
        module.init_optimizer(kvstore="dist_sync")
    weights, _ = module.get_params()
    with pytest.raises(mx.MXNetError, match=r"fc1_weight: shape \(3,\)"):
        module.set_params({**weights, "fc1_weight": mx.nd.zeros(3)}, {})
    module.set_params({**weights, "another": mx.nd.zeros(3)}, {})  # left out, as in MXNet
    with pytest.raises(ValueError, match="another"):
        module.set_params({"another": mx.nd.zeros(3)}, {}, allow_missing=True)
    with pytest.raises(ValueError, match="Did you mean one of: data"):
        mx.mod.Module(mlp(mx), data_names=["date"])
    logits = mx.mod.Module(mlp(mx).get_internals()["fc2_output"], label_names=None)
    logits.bind([("data", (2, 12))])
    logits.init_params()
    logits.forward(batch, is_train=True)
    with pytest.raises(mx.MXNetError, match="is no loss"):
        logits.backward()


def test_outputs_of_several_contexts_are_cut_as_mxnet_spreads_samples() -> None:
    module = bound_module(context=[mx.cpu(0), mx.cpu(1)], work_load_list=[1, 3])
    module.init_params(mx.init.One())
    module.forward(mx.io.DataBatch([mx.nd.zeros((8, 12))], [mx.nd.zeros(8)]))
    assert [part.shape for part in module.get_outputs(merge_multi_context=False)[0]] == [(2, 4), (6, 4)]
    assert module.get_outputs()[0].shape == (8, 4)
    assert module.data_shapes[0].shape == (8, 12)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    prefix = str(tmp_path / "net")
    mlp(mx).save(prefix + "-symbol.json")
    mx.nd.save(prefix + "-0001.params", {"dense0_weight": mx.nd.zeros(2)})
    with pytest.raises(mx.MXNetError, match="arg: or aux:"):
        mx.model.load_checkpoint(prefix, 1)
    mx.nd.save(prefix + "-0002.params", [mx.nd.zeros(2)])
    with pytest.raises(mx.MXNetError, match="no names"):
        mx.model.load_checkpoint(prefix, 2)
    with pytest.raises(AssertionError, match="is missing"):
        mx.gluon.SymbolBlock.imports(prefix + "-symbol.json", ["data", "softmax_label"], prefix + "-0001.params")
    Path(prefix + "-symbol.json").write_text('{"nodes": [{"op": "Custom", "name": "x", "inputs": []}], '
                                             '"heads": [[0, 0, 0]]}')
    with pytest.raises(mx.MXNetError, match="operator Custom is not there"):
        mx.sym.load(prefix + "-symbol.json").simple_bind(mx.cpu())


def test_programs_run_with_their_own_import_lines(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("import sys, mxnet as mx\nfrom mxnet.gluon import nn\nfrom mxnet import nd\n"
                                     "import mxnet.ndarray\nprint(mx.nd is nd, nn.Dense(2), sys.argv[1])\n")
    result = subprocess.run([sys.executable, "-m", "imgcls.compat.mxnet", str(tmp_path / "old.py"), "word"],
                            check=True, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "True Dense(None -> 2, linear) word\n"


def test_pretrained_networks_are_read_and_never_fetched(tmp_path: Path) -> None:
    vision = mx.gluon.model_zoo.vision
    with pytest.raises(mx.MXNetError, match=r"there is no squeezenet1\.1-"):
        vision.squeezenet1_1(pretrained=True, root=str(tmp_path))
    small = vision.get_model("mobilenet0.25", classes=3)
    small.initialize()
    image = mx.nd.ones((1, 3, 32, 32))
    wanted = small(image)
    small.save_parameters(tmp_path / "mobilenet0.25-0123abcd.params")
    again = vision.mobilenet0_25(pretrained=True, root=str(tmp_path), classes=3)
    assert (again(image) == wanted).asnumpy().all()


def test_an_output_stays_what_it_was() -> None:
    exe = mx.sym.identity(mx.sym.var("x")).simple_bind(mx.cpu(), x=(2,))
    first = exe.forward(x=mx.nd.ones(2))[0]
    exe.forward(x=mx.nd.zeros(2))
    assert first.asnumpy().tolist() == [1, 1]


def test_plot_network_names_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match="pip install graphviz"):
        mx.viz.plot_network(small_net(mx))


def test_plot_network_draws_layers_and_hides_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Digraph:
        def __init__(self, name: str, format: str) -> None:
            self.nodes: dict[str, Any] = {}
            self.edges: list[tuple[str, str, str]] = []

        def node(self, name: str, **look: str) -> None:
            self.nodes[name] = look

        def edge(self, tail_name: str, head_name: str, label: str, **look: str) -> None:
            self.edges.append((tail_name, head_name, label))

    monkeypatch.setitem(sys.modules, "graphviz", type(sys)("graphviz"))
    monkeypatch.setattr(sys.modules["graphviz"], "Digraph", Digraph, raising=False)
    dot = mx.viz.plot_network(small_net(mx), shape={"data": (1, 3, 16, 16)})
    assert dot.nodes["conv1"]["label"] == "Convolution\n3x3/1, 8"
    assert dot.nodes["pool1"]["label"] == "Pooling\nmax, 2x2/2x2"
    assert "conv1_weight" not in dot.nodes
    assert ("bn1", "conv1", "8x16x16") in dot.edges


def test_symbols_are_read_and_built_without_torch() -> None:
    code = ("import sys, imgcls.compat.mxnet as mx\n"
            "net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=3))\n"
            "mx.sym.load_json(net.tojson()).list_arguments(), mx.nd.zeros(3) + 1, mx.init.Xavier(), mx.metric\n"
            "assert 'torch' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_parts_can_be_imported_by_their_long_names() -> None:
    from imgcls.compat.mxnet.base import MXNetError
    from imgcls.compat.mxnet.module import Module
    from imgcls.compat.mxnet.ndarray import NDArray, softmax

    assert NDArray is mx.nd.NDArray
    assert issubclass(MXNetError, UsageError)
    assert Module is mx.mod.Module
    assert softmax(mx.nd.zeros(2)).asnumpy().tolist() == [0.5, 0.5]


def test_random_numbers_of_mxnet() -> None:
    mx.random.seed(42)  # as MXNet 1.9.1 gives them
    np.testing.assert_allclose(mx.nd.random.uniform(shape=(4,)).asnumpy(),
                               [0.82909364, 0.7478349, 0.55818135, 0.5657354], rtol=1e-6)
