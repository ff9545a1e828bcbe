"""The guides do what they say: the files that they show are taken out of the page and run."""

from __future__ import annotations

import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from imgcls import graph
from imgcls.config.sections import DataConfig, NetworkConfig
from imgcls.data.sources import Splits
from imgcls.errors import DataError, UsageError

FOLDERS = ("benchmarks", "configs", "docs", "examples", "imgcls", "scripts", "tests", "tools")
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def shown_module(page: str) -> types.ModuleType:
    """Return the first block of Python code of a page as a module."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = types.ModuleType(page)
    exec(compile(blocks[0], page, "exec"), module.__dict__)
    return module


def test_the_network_of_the_guide() -> None:
    config = NetworkConfig(network="all-cnn", image_shape=(3, 32, 32), num_classes=10)
    with torch.device("meta"):
        model = shown_module("add-a-network.md").build(config)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert graph.to_symbol(model).nodes[-1].op == "SoftmaxOutput"
    assert "convolution0_weight" in graph.parameter_names(model).values()
    with pytest.raises(UsageError, match="layer convolution6 gets only 1 x 1 pixels; 1,32,32 works"):
        shown_module("add-a-network.md").build(NetworkConfig(network="all-cnn", image_shape=(1, 4, 4)))


def test_the_data_set_of_the_guide(tmp_path: Path) -> None:
    load = shown_module("add-a-data-set.md").load
    config = DataConfig(dataset="arrays", data_dir=str(tmp_path))
    with pytest.raises(UsageError, match=r"there is no train\.npz in it"):
        load(config)
    for part in ("train", "val"):
        np.savez(tmp_path / f"{part}.npz", images=np.zeros((5, 28, 28), np.uint8), labels=np.arange(5))
    splits: Splits = load(config)
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert splits.train.read(0).shape == (28, 28, 1)
    (tmp_path / "val.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"val\.npz: is no \.npz file"):
        load(config)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_are_there(page: str) -> None:
    """Whatever looks like a path of this checkout is one, `data/order.py` for imgcls/data/order.py included."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    missing = []
    for path in re.findall(r"`([a-z_]+/[\w./-]*)`", text):
        folder = path.split("/")[0]
        is_ours = folder in FOLDERS or (ROOT / "imgcls" / folder).is_dir()
        if is_ours and not any((base / path).exists() for base in (ROOT, ROOT / "imgcls")):
            missing.append(path)
    assert not missing, f"docs/{page} names {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_functions_that_pages_name_are_there(page: str) -> None:
    """`training/run.py:run` is a function or class that stands at the top of imgcls/training/run.py."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    missing = []
    for path, name in re.findall(r"`([\w/]+\.py):(\w+)`", text):
        source = (ROOT / "imgcls" / path).read_text(encoding="utf-8")
        if not re.search(rf"^(def|class) {name}\b", source, re.MULTILINE):
            missing.append(f"{path}:{name}")
    assert not missing, f"docs/{page} names {missing}"
