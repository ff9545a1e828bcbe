"""`cuda_graphs`: what happens around torch's recording, on the CPU with a stand-in for it, and what refuses it.

The recording itself needs a GPU: benchmarks/gpu.py compares a run with and without it there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgcls.cli import train
from imgcls.layers import Dropout
from imgcls.training.cuda_graph import NUM_WARM_UP, GraphedForward


class Recorder:
    """Stands in for torch.cuda.make_graphed_callables: runs the passes it would record, and counts replays."""

    def __init__(self) -> None:
        self.replays: list[int] = []
        self.is_cached: list[bool] = []

    def __call__(self, module: nn.Module, sample_args: tuple[torch.Tensor], num_warmup_iters: int,
                 **options: Any) -> nn.Module:
        """Do what torch's does to the network: passes that change its statistics and draw random numbers."""
        for _ in range(num_warmup_iters + 1):
            module(*sample_args)
        self.is_cached.append(torch.is_autocast_cache_enabled())
        forward = module.forward

        def replay(images: torch.Tensor) -> torch.Tensor:
            self.replays.append(len(images))
            return forward(images)

        module.forward = replay  # type: ignore[method-assign]
        return module


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    return recorder


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), Dropout(0.5), nn.Flatten(), nn.Linear(108, 4))


def test_recording_leaves_no_trace(recorder: Recorder) -> None:
    torch.manual_seed(3)
    model = network()
    images = torch.randn(5, 1, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(4)
    expected = model(images)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)

    torch.manual_seed(4)
    assert torch.equal(GraphedForward(model)(images), expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, after[name]), name


def test_another_shape_and_an_evaluation_run_the_network_itself(recorder: Recorder) -> None:
    model = network()
    forward = GraphedForward(model)
    for count in (5, 5, 3, 5):
        assert forward(torch.randn(count, 1, 8, 8)).shape == (count, 4)
    assert recorder.replays == [5, 5, 5]
    model.eval()
    model(torch.randn(5, 1, 8, 8))
    assert recorder.replays == [5, 5, 5]
    # a layer that is frozen stays in evaluation mode
    frozen = network()
    frozen[1].eval()
    before = frozen.state_dict()["1.running_mean"].clone()
    GraphedForward(frozen)(torch.randn(5, 1, 8, 8))
    assert torch.equal(frozen.state_dict()["1.running_mean"], before)


def test_cast_weights_are_not_kept(recorder: Recorder) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = GraphedForward(network())(torch.randn(5, 1, 8, 8))
    assert logits.dtype == torch.bfloat16
    assert recorder.is_cached == [False]


@pytest.mark.parametrize(("flags", "obstacle"), [
    ([], "--cuda-graphs: does not go with the CPU; name a GPU with --gpus"),
    (["--compile"], "--compile, which records its own graphs"),
    (["--monitor", "2"], "--monitor, which reads tensors inside the network"),
    (["--micro-batches", "2"], "--micro-batches above 1"),
])
def test_refused(flags: list[str], obstacle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--dataset", "digits", "--network", "mlp", "--cuda-graphs", *flags]) == 2
    err = capsys.readouterr().err
    assert obstacle in err
    assert err.count("\n") == 1


def test_a_compiled_network_is_not_monitored(capsys: pytest.CaptureFixture[str]) -> None:
    """Hooks of single steps are not called in what is compiled."""
    assert train.main(["--dataset", "digits", "--network", "mlp", "--compile", "--monitor", "10"]) == 2
    assert "--compile: does not go with --monitor" in capsys.readouterr().err


def test_the_replayed_passes_count(recorder: Recorder) -> None:
    """A forward and a step is all that it takes: NUM_WARM_UP passes are run before the recording."""
    calls: list[int] = []
    model = network()
    model.register_forward_hook(lambda *_: calls.append(1))
    GraphedForward(model)(torch.randn(2, 1, 8, 8))
    assert len(calls) == NUM_WARM_UP + 2
