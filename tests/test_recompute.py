"""Activation checkpointing has the bits of training without it, in less memory; deterministic algorithms are used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_digits
from torch import nn

from imgcls.cli import train as command
from imgcls.config import resolve
from imgcls.config.sections import NetworkConfig
from imgcls.errors import RunError, UsageError
from imgcls.layers import Convolution
from imgcls.networks import build_network
from imgcls.training.determinism import deterministic
from imgcls.training.recompute import recompute_activations

ASKED = resolve.build({}, {"recompute_activations": True})


def gradients(config: NetworkConfig, *, asked: bool) -> tuple[list[torch.Tensor], list[torch.Tensor], int, str]:
    """Gradients and buffers of one step, and how many numbers it kept for the backward pass."""
    model = build_network(config, seed=0).train()
    note = recompute_activations(model, ASKED if asked else resolve.build({}, {}), {})
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    torch.manual_seed(1)
    images = torch.randn(4, *config.image_shape)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(images)
    forward_kept = kept
    nn.functional.cross_entropy(logits, torch.arange(4) % 3).backward()
    with torch.no_grad():
        model(images)
    return ([p.grad for p in model.parameters() if p.grad is not None], list(model.buffers()), forward_kept, note)


@pytest.mark.parametrize("config", [
    NetworkConfig(network="resnet", num_layers=20, image_shape=(3, 28, 28), num_classes=3),
    NetworkConfig(network="googlenet", image_shape=(3, 64, 64), num_classes=3),  # dropout
    NetworkConfig(network="torchvision:resnet18", image_shape=(3, 32, 32), num_classes=3),
], ids=lambda config: config.network)
def test_the_bits_are_the_same(config: NetworkConfig) -> None:
    plain, buffers, kept, _ = gradients(config, asked=False)
    again, moved, kept_again, note = gradients(config, asked=True)
    assert len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(buffers, moved, strict=True)), "statistics moved once"
    assert kept_again < kept / 2
    assert "computed again in the backward pass" in note


def test_a_part_keeps_no_activations_after_an_error() -> None:
    """An error ends every second pass, as torch stops it where it has what it needs; and memory may run out."""
    config = NetworkConfig(network="resnet", num_layers=20, image_shape=(3, 28, 28), num_classes=3)
    model = build_network(config, seed=0).train()
    recompute_activations(model, ASKED, {})
    parts = vars(model.forward)["_parts"]
    model(torch.randn(2, 3, 28, 28)).sum().backward()
    assert not any(part._interpreter.env for part in parts)

    def fail(*_: object) -> None:
        raise MemoryError

    next(module for module in model.modules() if isinstance(module, Convolution)).register_forward_hook(fail)
    with pytest.raises(MemoryError):
        model(torch.randn(2, 3, 28, 28))
    assert not any(part._interpreter.env for part in parts)


def test_what_it_does_not_go_with() -> None:
    with pytest.raises(UsageError, match="this network has no parts"):
        recompute_activations(nn.Linear(2, 2), ASKED, {})
    with pytest.raises(UsageError, match="does not go with"):
        recompute_activations(nn.Linear(2, 2), resolve.build({}, {"recompute_activations": 1, "compile": 1}), {})
    plain = resolve.build({}, {})
    assert recompute_activations(nn.Linear(2, 2), plain, {"MXNET_BACKWARD_DO_MIRROR": "0"}) == ""
    with pytest.raises(UsageError):
        recompute_activations(nn.Linear(2, 2), plain, {"MXNET_BACKWARD_DO_MIRROR": "1"})


def test_a_run_has_the_bits_of_one_without(tmp_path: Path) -> None:
    folder = write_digits(tmp_path)
    for name, *flags in (("a",), ("b", "--recompute-activations", "1", "--deterministic", "1")):
        assert command.main(["--data-dir", str(folder), "--network", "resnet-20", "--image-shape", "1,28,28",
                             "--num-epochs", "1", "--batch-size", "64", "--num-examples", "320",
                             "--model-ema-decay", "0.9", "--model-prefix", str(tmp_path / name), *flags]) == 0
    assert (tmp_path / "a-0001.params").read_bytes() == (tmp_path / "b-0001.params").read_bytes()
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_an_order_is_one_line() -> None:
    def put() -> None:
        torch.zeros(4).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))

    with deterministic(False):
        put()
    with pytest.raises(RunError, match=r"deterministic: put_ does not have a deterministic implementation$"), \
            deterministic(True):
        put()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="another"), deterministic(True):
        raise RuntimeError("another")
