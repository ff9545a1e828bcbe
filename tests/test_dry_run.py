"""`dry_run` reports and measures, and writes nothing; what is chosen by the size of a folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import run_cli

import imgcls
from imgcls.cli import _dry_run, convert, im2rec, mean
from imgcls.cli import train as command
from imgcls.config import resolve
from imgcls.config.resolve import Config
from imgcls.errors import UsageError
from imgcls.training import auto_settings, dry_run, timing

SMALL = ("--network", "mlp", "--image-shape", "3,12,12", "--rgb-mean", "0", "--rgb-std", "255",
         "--data-nthreads", "0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes, 30 images each."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            image = rng.integers(0, 255, (14, 15 + number % 2, 3)).astype(np.uint8)
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for a moment only."""
    monkeypatch.setattr(timing, "MAX_SECONDS", 0.05)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- dry run


def test_it_tells_what_and_how_long_and_writes_nothing(photos: Path, own_cache: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    home = photos.parent
    before = everything(home)
    assert command.main(["--data-train", str(photos), *SMALL, "--model-prefix", f"{home}/m/pets", "--log-file",
                         f"{home}/x.log", "--tensorboard", "--mean-image", f"{home}/mean.bin", "--dry-run"]) == 0
    # what is kept of the list of a folder is no file of a run
    assert {path: data for path, data in everything(home).items() if own_cache not in Path(path).parents} == before
    assert not (home / "m").exists()
    out, err = capsys.readouterr()
    assert re.search(r"data: .* 5\d images, \d+ for validation, 2 classes", err)
    assert f"{home}/m/pets-0001.params to -0100.params (100 of" in out
    assert f"the run would begin by making --mean-image {home}/mean.bin" in err
    assert f"{home}/m/pets-mean.bin" in out
    assert f"the log {home}/x.log" in out
    for name in ("loader", "copy", "network", "together"):
        assert re.search(rf"^{name}: +[\d.,]+ ms a batch of 16, [\d,]+ images/s", out, re.MULTILINE), out
    assert re.search(r"the (loader|copy|network) is the limit", out)
    assert re.search(r"^an epoch: +about [\d.]+ s", out, re.MULTILINE)
    assert re.search(r"^the run: +about .* \(100 epochs\)", out, re.MULTILINE)
    assert re.search(r"^memory: +[\d,]+ MiB", out, re.MULTILINE)


def test_of_a_run_that_goes_on_it_tells_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "digits", "--network", "mlp", "--model-prefix", f"{tmp_path}/d"]
    assert command.main([*flags, "--num-epochs", "1"]) == 0
    before = everything(tmp_path)
    capsys.readouterr()
    assert command.main([*flags, "--num-epochs", "4", "--load-epoch", "auto", "--dry-run"]) == 0
    assert everything(tmp_path) == before
    out = capsys.readouterr().out
    assert "(3 epochs)" in out
    assert "copy:         nothing to do: the images are in memory already" in out
    assert command.main([*flags, "--num-epochs", "0", "--load-epoch", "auto", "--dry-run"]) == 0
    assert "(0 epochs)" in capsys.readouterr().out, "fewer than are done"


def test_the_files_of_a_network_without_a_symbol_are_told() -> None:
    config = resolve.build({}, {"model_prefix": "m/x", "keep_best": True})
    trainer = SimpleNamespace(model=torch.nn.Linear(2, 2))
    files = dry_run._describe_files(trainer, config)  # type: ignore[arg-type]
    assert "m/x-network.json, m/x-meta.json" in files
    assert "m/x-best.json" in files
    assert "symbol" not in files


@pytest.mark.slow  # three processes load torch
def test_without_a_prefix_and_with_several_processes(photos: Path) -> None:
    done = run_cli("train", "--data-train", photos, *SMALL, "--dry-run", "--workers-per-host", 2,
                   cwd=photos.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run:") == 1
    assert "files:        none, without --model-prefix" in done.stdout


def test_from_python_it_is_refused() -> None:
    with pytest.raises(UsageError, match="dry_run: trains nothing"):
        imgcls.fit((np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1])), dry_run=True)


@pytest.mark.parametrize(("seconds", "text"), [
    (0.04, "0.0 s"), (9.96, "10.0 s"), (35.2, "35 s"), (90, "1.5 min"), (719, "12 min"), (12600, "3.5 h"),
    (181440, "2.1 days")])
def test_durations(seconds: float, text: str) -> None:
    assert dry_run.duration(seconds) == text


# ---- chosen by size


def config_of(*flags: str) -> Config:
    return resolve.parse(["--data-train", "x", *flags], prog="imgcls-train", examples="")


@pytest.mark.parametrize(("count", "epochs", "batch", "lr", "tuned_batch", "tuned_lr"), [
    (20, 100, 16, 0.0125, 8, 0.025), (217, 100, 16, 0.0125, 8, 0.025), (500, 100, 16, 0.0125, 16, 0.025),
    (999, 100, 32, 0.025, 32, 0.05), (1000, 60, 32, 0.025, 32, 0.05), (5000, 60, 128, 0.1, 128, 0.05),
    (50_000, 40, 128, 0.1, 128, 0.05)])
def test_fewer_images_more_epochs_and_smaller_batches(count: int, epochs: int, batch: int, lr: float,
                                                      tuned_batch: int, tuned_lr: float) -> None:
    values, reasons = auto_settings.settings_for(config_of(), count, is_pretrained=False)
    assert (values["num_epochs"], values["batch_size"], values["lr"]) == (epochs, batch, lr)
    assert values["rgb_std"] == (58.393, 57.12, 57.375)
    tuned, tuned_reasons = auto_settings.settings_for(config_of(), count, is_pretrained=True)
    assert tuned["num_epochs"] < epochs
    assert (tuned["batch_size"], tuned["lr"], tuned["mom"], tuned["wd"]) == (
        tuned_batch, tuned_lr, 0.9, 1e-4)
    assert tuned["initializer"] == "zero"  # of the new head
    package = config_of("--network", "torchvision:resnet18")  # refuses any initializer
    assert "initializer" not in auto_settings.settings_for(package, count, is_pretrained=True)[0]
    assert "rgb_std" not in tuned  # that of the weights
    for chosen, why in ((values, reasons), (tuned, tuned_reasons)):
        assert set(chosen) == set(why) <= set(auto_settings.CHOSEN)


def test_several_workers_share_the_batch_that_is_chosen() -> None:
    alone, _ = auto_settings.settings_for(config_of(), 5000, is_pretrained=False)
    shared, reasons = auto_settings.settings_for(config_of(), 5000, is_pretrained=False, num_workers=4)
    assert (alone["batch_size"], shared["batch_size"]) == (128, 32)
    assert shared["lr"] == alone["lr"]
    assert reasons["batch_size"] == "40 updates an epoch of 5,000 images with 4 workers"
    # a batch of the user's is that of each worker
    given, _ = auto_settings.settings_for(config_of("--batch-size", "32"), 5000, is_pretrained=False, num_workers=4)
    assert given["lr"] == alone["lr"]
    many, _ = auto_settings.settings_for(config_of(), 20, is_pretrained=False, num_workers=64)
    assert many["batch_size"] == 1


@pytest.mark.parametrize(("flags", "left_out", "lr"), [
    (["--num-epochs", "5"], {"num_epochs"}, 0.0125), (["--batch-size", "64"], {"batch_size"}, 0.05),
    (["--rgb-mean", "0"], {"rgb_std"}, 0.0125), (["--image-shape", "1,28,28"], {"rgb_std"}, 0.0125),
    (["--network", "mlp"], set(), 0.0002), (["--network", "mlp", "--image-shape", "3,28,28"], set(), 0.0125)])
def test_what_is_given_stays_and_the_rest_goes_with_it(flags: list[str], left_out: set[str], lr: float) -> None:
    values, _ = auto_settings.settings_for(config_of(*flags), 200, is_pretrained=False)
    assert values["lr"] == lr
    assert set(auto_settings.CHOSEN) - set(values) - {"mom", "wd", "initializer"} == left_out


def test_what_is_chosen_is_told_and_kept(photos: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_settings, "_EPOCHS", ((1000, 2, 1),))
    flags = ["--data-train", str(photos), *SMALL[:4], "--data-nthreads", "0", "--model-prefix", f"{photos.parent}/m"]
    assert command.main(flags) == 0
    err = capsys.readouterr().err
    for line in ("--num-epochs 2 (from scratch, with fewer than 1,000 images)", "--batch-size 16 (4 updates",
                 "--lr 0.0125 (0.1 for a batch of 128", "--lr-schedule cosine (falls to 0",
                 "--rgb-std 58.393,57.12,57.375 (of ImageNet's"):
        assert f"chosen: {line}" in err
    assert "photographs are few to learn from scratch; imgcls-finetune" in err
    assert "cosine from 0.0125 to 0 at the last of 8 updates" in err
    meta = json.loads((photos.parent / "m-meta.json").read_text())
    assert meta["chosen"] == {"num_epochs": 2, "batch_size": 16, "lr": 0.0125, "lr_schedule": "cosine",
                              "rgb_std": [58.393, 57.12, 57.375]}
    assert meta["preprocessing"]["std"] == [58.393, 57.12, 57.375]
    # gone on with: as it was begun, whatever else is given now
    monkeypatch.setattr(auto_settings, "settings_for", None)
    assert command.main([*flags, "--load-epoch", "auto", "--num-epochs", "3"]) == 0
    assert "batch 16, 4 updates per epoch, 3 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "left_out"), [
    (["--lr", "0.1"], {"lr"}),
    (["--lr", "0.1", "--batch-size", "64", "--num-epochs", "9"], {"lr", "batch_size", "num_epochs"}),
    # a schedule that counts in epochs stands above those that would be chosen
    (["--lr-step-epochs", "20,25"], {"lr_schedule", "num_epochs"}),
    (["--lr-schedule", "restarts"], {"lr_schedule", "num_epochs"}),
    (["--lr-schedule", "one-cycle"], {"lr_schedule"}),
    (["--optimizer", "adamw", "--lr", "0.001"], {"lr", "mom"}),
    (["--optimizer", "schedule-free-sgd", "--lr", "0.1"], {"lr", "lr_schedule"}),
    (["--optimizer", "nag"], set())])
def test_only_what_is_given_is_not_chosen(flags: list[str], left_out: set[str]) -> None:
    values, _ = auto_settings.settings_for(config_of(*flags), 200, is_pretrained=True)
    assert set(auto_settings.CHOSEN) - set(values) - {"rgb_std"} == left_out


def test_a_rate_that_is_given_leaves_the_rest_to_be_chosen(photos: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data-train", str(photos), *SMALL, "--dry-run"]
    assert command.main([*flags, "--lr", "0.1"]) == 0
    err = capsys.readouterr().err
    assert "chosen: --lr " not in err
    assert "chosen: --batch-size 16 (4 updates" in err
    assert "note: --lr 0.1 is given; for a batch of 16 0.0125 would be chosen" in err
    assert "cosine from 0.1 to 0" in err
    assert command.main([*flags, "--lr", "0.0125"]) == 0
    assert "is given" not in capsys.readouterr().err


@pytest.mark.parametrize(("given", "why"), [
    (("--optimizer", "adam"), "note: which rate goes with --optimizer adam is not known here"),
    (("--lr-regime", "0:0.1"), "")])
def test_nothing_is_chosen_where_the_rate_has_another_meaning(photos: Path, given: tuple[str, ...], why: str,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data-train", str(photos), *SMALL, *given, "--num-epochs", "1", "--dry-run"]) == 0
    err = capsys.readouterr().err
    assert "chosen: " not in err
    assert why in err
    assert "batch 128" in err


def test_a_recipe_with_a_rate_is_whole(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data-train", str(photos), *SMALL, "--recipe", "imagenet-vgg", "--network", "lenet",
             "--image-shape", "3,28,28", "--lr", "0.1", "--dry-run"]
    assert command.main([*flags, "--top-k", "0"]) == 0
    assert "chosen: " not in capsys.readouterr().err


def test_the_scripts_keep_mxnets_defaults(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data-train", str(photos), *SMALL, "--dry-run"], dataset="imagenet",
                        prog="train_imagenet.py") == 0
    err = capsys.readouterr().err
    assert "chosen: " not in err
    assert "80 epochs" in err


def test_a_list_or_records_are_nobodys_folder(photos: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.lst").write_text("0\t0\tcat/0.jpg\n1\t1\tdog/1.jpg\n")
    assert command.main(["--data-train", f"{tmp_path}/a.lst", "--data-root", str(photos), *SMALL,
                         "--dry-run"]) == 0
    assert "chosen: " not in capsys.readouterr().err


def test_preparing_data_tells_what_it_would_do_and_writes_nothing(photos: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of images and bytes are those of the run that follows."""
    out = tmp_path / "out"
    argv = [f"{out}/x", str(photos), "--recursive", "--chunks", "2", "--val-per-class", "1", "--resize", "16"]
    assert im2rec.main([*argv, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert not out.exists()
    assert im2rec.main(argv) == 0
    sizes = [path.stat().st_size for path in out.iterdir() if path.suffix in (".rec", ".idx")]
    planned = re.search(r"records: +about ([\d.]+) KB, .* an image", plan)
    assert planned
    assert float(planned[1]) * 1000 == pytest.approx(sum(sizes), rel=0.1)
    num_lines = {path.name: path.read_bytes().count(b"\n") for path in out.glob("*.lst")}
    for name, count in num_lines.items():
        assert f"{out}/{name} ({count})" in plan
    assert re.search(rf"images: +{sum(num_lines.values())}\n", plan)
    assert re.search(r"time: +about [\d.]+ m?s at [\d,]+ images/s with \d+ thread", plan)
    # with the lists there it tells of those, and with --resume not of what is complete
    capsys.readouterr()
    (out / "x_1_train.pack.json").unlink()
    assert im2rec.main([*argv, "--dry-run", "--resume"]) == 0
    told = capsys.readouterr()
    assert f"{out}/x_1_train.lst ({num_lines['x_1_train.lst']})\n" in told.out
    assert told.err.count("complete since an earlier run, would be kept") == 2
    rec = str(out / "x_val.rec")
    assert convert.main([rec, f"{tmp_path}/s/y.tar", "--shards", "2", "--dry-run"]) == 0
    assert mean.main([rec, "--image-shape", "3,8,8", "--out", f"{tmp_path}/mean.bin", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert f"files:        {tmp_path}/s/y_0.tar to {tmp_path}/s/y_1.tar (tar), about" in told.out
    assert told.out.count(f"images:       {num_lines['x_val.lst']}\n") == 2
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "mean.bin").exists()
    # a disk that is too small is said before, and not after hours
    monkeypatch.setattr(_dry_run, "free_bytes", lambda folder: 1000)
    assert im2rec.main([f"{tmp_path}/new/x", str(photos), "--recursive", "--dry-run"]) == 1
    assert re.search(r"error: .*/new: [\d.]+ KB are needed and 1 KB are free\n$", capsys.readouterr().err)
    assert convert.main([rec, f"{tmp_path}/s/y.tar", "--dry-run"]) == 1
