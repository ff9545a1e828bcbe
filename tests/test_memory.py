"""More memory than the machine has is refused before it is taken, with the settings that ask for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from conftest import run_cli

from imgcls import networks
from imgcls.config import lookup
from imgcls.config.sections import AugmentConfig, NetworkConfig
from imgcls.data import augment
from imgcls.errors import UsageError
from imgcls.storage import memory

#: odd, small, long and wide
SHAPES = [(3, 240, 240), (1, 28, 28), (3, 32, 32), (4, 97, 331), (3, 1, 1), (2, 64, 65)]


def test_what_is_free_is_known_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    2000 kB\nSwapFree:   48 kB\nHugePages_Total:   0\nOdd:\n")
    monkeypatch.setattr(memory, "_MEMINFO", str(meminfo))
    (tmp_path / "cgroup").write_text("4:memory:/elsewhere\n0::/slice/job\n")
    monkeypatch.setattr(memory, "_GROUPS", str(tmp_path / "cgroup"))
    monkeypatch.setattr(memory, "_CGROUPS", ((str(tmp_path), *memory._CGROUPS[0][1:]),
                                             (str(tmp_path / "none"), *memory._CGROUPS[1][1:])))
    assert memory.available_bytes() == 2048 * 1024
    limit.write_text("max\n")
    assert memory.available_bytes() == 2048 * 1024
    limit.write_text("1000000\n")
    assert memory.available_bytes() == 1_000_000
    memory.require(1e6, "`batch_size` 7: a batch")
    # a group within it has less left: its limit but for what it uses, copies of files not counted
    job = tmp_path / "slice" / "job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("900000\n")
    (job / "memory.current").write_text("500000\n")
    (job / "memory.stat").write_text("anon 100000\ninactive_file 250000\nactive_file 50000\n")
    assert memory.available_bytes() == 700_000
    (job / "memory.max").unlink()
    with pytest.raises(UsageError, match=r"^batch_size 7: a batch needs 2 TB of memory or more, and 1 MB are free$"):
        memory.require(2e12, "`batch_size` 7: a batch")


def test_a_system_that_tells_nothing_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require(1e300, "everything")


@pytest.mark.parametrize(("settings", "named"), [
    ({"network": "mlp", "image_shape": (3, 65500, 65500)}, "image_shape 3,65500,65500"),
    ({"network": "lenet", "image_shape": (1, 65500, 65500)}, "image_shape 1,65500,65500"),
    ({"network": "resnet", "image_shape": (3, 65500, 65500)}, "image_shape 3,65500,65500"),
    ({"network": "vgg", "image_shape": (3, 224, 224), "num_classes": 10**7}, "num_classes 10000000"),
    ({"network": "mobilenetv2", "image_shape": (3, 224, 224), "multiplier": 100.0}, "multiplier 100"),
    ({"network": "torchvision:resnet18", "image_shape": (3, 224, 224), "num_classes": 10**7}, "num_classes 10000000"),
])
def test_a_network_that_is_too_large_names_its_settings(settings: dict[str, object], named: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9)
    with pytest.raises(UsageError, match=f"{named}.*needs .* of memory or more, and 1 GB are free"):
        networks.check_network(NetworkConfig(**settings))  # type: ignore[arg-type]


def test_a_border_and_an_enlargement_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**6)
    images = torch.zeros(10, 8, 8, 1, dtype=torch.uint8)
    augment.fit_to_shape(images, AugmentConfig(pad_size=4), (1, 8, 8), train=True)
    with pytest.raises(UsageError, match="pad_size 4000: 10 images of 8008 x 8008 pixels needs"):
        augment.fit_to_shape(images, AugmentConfig(pad_size=4000), (1, 8, 8), train=True)
    with pytest.raises(UsageError, match="image_shape 1,4000,4000: 10 images of 4000 x 4000 pixels needs"):
        augment.fit_to_shape(images, AugmentConfig(), (1, 4000, 4000), train=True)


@pytest.mark.parametrize("flags", [
    ("--batch-size", "10000000", "--benchmark", "1"),
    ("--image-shape", "1,60000,60000", "--network", "inception-bn"),
    ("--num-classes", "10000000", "--image-shape", "1,4000,4000"),
])
def test_a_run_is_refused_in_a_line(flags: tuple[str, ...]) -> None:
    result = run_cli("train", "--dataset", "digits", "--num-epochs", "1", *flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("error:") == 1
    assert f"error: {flags[0]} " in result.stderr or flags[0] in result.stderr.splitlines()[-1]
    assert "of memory or more" in result.stderr.splitlines()[-1]


def test_a_flat_shape_of_another_size_is_told() -> None:
    result = run_cli("train", "--dataset", "digits", "--network", "mlp", "--image-shape", "1024", "--num-epochs", "1")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("--image-shape 1024: the images of digits (train) have 784 values")


@pytest.mark.slow
@pytest.mark.parametrize("network", lookup.names("networks"))
def test_every_network_runs_at_a_shape_or_says_that_it_does_not(network: str) -> None:
    for shape in [*SHAPES, *((3, side, side + 7) for side in range(20, 340, 11))]:
        config = NetworkConfig(network=network, image_shape=shape, num_classes=3)
        with contextlib.suppress(UsageError):
            networks.check_network(config)
            with torch.device("meta"):
                model = lookup.module("networks", network, "network").build(config)
            assert model.eval()(torch.empty(2, *shape, device="meta")).shape == (2, 3), shape
