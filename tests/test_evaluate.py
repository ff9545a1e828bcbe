"""Measuring a network: no dropout, no change of the batch statistics, and the mode it had before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgcls import graph, layers
from imgcls.cli import score
from imgcls.config.sections import AugmentConfig
from imgcls.data.loaders.batch import Loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.sources import ArraySource
from imgcls.formats import idx, params, symbol
from imgcls.training.evaluate import evaluate
from imgcls.training.metrics import Metrics
from imgcls.training.precision import Precision

CPU = torch.device("cpu")


class Network(nn.Module):
    """Dropout and batch normalization, which behave otherwise in training, between layers with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Convolution(1, 4, (3, 3))
        self.bn = layers.BatchNorm(4, fix_gamma=False)
        self.drop = layers.Dropout(0.5)
        self.flat = layers.Flatten()
        self.fc = layers.FullyConnected(4 * 26 * 26, 10)

    def forward(self, data: Tensor) -> Tensor:
        return self.fc(self.flat(self.drop(self.bn(self.conv(data)))))


@pytest.fixture
def network() -> Network:
    """Return the network with drawn weights, and statistics that are not those of the images."""
    torch.manual_seed(0)
    model = Network()
    with torch.no_grad():
        for name, values in model.state_dict().items():
            values.uniform_(0.5, 1.5) if name.startswith("bn.") else values.normal_(0, 0.1)
    return model


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return 64 images of noise, (64, 28, 28) uint8, and their labels."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (64, 28, 28), dtype=np.uint8), generator.integers(0, 10, 64)


def val_loader() -> Loader:
    """Return a loader of those images, 24 a batch: the last batch is smaller."""
    images, labels = pictures()
    return ResidentLoader(ArraySource(images[:, None], labels), batch_size=24, image_shape=(1, 28, 28),
                          train=False,
                          augment_config=AugmentConfig(rgb_std=(255.0,)), seed=0, device=CPU)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and statistics."""
    return {name: values.clone() for name, values in model.state_dict().items()}


@pytest.mark.parametrize("is_training", [True, False])
def test_evaluating_changes_nothing_and_repeats_itself(network: Network, is_training: bool) -> None:
    network.train(is_training)
    before = snapshot(network)
    metrics = Metrics(["accuracy", "cross-entropy"], CPU)
    first, second = (evaluate(network, val_loader(), metrics, Precision("float32", CPU)) for _ in range(2))
    assert first == second  # dropout would draw anew
    torch.testing.assert_close(snapshot(network), before, rtol=0, atol=0)
    assert all(module.training == is_training for module in network.modules())

    # the stored statistics are used, not those of the batch
    network.eval()
    images = torch.from_numpy(pictures()[0])[:, None] / 255
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(images), torch.from_numpy(pictures()[1]))
    assert first["cross-entropy"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_mode_returns_when_evaluating_is_interrupted(network: Network) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(network.train(), val_loader(), Metrics(["accuracy"], CPU), Precision("float32", CPU), stop)
    assert network.training


def test_scoring_twice_gives_the_same_lines(network: Network, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = pictures()
    for stem in ("train", "t10k"):
        idx.write_images(tmp_path / f"{stem}-images-idx3-ubyte", images)
        idx.write_labels(tmp_path / f"{stem}-labels-idx1-ubyte", labels)
    symbol.save(tmp_path / "net-symbol.json", graph.to_symbol(network))
    params.save(tmp_path / "net-0001.params", graph.arrays(network))
    outputs = []
    for _ in range(2):
        assert score.main(["--model", str(tmp_path / "net"), "--data-dir", str(tmp_path), "--loss", "ce",
                           "--rgb-std", "255"]) == 0
        outputs.append([line for line in capsys.readouterr().out.splitlines() if "images/sec" not in line])
    assert outputs[0] == outputs[1]
    expected = evaluate(network, val_loader(), Metrics(["cross-entropy"], CPU), Precision("float32", CPU))
    printed = dict(line.split("=") for line in outputs[0])
    assert float(printed["cross-entropy"]) == pytest.approx(expected["cross-entropy"], rel=1e-5)
