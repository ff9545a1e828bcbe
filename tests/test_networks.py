"""The networks: names, shapes, counts, symbols and logits as MXNet has them, and what they refuse.

`CASES` stands alone: counts are those of MXNet's definitions and of the papers, and a digest is that of the
symbol.json which MXNet 1.9.1 wrote from its own definition.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import mxnet_file, recorded_network
from torch import nn

from imgcls import graph
from imgcls.config import lookup
from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.formats import params, symbol
from imgcls.layers import Layer
from imgcls.networks import _packages, alexnet_towers, resnext
from imgcls.networks._residual import ResNetSpec
from imgcls.training import network_size


class Case(NamedTuple):
    network: str
    image_shape: tuple[int, int, int]
    classes: int
    options: dict[str, Any]
    #: parameters in millions: fixed gammas are counted, running statistics are not
    millions: float
    #: the first 16 digits of the SHA-256 of MXNet's symbol.json; none where MXNet has no such file or depth
    digest: str


CASES = [
    Case("mlp", (1, 28, 28), 10, {}, 0.1094, "f31da42eb404654e"),
    Case("lenet", (1, 28, 28), 10, {}, 0.4311, "807f076a01d30947"),
    Case("lenet", (1, 28, 28), 10, {"add_stn": True}, 0.4485, "7ae5e45198d61510"),
    Case("alexnet", (3, 224, 224), 1000, {}, 50.8440, "daba23d93357c9f9"),
    Case("alexnet-towers", (3, 224, 224), 1000, {}, 60.5229, ""),
    Case("alexnet-towers", (3, 227, 227), 1000, {"variant": "theano"}, 60.9652, ""),
    Case("vgg", (3, 224, 224), 1000, {}, 132.8633, "c52af260238a3b49"),
    Case("vgg", (3, 224, 224), 1000, {"num_layers": 16}, 138.3575, ""),
    Case("vgg", (3, 224, 224), 1000, {"num_layers": 19}, 143.6672, ""),
    Case("vgg", (3, 224, 224), 100, {"num_layers": 16, "batch_norm": True}, 134.6787, "aad60ea6dc9aef71"),
    Case("overfeat", (3, 231, 231), 1000, {}, 145.9209, ""),
    Case("overfeat", (3, 221, 221), 1000, {"variant": "accurate"}, 144.6565, ""),
    Case("googlenet", (3, 224, 224), 1000, {}, 6.9986, "c706b49ff601d0c8"),
    Case("inception-bn", (3, 224, 224), 1000, {}, 11.2952, "d25a18e627c8c88c"),
    Case("inception-bn", (3, 28, 28), 10, {}, 1.6528, "fc7d5ccb801cb86d"),
    Case("inception-bn-full", (3, 224, 224), 21841, {}, 33.6200, "1f151f725d3473e3"),
    Case("inception-v3", (3, 299, 299), 1000, {}, 23.8346, "f5baa90bf7785304"),
    Case("inception-v4", (3, 299, 299), 1000, {}, 54.9678, "9f74cb7f465c45ca"),
    Case("inception-resnet-v2", (3, 299, 299), 1000, {}, 56.0095, "55989194d3daeb05"),
    Case("resnet", (3, 224, 224), 1000, {"num_layers": 18}, 11.6920, ""),
    Case("resnet", (3, 224, 224), 1000, {}, 25.5495, "7d962358c81992a5"),
    Case("resnet", (3, 28, 28), 10, {}, 1.7308, "9fba6d1656dec2ef"),
    Case("resnet", (3, 28, 28), 10, {"num_layers": 20}, 0.2725, "0a8c72035f298107"),
    Case("resnet-v1", (3, 224, 224), 1000, {}, 25.5570, "39e55f634d155760"),
    Case("resnetv1", (3, 28, 28), 10, {"num_layers": 20}, 0.2728, "cd60e3538208e59c"),
    Case("resnet-28-small", (3, 28, 28), 10, {}, 0.2733, "2d2c5c6951014df1"),
    Case("resnet-caffe", (3, 224, 224), 1000, {}, 25.5571, ""),
    Case("resnet-caffe", (3, 224, 224), 1000, {"num_layers": 32}, 20.7223, ""),
    Case("resnext", (3, 224, 224), 1000, {}, 25.0289, "a4945a037072b47b"),
    Case("resnext", (3, 224, 224), 1000, {"num_layers": 101}, 44.1777, ""),
    Case("resnext", (3, 28, 28), 10, {"num_layers": 20}, 0.2727, "ebf127aaf08f6bca"),
    Case("mobilenet", (3, 224, 224), 1000, {}, 4.2320, "41f4834b88589076"),
    Case("mobilenet", (3, 64, 64), 10, {"multiplier": 0.25}, 0.2156, "1ea8df2853b51947"),
    Case("mobilenetv2", (3, 224, 224), 1000, {}, 3.5060, "babab1f7c3d18bd3"),
    Case("mobilenetv2", (3, 224, 224), 10, {"multiplier": 0.5}, 0.6975, "69e48ae83b3d04fd"),
    Case("airbench", (3, 32, 32), 10, {}, 1.9728, ""),
]
#: fixtures of whole checkpoints, and how to build the same
CHECKPOINTS = {
    "mlp": ("mlp", {}),
    "lenet": ("lenet", {}),
    "lenet-stn": ("lenet", {"add_stn": True}),
    "inception-bn": ("inception-bn", {}),
    "resnet20": ("resnet", {"num_layers": 20}),
    "resnext20": ("resnext", {"num_layers": 20}),
    "mobilenet-0.25": ("mobilenet", {"multiplier": 0.25}),
}
#: fixtures of symbols with the shapes that MXNet inferred
SYMBOLS = {
    "alexnet": ("alexnet", {}),
    "vgg11": ("vgg", {"num_layers": 11}),
    "vgg16bn": ("vgg", {"num_layers": 16, "batch_norm": True}),
    "googlenet": ("googlenet", {}),
    "inception-bn-224": ("inception-bn", {}),
    "inception-v3": ("inception-v3", {}),
    "resnet50": ("resnet", {"num_layers": 50}),
    "resnet110-28": ("resnet", {"num_layers": 110}),
    "resnext50": ("resnext", {"num_layers": 50}),
    "mobilenet": ("mobilenet", {}),
}


def build(network: str, image_shape: tuple[int, ...], classes: int = 10, device: str = "meta",
          **options: Any) -> nn.Module:
    """The network without initialisation; on the meta device it takes no memory either."""
    config = NetworkConfig(network=network, image_shape=image_shape, num_classes=classes, **options)
    with torch.device(device):
        return lookup.module("networks", network, "--network").build(config)


def ready(network: str, image_shape: tuple[int, ...], **options: Any) -> nn.Module:
    """The network on the CPU with small random weights, for inference."""
    model = build(network, image_shape, device="cpu", **options).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return model


def layers_of(model: nn.Module) -> dict[str, Layer]:
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, Layer)}


def digest(model: nn.Module) -> str:
    return hashlib.sha256(symbol.dumps(graph.to_symbol(model)).encode()).hexdigest()[:16]


def of(case: Case) -> str:
    return "-".join([case.network, str(case.image_shape[1]), *map(str, case.options.values())])


# ------------------------------------------------------------------------------------------ as MXNet has them


@pytest.mark.parametrize("case", CASES, ids=of)
def test_counts_and_symbols(case: Case) -> None:
    model = build(case.network, case.image_shape, case.classes, **case.options)
    gammas = [buffer for name, buffer in model.named_buffers() if name.endswith("gamma")]
    count = sum(values.numel() for values in [*model.parameters(), *gammas])
    assert round(count / 1e6, 4) == case.millions
    assert not case.digest or digest(model) == case.digest


@pytest.mark.parametrize("name", lookup.names("networks"))
def test_every_file_gives_logits_from_layers(name: str) -> None:
    module = lookup.module("networks", name, "--network")
    model = build(name, getattr(module, "IMAGE_SHAPE", (1, 28, 28)))
    assert model(torch.empty(2, *getattr(module, "IMAGE_SHAPE", (1, 28, 28)), device="meta")).shape == (2, 10)
    leaves = [layer for layer in model.modules() if not list(layer.children())]
    assert leaves
    assert all(isinstance(leaf, Layer) for leaf in leaves)
    assert graph.to_symbol(model).nodes[-1].op == "SoftmaxOutput"


@pytest.mark.parametrize("fixture", SYMBOLS)
def test_names_shapes_and_bytes_of_mxnets_symbols(fixture: str) -> None:
    manifest = json.loads(mxnet_file("symbols", "manifest.json").read_text())
    recorded = next(network for network in manifest["networks"] if network["name"] == fixture)
    network, options = SYMBOLS[fixture]
    _, *image_shape = recorded["data_shape"]
    model = build(network, tuple(image_shape), recorded["output_shape"][0][1], **options)
    written = symbol.dumps(graph.to_symbol(model))
    assert written == mxnet_file("symbols", recorded["symbol"]).read_text()
    inferred = {name: tuple(shape) for name, shape in recorded["args"] + recorded["aux"]
                if name not in ("data", "softmax_label")}
    names = graph.parameter_names(model)
    assert {names[key]: tuple(value.shape) for key, value in model.state_dict().items()} == inferred


def checkpoint(fixture: str) -> nn.Module:
    """The network of a fixture, built by us on the CPU."""
    image_shape = recorded_network(fixture).image_shape
    if fixture == "resnext-bottleneck":  # a size that no --num-layers gives
        config = NetworkConfig(network="resnext", image_shape=image_shape, num_group=8)
        return resnext.resnext(config, ResNetSpec((1, 1, 1), (16, 64, 128, 256), bottleneck=True))
    network, options = CHECKPOINTS[fixture]
    return build(network, image_shape, device="cpu", **options)


@pytest.mark.parametrize("fixture", [*CHECKPOINTS, "resnext-bottleneck"])
def test_logits_of_mxnets_checkpoints(fixture: str, tmp_path: Path) -> None:
    recorded = recorded_network(fixture)
    model = checkpoint(fixture).eval()
    arrays = params.load(f"{recorded.save(tmp_path)}-0003.params")
    assert not graph.load_arrays(model, arrays, path=fixture).unexpected
    with torch.no_grad():
        logits = model(torch.from_numpy(recorded.images)).numpy()
    assert np.abs(logits - recorded.logits).max() <= 1e-4 * np.abs(recorded.logits).max()
    assert symbol.dumps(graph.to_symbol(model)) == recorded.symbol_path.read_text()


def test_unnamed_layers_are_numbered_in_the_order_of_the_calls() -> None:
    layers = layers_of(build("inception-resnet-v2", (3, 299, 299)))
    assert layers["convolution243"].attrs["num_filter"] == "1536"
    assert layers["_plus39"].op == "elemwise_add"
    assert layers["_mulscalar39"].attrs == {"scalar": "1.0"}
    layers = layers_of(build("resnet-28-small", (3, 28, 28)))
    kernels = [layers[f"convolution{number}"].attrs["kernel"] for number in (7, 8, 9, 10)]
    assert kernels == ["(3, 3)", "(3, 3)", "(1, 1)", "(3, 3)"]  # the projection comes after its unit's two


def test_default_depths() -> None:
    assert "conv5_2" in layers_of(build("vgg", (3, 32, 32)))
    assert "conv3_3" not in layers_of(build("vgg", (3, 32, 32)))
    assert "stage3_unit18_conv2" in layers_of(build("resnet", (3, 28, 28)))  # 110
    assert "stage4_unit3_conv3" in layers_of(build("resnet", (3, 29, 29)))  # 50
    assert "stage3_unit18_conv2" in layers_of(build("resnext", (3, 32, 32)))  # 110, up to 32 pixels


def test_small_images_keep_their_size_in_the_stem() -> None:
    for network in ("resnet", "resnet-v1", "resnext"):
        for height, kernel in ((32, "(3, 3)"), (33, "(7, 7)")):
            depth = 20 if network == "resnext" and height == 32 else 18
            model = build(network, (3, height, height), num_layers=depth)
            assert layers_of(model)["conv0"].attrs["kernel"] == kernel


def test_widths_and_groups() -> None:
    wide = build("mobilenetv2", (3, 32, 32), multiplier=1.4).state_dict()
    assert wide["last-1x1-conv-conv2d.weight"].shape == (1792, 448, 1, 1)
    narrow = build("mobilenet", (3, 32, 32), multiplier=0.5).state_dict()
    assert narrow["conv_14_conv2d.weight"].shape == (512, 512, 1, 1)
    grouped = build("resnext", (3, 64, 64), num_group=64).state_dict()
    assert grouped["stage1_unit1_conv2.weight"].shape == (128, 2, 3, 3)


# ------------------------------------------------------------------------------------------ what they refuse


@pytest.mark.parametrize(("network", "image_shape", "works"), [
    ("alexnet", (3, 28, 28), "3,224,224"),
    ("alexnet-towers", (3, 28, 28), "3,224,224"),
    ("vgg", (1, 28, 28), "1,224,224"),
    ("overfeat", (3, 64, 64), "3,231,231"),
    ("googlenet", (3, 10, 10), "3,224,224"),
    ("inception-bn", (3, 64, 64), "3,224,224"),
    ("inception-bn", (1, 16, 16), "1,28,28"),
    ("inception-bn-full", (3, 64, 64), "3,224,224"),
    ("inception-v3", (3, 224, 224), "3,299,299"),
    ("inception-v4", (3, 224, 224), "3,299,299"),
    ("inception-resnet-v2", (3, 32, 32), "3,299,299"),
    ("resnet-28-small", (3, 24, 24), "3,28,28"),
    ("resnet-caffe", (3, 128, 128), "3,224,224"),
    ("mobilenet", (1, 28, 28), "1,224,224"),
    ("mobilenet", (3, 224, 192), "3,224,224"),
])
def test_a_shape_it_cannot_run_at_is_refused_with_one_that_works(network: str, image_shape: tuple[int, ...],
                                                                 works: str) -> None:
    with pytest.raises(UsageError) as raised:
        build(network, image_shape)
    shape_text = ",".join(map(str, image_shape))
    assert str(raised.value).startswith(f"image_shape {shape_text}: {network} cannot run at it: ")
    assert str(raised.value).endswith(f"; {works} works")
    build(network, tuple(map(int, works.split(","))))


def test_a_shape_must_have_three_sizes() -> None:
    with pytest.raises(UsageError, match="image_shape 784: alexnet needs channels,height,width, such as 3,"):
        build("alexnet", (784,))


@pytest.mark.parametrize(("network", "image_shape", "depth", "message"), [
    ("vgg", (3, 224, 224), 50, "num_layers 50: vgg comes with 11, 13, 16 or 19"),
    ("resnet", (3, 224, 224), 20, "num_layers 20: resnet comes with 18, 34, 50, 101, 152, 200 or 269"),
    ("resnet", (3, 32, 32), 110, "num_layers 110: resnet comes with 18, "),
    ("resnet", (3, 28, 28), 51, "num_layers 51: resnet at a height of 28 or less comes with 6n + 2 layers"),
    ("resnet-v1", (3, 28, 28), 2, "num_layers 2: resnet-v1 at a height of 28 or less comes with 6n + 2"),
    ("resnext", (3, 32, 32), 165, "num_layers 165: resnext at a height of 32 or less comes with 6n + 2"),
    ("resnet-28-small", (3, 28, 28), 21, "num_layers 21: resnet-28-small comes with 6n + 2 layers"),
    ("resnet-caffe", (3, 224, 224), 18, "num_layers 18: resnet-caffe comes with 32 or 50"),
])
def test_a_depth_that_does_not_exist_is_refused(network: str, image_shape: tuple[int, int, int], depth: int,
                                                message: str) -> None:
    with pytest.raises(UsageError) as raised:
        build(network, image_shape, num_layers=depth)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("network", "options", "message"), [
    ("vgg", {"num_group": 8}, "num_group 8: vgg has no such option"),
    ("resnet", {"batch_norm": True}, "batch_norm True: resnet has no such option"),
    ("alexnet", {"model_parallel": 2}, "model_parallel 2: alexnet has no such option"),
    ("resnext", {"num_group": 48}, "num_group 48: must divide 128"),
    ("resnext", {"num_layers": 18, "num_group": 8}, "num_group 8: resnext has groups from 50 layers on"),
    ("mobilenet", {"multiplier": 1.5}, "multiplier 1.5: mobilenet has 0.25, 0.5, 0.75 and 1"),
    ("mobilenetv2", {"multiplier": 0.01}, "multiplier 0.01: too narrow for mobilenetv2"),
    ("overfeat", {"variant": "quick"}, "variant quick: overfeat comes as fast or accurate"),
    ("alexnet-towers", {"variant": "caffe"}, "variant caffe: alexnet-towers comes as torch or theano"),
    ("alexnet-towers", {"model_parallel": 3},
     "model_parallel 3: alexnet-towers variant torch has 2 towers to spread"),
    ("alexnet-towers", {"variant": "theano", "model_parallel": 2},
     "model_parallel 2: alexnet-towers variant theano has 1 tower to spread"),
])
def test_an_option_that_does_not_fit_is_refused(network: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        build(network, (3, 224, 224), **options)
    assert str(raised.value).startswith(message)


# ------------------------------------------------------------------------------------------ as torch modules


def test_two_towers_give_the_same_on_two_devices_and_one() -> None:
    model = ready("alexnet-towers", (3, 67, 67), model_parallel=2)
    assert isinstance(model, alexnet_towers.TwoTowerAlexNet)
    images = torch.rand(2, 3, 67, 67, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(images)
        model.to_devices([torch.device("cpu"), torch.device("cpu")])
        assert torch.equal(model(images), logits)
        model.to_devices([torch.device("cpu"), torch.device("meta")])
    assert {parameter.device.type for parameter in model.tower2.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in model.tower1.parameters()} == {"cpu"}
    assert digest(model) == digest(build("alexnet-towers", (3, 67, 67)))  # also spread out it can be written
    assert graph.parameter_names(model)["tower2.conv1.weight"] == "tower2_conv1_weight"


@pytest.mark.slow
@pytest.mark.parametrize(("network", "side"), [("resnet", 8), ("alexnet-towers", 67)])
def test_compiles_without_a_break_copies_and_runs_channels_last(network: str, side: int) -> None:
    model = ready(network, (3, side, side), **({"num_layers": 8} if network == "resnet" else {}))
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images), logits)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        difference = last(images.contiguous(memory_format=torch.channels_last)) - logits
        assert difference.abs().max() <= 1e-4 * logits.abs().max()


def test_dropout_and_normalisation_follow_the_mode() -> None:
    model = ready("alexnet", (3, 67, 67))
    images = torch.rand(2, 3, 67, 67, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


# ------------------------------------------------------------------------------------------ other packages


def foreign(kind: str, name: str, image_shape: tuple[int, ...] = (3, 64, 64)) -> nn.Module:
    config = NetworkConfig(network=f"{kind}:{name}", image_shape=image_shape)
    _packages.make_trial(kind, name, config)
    return _packages.build_from_package(kind, name, config)


def test_torchvision() -> None:
    pytest.importorskip("torchvision")
    model = foreign("torchvision", "resnet18")
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    with pytest.raises(UsageError, match=r"torchvision has no such network; nearest of its \d+: resnet"):
        foreign("torchvision", "resnet-18")
    with pytest.raises(UsageError, match=r"image_shape 1,64,64: torchvision's take 3 channels"):
        foreign("torchvision", "resnet18", (1, 64, 64))
    with pytest.raises(UsageError, match=r"3,64,64: torchvision:vit_b_16 cannot run at it: .*; try 3,224"):
        foreign("torchvision", "vit_b_16")


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError])
def test_an_image_that_a_network_cannot_take_is_an_error_of_the_shape(error: type[Exception]) -> None:
    class Picky(nn.Module):
        def forward(self, _data: torch.Tensor) -> torch.Tensor:
            raise error("wrong image height")

    with pytest.raises(UsageError, match=r"image_shape 3,8,8: the network cannot take it \(wrong image height\)"):
        network_size.count_classes(Picky(), (3, 8, 8))


@pytest.mark.parametrize(("number", "text"), [
    (12, "12"), (999.4, "999"), (999.6, "1 k"), (999_400, "999 k"), (999_700, "1 M"), (1_234_567, "1.23 M"),
    (999.7e6, "1 G"), (45e9, "45 G"), (1.24e12, "1.24 T")])
def test_numbers_for_people_have_three_digits_and_a_unit(number: float, text: str) -> None:
    assert network_size.short(number) == text


def test_torchvision_networks_with_two_heads_give_one() -> None:
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = foreign("torchvision", "inception_v3", (3, 299, 299)).train()
        assert isinstance(model(torch.empty(2, 3, 299, 299, device="meta")), torch.Tensor)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"timm:resnet18: timm is not installed: pip install timm"):
        foreign("timm", "resnet18")
    with pytest.raises(UsageError, match="other networks come from torchvision and timm"):
        foreign("keras", "vgg")


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert not pretrained
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 16, num_classes))

    fake = types.SimpleNamespace(list_models=lambda: ["tiny", "small"], create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert foreign("timm", "tiny", (1, 4, 4))(torch.zeros(2, 1, 4, 4)).shape == (2, 10)
    with pytest.raises(UsageError, match="timm has no such network; nearest of its 2: tiny"):
        foreign("timm", "tinny", (1, 4, 4))
    with pytest.raises(UsageError, match="image_shape 1,5,5: timm:tiny cannot run at it"):
        foreign("timm", "tiny", (1, 5, 5))
