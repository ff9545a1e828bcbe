"""symbol.json: MXNet's own bytes, every dialect, and files that are no symbols."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path

import pytest
from conftest import mxnet_file, real_data

from imgcls.errors import DataError
from imgcls.formats import symbol
from imgcls.formats.symbol import Attributes, Node, NodeOutput, Symbol

BRIDGE = Path(__file__).parent / "fixtures" / "bridge"
SMALL = BRIDGE / "small-symbol.json"
#: with what MXNet itself wrote for each, as a hash
OPERATORS = json.loads(gzip.decompress((BRIDGE / "operators.json.gz").read_bytes()))


def rewritten(**changes: object) -> str:
    """Return the small symbol with some top-level members changed (None: left out)."""
    document = json.loads(SMALL.read_text()) | changes
    return json.dumps({name: value for name, value in document.items() if value is not None})


def old_dialect(version: str) -> str:
    """Return the small symbol as MXNet 0.10 ("attr") or 0.8 ("param", no statistics, no version) wrote it."""
    document = json.loads(SMALL.read_text())
    nodes = document["nodes"]
    if version == "0.10":
        for node in nodes:
            node["attr"] = node.pop("attrs", {})
        return json.dumps(document | {"attrs": {"mxnet_version": ["int", 1001]}})
    remaining = [i for i, node in enumerate(nodes) if "moving_" not in node["name"]]
    old = [{"op": nodes[i]["op"], "param": nodes[i].get("attrs", {}), "name": nodes[i]["name"],
            "inputs": [[remaining.index(n), output] for n, output, _ in nodes[i]["inputs"] if n in remaining],
            "backward_source_id": -1} for i in remaining]
    return json.dumps({"nodes": old, "arg_nodes": [], "heads": [[len(old) - 1, 0]]})


def test_mxnets_bytes_come_back(tmp_path: Path) -> None:
    symbol.save(tmp_path / "again.json", symbol.load(SMALL))
    assert (tmp_path / "again.json").read_bytes() == SMALL.read_bytes()


@pytest.mark.parametrize("case", OPERATORS, ids=[case["name"] for case in OPERATORS])
def test_every_operator_is_written_as_mxnet_writes_it(case: dict) -> None:
    text = json.dumps({"nodes": case["nodes"], "heads": case["heads"],
                       "attrs": {"mxnet_version": ["int", 10901]}})
    assert hashlib.sha256(symbol.dumps(symbol.loads(text)).encode()).hexdigest() == case["sha256"]


def test_names_of_variables() -> None:
    net = symbol.load(SMALL)
    assert net.auxiliary() == ["bn1_moving_mean", "bn1_moving_var"]
    assert net.arguments() == ["data", "conv1_weight", "conv1_bias", "bn1_gamma", "bn1_beta", "fc1_weight",
                               "fc1_bias", "softmax_label"]
    assert net.variables()[5:8] == ["bn1_moving_mean", "bn1_moving_var", "fc1_weight"]
    assert net.heads == [NodeOutput(len(net.nodes) - 1)]
    assert net.version == 10901


def test_old_dialects_become_the_new_one() -> None:
    now = symbol.load(SMALL)
    of_10 = symbol.loads(old_dialect("0.10"))
    assert (of_10.version, symbol.dumps(of_10)) == (1001, symbol.dumps(now))
    of_8 = symbol.loads(old_dialect("0.8"))
    assert of_8.version == 800
    assert [(n.op, n.name, n.attrs) for n in of_8.nodes] == [(n.op, n.name, n.attrs) for n in now.nodes]
    assert of_8.auxiliary() == now.auxiliary()


def test_attributes_of_0_8_get_their_underscores() -> None:
    nodes = [{"op": "null", "name": "data", "attr": {"ctx_group": "one"}, "inputs": []},
             {"op": "null", "name": "fc_weight", "inputs": []},
             {"op": "null", "name": "fc_bias", "inputs": []},
             {"op": "FullyConnected", "name": "fc", "inputs": [[0, 0], [1, 0], [2, 0]],
              "param": {"num_hidden": "2"},
              "attr": {"weight_lr_mult": "1.5", "wd_mult": "0", "odd_lr_mult": "3", "__lr_mult__": "2"}},
             {"op": "_PlusScalar", "name": "more", "param": {"scalar": "1"}, "inputs": [[3, 0]]}]
    net = symbol.loads(json.dumps({"nodes": nodes, "heads": [[4, 0]]}))
    assert net.nodes[0].attrs == {"__ctx_group__": "one"}
    assert net.nodes[1].attrs == {"__lr_mult__": "1.5"}
    assert net.nodes[3].attrs == {"num_hidden": "2", "__wd_mult__": "0", "odd_lr_mult": "3",
                                  "__lr_mult__": "2"}
    assert net.nodes[4].op == "_plus_scalar"


def test_pooling_of_before_0_8_rounds_up() -> None:
    def pooled(param: dict[str, str]) -> dict[str, str]:
        nodes = [{"op": "null", "name": "data", "param": {}, "inputs": []},
                 {"op": "Pooling", "name": "pool", "param": param, "inputs": [[0, 0]]}]
        return symbol.loads(json.dumps({"nodes": nodes, "heads": [[1, 0]]})).nodes[1].attrs

    every = {"kernel": "(3,3)", "pad": "(0,0)", "pool_type": "max", "stride": "(2,2)"}
    assert pooled(every)["pooling_convention"] == "full"
    assert pooled(every | {"pooling_convention": "valid"})["pooling_convention"] == "valid"
    assert "pooling_convention" not in pooled({"kernel": "(3,3)"})


def test_nodes_that_no_head_needs_are_dropped() -> None:
    nodes = [Node("null", "b"), Node("null", "a"),
             Node("elemwise_add", "sum", {}, [NodeOutput(1), NodeOutput(0)]),
             Node("null", "never")]
    ordered, heads = symbol.post_order(nodes, [NodeOutput(2)])
    assert [node.name for node in ordered] == ["a", "b", "sum"]
    assert (ordered[2].inputs, heads) == ([NodeOutput(0), NodeOutput(1)], [NodeOutput(2)])


def test_text_is_escaped_as_mxnet_reads_it() -> None:
    name = 'a"b\\c\nd\re\tf\u0001ü'
    text = symbol.dumps(Symbol([Node("null", name, {"one": name})], [NodeOutput(0)]))
    assert '"a\\"b\\\\c\\nd\\re\\tf\u0001ü"' in text
    # MXNet neither escapes other control characters nor understands such an escape
    assert symbol.loads(text).nodes[0] == Node("null", name, {"one": name})
    assert symbol.dumps(symbol.loads(text)) == text


def test_attributes_of_a_graph_are_preserved() -> None:
    net = symbol.loads(rewritten(attrs={"mxnet_version": ["int", 10500], "__imgcls__": ["str", "x"]}))
    assert (net.version, net.attrs) == (10500, {"__imgcls__": ["str", "x"]})
    assert json.loads(symbol.dumps(net))["attrs"] == {"mxnet_version": ["int", 10901],
                                                      "__imgcls__": ["str", "x"]}


@pytest.mark.parametrize(("text", "reason"), [
    ("", "not JSON"), ("{", "not JSON"), ("[]", "no list of nodes"), ('{"nodes": {}}', "no list of nodes"),
    (b"\xff{}", "not UTF-8|not JSON"), ("[" * 100000, "nested|not JSON"), ('{"nodes": []}', "0 nodes"),
    ('{"nodes": [' + "9" * 5000 + "]}", "a number of 5000 digits"),
    ('{"nodes": [1]}', "node 0 is not an object"),
    ('{"nodes": [{"op": "null"}]}', "no op or no name"), (rewritten(heads=None), "heads are not a list"),
    (rewritten(heads=[]), "no heads"), (rewritten(heads=[[99, 0, 0]]), "node 99"),
    (rewritten(heads=[[0, -1, 0]]), "is not"), (rewritten(heads=[[True, 0, 0]]), "is not"),
    (rewritten(attrs={"mxnet_version": ["int", "new"]}), "mxnet_version"),
    (rewritten(attrs=[]), "attributes"),
    ('{"nodes": [{"op": "null", "name": "a", "attrs": {"x": 1}}], "heads": [[0, 0, 0]]}', "are not text"),
    ('{"nodes": [{"op": "x", "name": "a", "inputs": [[0, 0, 0]]}], "heads": [[0, 0, 0]]}', "come before"),
    (r'{"nodes": [{"op": "null", "name": "\ud800"}], "heads": [[0, 0, 0]]}', "node 0 .*half of a surrogate"),
    (r'{"nodes": [{"op": "null", "name": "a", "attrs": {"x": "\udfff"}}], "heads": [[0, 0]]}', "half of a surr"),
    (rewritten(attrs={"x": ["str", ["\ud800"]]}), "the graph's attributes: .*half of a surrogate"),
    ('{"nodes": [{"op": "x", "name": "a", "subgraphs": [{}]}], "heads": [[0, 0, 0]]}', "control flow"),
])
def test_files_that_are_no_symbols(text: str | bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        symbol.loads(text, "x-symbol.json")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x-symbol.json")


def test_no_damage_ends_in_anything_but_a_data_error() -> None:
    content, generator = SMALL.read_bytes(), random.Random(0)
    for _ in range(1000):
        data = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.choice(b'0123456789"[]{},: x\xff')
        try:
            symbol.dumps(symbol.loads(bytes(data)))
        except DataError:
            continue


def attributes(**values: str) -> Attributes:
    return Attributes(Node("op", "name", values))


def test_attributes_are_read_by_kind() -> None:
    attrs = attributes(kernel="(3, 3)", stride="[2,1]", pad="(3L, 4L)", one="(7,)", bare="5", none="None",
                       eps="2e-05",
                       yes="True", no="0", begin="(None, 1, -2)", empty="()", __lr_mult__="2")
    assert [attrs.integers(n) for n in ("kernel", "stride", "pad", "one", "bare", "empty")] == [
        (3, 3), (2, 1), (3, 4), (7,), (5,), ()]
    assert attrs.integers("absent", (1, 1)) == (1, 1)
    assert attrs.slices("begin") == (None, 1, -2)
    assert (attrs.real("eps"), attrs.integer("bare"), attrs.flag("yes"), attrs.flag("no")) == (2e-5, 5,
                                                                                               True, False)
    assert not attrs.is_given("none")
    assert attrs.unknown() == []
    assert attributes(a="1", __b__="2").unknown() == ["a"]


@pytest.mark.parametrize(("value", "reader"), [
    ("__import__('os')", Attributes.integers), ("(1, 2", Attributes.integers),
    ("(1,,2)", Attributes.integers),
    ("1, 2", Attributes.integers), ("(1.5,)", Attributes.integers),
    ("(" + "1," * 10000 + ")", Attributes.integers),
    ("(" + " " * 100000, Attributes.integers), ("x", Attributes.real), ("1.5", Attributes.integer),
    ("yes", Attributes.flag), ("9" * 5000, Attributes.integer), ("", Attributes.integers),
])
def test_attributes_of_the_wrong_kind(value: str, reader: object) -> None:
    with pytest.raises(ValueError, match="x"):
        reader(attributes(x=value), "x")  # type: ignore[operator]


def test_outside_fixtures_come_back_byte_for_byte() -> None:
    for folder in ("nets", "symbols"):
        for path in sorted(mxnet_file(folder).glob("*-symbol.json")):
            assert symbol.dumps(symbol.load(path)) == path.read_text(), path.name


def test_outside_dialects() -> None:
    folder = mxnet_file("oldsymbols")
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in manifest["files"]:
        if "arguments" in file:
            net = symbol.load(folder / file["file"])
            assert net.arguments() == [name for name, _ in file["arguments"]], file["file"]
            assert net.auxiliary() == [name for name, _ in file["auxiliary"]], file["file"]
    with pytest.raises(DataError, match="node 999"):
        symbol.load(folder / "bad-ref-symbol.json")
    now = symbol.dumps(symbol.load(folder / "now-symbol.json"))
    for name in ("attr-0.10", "future-2.0", "no-row-ptr"):
        assert symbol.dumps(symbol.load(folder / f"{name}-symbol.json")) == now


@pytest.mark.real_data
def test_symbols_from_the_wild() -> None:
    folder = real_data("mxnet-models", "symbols-only")
    old = symbol.load(folder / "inception-bn-28-symbol.json")
    assert len(old.auxiliary()) == 2 * 19
    assert {node.attrs["pooling_convention"] for node in old.nodes if node.op == "Pooling"} == {"full"}
    assert symbol.load(folder / "squeezenet_v1.2-symbol.json").version == 903
