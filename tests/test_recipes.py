"""Recipes: found by name, in a wheel too; below what the user sets; every file means a run that begins."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_cli, write_digits

from imgcls import networks
from imgcls.cli import finetune, train
from imgcls.cli.finetune import FinetuneConfig
from imgcls.config import effects, recipes, resolve
from imgcls.config.resolve import Config

NAMES = [recipe.name for recipe in recipes.all_recipes()]


def resolved(name: str, *flags: str) -> Config:
    command = "imgcls-finetune" if name.startswith("finetune-") else "imgcls-train"
    own = FinetuneConfig if command == "imgcls-finetune" else None
    return resolve.parse(["--recipe", name, *flags], prog=command, examples="", own=own, recipes_of=command)


def write_cifar(folder: Path, count: int = 1) -> Path:
    """Write CIFAR-10's binary files with so few pictures each."""
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (count, 3073)).astype(np.uint8)
        rows[:, 0] = np.arange(count) % 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is_and_its_settings_fit(name: str) -> None:
    recipe = next(recipe for recipe in recipes.all_recipes() if recipe.name == name)
    assert recipe.title, "the first line of the file"
    assert tuple(recipe.entries) == recipes.ENTRIES, "each entry of the head, in order"
    assert all(recipe.entries.values())
    assert len(recipe.name) + len(recipe.title) < 140, "one line of a terminal"
    words = shlex.split(recipe.entries["command"])
    assert words[:3] == [recipe.command, "--recipe", name]
    assert recipe.entries["trials"][0].isdigit()
    if recipe.entries["trials"].startswith("0"):
        assert "not run here" in recipe.entries["accuracy"].lower()
    config = resolved(name)
    assert config.recipe == name
    assert set(recipe.settings()) <= set(config.fields)
    assert not list(effects.unused_settings(config)), "a setting that does nothing"
    assert not config.device.gpus, "the user's machine is not known"
    networks.check_network(config.network)
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("mnist-", "cifar10-"))])
def test_small_ones_train(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, size = (write_digits(tmp_path), 80) if name.startswith("mnist-") else (write_cifar(tmp_path), 2)
    assert train.main(["--recipe", name, "--data-dir", str(folder), "--batch-size", str(size), "--num-epochs", "1",
                       "--warmup-epochs", "0", "--model-prefix", f"{tmp_path}/m"]) == 0
    said = capsys.readouterr().out
    assert "Validation-accuracy=" in said
    assert f"--recipe {name}" in said.split("resume:")[1], "the line to go on with"
    meta = json.loads((tmp_path / "m-meta.json").read_text())
    assert meta["recipe"] == name
    assert meta["config"]["batch_size"] == size, "the command line wins"


def test_what_the_user_sets_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved("mnist_lenet")
    assert (config.network.network, config.schedule.lr, config.train.num_epochs) == ("lenet", 0.05, 10)
    assert config.explicit["lr"] == "--recipe mnist-lenet"
    (tmp_path / "own.yaml").write_text("lr: 0.3\nnum_epochs: 3\nwd: 0.3\n")
    monkeypatch.setenv("IMGCLS_NUM_EPOCHS", "4")
    monkeypatch.setenv("IMGCLS_WD", "0.4")
    config = resolved("mnist-lenet", "--config", f"{tmp_path}/own.yaml", "--wd", "0.5")
    assert (config.schedule.lr, config.train.num_epochs, config.optimizer.wd) == (0.3, 4, 0.5)
    assert resolved("mnist-lenet", "--dataset", "digits").data.dataset == "digits"


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    for command, main in (("imgcls-train", train.main), ("imgcls-finetune", finetune.main)):
        own = [recipe for recipe in recipes.all_recipes() if recipe.command == command]
        with pytest.raises(SystemExit) as ended:
            main(["--recipe", "list"])
        assert ended.value.code == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [r.name for r in own]
    assert train.main(["--recipe", "mnist-lennet"]) == 2
    assert "--recipe mnist-lennet is not known: did you mean mnist-lenet" in capsys.readouterr().err
    assert train.main(["--recipe", "../../etc/passwd"]) == 2
    assert "--recipe list prints all" in capsys.readouterr().err
    assert finetune.main(["--recipe", "mnist-lenet"]) == 2
    assert "--recipe mnist-lenet: is for imgcls-train" in capsys.readouterr().err


def test_the_scripts_of_mxnets_names_take_them() -> None:
    script = subprocess.run([sys.executable, ROOT / "scripts" / "train_mnist.py", "--recipe", "cifar10-resnet-20",
                             "--print-config"], capture_output=True, text=True, timeout=60, check=True)
    assert "dataset: cifar10" in script.stdout
    assert "num_layers: 20" in script.stdout
    assert run_cli("score", "--recipe", "mnist-lenet").returncode == 2, "nothing is trained there"


@pytest.mark.slow
def test_an_installed_wheel_has_them(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("imgcls", "configs"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run([sys.executable, "-c", "from setuptools.build_meta import build_wheel as b; "
                            f"b({str(tmp_path)!r})"], cwd=source, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    shutil.rmtree(source)
    code = ("import imgcls, sys; from imgcls.cli import start; assert imgcls.__file__.startswith(sys.argv.pop(1)); "
            "sys.exit(start('train', dataset='mnist', prog='imgcls-train'))")
    ran = subprocess.run([sys.executable, "-c", code, target, "--recipe", "list"], cwd=target, capture_output=True,
                         text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "mnist-lenet" in ran.stdout
    assert {path.stem for path in (target / "imgcls" / "configs").iterdir()} == set(NAMES)
