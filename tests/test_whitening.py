"""`whiten`: a first convolution from the images that makes its outputs uncorrelated, and does not learn."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import write_digits
from torch import nn

from imgcls.cli import train as command
from imgcls.config.sections import NetworkConfig
from imgcls.data.loaders.batch import Batch
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError
from imgcls.formats import params
from imgcls.networks import build_network
from imgcls.training import trainer
from imgcls.training.whitening import first_convolution, whiten, whitening_filters

FLAGS = ("--network", "airbench", "--multiplier", "0.125", "--image-shape", "1,28,28", "--whiten", "1",
         "--batch-size", "50", "--num-epochs", "1", "--bias-lr-mult", "4", "--initializer", "dirac",
         "--alternating-mirror", "1")


def test_outputs_are_uncorrelated_and_of_one_size_and_come_with_their_opposites() -> None:
    patches = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        12, 12, generator=torch.Generator().manual_seed(1)) * 3
    moments = (patches.T @ patches).double() / len(patches)
    filters = whitening_filters(moments, 24)
    assert torch.equal(filters[12:], -filters[:12])
    outputs = patches @ filters[:12].T
    scaled = outputs.T @ outputs / len(patches)
    # nothing correlated; the directions of little variance are held back by epsilon
    assert torch.allclose(scaled, torch.diag(scaled.diagonal()), atol=1e-2)
    assert scaled.diagonal()[:8] == pytest.approx(torch.ones(8), abs=0.02)
    assert bool((scaled.diagonal().diff() <= 1e-3).all())  # the largest first
    assert torch.equal(whitening_filters(moments, 7)[:4], filters[:4])
    with pytest.raises(UsageError, match="has 25 filters of 12 values"):
        whitening_filters(moments, 25)


@pytest.mark.parametrize(("network", "shape", "problem"), [
    ("mlp", (1, 28, 28), "begins with a FullyConnected"), ("resnet", (3, 28, 28), "begins with a BatchNorm")])
def test_networks_that_begin_with_something_else_are_refused(network: str, shape: tuple[int, ...],
                                                             problem: str) -> None:
    model = build_network(NetworkConfig(network=network, image_shape=shape, num_layers=20 if network == "resnet"
                                        else None), 0)
    with pytest.raises(UsageError, match=problem):
        first_convolution(model)
    assert isinstance(first_convolution(nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(2, 2))), nn.Conv2d)


def test_filters_that_are_larger_than_the_images_are_refused() -> None:
    batch = Batch(torch.zeros(5, 3, 2, 2), torch.zeros(5, dtype=torch.int64), 5, 5)
    loader: Any = SimpleNamespace(epoch=lambda _epoch: (one for one in [batch]))
    with pytest.raises(UsageError, match="filters of 3 x 3 pixels are larger than images of 2 x 2"):
        whiten(nn.Conv2d(3, 4, 3, padding=1), loader, Worker(torch.device("cpu")), is_new=True)


def test_it_is_of_the_images_alone_and_a_resumed_run_keeps_it(tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_digits(tmp_path)

    def weights(prefix: str, epoch: int, *flags: object) -> dict[str, torch.Tensor]:
        assert command.main(["--data-dir", str(folder), "--model-prefix", str(tmp_path / prefix), *FLAGS,
                             *map(str, flags)]) == 0
        arrays = params.load(tmp_path / f"{prefix}-{epoch:04d}.params")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    one = weights("one", 1)
    first = one["arg:conv0_weight"]
    # eight filters of four values see each direction twice, and 24 are more than there are
    assert first.shape == (8, 1, 2, 2)
    assert torch.equal(first[4:], -first[:4])
    other_seed = weights("other", 1, "--seed", 1, "--lr", 0.5)
    # other crops of the same images: the same inverse of the moments, whatever the signs of the directions
    inverses = [filters.flatten(1).T @ filters.flatten(1) for filters in (first, other_seed["arg:conv0_weight"])]
    assert torch.allclose(*inverses, rtol=0.02)
    assert not torch.allclose(other_seed["arg:fc_weight"], one["arg:fc_weight"], rtol=0.1)
    two = weights("one", 2, "--num-epochs", 2, "--load-epoch", 1)
    assert torch.equal(two["arg:conv0_weight"], first)
    assert not torch.equal(two["arg:fc_weight"], one["arg:fc_weight"])

    # stopped inside the second epoch: what was frozen is read again, and not made again
    original = trainer.Trainer.train_step
    updates: list[int] = []

    def train_step(self: trainer.Trainer, batch: Batch, update: int) -> None:
        original(self, batch, update)
        updates.append(update)
        if update == 10 and updates.count(10) == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    flags = ["--data-dir", str(folder), "--model-prefix", f"{tmp_path}/cut", *FLAGS, "--num-epochs", "2",
             "--load-epoch", "auto"]
    assert command.main(flags) == 143
    assert command.main(flags) == 0
    assert (tmp_path / "cut-0002.params").read_bytes() == (tmp_path / "one-0002.params").read_bytes()


def test_airbench_whitened_passes_its_images_on() -> None:
    """Dirac: what comes out of the second convolution is, in its first filters, what went in."""
    model = build_network(NetworkConfig(network="airbench", image_shape=(3, 32, 32), initializer="dirac"), 0)
    weight = model.get_parameter("group1_conv1.weight")
    data = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(F.conv2d(data, weight, padding=1)[:, :24], data)
