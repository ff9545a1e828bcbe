"""Gradients summed over two processes, plain and compressed; the packing of MXNet's 2-bit words."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import mxnet_file, run_workers
from torch import Tensor, nn

from imgcls.distributed.compression import (
    POWERSGD_START,
    ResidualBuffer,
    check_compression,
    compression_notes,
    pack,
    take_signs,
    unpack,
)
from imgcls.distributed.data_parallel import data_parallel
from imgcls.errors import UsageError

KINDS = ("none", "fp16", "bf16", "2bit", "powersgd")
BATCH, STEPS, COUNT = 16, 24, 2 * 16
THRESHOLD = 0.5


# ---- packing, by hand


def test_words_are_mxnets_byte_for_byte() -> None:
    signs = torch.tensor([1, 0, -1, 1, 0, 0, 0, 0, -1, -1, 1, 1, 0, 1, 0, -1, 1, -1], dtype=torch.int8)
    # value i stands in byte i % 16 // 4, from the top: 11 is +, 10 is -, 00 is 0; the second word is padded
    # with zeros
    assert pack(signs).tolist() == [0b11001011, 0b00000000, 0b10101111, 0b00110010, 0b11100000, 0, 0, 0]


def test_packing_is_undone() -> None:
    signs = torch.randint(-1, 2, (3, 1003), dtype=torch.int8)
    packed = torch.stack([pack(row) for row in signs])
    assert packed.shape == (3, 252)
    assert torch.equal(unpack(packed, 1003), signs)


def test_thresholds_are_inclusive_and_the_difference_is_kept() -> None:
    residual = torch.tensor([0.5, 0.49, -0.5, -0.49, 1.75, -2.0, 0.0])
    assert take_signs(residual, 0.5).tolist() == [1, 0, -1, 0, 1, -1, 0]
    assert torch.equal(residual, torch.tensor([0.0, 0.49, 0.0, -0.49, 1.25, -1.5, 0.0]))


def test_pushes_as_recorded_from_mxnet() -> None:
    recorded = json.loads(mxnet_file("optim", "manifest.json").read_text())["gradient_compression_2bit"]
    compared = 0
    for case in recorded:
        if "pulled_after_each" not in case or case["kvstore"] == "local":
            continue
        residuals = [torch.zeros(len(values)) for values in case["pushes"][0]]
        for pushed, pulled in zip(case["pushes"], case["pulled_after_each"], strict=True):
            total = torch.zeros(len(pulled))
            for residual, values in zip(residuals, pushed, strict=True):
                signs = take_signs(residual.add_(torch.tensor(values)), case["threshold"])
                total += unpack(pack(signs), len(values)) * case["threshold"]
            assert total.tolist() == pulled, case["note"]
            compared += 1
    assert compared


@pytest.mark.parametrize("threshold", [0.0, -0.5, float("nan"), float("inf")])
def test_a_threshold_that_cannot_work_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"gc_threshold .*must be above 0"):
        check_compression("2bit", threshold)
    check_compression("fp16", threshold)  # not asked there


def test_scaled_gradients_are_refused() -> None:
    with pytest.raises(UsageError, match="gc_type 2bit with dtype float16"):
        check_compression("2bit", 0.5, "float16")


def test_many_processes_are_warned_of_2bit() -> None:
    assert len(compression_notes("2bit", 17)) == 2
    assert len(compression_notes("2bit", 16)) == len(compression_notes("bf16", 17)) == 1
    assert compression_notes("none", 99) == ()


class Bucket:
    """What a hook sees of a bucket of torch's."""

    def __init__(self, parameters: list[nn.Parameter], values: float) -> None:
        self._parameters, self._buffer = parameters, torch.full((sum(p.numel() for p in parameters),), values)

    def parameters(self) -> list[nn.Parameter]:
        return self._parameters

    def buffer(self) -> Tensor:
        return self._buffer


def test_residuals_follow_their_parameters_into_other_buckets() -> None:
    first, second, third = (nn.Parameter(torch.zeros(n)) for n in (2, 3, 4))
    residuals: Any = ResidualBuffer()
    residuals.for_bucket(Bucket([first, second], 0.0)).copy_(torch.tensor([1., 1, 2, 2, 2]))
    residuals.for_bucket(Bucket([third], 0.0)).fill_(3.0)
    assert residuals.for_bucket(Bucket([third, second], 0.0)).tolist() == [3, 3, 3, 3, 2, 2, 2]
    assert residuals.for_bucket(Bucket([first], 0.0)).tolist() == [1, 1]
    assert residuals.for_bucket(Bucket([third, second], 0.0)).tolist() == [3, 3, 3, 3, 2, 2, 2]


# ---- two processes


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What the two processes found, kind of compression by kind."""
    folder = tmp_path_factory.mktemp("gradients")
    run_workers(__file__, 2, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


Found = list[dict[str, dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_stay_bit_equal_and_learn(both: Found, kind: str) -> None:
    first, second = both[0][kind], both[1][kind]
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    losses = [a + b for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_two_processes_are_one_with_two_micro_batches(both: Found) -> None:
    for single, distributed in zip(both[0]["alone"]["weights"], both[0]["none"]["weights"], strict=True):
        assert torch.equal(single, distributed)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fraction"),
                         [("none", 1), ("fp16", 1 / 2), ("bf16", 1 / 2), ("2bit", 1 / 16)])
def test_bytes_sent(both: Found, kind: str, fraction: float) -> None:
    sent = both[0][kind]["sent_bytes"]
    uncompressed = STEPS * sum(4 * p.numel() for p in network().parameters())
    assert sent == pytest.approx(fraction * uncompressed, rel=1e-3)
    assert both[0]["powersgd"]["sent_bytes"] < 0.6 * uncompressed  # whole for 10 of the 24 steps


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_rounding_errors_are_fed_back(both: Found, kind: str) -> None:
    """The gradient is the same at each step; what was received in eight steps is eight times it, nearly. Rank
    1 has none, so that nothing is lost in the sum itself."""
    sums, expected = both[0][kind]["sums"], constant(0)
    first_error, mean_error = (sums[0] - expected).abs().max(), (sum(sums) / len(sums) - expected).abs().max()
    assert 0 < mean_error < first_error / 3


@pytest.mark.slow
def test_two_bits_by_mxnets_rule(both: Found) -> None:
    threshold = THRESHOLD / COUNT
    residuals = [torch.zeros(64, 8) for _ in range(2)]
    for received in both[0]["2bit"]["sums"]:
        expected = torch.zeros(64, 8)
        for rank, residual in enumerate(residuals):
            residual += constant(rank)
            up = residual >= threshold
            down = residual <= -threshold
            expected[up] += threshold
            expected[down] -= threshold
            residual[up] -= threshold
            residual[down] += threshold
        torch.testing.assert_close(received, expected, rtol=1e-6, atol=0)
    assert both[0]["2bit"]["sums"][0].count_nonzero() > 20


@pytest.mark.slow
def test_powersgd_gives_the_sum_not_the_mean(both: Found) -> None:
    # the gradients are of rank 2: two narrow matrices hold all of it
    for received in both[0]["powersgd"]["sums"]:
        torch.testing.assert_close(received, constant(0) + constant(1), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_wrapping_does_not_load_the_compiler(both: Found) -> None:
    assert not any(results["loaded"]["dynamo"] for results in both)


# ---- the other side


def network() -> nn.Module:
    """Over the megabyte of a first bucket, a convolution in channels_last."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1000), nn.ReLU(),
                          nn.Linear(1000, 10))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train(model: nn.Module, called: nn.Module, ranks: list[int]) -> tuple[list[Tensor], list[float]]:
    """SGD with the batches of these ranks, one after the other; weights at the end, loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for rank in ranks:
            chance = torch.Generator().manual_seed(rank)
            images, labels = torch.randn(BATCH, 3, 8, 8, generator=chance), torch.arange(BATCH) % 10
            loss = F.cross_entropy(called(images), labels, reduction="sum") / COUNT
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        losses.append(total)
    return [p.detach() for p in model.parameters()], losses


def constant(rank: int) -> Tensor:
    """A gradient of rank 1 for each process: (64, 8)."""
    chance = torch.Generator().manual_seed(7 + rank)
    return torch.outer(torch.randn(64, generator=chance), torch.randn(8, generator=chance)) / COUNT


class Constant(nn.Module):
    """A network whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, 8))

    def forward(self, gradient: Tensor) -> Tensor:
        return (self.weight * gradient).sum()


def worker(rank: int, folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    results: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        options: dict[str, Any] = {"device": torch.device("cpu"), "gc_type": kind, "gc_threshold": THRESHOLD,
                                   "batch_per_device": BATCH}
        model = network()
        wrapped = data_parallel(model, **options)
        # the optimizer below does load it
        results.setdefault("loaded", {"dynamo": "torch._dynamo" in sys.modules})
        weights, losses = train(model, wrapped, [rank])
        model_of_constants = Constant()
        called = data_parallel(model_of_constants, **options)
        sums = []
        for _step in range(POWERSGD_START + 4 if kind == "powersgd" else 8):
            model_of_constants.weight.grad = None
            called(constant(rank) * (rank == 0 or kind not in ("fp16", "bf16"))).backward()
            assert model_of_constants.weight.grad is not None
            sums.append(model_of_constants.weight.grad.clone())
        results[kind] = {"weights": weights, "losses": losses, "sent_bytes": wrapped.compression.sent_bytes,
                         "sums": sums}
    if rank == 0:
        model = network()
        results["alone"] = {"weights": train(model, model, [0, 1])[0]}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # threads of gloo may outlive the interpreter, which then aborts
