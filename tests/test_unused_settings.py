"""Settings without effect in a combination are reported; no data are read or downloaded that nobody asked for."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_cli, write_digits

from imgcls.cli import finetune, score
from imgcls.cli import train as command
from imgcls.config import effects, lookup, resolve
from imgcls.config.resolve import FIELDS
from imgcls.config.sections import DataConfig
from imgcls.data import sources
from imgcls.errors import ImgclsError, UsageError
from imgcls.storage import download
from imgcls.training.warnings import warn_unused_settings


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """No test here may download anything."""
    def fetch(*_args: object, **_named: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(download, "fetch", fetch)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def unused(dataset: str, **settings: object) -> list[str]:
    module = lookup.module("datasets", dataset, "`dataset`")
    config = resolve.build({**module.DEFAULTS, "dataset": dataset}, settings)
    return list(effects.unused_settings(config))


# ---- the table


def test_every_setting_has_a_place_in_the_table() -> None:
    in_rows = {name for row in effects.ROWS for name in row.settings}
    shared = set(FIELDS)
    assert shared - in_rows == effects.ALWAYS
    assert not in_rows & effects.ALWAYS


@pytest.mark.parametrize("name", lookup.names("datasets"))
def test_data_sets_name_what_they_read(name: str) -> None:
    module = lookup.module("datasets", name, "`dataset`")
    assert set(getattr(module, "SETTINGS", ())) <= set(effects._DATA_FILES)
    assert getattr(module, "NUM_EXAMPLES", 1) > 0


@pytest.mark.parametrize(("dataset", "settings", "told"), [
    ("mnist", {"train_dataset": "x.rec"}, "`train_dataset` x.rec"),
    ("mnist", {"data_train_idx": "x.idx"}, "`data_train_idx` x.idx"),
    ("mnist", {"data_val_idx": "x.idx"}, "`data_val_idx` x.idx"),
    ("mnist", {"data_root": "x"}, "`data_root` x"),
    ("mnist", {"rdzv_id": "x"}, "`rdzv_id` x"),
    ("mnist", {"rdzv_endpoint": "h:1"}, "`rdzv_endpoint` h:1"),
    ("mnist", {"on_bad": "stop"}, "`on_bad` stop"),
    ("mnist", {"cache_gb": 5}, "`cache_gb` 5"),
    ("digits", {"data_dir": "x"}, "`data_dir` x"),
    ("cifar10", {"val_dataset": "x.rec"}, "`val_dataset` x.rec"),
    ("cifar10", {"val_ratio": .1}, "`val_ratio` 0.1"),  # it has test images
    ("imagenet", {"data_train": "x.rec", "train_dataset": "y.rec"}, "`train_dataset` y.rec"),
    ("imagenet", {"data_train": "x.rec", "data_val": "y.rec", "data_dir": "z"}, "`data_dir` z"),
    ("imagenet", {"data_train": "x.rec", "data_root": "z"}, "`data_root` z"),
    ("imagenet", {"data_train": "x.lst", "data_train_idx": "z"}, "`data_train_idx` z"),
    ("imagenet", {"data_train": "x.rec", "cache_gb": 3}, "`cache_gb` 3"),
    ("imagenet", {"benchmark": 1, "data_train": "x.rec"}, "`data_train` x.rec"),
    ("imagenet", {"benchmark": 1, "pad_size": 4}, "`pad_size` 4"),
    ("mnist", {"fill_value": 4}, "`fill_value` 4"),
    ("mnist", {"min_random_area": .5}, "`min_random_area` 0.5"),
    ("mnist", {"random_resized_crop": 1}, "`random_resized_crop` True"),
    ("mnist", {"teacher": "x", "distillation_alpha": 1, "label_smoothing": .1}, "`label_smoothing` 0.1"),
    ("mnist", {"teacher": "x", "distillation_alpha": 0}, "`teacher` x"),
    ("mnist", {"wd": 0, "norm_wd": 0}, "`norm_wd` False"),
    ("mnist", {"optimizer": "lars", "norm_wd": 0}, "`norm_wd` False"),
    ("mnist", {"optimizer": "signsgd", "clip_norm": 1}, "`clip_norm` 1"),
    ("mnist", {"mean_image": "x.bin", "rgb_mean": "3"}, "`rgb_mean` 3"),
    ("mnist", {"image_shape": "784", "pad_size": 2}, "`pad_size` 2"),
    ("mnist", {"image_shape": "1,28,28", "data_shape": 28}, "`data_shape` 28"),
    ("mnist", {"optimizer": "adam", "mom": .5}, "`mom` 0.5"),
    ("mnist", {"lr_schedule": "cosine", "lr_step_epochs": "3"}, "`lr_step_epochs` 3"),
    ("mnist", {"lr_schedule": "cosine", "lr_factor": .5}, "`lr_factor` 0.5"),
    ("mnist", {"final_lr": .001}, "`final_lr` 0.001"),
    ("mnist", {"warmup_begin_lr": .001}, "`warmup_begin_lr` 0.001"),
    ("mnist", {"warmup_strategy": "sqrt"}, "`warmup_strategy` sqrt"),
    ("mnist", {"gc_type": "fp16", "gc_threshold": .2}, "`gc_threshold` 0.2"),
    ("mnist", {"keep_states": 3}, "`keep_states` 3"),
    ("mnist", {"save_every": 3}, "`save_every` 3"),
    ("mnist", {"test_io": 1, "num_epochs": 3}, "`num_epochs` 3"),
])
def test_what_does_nothing_is_told_in_one_line(dataset: str, settings: dict[str, object], told: str) -> None:
    [line] = unused(dataset, **settings)
    assert line.startswith(f"{told}: has no effect here, it is for ")
    assert "{" not in line


def test_validation_data_are_held_out_of_files_under_any_data_set() -> None:
    assert unused("cifar10", data_train="x.rec", val_ratio=.1) == []


@pytest.mark.parametrize(("dataset", "settings"), [
    ("mnist", {"data_dir": "x"}),
    ("mnist", {"rdzv_id": "x", "rdzv_endpoint": "h:1", "nnodes": "2"}),
    ("imagenet", {"data_dir": "x", "train_dataset": "a.rec", "val_dataset": "b.rec"}),
    ("imagenet", {"data_dir": "x", "train_dataset": "a.lst", "data_root": "y"}),
    ("imagenet", {"data_train": "x.lst", "data_root": "y"}),
    ("imagenet", {"data_train": "x.rec", "data_train_idx": "y", "data_val": "z.rec", "data_val_idx": "y"}),
    ("imagenet", {"data_train": "s3://x/y.rec", "cache_gb": 3}),
    ("imagenet", {"random_resized_crop": 1, "min_random_area": .5}),
    ("mnist", {"pad_size": 4, "fill_value": 0}),
    ("mnist", {"warmup_epochs": 1, "warmup_begin_lr": .01, "warmup_strategy": "constant"}),
    ("mnist", {"lr_schedule": "cosine", "final_lr": .01}),
    ("mnist", {"model_prefix": "x", "keep_states": 1, "save_period": 2, "save_every": 3}),
    ("mnist", {"gc_type": "2bit", "gc_threshold": .2}),
    ("mnist", {"data_shape": 28}),
    ("mnist", {"random_resized_crop": 1, "max_random_aspect_ratio": .25}),
    ("mnist", {"wd": 0, "lr_regime": "0:0.1:0.01", "norm_wd": 0}),
])
def test_what_does_something_is_not(dataset: str, settings: dict[str, object]) -> None:
    assert unused(dataset, **settings) == []


@pytest.mark.parametrize("name", lookup.names("datasets"))
def test_a_printed_configuration_warns_of_nothing(name: str, capsys: pytest.CaptureFixture[str],
                                                  tmp_path: Path) -> None:
    """It holds every setting, and all of them count as the user's."""
    with pytest.raises(SystemExit):
        command.main(["--dataset", name, "--print-config"])
    (tmp_path / "all.yaml").write_text(capsys.readouterr().out)
    config = resolve.parse(["--config", str(tmp_path / "all.yaml")], prog="x", examples="")
    assert list(effects.unused_settings(config)) == []


def test_the_commands_say_it(mnist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data-dir", str(mnist), "--num-epochs", "0", "--train-dataset", "a.rec", "--rdzv-id", "x",
                         "--dist-timeout", "7"]) == 0
    err = capsys.readouterr().err
    assert "warning: --train-dataset a.rec: has no effect here" in err
    assert "warning: --rdzv-id x: has no effect here, it is for several machines (--nnodes)" in err
    assert "--dist-timeout 7: one process trains alone" in err
    assert command.main(["--data-dir", str(mnist), "--test-io", "1", "--num-epochs", "3"]) == 0
    assert "warning: --num-epochs 3: has no effect here" in capsys.readouterr().err


# ---- noise needs no data


@pytest.mark.parametrize("flags", [("--dataset", "mnist"), ("--dataset", "cifar10", "--network", "mlp"),
                                   ("--dataset", "imagenet", "--network", "mlp", "--image-shape", "3,8,8"),
                                   ("--dataset", "digits"),
                                   ("--data-train", "nothing.rec", "--network", "mlp", "--image-shape", "3,8,8"),
                                   ("--data-dir", "nothing")])
def test_benchmark_reads_and_downloads_nothing(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str],
                                               tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main([*flags, "--benchmark", "1", "--num-examples", "256", "--num-epochs", "1"]) == 0
    assert "random noise (--benchmark): 256 images" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_noise_takes_no_memory() -> None:
    from imgcls import datasets

    for name in lookup.names("datasets"):
        module = lookup.module("datasets", name, "`dataset`")
        settings = {"benchmark": 1, "num_examples": 10**10}
        splits = datasets.load_splits(resolve.build({**module.DEFAULTS, "dataset": name}, settings))
        assert len(splits.train) == 10**10


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_mnist.py", "train_cifar10.py", "train_imagenet.py"])
def test_benchmark_of_the_scripts(script: str, tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--benchmark", "1", "--num-examples", "256", "--num-epochs", "1",
         "--network", "mlp"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- folders that hold something else


FOLDERS = {
    "photos": ["train/cat/1.jpg", "val/cat/1.jpg"], "records": ["train.rec", "val.rec"], "classes": ["cat/1.jpg"],
    "project": ["train.py", "data.csv"], "list": ["all.lst", "1.jpg"], "one": ["notes.txt"],
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("as_cwd", [False, True])
def test_nothing_is_downloaded_into_a_folder_that_holds_something(name: str, dataset: str, tmp_path: Path, as_cwd: bool,
                                                                  monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "user's"
    for file in FOLDERS[name]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    flags = ["--data-dir", "." if as_cwd else str(folder), "--dataset", dataset, "--network", "mlp"]
    commands = [lambda: command.main(flags), lambda: command.main(flags[:2], dataset=dataset)]
    if dataset == "mnist":
        commands.append(lambda: command.main(["--data-dir", ".", "--network", "mlp"]))
    for run in commands if (dataset, name) != ("cifar10", "records") else ():  # records of these names are read
        assert run() == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "nothing is downloaded into a folder that holds something else" in line
        assert ("--dataset imagenet" if name in ("photos", "records", "list") else "--data-train") in line
        assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("names", [(), (".DS_Store", "README.md"), ("train-images-idx3-ubyte.gz",),
                                   ("cifar-10-binary.tar.gz.part", "lost+found"), ("cifar-10-python.tar.gz",)])
def test_a_folder_of_data_sets_may_be_completed(names: tuple[str, ...], tmp_path: Path) -> None:
    for file in names:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(AssertionError, match="a download"):
        lookup.module("datasets", "mnist", "").load(DataConfig(data_dir=str(tmp_path)))


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("setting", ["data_train", "data_val"])
def test_files_that_would_not_be_read_are_refused(dataset: str, setting: str) -> None:
    with pytest.raises(UsageError, match=rf"{setting} x.rec: dataset {dataset} reads its own files"):
        lookup.module("datasets", dataset, "").load(DataConfig(dataset=dataset, **{setting: "x.rec"}))


def test_test_images_of_one_set_do_not_go_with_the_training_of_another() -> None:
    with pytest.raises(ImgclsError, match="goes with data_train"):
        lookup.module("datasets", "cifar10", "").load(DataConfig(dataset="cifar10", data_val="x.rec"))


def test_fine_tuning_downloads_nothing_either(tmp_path: Path, capsys: pytest.CaptureFixture[str], mnist: Path) -> None:
    (tmp_path / "train").mkdir()
    assert command.main(["--data-dir", str(mnist), "--num-epochs", "1", "--model-prefix", str(tmp_path / "net")]) == 0
    assert finetune.main(["--pretrained-model", str(tmp_path / "net"), "--dataset", "mnist", "--data-dir",
                          str(tmp_path)]) == 2
    assert "nothing is downloaded into" in capsys.readouterr().err.splitlines()[-1]


# ---- scoring


def test_scoring_needs_the_test_files_alone(mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data-dir", str(mnist), "--num-epochs", "1", "--model-prefix", str(tmp_path / "net")]) == 0
    (tmp_path / "test").mkdir()
    for file in mnist.glob("t10k-*"):
        (tmp_path / "test" / file.name).write_bytes(file.read_bytes())
    capsys.readouterr()
    for folder in (mnist, tmp_path / "test"):
        assert score.main(["--model", str(tmp_path / "net"), "--data-dir", str(folder)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy=")]
    assert len(lines) == 2
    assert lines[0] == lines[1]


def test_a_run_of_the_command_says_it_once(mnist: Path) -> None:
    done = run_cli("train", "--data-dir", mnist, "--num-epochs", 0, "--data-root", "x")
    assert done.returncode == 0
    assert done.stderr.count("--data-root x: has no effect here") == 1


def test_score_says_it_too(mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["--data-dir", str(mnist), "--model", "x", "--report", "y", "--print-config"])
    score.main(["--data-dir", str(mnist), "--model", str(tmp_path / "x"), "--cache-gb", "3", "--report", "y"])
    err = capsys.readouterr().err
    assert "warning: --cache-gb 3: has no effect here, it is for other data sets than --dataset mnist" in err
    assert "--report" not in err


@pytest.mark.parametrize(("started", "is_told"), [
    ({}, False), ({"RANK": "0"}, True), ({"RANK": "0", "IMGCLS_AGENT": "1"}, False),
    ({"RANK": "0", "IMGCLS_AGENT": "1", "IMGCLS_LAUNCHER": "imgcls-launch -n 2"}, True)])
def test_settings_that_start_processes_are_told_where_others_have(started: dict[str, str], is_told: bool) -> None:
    told: list[str] = []
    config = resolve.build({}, {"nnodes": "2", "rdzv_id": "x", "max_restarts": 3})
    env = started and {**started, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    warn_unused_settings(config, SimpleNamespace(warn=told.append), env)  # type: ignore[arg-type]
    assert [line for line in told if "a launcher" in line] == told
    assert bool(told) == is_told
    assert all("`nnodes` 2, `rdzv_id` x, `max_restarts` 3: no effect" in line for line in told)


def test_cifar_is_scored_without_its_training_files(tmp_path: Path) -> None:
    module = lookup.module("datasets", "cifar10", "")
    rows = b"".join(bytes([label]) + bytes(3072) for label in (3, 5))
    (tmp_path / "test_batch.bin").write_bytes(rows)
    assert module.load_val(DataConfig(data_dir=str(tmp_path))).labels.tolist() == [3, 5]
    (tmp_path / "test_batch.bin").unlink()
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = len(rows)
        tar.addfile(member, io.BytesIO(rows))
    assert module.load_val(DataConfig(data_dir=str(tmp_path))).labels.tolist() == [3, 5]


def test_an_index_goes_with_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="`data_val_idx` x.idx: is for a .rec" .replace("`", "")):
        sources.open_source(str(tmp_path), "`data_val`", index="x.idx")
