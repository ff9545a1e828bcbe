"""The command line: precedence, spellings of all generations, one line for every mistake, a quick --help."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_cli

from imgcls.cli import score
from imgcls.cli.benchmark import BenchmarkConfig
from imgcls.cli.convert import ConvertConfig
from imgcls.cli.doctor import DoctorConfig
from imgcls.cli.export import ExportConfig
from imgcls.cli.finetune import FinetuneConfig
from imgcls.cli.im2rec import ListConfig, PackFlags, SelectFlags
from imgcls.cli.launch import LaunchConfig
from imgcls.cli.mean import MeanConfig
from imgcls.cli.predict import PredictConfig
from imgcls.cli.report import PageConfig
from imgcls.cli.serve import ServeConfig
from imgcls.config import command_line
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag_spelling, long_flag
from imgcls.config.resolve import FIELDS, Config, build, dump
from imgcls.config.sections import InferenceConfig
from imgcls.errors import UsageError

FROZEN = ROOT / "tests" / "fixtures" / "flags.txt"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    for name in list(os.environ):
        if name.startswith("IMGCLS_"):
            monkeypatch.delenv(name)


def parse(*argv: str, dataset: str = "mnist") -> Config:
    return configuration.parse(argv, prog="imgcls-train", examples="", dataset=dataset)


def test_the_surface_is_frozen() -> None:
    """Flags and defaults are a promise: to change one on purpose, change tests/fixtures/flags.txt too."""
    there = [f"{long_flag(name)} {field.type} {field.metadata['since']} {field.default!r}"
             for name, field in configuration.FIELDS.items()]
    assert there == FROZEN.read_text().splitlines()


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common, machine = tmp_path / "common.yaml", tmp_path / "machine.yaml"
    common.write_text("lr: 0.2\nwd: 0.2\nmom: 0.2\nbatch-size: 2\n")
    machine.write_text("wd: 0.3\nmom: 0.3\nbatch_size: 3\n")
    monkeypatch.setenv("IMGCLS_MOM", "0.4")
    monkeypatch.setenv("IMGCLS_BATCH_SIZE", "4")
    config = parse("--config", str(common), "--config", str(machine), "--batch-size", "5")
    assert (config.schedule.lr, config.optimizer.wd, config.optimizer.mom,
            config.data.batch_size) == (0.2, 0.3, 0.4, 5)
    assert config.train.disp_batches == 100  # the data set's
    assert config.optimizer.optimizer == "sgd"  # built in
    assert config.explicit["lr"] == f"--config {common}"


@pytest.mark.parametrize(("arguments", "section", "name", "value"), [
    ("--num-epoch 3", "train", "num_epochs", 3),            # a prefix, as argparse always took them
    ("--gpu 0", "device", "gpus", "0"),
    ("--batch 7", "data", "batch_size", 7),
    # ours (--model-parallel) must not make it ambiguous
    ("--model a/b", "checkpoint", "model_prefix", "a/b"),
    ("--save 2", "checkpoint", "save_period", 2),
    ("--lr-f .5", "schedule", "lr_factor", 0.5),
    ("--image_shape 3,32,32", "network", "image_shape", (3, 32, 32)),
    ("--add_stn", "network", "add_stn", True),
    ("--data-shape 24", "network", "image_shape", (3, 24, 24)),
    ("--benchmark", "data", "benchmark", True),             # a switch in one generation,
    ("--benchmark 1", "data", "benchmark", True),           # a number in the others
    ("--benchmark=0", "data", "benchmark", False),
    ("--test-io 1", "train", "test_io", True),
    ("--load-epoch 0008", "checkpoint", "load_epoch", "0008"),
    ("--rgb-mean 1,2,3.5", "augment", "rgb_mean", (1.0, 2.0, 3.5)),
    ("--gpus=", "device", "gpus", ""),
    ("--num-layers None", "network", "num_layers", None),
    ("--clip-gradient 5", "optimizer", "clip_gradient", 5.0),
    ("--lr-step-epochs pow 2", "schedule", "lr_step_epochs", None),
])
def test_spellings_of_all_generations(arguments: str, section: str, name: str, value: object) -> None:
    argv = arguments.split(" ", 1)
    if value is None and name == "lr_step_epochs":
        value = "pow 2"
    assert getattr(getattr(parse(*argv), section), name) == value


def test_the_flags_of_every_generation_parse() -> None:
    """All flags of MXNet's training scripts are known: each is taken, or refused in words of its own."""
    text = """
        gpus kv-store network num-layers num-epochs lr lr-factor lr-step-epochs initializer optimizer mom wd
        batch-size disp-batches model-prefix save-period load-epoch top-k loss monitor test-io dtype gc-type
        gc-threshold macrobatch-size warmup-epochs warmup-strategy profile-worker-suffix profile-server-suffix
        num-classes num-examples use-imagenet-data-augmentation data-train data-val data-train-idx data-val-idx
        rgb-mean rgb-std pad-size fill-value image-shape data-nthreads benchmark random-crop random-mirror
        max-random-h max-random-s max-random-l max-random-aspect-ratio min-random-aspect-ratio max-random-rotate-angle
        max-random-shear-ratio max-random-scale min-random-scale max-random-area min-random-area min-crop-size
        max-crop-size brightness contrast saturation pca-noise random-resized-crop data-dir train-dataset val-dataset
        data-shape lr-factor-epoch save-model-prefix log-file log-dir clip-gradient add-stn
    """
    for name in text.split():
        read = command_line.read([f"--{name}", "1"], FIELDS, prog="imgcls-train")
        assert read == {name.replace("-", "_"): "1"}


@pytest.mark.parametrize(("arguments", "expected"), [
    ("--lr abc", "--lr abc: must be a number"),
    ("--lr nan", "--lr nan: must be a number"),
    ("--batch-size 1.5", "--batch-size 1.5: must be a whole number"),
    ("--batch-size 0", "--batch-size 0: must be at least 1"),
    ("--network", "--network: needs a value"),
    ("--initializer xaver", "did you mean xavier"),
    ("--learning-rate 1", "did you mean --lr?"),
    ("--nework lenet", "did you mean --network"),
    ("--num 3", "--num could be --num-classes, --num-epochs, --num-examples, --num-layers"),
    ("--dataset mnits", "did you mean mnist"),
    ("--image-shape 1,x", "--image-shape 1,x: must be whole numbers"),
    ("--random-crop maybe", "must be 1 or 0"),
    ("stray", "stray"),
    ("--gc-type 3bit", "--gc-type 3bit is not known: did you mean 2bit?"),
    ("--config /no/such/file", "--config /no/such/file: no such file"),
])
def test_a_mistake_is_one_line_and_status_2(arguments: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments.split())
    message = caught.value.spelled(configuration.spelling_of())
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(("text", "expected"), [
    ("lerning_rate: 1\n", "key lerning_rate is not known"),
    ("lr: [1, 2\n", "not YAML"),
    ("- lr\n", "must hold settings"),
    ("lr: {a: 1}\n", "lr {'a': 1}: must be a number"),
])
def test_a_mistake_in_a_file_names_it(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected):
        parse("--config", str(path))


def test_a_mistake_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLS_BATCHSIZE", "3")
    with pytest.raises(UsageError, match="did you mean IMGCLS_BATCH_SIZE"):
        parse()
    monkeypatch.delenv("IMGCLS_BATCHSIZE")
    monkeypatch.setenv("IMGCLS_CACHE", "/somewhere")  # not a setting, and allowed
    parse()


@pytest.mark.parametrize("arguments", [
    "", "--lr .3 --lr-factor .94", "--lr-factor .9 --lr-factor-epoch .5",
    "--data-dir D --lr-factor .1 --num-epochs 30",
    "--lr-step-epochs pow2 --rgb-mean 1,2.25,3 --image-shape 3,28,28 --loss ce,nll --load-epoch 0008",
])
def test_print_config_can_be_fed_back(tmp_path: Path, arguments: str) -> None:
    """The values are the same, and the learning rate's rule, although every key is now explicit."""
    from imgcls.optim.schedules import from_config

    first = parse(*arguments.split())
    path = tmp_path / "c.yaml"
    path.write_text(dump(first))
    second = parse("--config", str(path))
    assert dump(second) == dump(first)
    schedules = [from_config(c.schedule, updates_per_epoch=10, num_epochs=c.train.num_epochs)
                 for c in (first, second)]
    assert [schedules[0].lr_at(u) for u in range(1, 400, 7)] == [schedules[1].lr_at(u)
                                                                 for u in range(1, 400, 7)]


def test_python_arguments_are_checked_like_flags() -> None:
    assert build({}, {"lr": 1, "image_shape": (1, 8, 8)}).schedule.lr == 1.0
    with pytest.raises(UsageError, match="num_epochs"):
        build({}, {"num_epoch": 3})


def test_the_caller_spells_the_settings() -> None:
    """A command names --image-shape, Python code image_shape; only names of settings are replaced."""
    with pytest.raises(UsageError) as caught:
        build({}, {"image_shape": "1,x"})
    assert str(caught.value).startswith("image_shape 1,x: must be whole numbers")
    assert caught.value.spelled(configuration.spelling_of()).startswith("--image-shape 1,x: must be whole")
    file = UsageError("`mean_image` `x`.bin: no such file")
    assert file.spelled(configuration.spelling_of()) == "--mean-image `x`.bin: no such file"
    assert file.spelled(flag_spelling(LaunchConfig)) == file.message
    short = UsageError("`num_workers`, `sync_dst_dir` and `command`")
    assert short.spelled(flag_spelling(LaunchConfig)) == "-n, --sync-dst-dir and COMMAND"
    assert (build({}, {}).spelling("lr"), parse().spelling("lr")) == ("lr", "--lr")


def test_messages_name_settings_only_between_backquotes() -> None:
    """What stands between backquotes in a message is shown as a flag: it must be one."""
    settings = set(configuration.spelling_of(
        LaunchConfig, ListConfig, SelectFlags, PackFlags, MeanConfig, FinetuneConfig, InferenceConfig, PageConfig,
        PredictConfig, BenchmarkConfig, ServeConfig, ExportConfig, DoctorConfig,
        ConvertConfig).flags)
    # a parameter of Predictor's, which no command has
    settings.add("device")
    raising = {"UsageError", "RunError", "DataError", "unknown", "say", "warn", "line", "Decay",
               "info", "message"}
    unknown = []
    for path in (ROOT / "imgcls").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id",
                                                      getattr(call.func, "attr", "")) in raising:
                text = " ".join(constant.value for constant in ast.walk(call)
                                if isinstance(constant, ast.Constant) and isinstance(constant.value, str))
                unknown += [f"{path.name}:{call.lineno} {name}"
                            for name in re.findall(r"`([a-z][a-z0-9_]*)`", text)
                            if name not in settings]
    assert not unknown


def test_late_defaults_do_not_override_the_user() -> None:
    config = parse("--rgb-mean", "1,2,3", "--data-shape", "8")
    later = config.with_defaults(num_classes=7, rgb_mean=[4, 5, 6], rgb_std=[2], image_shape=[1, 9, 9])
    assert (later.network.num_classes, later.augment.rgb_std) == (7, (2.0,))
    assert (later.augment.rgb_mean, later.network.image_shape) == ((1.0, 2.0, 3.0), (3, 8, 8))
    assert config.is_explicit("lr", "rgb_mean")
    assert not config.is_explicit("lr", "num_classes")
    assert config.network.num_classes == 10


@pytest.mark.parametrize(("arguments", "kind", "step_epochs", "every_epochs", "reason"), [
    ("", "steps", (10,), 0, "the data set's default steps"),
    ("--lr-step-epochs 3,5", "steps", (3, 5), 0, "`lr_step_epochs`"),
    ("--lr-factor .5 --num-epochs 5", "every", (), 1, "`lr_factor`, and no default step (10) before the end"),
    ("--lr-factor-epoch .5", "every", (), 0.5, "`lr_factor_epoch`"),
    ("--lr-factor 1 --lr-step-epochs 3", "constant", (), 0, "`lr_factor` 1"),
    ("--lr-step-epochs pow2", "power", (), 0, "`lr_step_epochs` pow2"),
    ("--lr-schedule cosine --lr-factor .5 --num-epochs 5", "cosine", (), 1, "`lr_schedule`"),
])
def test_learning_rate_flags_resolve_to_one_rule(arguments: str, kind: str, step_epochs: tuple[int, ...],
                                                 every_epochs: float, reason: str) -> None:
    decay = parse(*arguments.split()).schedule.decay
    assert (decay.kind, decay.step_epochs, decay.every_epochs, decay.reason) == (
        kind, step_epochs, every_epochs, reason)


@pytest.mark.parametrize(("arguments", "expected"), [
    ("--network lenet-stn", {"network": "lenet", "add_stn": True}),
    ("--network lenet_stn --add-stn 0", {"network": "lenet", "add_stn": False}),
    ("--network inception", {"network": "inception-bn"}),
    ("--network inception-full", {"network": "inception-bn-full"}),
    ("--network inception-bn-28-small", {"network": "inception-bn", "image_shape": (1, 28, 28)}),
    ("--network inception-bn-28-small --dataset imagenet", {"network": "inception-bn", "image_shape": (3, 28, 28)}),
    ("--network resnet-28-small", {"network": "resnet-28-small", "num_layers": None}),
    ("--network resnet-v1_fp16", {"network": "resnet-v1"}),
    ("--network ResNet-152", {"network": "resnet", "num_layers": 152}),
    ("--network vgg-16 --num-layers 16", {"network": "vgg", "num_layers": 16}),
    ("--network inception-v3", {"network": "inception-v3", "num_layers": None}),
    # the CIFAR-10 script's own: that of the first scripts, or the later one where it is given a depth
    ("--dataset cifar10 --lr-factor .94 --num-epoch 50", {"network": "inception-bn", "image_shape": (3, 28, 28)}),
    ("--dataset cifar10 --num-layers 110", {"network": "resnet", "num_layers": 110}),
])
def test_networks_by_the_names_of_all_generations(arguments: str, expected: dict[str, object]) -> None:
    network = parse(*arguments.split()).network
    assert {name: getattr(network, name) for name in expected} == expected


def test_names_that_contradict_other_flags() -> None:
    with pytest.raises(UsageError, match="network vgg-16 and num_layers 11 contradict each other"):
        parse("--network", "vgg-16", "--num-layers", "11")
    with pytest.raises(UsageError, match="is for images up to 28 pixels high"):
        parse("--network", "inception-bn-28-small", "--data-shape", "32")


def test_a_command_line_without_some_flags() -> None:
    argv = ["imgcls-train", "--lr", "1", "--num-ep=3", "--load_epoch", "auto", "--benchmark", "--wd", "2"]
    remaining = command_line.without(argv, ("num_epochs", "load_epoch", "benchmark"), FIELDS)
    assert remaining == ["imgcls-train", "--lr", "1", "--wd", "2"]


def test_help_and_print_config_touch_neither_torch_nor_cv2() -> None:
    code = ("import sys; from imgcls.cli.train import main\n"
            "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
            "print([m for m in ('torch', 'cv2') if m in sys.modules], file=sys.stderr)")
    for flag in ("--help", "-h", "--print-config", "--nonsense"):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True,
                              check=True, cwd=ROOT)
        assert done.stderr.splitlines()[-1] == "[]", flag


def test_help_begins_with_examples_and_shows_the_data_sets_defaults() -> None:
    text = run_cli("train", "--help").stdout.splitlines()
    assert text[0].startswith("usage: imgcls-train")
    assert sum("imgcls-train" in line for line in text[2:8]) == 3
    assert "(0.05)" in next(line for line in text if line.strip().startswith("--lr X"))
    assert max(map(len, text)) <= 120


@pytest.mark.slow
def test_every_command_ends_with_a_status() -> None:
    assert run_cli("--help").returncode == 0
    assert run_cli("verify", "--help", "--nonsense").returncode == 0
    done = run_cli("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean train" in done.stderr
    assert run_cli("train", "--nonsense").returncode == 2
    assert run_cli("train", "--gpus", "0,x").stderr.count("\n") == 1


def test_what_a_file_leaves_open_is_not_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file that --print-config wrote for score reads back alike: null is what nobody gave."""
    from imgcls.cli import score

    with pytest.raises(SystemExit):
        score.main(["--model", "net", "--rgb-std", "3", "--print-config"])
    written = capsys.readouterr().out
    (tmp_path / "score.yml").write_text(written)
    with pytest.raises(SystemExit):
        score.main(["--config", str(tmp_path / "score.yml"), "--print-config"])
    assert capsys.readouterr().out == written
    config = configuration.parse(["--config", str(tmp_path / "score.yml")], prog="x", examples="",
                                 own=score.ScoreConfig)
    assert config.is_explicit("rgb_std")
    assert not config.is_explicit("image_shape", "rgb_mean", "val_resize", "dataset", "mean_image")


def test_help_fits_a_screen_of_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        configuration.parse(["--help"], prog="imgcls-score", examples=score.EXAMPLES.format(prog="imgcls-score"),
                            own=score.ScoreConfig, used=score.USED)
    lines = capsys.readouterr().out.splitlines()
    # a command is there to be copied, and stays in one piece
    assert all(len(line) <= 80 or line.startswith("  imgcls-score ") for line in lines)
    assert lines[lines.index("  imgcls-score --model model/mnist --dataset mnist") + 1] == (
        "      the newest epoch on the test set")
