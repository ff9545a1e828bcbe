"""imgcls-finetune: what is loaded, new, dropped and frozen, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import RECORDED_NETWORKS, recorded_network, run_cli

import imgcls
from imgcls import graph
from imgcls.cli import finetune, im2rec, predict, score
from imgcls.config import resolve
from imgcls.config.sections import FinetuneConfig, NetworkConfig
from imgcls.data.loaders.batch import Batch
from imgcls.errors import DataError, UsageError
from imgcls.formats import params, symbol
from imgcls.formats.symbol import Node, NodeOutput, Symbol
from imgcls.pretrained import Pretrained, local_weights, locate, read, transfer
from imgcls.storage.remote import RemotePath
from imgcls.training import checkpoint
from imgcls.training.trainer import Trainer

SHAPE = (3, 28, 28)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ with a folder per class: red pictures and blue ones."""
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for name, channel in (("blue", 0), ("red", 2)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = chance.integers(0, 120, (32, 36, 3), dtype=np.uint8)
                image[..., channel] += 110
                cv2.imwrite(str(folder / split / name / f"{number}.png"), image)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network that was trained for an epoch on five other classes."""
    chance = np.random.default_rng(1)
    images, labels = chance.integers(0, 255, (40, *SHAPE), dtype=np.uint8), np.arange(40) % 5
    prefix = tmp_path_factory.mktemp("pretrained") / "net"
    imgcls.fit((images, labels), network="resnet-v1", num_layers=8, num_epochs=1, batch_size=20,
               rgb_mean="90,80,70",
               rgb_std="60", model_prefix=str(prefix))
    return prefix


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two threads wait for each other where other programs want the cores, and these networks are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


def tune(pretrained: object, photos: Path, *flags: object) -> int:
    return finetune.main(["--pretrained-model", str(pretrained), "--data-dir", str(photos),
                          "--batch-size", "8",
                          "--num-epochs", "2", *map(str, flags)])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.splitlines()[-1]


def weights(prefix: Path, epoch: int) -> bytes:
    return Path(f"{prefix}-{epoch:04d}.params").read_bytes()


# ---- what it does


def test_a_new_head_on_old_weights(pretrained: Path, photos: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert tune(pretrained, photos, "--model-prefix", prefix, "--lr", 0, "--initializer", "default") == 0
    out, err = capsys.readouterr()
    assert f"Loaded pretrained model {pretrained}-0001.params" in err
    assert "new head: 2 classes, behind flatten0" in err
    assert re.search(r"weights loaded: \d+ \(conv0 1, bn0 4, stage1 \d+, ", err)
    assert "weights new (initialised): 2 (fc_weight, fc_bias)" in err
    assert "weights dropped: 2 (fc1_weight, fc1_bias)" in err
    assert f"images: 3,28,28 cut as stored, mean 90,80,70, std 60 (as {pretrained}-meta.json has it)" in err
    assert f"resume:     imgcls-finetune --pretrained-model {pretrained} " in out
    before, after = params.load(f"{pretrained}-0001.params"), params.load(f"{prefix}-0002.params")
    assert set(before) - set(after) == {"arg:fc1_weight", "arg:fc1_bias"}
    assert after["arg:fc_weight"].shape == (2, 64)
    assert after["arg:fc_weight"].std() > 0.1
    for name in set(before) & set(after) - {"fc"}:
        if name.startswith("arg:"):
            assert np.array_equal(before[name], after[name]), name


def test_what_it_writes_is_an_ordinary_checkpoint(pretrained: Path, photos: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert tune(pretrained, photos, "--model-prefix", prefix, "--num-epochs", 6, "--lr", 0.05) == 0
    accuracy = re.search(r"^Validation-accuracy=(\S+)$", capsys.readouterr().out, re.M)
    assert accuracy
    assert float(accuracy[1]) > 0.8
    assert score.main(["--model", str(prefix), "--data-val", str(photos / "val")]) == 0
    out, err = capsys.readouterr()
    assert f"accuracy={accuracy[1]}" in out
    assert "INFO:root:('accuracy', " in err
    assert re.search(r"INFO:root:Finished with \d+\.\d+ images per second", err)
    assert predict.main(["--model", str(prefix), "--top", "1", str(photos / "val" / "red" / "0.png")]) == 0
    assert capsys.readouterr().out.startswith("red (")
    written = symbol.load(f"{prefix}-symbol.json")
    assert [node.name for node in written.nodes][-5:] == ["fc_weight", "fc_bias", "fc",
                                                          "softmax_label", "softmax"]
    # and the result can itself be tuned: its head is called fc, too
    assert tune(prefix, photos, "--num-epochs", 1) == 0
    assert "weights dropped: 2 (fc_weight, fc_bias)" in capsys.readouterr().err


@pytest.mark.mxnet
def test_real_mxnet_loads_it(pretrained: Path, photos: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "net"
    assert tune(pretrained, photos, "--model-prefix", prefix, "--num-epochs", 1) == 0
    images = np.random.default_rng(3).normal(size=(2, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "x.npy", images)
    code = (f"import mxnet as mx, numpy as np; s, a, x = mx.model.load_checkpoint({str(prefix)!r}, 1)\n"
            f"m = mx.mod.Module(s, label_names=['softmax_label']); d = np.load({str(tmp_path / 'x.npy')!r})\n"
            "m.bind([('data', d.shape)], for_training=False); m.set_params(a, x)\n"
            "m.forward(mx.io.DataBatch([mx.nd.array(d)]), is_train=False)\n"
            f"np.save({str(tmp_path / 'y.npy')!r}, m.get_outputs()[0].asnumpy())")
    subprocess.run([os.environ["MXNET_PYTHON"], "-c", code], check=True, capture_output=True)
    with torch.no_grad():
        ours = imgcls.load_model(prefix)(torch.from_numpy(images)).softmax(1).numpy()
    assert np.abs(ours - np.load(tmp_path / "y.npy")).max() < 1e-5


def test_the_epoch_is_that_of_the_pretrained_weights(pretrained: Path, photos: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """MXNet began to train at epoch 126, with the learning rate of then, and so trained nothing."""
    source, prefix = tmp_path / "old", tmp_path / "net"
    for end in ("symbol.json", "meta.json"):
        Path(f"{source}-{end}").write_bytes(Path(f"{pretrained}-{end}").read_bytes())
    for epoch in ("0000", "0126"):
        Path(f"{source}-{epoch}.params").write_bytes(weights(pretrained, 1))
    for epoch in ("0126", "0000", "126"):
        assert tune(source, photos, "--model-prefix", prefix, "--load-epoch", epoch, "--num-epochs", 1) == 0
        err = capsys.readouterr().err
        assert f"Loaded pretrained model {source}-{int(epoch):04d}.params" in err
        assert "Epoch[0] Train-accuracy" in err
        assert "Adjust learning rate" not in err


@pytest.mark.slow
@pytest.mark.parametrize("resume_flags", [["--resume"], ["--load-epoch", "auto"]])
def test_a_resumed_run_equals_an_uninterrupted_one(
        pretrained: Path, photos: Path, tmp_path: Path, resume_flags: Sequence[str],
        capsys: pytest.CaptureFixture[str]) -> None:
    uninterrupted, resumed = tmp_path / "whole", tmp_path / "parts"
    # a schedule of our own: the one that is chosen otherwise ends with the last epoch, which is another here
    flags = ("--freeze", "bn0", "--body-lr-mult", 0.1, "--mom", 0.9, "--lr", 0.01, "--lr-schedule", "auto",
             *resume_flags)
    # nothing there: begins
    assert tune(pretrained, photos, "--model-prefix", uninterrupted, "--num-epochs", 3, *flags) == 0
    assert tune(pretrained, photos, "--model-prefix", resumed, "--num-epochs", 1, *flags) == 0
    capsys.readouterr()
    assert tune(tmp_path / "gone" / "net", photos, "--model-prefix", resumed, "--num-epochs", 3, *flags) == 0
    assert f"Loaded {resumed}-0001.params" in capsys.readouterr().err
    assert weights(uninterrupted, 3) == weights(resumed, 3)
    first, second = (checkpoint.load(str(prefix), "auto") for prefix in (uninterrupted, resumed))
    assert first is not None
    assert second is not None
    assert first.optimizer is not None
    assert second.optimizer is not None
    assert first.optimizer.keys() == second.optimizer.keys()
    assert all(torch.equal(first.optimizer[name], second.optimizer[name]) for name in first.optimizer)


def test_a_run_that_was_stopped_inside_an_epoch_resumes_from_a_url(
        pretrained: Path, photos: Path, tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--num-epochs", 1, "--lr", 0.01)
    assert tune(pretrained, photos, "--model-prefix", tmp_path / "net", *flags) == 0
    original = Trainer.train_step

    def train_step(self: Trainer, batch: Batch, update: int) -> None:
        original(self, batch, update)
        if update == 1:
            signal.raise_signal(signal.SIGTERM)

    flags = ("--model-prefix", f"{memory}/net", "--resume", *flags)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        assert tune(pretrained, photos, *flags) == 143
    capsys.readouterr()
    assert tune(pretrained, photos, *flags) == 0
    err = capsys.readouterr().err
    assert f"Loaded {memory}/net-position-0000000" in err
    assert "new head" not in err
    assert RemotePath(f"{memory}/net-0001.params").read_bytes() == weights(tmp_path / "net", 1)


def test_resuming_with_other_classes(pretrained: Path, photos: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model-prefix", tmp_path / "net", "--resume")
    assert tune(pretrained, photos, *flags, "--num-epochs", 1) == 0
    assert tune(pretrained, photos, *flags, "--num-classes", 7) == 2
    assert "has 2 classes" in error_of(capsys)


# ---- freezing and learning rates


def changed(before: str, after: str) -> set[str]:
    old, new = params.load(before), params.load(after)
    return {name for name in set(old) & set(new) if not np.array_equal(old[name], new[name])}


def test_freezing(pretrained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, prefix = f"{pretrained}-0001.params", tmp_path / "net"
    flags = ("--model-prefix", prefix, "--wd", 0.01, "--mom", 0.9, "--lr", 0.1)
    assert tune(pretrained, photos, *flags, "--freeze", "body") == 0
    err = capsys.readouterr().err
    assert re.search(r"frozen: 7\d\.\d k parameters, 130 learn \(--freeze body\)", err)
    assert re.search(r"network: .* 7\d\.\d k parameters", err)  # all of them
    assert not changed(old, f"{prefix}-0002.params")  # not even the running statistics

    assert tune(pretrained, photos, *flags, "--freeze", "stage2_unit1_relu3") == 0
    names = changed(old, f"{prefix}-0002.params")
    assert {name[4:].split("_")[0] for name in names} == {"stage3"}
    assert {"aux:stage3_unit1_bn1_moving_mean", "arg:stage3_unit1_conv1_weight"} <= names

    assert tune(pretrained, photos, *flags) == 0
    assert "aux:bn0_moving_mean" in changed(old, f"{prefix}-0002.params")


def test_learning_rates_of_head_and_body(pretrained: Path, photos: Path, tmp_path: Path) -> None:
    """One step of plain SGD moves every weight in proportion to its learning rate."""
    moves = {}
    for name, head, body in (("one", 1, 1), ("two", 2, 0.5)):
        flags = ("--model-prefix", tmp_path / name, "--num-epochs", 1, "--batch-size", 24, "--lr", 0.01,
                     "--initializer", "default")
        assert tune(pretrained, photos, *flags, "--head-lr-mult", head, "--body-lr-mult", body) == 0
        moves[name] = params.load(f"{tmp_path / name}-0001.params")
    start = params.load(f"{pretrained}-0001.params")
    body = "arg:conv0_weight"
    ratio = (moves["two"][body] - start[body]).astype(np.float64) / (moves["one"][body] - start[body])
    assert np.median(ratio) == pytest.approx(0.5, rel=1e-2)
    head = "arg:fc_bias"  # begins at 0
    assert moves["two"][head] / moves["one"][head] == pytest.approx(2, rel=1e-3)


# ---- where the new head goes


def of_layers(*layers: tuple[str, str, dict[str, str]]) -> Symbol:
    """A chain of (operator, name, attributes) with a weight for those that have one."""
    nodes, last = [Node("null", "data")], NodeOutput(0)
    for op, name, attrs in layers:
        inputs = [last]
        if op in ("FullyConnected", "Convolution"):
            for end in ("weight", "bias"):
                nodes.append(Node("null", f"{name}_{end}"))
                inputs.append(NodeOutput(len(nodes) - 1))
        nodes.append(Node(op, name, attrs, inputs))
        last = NodeOutput(len(nodes) - 1)
    return Symbol(nodes, [last])


FC = {"num_hidden": "4"}
CONV = {"kernel": "(1, 1)", "num_filter": "4"}
RELU = {"act_type": "relu"}


@pytest.mark.parametrize(("layers", "cut"), [
    ([("Flatten", "flatten0", {}), ("FullyConnected", "fc1", FC), ("SoftmaxOutput", "softmax", {})],
     "flatten0"),
    ([("FullyConnected", "fc6", FC), ("Activation", "relu6", RELU), ("Dropout", "drop6", {}),
      ("FullyConnected", "fc8", FC), ("softmax", "prob", {})], "drop6"),  # Caffe's VGG
    ([("Pooling", "pool", {"global_pool": "True"}), ("Convolution", "pred", CONV), ("Flatten", "flat", {})],
     "pool"),
    ([("Convolution", "conv10", CONV), ("Activation", "relu10", RELU),
      ("Pooling", "pool10", {"global_pool": "True"}),
      ("Flatten", "flat", {})], None),  # SqueezeNet
    ([("FullyConnected", "pre_fc1", FC), ("BatchNorm", "fc1", {})], None),  # a face embedder
])
def test_where_the_new_head_is_attached(layers: list, cut: str | None) -> None:
    net = of_layers(*layers)
    if cut:
        output, note = transfer.find_cut(net, "", "file")
        assert (net.nodes[output.node].name, note) == (cut, "")
        assert transfer.find_cut(net, cut, "file") == (output, "")
        assert transfer.find_cut(net, f"{cut}_output", "file") == (output, "")
    else:
        op, name, _ = layers[0]
        with pytest.raises(UsageError, match=rf"layer_before_fullc: it is not clear .*{name} \({op}\)"):
            transfer.find_cut(net, "", "file")


def test_vggs_trap(tmp_path: Path) -> None:
    """flatten0 is in front of the hidden layers of a VGG: allowed, and told."""
    net = of_layers(("Flatten", "flatten0", {}), ("FullyConnected", "fc6", FC), ("Activation", "relu6", RELU),
                    ("FullyConnected", "fc8", FC), ("softmax", "prob", {}))
    arrays = {"arg:fc6_weight": np.ones((4, 12)), "arg:fc6_bias": np.ones(4),
              "arg:fc8_weight": np.ones((4, 4)),
              "arg:fc8_bias": np.ones(4)}
    config = NetworkConfig(network="vgg", num_classes=3, image_shape=(3, 2, 2))
    source = Pretrained(net, {name: array.astype(np.float32) for name, array in arrays.items()},
                        "vgg-0000.params")
    model, summary = transfer.new_head(source, config)
    assert (summary.loaded, summary.dropped, summary.note) == (
        ["fc6_weight", "fc6_bias"], ["fc8_weight", "fc8_bias"], "")  # MXNet threw fc6 away as well
    assert model(torch.zeros(2, 3, 2, 2)).shape == (2, 3)
    model, summary = transfer.new_head(source, config, layer="flatten0")
    assert len(summary.dropped) == 4
    assert "relu6: the layers between them are removed too" in summary.note
    with pytest.raises(UsageError, match=r"relu7: vgg-0000.params has no such layer; there is relu6 \("):
        transfer.new_head(source, config, layer="relu7")
    with pytest.raises(UsageError, match="image_shape 3,4,4: the pretrained network cannot take it"):
        transfer.new_head(source, NetworkConfig(num_classes=3, image_shape=(3, 4, 4)))
    del source.arrays["arg:fc6_weight"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="fc6_weight is missing"):
        transfer.new_head(source, config)


def test_a_layer_that_is_already_called_fc(tmp_path: Path) -> None:
    net = of_layers(("FullyConnected", "fc", FC), ("FullyConnected", "last", FC))
    arrays = {f"{name}_{end}": np.ones((4, 4) if end == "weight" else 4, np.float32)
              for name in ("fc", "last") for end in ("weight", "bias")}
    source = Pretrained(net, arrays, "x")
    model, summary = transfer.new_head(source, NetworkConfig(num_classes=3, image_shape=(4, 1, 1)))
    assert summary.new == ["fc_new_weight", "fc_new_bias"]
    assert "fc_new" in symbol.dumps(graph.to_symbol(model))


def test_mxnets_own_networks(tmp_path: Path) -> None:
    """Whatever ends with a fully connected layer gets a new one, at the shape it was made for."""
    for name in RECORDED_NETWORKS:
        recorded = recorded_network(name)
        prefix, shape = str(recorded.save(tmp_path)), recorded.image_shape
        config = NetworkConfig(num_classes=3, image_shape=shape)
        model, summary = transfer.new_head(read(locate(prefix)), config)
        assert model.eval()(torch.zeros(1, *shape)).shape == (1, 3)
        assert summary.new == ["fc_weight", "fc_bias"], prefix
        assert len(summary.dropped) == 2, prefix
        assert len(symbol.dumps(graph.to_symbol(model))) > 1000


# ---- torchvision's


@pytest.mark.slow
def test_a_network_without_a_symbol(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchvision = pytest.importorskip("torchvision")
    file, prefix = tmp_path / "weights.pth", tmp_path / "net"
    torch.manual_seed(5)
    torch.save(torchvision.models.squeezenet1_1(num_classes=7).state_dict(), file)
    name = f"torchvision:squeezenet1_1:{file}"
    flags = ("--image-shape", "3,32,32", "--freeze", "features.3", "--lr", 0.01, "--lr-schedule", "auto",
             "--model-prefix", prefix)
    assert tune(name, photos, *flags, "--num-epochs", 2) == 0
    err = capsys.readouterr().err
    assert "images: 3,32,32 cut as stored, mean 123.675,116.28,103.53, std 58.395,57.12,57.375, antialias " \
           "interpolation (as torchvision has it, but for --image-shape (it has 3,224,224))" in err
    assert "weights new (initialised): 2 (classifier.1.weight, classifier.1.bias)" in err
    assert "weights dropped: 2 (classifier.1.weight, classifier.1.bias)" in err
    old, new = torch.load(file, weights_only=True), params.load(f"{prefix}-0002.params")
    assert np.array_equal(old["features.3.expand3x3.weight"], new["arg:features.3.expand3x3.weight"])
    assert not np.array_equal(old["features.4.squeeze.weight"], new["arg:features.4.squeeze.weight"])
    settings = json.loads(Path(f"{prefix}-network.json").read_text())
    assert (settings["network"], settings["num_classes"]) == ("torchvision:squeezenet1_1", 2)
    assert score.main(["--model", str(prefix), "--data-val", str(photos / "val")]) == 0
    capsys.readouterr()

    # its own checkpoint is pretrained in its turn, and a run of it resumes
    parts = tmp_path / "parts"
    assert tune(name, photos, *flags[:8], "--model-prefix", parts, "--num-epochs", 1) == 0
    assert tune(name, photos, *flags[:8], "--model-prefix", parts, "--num-epochs", 2, "--resume") == 0
    assert weights(parts, 2) == weights(prefix, 2)
    assert tune(prefix, photos, "--num-epochs", 1, "--model-prefix", tmp_path / "third") == 0
    assert json.loads((tmp_path / "third-network.json").read_text())["network"] == "torchvision:squeezenet1_1"


# ---- wrong input: one line, the right status


@pytest.mark.parametrize(("flags", "message"), [
    (["--pretrained-model", "nowhere/net"],
     "--pretrained-model nowhere/net: there is no nowhere/net-0001.params"),
    (["--pretrained-model", "resnet-5"], "the zoo has no network of this name; near it: resnet-50"),
    (["--pretrained-model", "torchvision:resnet5"], "torchvision has no such network; near it: resnet5"),
    (["--pretrained-model", "torchvision:resnet18:V9"],
     "torchvision's weights of resnet18 are IMAGENET1K_V1"),
    (["--pretrained-model", "timm:x"], "timm's come untrained"),
    (["--load-epoch", "7"], "--load-epoch 7: "),
    (["--load-epoch", "x"], "must be an epoch"),
    (["--layer-before-fullc", "flaten0"], "has no such layer; there is flatten0 (found automatically)"),
    (["--freeze", "stage9"], "--freeze stage9: must be nothing, body (all but the new head) or a layer"),
    (["--freeze", "fc"], "nothing would be left to train"),
    (["--body-lr-mult", "0"], "--freeze body is for a body that does not learn"),
    (["--resume"], "--resume: needs the --model-prefix"),
    (["--num-classes", "1"], "--num-classes 1: must be at least 2"),
    (["--image-shape", "1,28,28"], "--image-shape 1,28,28: the pretrained network cannot take it"),
    (["--gpus", "0,1,2,3"], "--gpus 0,1,2,3: no GPU was found"),
    (["--freze", "body"], "did you mean --freeze"),
])
def test_wrong_usage(flags: list[str], message: str, pretrained: Path, photos: Path,
                     capsys: pytest.CaptureFixture[str]) -> None:
    if flags[0] == "--gpus" and torch.cuda.is_available():
        pytest.skip("there are GPUs")
    if flags[-1].startswith("torchvision:"):
        pytest.importorskip("torchvision")
    command = ["--pretrained-model", str(pretrained), "--data-dir", str(photos), "--num-epochs", "1", *flags]
    assert finetune.main(command) == 2
    assert message in error_of(capsys)


def test_records_that_do_not_name_their_classes(pretrained: Path, photos: Path, tmp_path: Path,
                                                own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "packed"
    assert im2rec.main(["--list", "--recursive", str(packed), str(photos / "train")]) == 0
    assert im2rec.main(["--pass-through", str(packed), str(photos / "train")]) == 0
    (tmp_path / "packed.classes.txt").unlink()
    shutil.rmtree(own_cache / "names")  # as on another machine
    flags = ["--pretrained-model", str(pretrained), "--data-train", f"{packed}.rec", "--num-epochs", "1"]
    assert finetune.main(flags) == 0
    errors = capsys.readouterr().err
    assert re.search(r"labels go from 0 to \d, and the network has 1000; give --num-classes \d", errors)
    assert finetune.main([*flags, "--num-classes", "10"]) == 0
    assert "the number of classes is not given" not in capsys.readouterr().err


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it nor in any cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / ".torch"))
    return tmp_path


def local_weights_for(*flags: str) -> str:
    """The weights that a fine-tuning run with these flags would begin with, "" for none."""
    found = local_weights.find(resolve.parse(flags, prog="imgcls-finetune", examples="", dataset="imagenet",
                                       own=FinetuneConfig))
    return found.name if found else ""


def test_local_weights_are_found(bare: Path, pretrained: Path, photos: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    (bare / "model").mkdir()
    for name in ("symbol.json", "meta.json", "0001.params"):
        shutil.copy(f"{pretrained}-{name}", bare / "model" / f"old-{name}")
    flags = ["--data-dir", str(photos), "--batch-size", "8", "--num-epochs", "1", "--model-prefix", "model/new"]
    assert finetune.main(flags) == 0
    err = capsys.readouterr().err
    assert "chosen: --pretrained-model model/old (a checkpoint here)\n" in err
    assert "Loaded pretrained model model/old-0001.params" in err
    assert json.loads(Path("model/new-meta.json").read_text())["chosen"]["pretrained_model"] == "model/old"
    # neither the run's own nor what has seen the same photographs
    assert local_weights_for(*flags) == "model/old"
    assert local_weights_for("--data-dir", "elsewhere", "--model-prefix", "model/old") == "model/new"
    # a damaged one is none
    Path("model/old-meta.json").write_text("{")
    assert local_weights_for(*flags) == ""


def test_mxnets_script_keeps_its_defaults_and_says_what_is_better(pretrained: Path, photos: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pretrained-model", str(pretrained), "--data-dir", str(photos), "--num-epochs", "1"]
    assert finetune.main(flags, prog="fine-tune.py") == 0
    err = capsys.readouterr().err
    assert ("of 24 photographs more is learned with --batch-size 8, --lr 0.025, --lr-schedule cosine, --mom 0.9, "
            "--wd 0.0001, --initializer zero, which imgcls-finetune chooses automatically") in err
    assert "batch 128" in err
    assert finetune.main(flags) == 0
    err = capsys.readouterr().err
    assert "chosen: --mom 0.9 (" in err
    assert "chosen: --initializer zero (of the new head" in err
    assert "batch 8, 3 updates per epoch" in err
    assert finetune.main([*flags, "--lr", "0.01"], prog="fine-tune.py") == 0
    assert "more is learned" not in capsys.readouterr().err


def test_weights_in_the_caches_come_first(bare: Path, pretrained: Path) -> None:
    pytest.importorskip("torchvision")
    for name in ("symbol.json", "meta.json", "0001.params"):
        shutil.copy(f"{pretrained}-{name}", bare / f"old-{name}")
    (bare / ".torch/hub/checkpoints").mkdir(parents=True)
    for file, size in (("resnet18-f37072fd.pth", 45), ("resnet34-b627a593.pth", 83), ("vgg19-dcbb9e9d.pth", 550),
                       ("mine.pth", 9)):
        with open(bare / ".torch/hub/checkpoints" / file, "wb") as stream:
            stream.truncate(size * 10**6)
    assert local_weights_for("--data-dir", "x") == "torchvision:resnet34:IMAGENET1K_V1"
    zoo = bare / ".cache/models/imagenet/resnet/18-layers"
    zoo.mkdir(parents=True)
    for name in ("symbol.json", "0000.params"):
        (zoo / f"resnet-18-{name}").write_text("{}")
    assert local_weights_for("--data-dir", "x") == "imagenet1k-resnet-18"


def test_what_is_missing(bare: Path, photos: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--resume", "--model-prefix", "model/x"]):
        assert finetune.main(["--data-dir", str(photos), *more]) == 2
        assert ("--pretrained-model is missing, and no trained weights are on this machine: --pretrained-model "
                "torchvision:resnet18 downloads some") in error_of(capsys)
    assert finetune.main(["--pretrained-model", str(pretrained)]) == 2
    assert "--data-train is missing" in error_of(capsys)
    assert tune(pretrained, photos, "--num-layers", 50, "--network", "resnet", "--num-epochs", 1) == 0
    assert "--num-layers: has no meaning here" in capsys.readouterr().err
    assert tune(pretrained, photos, "--add-stn", "--num-group", 4, "--variant", "fast",
                "--num-epochs", 1) == 0
    errors = capsys.readouterr().err
    assert all(f"{flag}: has no meaning here" in errors for flag in ("--add-stn", "--num-group", "--variant"))


def test_damaged_weights(pretrained: Path, photos: Path, tmp_path: Path,
                         capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "net"
    Path(f"{source}-symbol.json").write_bytes(Path(f"{pretrained}-symbol.json").read_bytes())
    Path(f"{source}-0001.params").write_bytes(weights(pretrained, 1)[:3000])
    assert tune(source, photos) == 1
    assert re.search(r"net-0001\.params at byte \d+: ", error_of(capsys))
    params.save(f"{source}-0001.params", {"arg:conv0_weight": np.ones((2, 2), np.float32)})
    assert tune(source, photos) == 1
    assert "conv0_weight is (2, 2) where the network needs" in error_of(capsys)
    Path(f"{source}-symbol.json").write_text("{")
    assert tune(source, photos) == 1
    assert "net-symbol.json at byte 1: not a symbol: not JSON" in error_of(capsys)
    text = Path(f"{pretrained}-symbol.json").read_text().replace('"Activation"', '"Frobnicate"')
    Path(f"{source}-symbol.json").write_text(text)
    assert tune(source, photos) == 1
    assert "net-symbol.json: operator Frobnicate of node " in error_of(capsys)


def test_damaged_weights_of_torchvision(photos: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    (tmp_path / "bad.pth").write_bytes(b"no pickle")
    assert tune(f"torchvision:resnet18:{tmp_path / 'bad.pth'}", photos) == 1
    assert "not weights in torch's format" in error_of(capsys)
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "bad.pth")
    assert tune(f"torchvision:resnet18:{tmp_path / 'bad.pth'}", photos) == 1
    assert "bad.pth: not the weights of torchvision's resnet18: " in error_of(capsys)


@pytest.mark.slow
def test_the_command_of_the_blog(tmp_path: Path) -> None:
    """Verbatim; without GPUs it says so in one line and downloads nothing."""
    if torch.cuda.is_available():
        pytest.skip("there are GPUs")
    command = ("--pretrained-model resnext-101 --load-epoch 0000 --gpus 0,1,2,3 --batch-size 128 "
               "--data-train cifar10_train.rec --data-val cifar10_val.rec --num-examples 50000 --num-classes 10 "
               "--image-shape 3,28,28 --num-epoch 300 --lr 0.05")
    done = run_cli("finetune", *shlex.split(command), cwd=tmp_path,
                   env={"IMGCLS_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 2
    assert done.stderr.startswith("imgcls-finetune: error: --gpus 0,1,2,3: no GPU was found")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert checkpoint.parse_epoch("0000") == 0
