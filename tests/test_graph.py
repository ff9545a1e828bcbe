"""Modules <-> symbols and arrays: every operator against MXNet, both directions, and what is refused."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECORDED_NETWORKS, ROOT, mxnet_file, real_data, recorded_network
from torch import Tensor, nn

from imgcls import graph, layers
from imgcls.errors import DataError, UsageError
from imgcls.formats import params, symbol
from imgcls.formats.symbol import Node, NodeOutput, Symbol
from imgcls.layers import (
    Activation,
    BatchNorm,
    Convolution,
    Flatten,
    FullyConnected,
    Identity,
    LeakyReLU,
    Pooling,
)
from imgcls.layers.foreign_shape import reshaped
from imgcls.layers.operation import Operation
from imgcls.layers.operators import OPERATORS

BRIDGE = Path(__file__).parent / "fixtures" / "bridge"
OPERATOR_CASES = json.loads(gzip.decompress((BRIDGE / "operators.json.gz").read_bytes()))


def draw(name: str, shape: list[int]) -> np.ndarray:
    """The values that MXNet was given (make_operators.py)."""
    return np.random.RandomState(zlib.crc32(name.encode())).uniform(0.1, 1.1, shape).astype(np.float32)


def small(**options: object) -> nn.Module:
    return graph.load(BRIDGE / "small", BRIDGE / "small-0001.params",
                      **options).eval()  # type: ignore[arg-type]


class Net(nn.Module):
    """Nested, with a layer for each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(Convolution(2, 4, 3, pad=1, no_bias=True), BatchNorm(4, fix_gamma=False),
                                    LeakyReLU("prelu", channels=4))
        self.pool = Pooling(2, "max", stride=2)
        self.flatten0 = Flatten()
        self.fc1 = FullyConnected(64, 3, extra={"__lr_mult__": "0.1", "__wd_mult__": "2"})

    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(self.flatten0(self.pool(self.stage1(data))))


# ------------------------------------------------------------------------------------------- against MXNet's values


@pytest.mark.parametrize("case", OPERATOR_CASES, ids=[case["name"] for case in OPERATOR_CASES])
def test_operators_compute_what_mxnet_computes(case: dict) -> None:
    net = symbol.loads(json.dumps({"nodes": case["nodes"], "heads": case["heads"],
                                   "attrs": {"mxnet_version": ["int", 10901]}}))
    shapes = case["shapes"]
    arrays = {name: draw(name, shape) for name, shape in shapes.items() if name != "data"}
    inferred = graph.from_symbol(net, input_shape=tuple(shapes["data"][1:]))
    model = graph.from_symbol(net, arrays).eval()
    with torch.no_grad():
        output = model(torch.from_numpy(draw("data", shapes["data"]))).double().numpy().reshape(-1)
    assert math.prod(case["output"]) == len(output)
    sums = output.sum(), (output * np.cos(np.arange(len(output)))).sum()
    np.testing.assert_allclose(sums, case["sums"], atol=1e-5 * max(np.abs(output).sum(), 1))
    assert symbol.dumps(graph.to_symbol(model)) == symbol.dumps(net)
    assert symbol.dumps(graph.to_symbol(inferred)) == symbol.dumps(net)
    assert {name[4:]: list(array.shape) for name, array in graph.arrays(inferred).items()} == {
        name: shape for name, shape in shapes.items() if name != "data"}


@pytest.mark.parametrize("shape", [None, (2, 8, 8)])
def test_a_checkpoint_of_mxnet(shape: tuple[int, ...] | None, tmp_path: Path) -> None:
    model, io = small(input_shape=shape), np.load(BRIDGE / "small.npz")
    with torch.no_grad():
        logits = model(torch.from_numpy(io["data"])).numpy()
    np.testing.assert_allclose(logits, io["logits"], atol=1e-5)
    params.save(tmp_path / "again", graph.arrays(model))
    assert (tmp_path / "again").read_bytes() == (BRIDGE / "small-0001.params").read_bytes()
    assert symbol.dumps(graph.to_symbol(model)) == (BRIDGE / "small-symbol.json").read_text()


def test_gamma_is_one_where_it_is_fixed() -> None:
    model = small()
    gamma = model.get_submodule("bn1").gamma
    assert not isinstance(gamma, nn.Parameter)
    before = model(torch.ones(1, 2, 8, 8))
    gamma.fill_(7)
    torch.testing.assert_close(model(torch.ones(1, 2, 8, 8)), before)


def test_every_supported_operator_is_listed_and_tested() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    table = re.findall(r"^\| (?!heads).* \| (.*) \|$", text, re.MULTILINE)
    listed = {name for row in table for name in re.findall(r"[A-Za-z_0-9]+", row)}
    assert set(OPERATORS) <= listed
    tested = {node["op"] for case in OPERATOR_CASES for node in case["nodes"]}
    assert set(OPERATORS) - tested == {"CuDNNBatchNorm", "Convolution_v1", "amp_cast", "make_loss", "_power",
                                       "_maximum", "_minimum"}  # one class or function with another's name


# ------------------------------------------------------------------------------------------- module -> symbol


def test_a_module_becomes_a_symbol() -> None:
    net = graph.to_symbol(Net())
    assert [node.name for node in net.nodes] == [
        "data", "stage1_0_weight", "stage1_0", "stage1_1_gamma", "stage1_1_beta", "stage1_1_moving_mean",
        "stage1_1_moving_var", "stage1_1", "stage1_2_gamma", "stage1_2", "pool", "flatten0", "fc1_weight",
        "fc1_bias", "fc1", "softmax_label", "softmax"]
    norm, fc, softmax = net.nodes[7], net.nodes[14], net.nodes[16]
    assert norm.inputs == [NodeOutput(2), NodeOutput(3), NodeOutput(4), NodeOutput(5, 0, 1),
                           NodeOutput(6, 0, 1)]
    assert net.nodes[1].attrs == net.nodes[2].attrs == {
        "kernel": "(3, 3)", "num_filter": "4", "pad": "(1, 1)", "no_bias": "True"}
    assert net.nodes[5].attrs == {"fix_gamma": "False", "__init__": '["zero", {}]'}
    assert net.nodes[12].attrs == fc.attrs == {"num_hidden": "3", "__lr_mult__": "0.1", "__wd_mult__": "2"}
    assert (softmax.op, softmax.attrs, softmax.inputs) == ("SoftmaxOutput", {},
                                                           [NodeOutput(14), NodeOutput(15)])
    assert net.heads == [NodeOutput(16)]


def test_the_output_node_has_the_given_name() -> None:
    assert [node.name for node in graph.to_symbol(Net(), output="sm").nodes[-2:]] == ["sm_label", "sm"]
    assert graph.to_symbol(Net(), output="").nodes[-1].name == "fc1"


class Twice(Net):
    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(self.fc1(data))


class TorchOperator(Net):
    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(data) + 1


class TorchMethod(Net):
    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(data.reshape(1, 2))


class TwoInputs(Net):
    def forward(self, data: Tensor, more: Tensor) -> Tensor:
        return self.fc1(data)


class TwoOutputs(Net):
    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc1(data), data


class Branching(Net):
    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(data) if data.sum() > 0 else data


class ByKeyword(Net):
    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(data=data)


class Bare(Net):
    def forward(self, data: Tensor) -> Tensor:
        return data * self.fc1.weight


class TorchLayer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)

    def forward(self, data: Tensor) -> Tensor:
        return self.fc1(self.conv(data))


class Clash(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_b = nn.ModuleDict({"b": Identity()}), Identity()

    def forward(self, data: Tensor) -> Tensor:
        return self.a["b"](self.a_b(data))


@pytest.mark.parametrize(("network", "reason"), [
    (Twice, "layer fc1 is called twice"), (TorchOperator, r"add \(call function add\) is not a Layer"),
    (TorchMethod, "reshape .* is not a Layer"), (TwoInputs, "second input"),
    (TwoOutputs, "must return one tensor"),
    (Branching, "control flow|bool"), (ByKeyword, "layer fc1 must be called with tensors only"),
    (Bare, "fc1.weight .*is not a Layer"), (TorchLayer, "conv is a Conv2d, not a Layer"),
    (Clash, "two nodes would be called a_b"), (lambda: Flatten(), "a single Flatten"),
])
def test_modules_without_a_symbol(network: type[nn.Module], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        graph.to_symbol(network())
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- symbol -> module


def test_an_imported_network_is_an_ordinary_module(tmp_path: Path) -> None:
    model = small()
    assert set(model.state_dict()) == {
        "conv1.weight", "conv1.bias", "bn1.gamma", "bn1.beta", "bn1.moving_mean", "bn1.moving_var",
        "fc1.weight",
        "fc1.bias"}
    twin = copy.deepcopy(model)
    assert symbol.dumps(graph.to_symbol(twin)) == symbol.dumps(graph.to_symbol(model))
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    data = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(again(data), model(data))
    model.train()
    nn.functional.cross_entropy(model(data), torch.tensor([0, 1, 2])).backward()
    gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients == {"conv1.weight", "conv1.bias", "bn1.beta", "fc1.weight", "fc1.bias"}
    assert not torch.equal(model.get_submodule("bn1").moving_mean, twin.get_submodule("bn1").moving_mean)


@pytest.mark.slow
def test_an_imported_network_can_be_exported() -> None:
    model, data = small(), torch.randn(2, 2, 8, 8)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (data,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(data.repeat(3, 1, 1, 1)), model(data.repeat(3, 1, 1, 1)))


def test_a_layer_may_be_replaced() -> None:
    """A new head: the rest stays as it was, and the symbol is that of the network it is now."""
    model = small()
    model.fc1 = FullyConnected(3 * 2 * 2, 7)
    nodes = {node.name: node for node in graph.to_symbol(model).nodes}
    assert nodes["fc1"].attrs == nodes["fc1_weight"].attrs == {"num_hidden": "7"}
    assert model(torch.zeros(1, 2, 8, 8)).shape == (1, 7)


def chain(*nodes: tuple[str, str, dict[str, str]], tail: list[Node] | None = None) -> Symbol:
    """A symbol in which every operator takes the one before; weights are made where an operator has them."""
    made, last = [Node("null", "data")], 0
    for op, name, attrs in nodes:
        inputs = [NodeOutput(last)]
        for suffix in symbol.INPUTS.get(op, ())[1:] if op != "LeakyReLU" else ():
            if suffix != "bias" or attrs.get("no_bias") != "True":
                inputs.append(NodeOutput(len(made)))
                made.append(Node("null", f"{name}_{suffix}"))
        last = len(made)
        made.append(Node(op, name, attrs, inputs))
    return Symbol(made + (tail or []), [NodeOutput(len(made) + len(tail or []) - 1)])


FC = ("FullyConnected", "fc1", {"num_hidden": "3"})


def test_names_that_no_module_can_have() -> None:
    """Node names end up in the source code that fx runs, and a file may hold any."""
    names = ['x");import os;os.abort()#', "a.b", "class", "forward", "data2", "graph", "training", "ﬁne",
             "_modules", "it's\n\\", "in_1*1-conv"]
    net = chain(*(("Activation", name, {"act_type": "relu"}) for name in names), FC)
    model = graph.from_symbol(net, input_shape=(4,))
    assert [node.name for node in graph.to_symbol(model).nodes if node.op == "Activation"] == names
    assert "abort" not in model.code or 'x")' not in model.code
    assert model(torch.ones(2, 4)).shape == (2, 3)
    assert "in_1*1-conv" in dict(model.named_modules())


def test_many_names_that_become_one_take_no_time_for_each_pair() -> None:
    names = [chr(0x4e00 + number) for number in range(1000)]
    net = chain(*(("Activation", name, {"act_type": "relu"}) for name in names), FC)
    model = graph.from_symbol(net, input_shape=(4,))
    assert [node.name for node in graph.to_symbol(model).nodes if node.op == "Activation"] == names
    assert max(map(len, dict(model.named_modules()))) < 10


def test_variables_keep_names_and_attributes_of_their_own() -> None:
    """As gluon exports them: not the operator's name, and with shapes and multipliers."""
    attrs = {"__shape__": "(3, 4)", "__lr_mult__": "0.5"}
    inputs = [NodeOutput(0), NodeOutput(1), NodeOutput(2)]
    nodes = [Node("null", "data0", {"__dtype__": "0"}), Node("null", "net_dense0_weight", attrs),
             Node("null", "net_dense0_bias"),
             Node("FullyConnected", "net_dense0_fwd", {"num_hidden": "3"}, inputs)]
    model = graph.from_symbol(Symbol(nodes, [NodeOutput(3)]), {"net_dense0_weight": np.ones((3, 4), "f4"),
                                                               "net_dense0_bias": np.zeros(3, "f4")})
    assert graph.parameter_names(model) == {"net_dense0_fwd.weight": "net_dense0_weight",
                                            "net_dense0_fwd.bias": "net_dense0_bias"}
    assert graph.to_symbol(model).nodes == nodes
    assert graph.multipliers(model) == {"net_dense0_fwd.weight": (0.5, 1.0)}


def test_heads() -> None:
    label = [Node("null", "label"),
             Node("SoftmaxOutput", "out", {"grad_scale": "2"}, [NodeOutput(3), NodeOutput(4)])]
    for tail in ([], label, [Node("softmax", "probs", {}, [NodeOutput(3)])],
                 [*label, Node("BlockGrad", "stop", {}, [NodeOutput(5)])]):
        net = chain(FC, tail=tail)
        model = graph.from_symbol(net, input_shape=(4,))
        assert [name for name, _ in model.named_children()] == ["fc1"]
        assert graph.to_symbol(model).nodes == net.nodes


def test_the_softmax_is_chosen_among_several_heads() -> None:
    net = chain(FC, tail=[Node("null", "label"),
                          Node("SoftmaxOutput", "out", {}, [NodeOutput(3), NodeOutput(4)])])
    both = Symbol(net.nodes, [NodeOutput(3), NodeOutput(5)])
    assert graph.to_symbol(graph.from_symbol(both, input_shape=(4,))).nodes == net.nodes
    with pytest.raises(DataError, match=r"several outputs \(fc1, data\)"):
        graph.from_symbol(Symbol(net.nodes, [NodeOutput(3), NodeOutput(0)]), input_shape=(4,))


@pytest.mark.parametrize(("net", "reason"), [
    (chain(("NoSuchOperator", "relu1", {})), "operator NoSuchOperator of node 'relu1' is not supported"),
    (chain(("FullyConnected", "fc", {"num_hidden": "3", "odd": "1"})),
     r"node 'fc' \(FullyConnected\): .* 'odd'"),
    (chain(("FullyConnected", "fc", {})), "num_hidden is missing"),
    (chain(("FullyConnected", "fc", {"num_hidden": "x"})), "num_hidden=x is not an integer"),
    (chain(("FullyConnected", "fc", {"num_hidden": str(1 << 40)})), "more than"),
    (chain(("FullyConnected", "fc", {"num_hidden": "-3"})), "node 'fc'"),
    (chain(("Convolution", "c", {"num_filter": "2", "kernel": "(9, 9)"})), "does not fit into a map of"),
    (chain(("Convolution", "c", {"num_filter": "2", "kernel": "(3,)"})), "only two dimensions"),
    (chain(("Convolution", "c", {"num_filter": "3", "kernel": "(3, 3)", "num_group": "2"})), "2 groups"),
    (chain(("Convolution", "c", {"num_filter": "2", "kernel": "(1, 1)", "layout": "NHWC"})), "layout=NHWC"),
    (chain(("Convolution", "c", {"num_filter": "2", "kernel": "(1, 1)", "stride": "(0, 0)"})), "at least 1"),
    (chain(("Activation", "a", {"act_type": "mish"})), "act_type=mish is not supported"),
    (chain(("Pooling", "p", {"kernel": "(2, 2)", "pool_type": "median"})), "pool_type=median"),
    (chain(("Reshape", "r", {"shape": "(0, 7)"})), "node 'r'"),
    (chain(("Reshape", "r", {"shape": "(-9,)"})), "not possible"),
    (chain(("SliceChannel", "s", {"num_outputs": "3"})), "does not divide"),
    (Symbol([Node("null", "data")], [NodeOutput(0)]), "no variable is left"),
    (Symbol([Node("null", "data"), Node("elemwise_add", "a", {}, [NodeOutput(0)])], [NodeOutput(1)]),
     "takes 2 inputs"),
    (Symbol([Node("null", "data"), Node("BatchNorm", "b", {}, [NodeOutput(0)])], [NodeOutput(1)]),
     "takes 5 inputs"),
    (Symbol([Node("null", "data"), Node("Flatten", "b", {}, [])], [NodeOutput(1)]),
     "no variable|no inputs|takes 1"),
    (Symbol([Node("null", "data"), Node("null", "z"),
             Node("elemwise_add", "a", {}, [NodeOutput(0), NodeOutput(1)])],
            [NodeOutput(2)]), "variable 'z' is neither the image nor"),
    (Symbol([Node("null", "data"), Node("Flatten", "f", {}, [NodeOutput(0)]),
             Node(*FC, [NodeOutput(0), NodeOutput(1), NodeOutput(1)])], [NodeOutput(2)]),
     "computed by node 'f'"),
    (Symbol([Node("null", "data"), Node("Dropout", "d", {}, [NodeOutput(0)]),
             Node("Flatten", "f", {}, [NodeOutput(1, 1)])], [NodeOutput(2)]), "output 1 of node 'd'"),
    (Symbol([Node("null", "data"), Node("null", "w"),
             Node("BatchNorm", "b", {}, [NodeOutput(0), *[NodeOutput(1)] * 4])], [NodeOutput(2)]),
     "'w' is trained in one layer and a running statistic in another"),
])
def test_symbols_that_cannot_be_read(net: Symbol, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        graph.from_symbol(net, input_shape=(2, 4, 4), path="x-symbol.json")
    assert str(caught.value).startswith("x-symbol.json: ")
    assert "\n" not in str(caught.value)


def test_shapes_come_from_the_file_or_the_input() -> None:
    with pytest.raises(DataError, match="weight is in no file"):
        graph.from_symbol(chain(FC))
    arrays = {"arg:fc1_weight": np.ones((3, 5), "f4"), "arg:fc1_bias": np.zeros(3, "f4")}
    assert graph.from_symbol(chain(FC), arrays)(torch.ones(1, 5)).tolist() == [[5, 5, 5]]
    with pytest.raises(DataError, match=r"y: .* fc1_weight is \(3, 5\) where the network needs \(3, 4\)"):
        graph.from_symbol(chain(FC), arrays, input_shape=(4,), path="y")
    with pytest.raises(DataError, match="fc1_bias is missing"):
        graph.from_symbol(chain(FC), {"fc1_weight": np.ones((3, 5), "f4")})
    with pytest.raises(DataError, match="cannot work with weight of shape"):
        graph.from_symbol(chain(FC), {"fc1_weight": np.float32(1).reshape(())})


@pytest.mark.parametrize(("codes", "reverse", "expected"), [
    ((4, 0, 2), False, [4, 3, 2]), ((2, 0, 0), False, [2, 3, 4]), ((6, 1, -1), False, [6, 1, -1]),
    ((-2,), False, [2, 3, 4]), ((2, -2), False, [2, 3, 4]), ((-2, 1, 1), False, [2, 3, 4, 1, 1]),
    ((-3, 4), False, [6, 4]), ((0, -3), False, [2, 12]), ((-4, 1, 2, -2), False, [1, 2, 3, 4]),
    ((2, -4, -1, 3, -2), False, [2, 1, 3, 4]), ((-1, 0), True, [-1, 4]),
])
def test_the_codes_of_reshape(codes: tuple[int, ...], reverse: bool, expected: list[int]) -> None:
    """The examples of MXNet's documentation, on a shape of (2, 3, 4)."""
    assert reshaped((2, 3, 4), codes, reverse) == expected


def test_shape_inference_imports_nothing_slow() -> None:
    code = ("import sys; from imgcls import graph; "
            f"graph.load({str(BRIDGE / 'small')!r}, input_shape=(2, 8, 8)); "
            "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


# ------------------------------------------------------------------------------------------- parameters


def test_names_and_order_of_parameters() -> None:
    model = Net()
    assert graph.parameter_names(model)["stage1.1.moving_var"] == "stage1_1_moving_var"
    assert list(graph.arrays(model)) == [
        "arg:stage1_0_weight", "arg:stage1_1_gamma", "arg:stage1_1_beta", "arg:stage1_2_gamma",
        "arg:fc1_weight",
        "arg:fc1_bias", "aux:stage1_1_moving_mean", "aux:stage1_1_moving_var"]
    assert graph.multipliers(model) == {"fc1.weight": (0.1, 2.0), "fc1.bias": (0.1, 2.0)}


def test_arrays_are_in_the_order_of_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = FullyConnected(2, 2), FullyConnected(2, 2)

        def forward(self, data: Tensor) -> Tensor:
            return self.second(self.first(data))

    assert list(graph.arrays(Backwards())) == [
        "arg:first_weight", "arg:first_bias", "arg:second_weight", "arg:second_bias"]


def test_modules_of_torch_keep_their_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    arrays = graph.arrays(model)
    assert list(arrays) == ["arg:0.weight", "arg:0.bias", "arg:1.weight", "arg:1.bias", "aux:1.running_mean",
                            "aux:1.running_var", "aux:1.num_batches_tracked"]
    params.save(tmp_path / "x", arrays)
    twin = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    summary = graph.load_arrays(twin, params.load(tmp_path / "x"), path=tmp_path / "x")
    assert len(summary.loaded) == 7
    torch.testing.assert_close(twin.state_dict(), model.state_dict())


def test_arrays_share_memory_and_load_in_place() -> None:
    model = Net()
    weight = model.fc1.weight
    arrays = graph.arrays(model)
    assert np.shares_memory(arrays["arg:fc1_weight"], weight.detach().numpy())
    half = {name: np.full(array.shape, 0.5, np.float16) for name, array in arrays.items()}
    graph.load_arrays(model, half, path="x")
    assert model.fc1.weight is weight
    assert weight.dtype == torch.float32
    assert all((parameter == 0.5).all() for parameter in model.state_dict().values())
    assert graph.arrays(model.bfloat16())["arg:fc1_bias"].tolist() == [0.5] * 3


def test_a_network_must_have_its_parameters() -> None:
    model = Net()
    arrays = {name[4:]: np.ones_like(array) for name, array in graph.arrays(model).items()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del arrays["stage1_0_weight"], arrays["stage1_1_gamma"], arrays["fc1_bias"]
    arrays |= {"fc1_weight": np.ones((5, 64), "f4"), "other": np.ones(1)}
    with pytest.raises(DataError) as caught:
        graph.load_arrays(model, arrays, path="x.params")
    assert str(caught.value) == (
        "x.params: not the parameters of this network: fc1_weight is (5, 64) where the network needs (3, 64); "
        "stage1_0_weight is missing; stage1_1_gamma is missing; and 1 more")
    torch.testing.assert_close(model.state_dict(), before, equal_nan=True)
    summary = graph.load_arrays(model, arrays, path="x.params", strict=False)
    assert summary.loaded == ["stage1_1_beta", "stage1_1_moving_mean", "stage1_1_moving_var",
                              "stage1_2_gamma"]
    assert summary.missing == ["stage1_0_weight", "stage1_1_gamma", "fc1_bias"]
    assert summary.mismatched == [("fc1_weight", (5, 64), (3, 64))]
    assert summary.unexpected == ["other"]
    assert (model.stage1[1].beta == 1).all()


def test_weights_that_two_layers_share() -> None:
    nodes = [Node("null", "data"), Node("null", "w"),
             Node("FullyConnected", "a", {"num_hidden": "4", "no_bias": "True"},
                  [NodeOutput(0), NodeOutput(1)]),
             Node("FullyConnected", "b", {"num_hidden": "4", "no_bias": "True"},
                  [NodeOutput(2), NodeOutput(1)])]
    model = graph.from_symbol(Symbol(nodes, [NodeOutput(3)]), {"arg:w": np.eye(4, dtype="f4") * 2})
    assert model.get_submodule("a").weight is model.get_submodule("b").weight
    assert model(torch.ones(1, 4)).tolist() == [[4, 4, 4, 4]]
    assert list(graph.arrays(model)) == ["arg:w"]
    assert graph.to_symbol(model).nodes == nodes


def test_operations_in_a_user_defined_network() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split = Operation("SliceChannel", num_outputs=2)
            self.gate, self.mul = Activation("sigmoid"), Operation("elemwise_mul")

        def forward(self, data: Tensor) -> Tensor:
            left, right = self.split(data)[0], self.split_right(data)
            return self.mul(left, right)

        def split_right(self, data: Tensor) -> Tensor:
            return self.gate(data)

    class Good(Gate):
        def forward(self, data: Tensor) -> Tensor:
            parts = self.split(data)
            return self.mul(parts[0], self.gate(parts[1]))

    net = graph.to_symbol(Good(), output="")
    assert net.nodes[-1].inputs == [NodeOutput(1, 0), NodeOutput(2)]
    assert net.nodes[2].inputs == [NodeOutput(1, 1)]
    data = torch.randn(2, 4)
    again = graph.from_symbol(net, input_shape=(4,))
    torch.testing.assert_close(again(data), data[:, :2] * data[:, 2:].sigmoid())


# ------------------------------------------------------------------------------------------- outside fixtures


@pytest.mark.parametrize("name", RECORDED_NETWORKS)
def test_outside_networks(name: str, tmp_path: Path) -> None:
    recorded = recorded_network(name)
    prefix = recorded.save(tmp_path)
    for shape in (None, recorded.image_shape):
        model = graph.load(prefix, f"{prefix}-0003.params", shape).eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(recorded.images)).numpy()
        np.testing.assert_allclose(logits, recorded.logits, rtol=0, atol=1e-5)
    assert symbol.dumps(graph.to_symbol(model)) == recorded.symbol_path.read_text()
    params.save(tmp_path / "again", graph.arrays(model))
    assert hashlib.sha256((tmp_path / "again").read_bytes()).hexdigest() == recorded.params_sha256


def test_outside_symbols_have_the_shapes_that_mxnet_infers() -> None:
    folder = mxnet_file("symbols")
    for case in json.loads((folder / "manifest.json").read_text())["networks"]:
        model = graph.load(folder / case["symbol"], None, tuple(case["data_shape"][1:]))
        expected = [("arg:" + name, shape) for name, shape in case["args"]
                    if name not in ("data", "softmax_label")]
        expected += [("aux:" + name, shape) for name, shape in case["aux"]]
        assert [(name, list(array.shape))
                for name, array in graph.arrays(model).items()] == expected, case["name"]
        assert symbol.dumps(graph.to_symbol(model)) == (folder / case["symbol"]).read_text()
        del model


@pytest.mark.real_data
def test_symbols_from_the_wild() -> None:
    folder = real_data("mxnet-models")
    for name, shape, count in (("inception-bn-28", (3, 28, 28), 116), ("squeezenet_v1.2", (3, 224, 224), 52)):
        model = graph.load(folder / "symbols-only" / f"{name}-symbol.json", None, shape)
        assert len(model.state_dict()) == count


def test_symbols_of_old_versions() -> None:
    folder = mxnet_file("oldsymbols")
    for path in sorted(folder.glob("*-symbol.json")):
        if path.name.startswith("bad-"):
            with pytest.raises(DataError):
                graph.load(path, None, (3, 8, 8))
        else:
            assert graph.load(path, None, (3, 8, 8))(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.real_data
def test_a_published_checkpoint_scores_as_it_did() -> None:
    folder, mnist = real_data("mxnet-models", "mnist-mentalblood"), real_data("mnist")
    model = graph.load(folder / "mnist", folder / "mnist-0035.params").eval()
    images, labels = (np.frombuffer(gzip.decompress((mnist / f"t10k-{name}-ubyte.gz").read_bytes()),
                                    np.uint8, -1, skip)
                      for name, skip in (("images-idx3", 16), ("labels-idx1", 8)))
    with torch.no_grad():
        logits = model(torch.from_numpy(images.reshape(-1, 1, 28, 28) / np.float32(255)))
    assert (logits.argmax(1).numpy() == labels).sum() == 9903


SCORE_IN_MXNET = """
import sys, mxnet as mx, numpy as np
prefix = sys.argv[1]
symbol, args, aux = mx.model.load_checkpoint(prefix, 1)
data = np.load(prefix + ".npy")
args = {**args, "data": mx.nd.array(data), "softmax_label": mx.nd.zeros(len(data))}
output = symbol.bind(mx.cpu(), args, aux_states=aux, grad_req="null").forward(is_train=False)[0]
np.save(prefix + "-out.npy", output.asnumpy())
mx.model.save_checkpoint(prefix + "-mx", 1, symbol, {k: v for k, v in args.items() if k + "" not in (
    "data", "softmax_label")}, aux)
"""


@pytest.mark.mxnet
def test_mxnet_loads_what_we_write(tmp_path: Path) -> None:
    """With the real thing, where MXNET_PYTHON names a Python that has it."""
    model, prefix = Net().eval(), str(tmp_path / "net")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.uniform_(0.1, 1, generator=torch.Generator().manual_seed(0))
    symbol.save(f"{prefix}-symbol.json", graph.to_symbol(model))
    params.save(f"{prefix}-0001.params", graph.arrays(model))
    data = torch.randn(100, 2, 8, 8)
    np.save(f"{prefix}.npy", data.numpy())
    subprocess.run([os.environ["MXNET_PYTHON"], "-c", SCORE_IN_MXNET, prefix], check=True,
                   capture_output=True)
    with torch.no_grad():
        np.testing.assert_allclose(model(data).softmax(1).numpy(), np.load(f"{prefix}-out.npy"), atol=1e-5)
    for end in ("symbol.json", "0001.params"):
        assert Path(f"{prefix}-mx-{end}").read_bytes() == Path(f"{prefix}-{end}").read_bytes()


@pytest.mark.parametrize(("nsize", "beta"), [(1, 0.75), (3, 0.75), (5, 0.75), (5, 0.5)])
def test_local_response_normalisation_is_torchs(nsize: int, beta: float) -> None:
    data = torch.randn(2, 7, 5, 5, dtype=torch.float64, requires_grad=True)
    layer = layers.LRN(nsize, alpha=0.1, beta=beta, knorm=2.0)
    expected = torch.nn.functional.local_response_norm(data, nsize, 0.1, beta, 2.0)
    torch.testing.assert_close(layer(data), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (data,))


def test_the_gradient_of_clip_passes_at_the_bounds_as_mxnets_does() -> None:
    data = torch.tensor([-1.0, 0.0, 3.0, 6.0, 6.0000005, 7.0], requires_grad=True)
    result = layers.Clip(0, 6)(data)
    result.sum().backward()
    assert result.tolist() == [0, 0, 3, 6, 6, 6]
    assert data.grad is not None
    assert data.grad.tolist() == [0, 1, 1, 1, 0, 0]
