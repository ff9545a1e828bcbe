"""docs/from-mxnet.md is true: every flag of MXNet's scripts is taken, and every command of the page is run."""

from __future__ import annotations

import os
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, write_digits

import imgcls.compat.mxnet as mx
from imgcls.cli import start
from imgcls.config import command_line, lookup
from imgcls.config.flags import convert, flags_of
from imgcls.errors import UsageError

PAGE = (ROOT / "docs" / "from-mxnet.md").read_text(encoding="utf-8")

#: flags with a value as people wrote them, by the generation of the scripts; a blank stands between both
FIRST = """--network lenet|--data-dir mnist/|--gpus 0|--num-examples 60000|--batch-size 128|--lr .1|--model-prefix m
--save-model-prefix n|--num-epochs 10|--num-epoch 10|--load-epoch 8|--kv-store local|--lr-factor .9
--lr-factor-epoch .5|--data-shape 224|--num-classes 10|--log-file x.log|--log-dir logs|--train-dataset train.rec
--val-dataset val.rec|--clip-gradient 5|--benchmark|--kv-store local_allreduce_device|--kv-store local_update_cpu
--kv-store local_allreduce_cpu|--network lenet-stn|--network inception-bn-28-small|--network inception-bn-full
--network resnet-28-small"""
SECOND = """--network resnet|--num-layers 50|--gpus 0,1|--gpus ''|--kv-store device|--num-epochs 10|--lr .1
--lr-factor .1|--lr-step-epochs 30,60|--optimizer nag|--mom .9|--wd .0001|--batch-size 64|--disp-batches 20
--model-prefix m|--load-epoch 0008|--top-k 5|--monitor 10|--test-io 1|--dtype float16|--gc-type 2bit
--gc-type none|--gc-threshold .5
--num-classes 10|--num-examples 100|--data-train a.rec|--data-val b.rec|--data-train-idx a.idx|--data-val-idx b.idx
--rgb-mean 123.68,116.779,103.939|--pad-size 4|--image-shape 3,28,28|--image_shape 1,28,28|--data-nthreads 4
--benchmark 1|--random-crop 1|--random-mirror 1|--max-random-h 36|--max-random-s 50|--max-random-l 50
--max-random-aspect-ratio .25|--max-random-rotate-angle 10|--max-random-shear-ratio .1|--max-random-scale 1
--min-random-scale .533|--add_stn|--kv-store nccl|--kv-store dist_sync|--kv-store dist_device_sync
--kv-store dist_sync_device|--kv-store dist_async|--num-epoch 10|--gpu 0|--batch 32"""
THIRD = """--lr-step-epochs pow2|--initializer xavier|--save-period 2|--loss ce|--loss ce,nll_loss|--macrobatch-size 512
--warmup-epochs 5|--warmup-strategy linear|--warmup-strategy power2|--warmup-strategy sqrt|--warmup-strategy lars
--use-imagenet-data-augmentation 1|--rgb-std 1,1,1|--fill-value 127|--min-random-aspect-ratio .75|--max-random-area 1
--min-random-area .08|--min-crop-size 200|--max-crop-size 256|--brightness .4|--contrast .4|--saturation .4
--pca-noise .1|--random-resized-crop 1"""
#: of these the page says that they are refused
REFUSED = "--profile-worker-suffix a.json|--profile-server-suffix a.json"
IM2REC = """--list|--list True|--list=1|--list False|--exts .jpg .png|--chunks 8|--train-ratio .9|--train_ratio .9
--test-ratio .1|--recursive|--recursive True|--no-shuffle|--shuffle True|--shuffle False|--pass-through
--pass-through True|--resize 480|--center-crop|--center_crop True|--quality 90|--num-thread 16|--num_thread 16
--color -1|--color 0|--encoding .png|--pack-label|--pack-label True"""
LAUNCH = """-n 2|--num-workers 2|-s 1|--num-servers 1|-H hosts|--hostfile hosts|--sync-dir /tmp/x|--sync-dst-dir /tmp/x
--launcher local|--launcher ssh|--launcher mpi|--launcher sge|--env A|--env-server A:1|--env-worker A:1|--p3"""

#: calls of MXNet that the page says are refused
REFUSED_NAMES = {".kv.create"}

#: command -> the flags of MXNet's script of that name
FLAGS = {
    "train": "|".join((FIRST, SECOND, THIRD)),
    "finetune": "|".join((SECOND.replace("--add_stn|", ""), THIRD, "--pretrained-model resnext-101",
                          "--layer-before-fullc flatten0", "--load-epoch 0000")),
    "score": "--model x|--data-val x.rec|--gpus 0|--gpus ''|--batch-size 64|--rgb-mean 0,0,0|--image-shape 3,224,224|"
             "--data-nthreads 4",
    "benchmark": "--network all|--network vgg-16|--batch-size 0|--batch-size 32|--net resnet-50|--batch 32",
    "im2rec": IM2REC, "launch": LAUNCH, "parse-log": "--format none|--format markdown|--metric-names accuracy",
}
#: what a command needs beside its flags
WORDS = {"im2rec": ["data", "photos"], "launch": ["python", "train.py"], "parse-log": ["train.log"]}


def flags_in(text: str) -> list[list[str]]:
    return [shlex.split(flag) for line in text.splitlines() for flag in line.split("|") if flag]


def commands() -> Iterator[list[str]]:
    """Yield the words of each command in the page's blocks, its comment left out."""
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def command_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the file of imgcls/cli behind a command of the page and its arguments, the data set of a script added."""
    if words[0] == "python":
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        name = re.search(r'start\("([\w-]+)"', source)
        dataset = re.search(r'dataset="(\w+)"', source)
        assert name, words
        return name[1], [*(["--dataset", dataset[1]] if dataset else []), *words[2:]]
    assert words[0].startswith("imgcls-"), words
    return words[0].removeprefix("imgcls-"), list(words[1:])


def accept(command: str, argv: Sequence[str]) -> None:
    """Have a command read its arguments and do nothing; UsageError for what it does not take."""
    module = lookup.module("cli", command, "command")
    if command in ("train", "finetune", "score", "predict", "benchmark"):
        with pytest.raises(SystemExit) as end:
            assert start(command, [*argv, "--print-config"]) == 0, argv
        assert end.value.code == 0
        return
    sections = [value for value in vars(module).values() if isinstance(value, type) and hasattr(
        value, "__dataclass_fields__") and flags_of(value)
                and value.__module__.startswith((module.__name__, "imgcls.cli._"))]
    fields = {name: field for section in sections for name, field in flags_of(section).items()}
    for name, text in command_line.read(argv, fields, prog=command).items():
        convert(fields[name], text)


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_of_mxnets_scripts_is_taken(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for argv in flags_in(FLAGS[command]):
        words = WORDS.get(command, [])
        try:
            accept(command, [*argv, *words] if command in ("launch", "parse-log") else [*words, *argv])
        except (UsageError, pytest.fail.Exception) as error:
            refused.append(f"{shlex.join(argv)}: {error} {capsys.readouterr().err}")
    assert not refused


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_what_is_refused_is_said_on_the_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in flags_in(REFUSED):
        assert start(command, [*argv, "--print-config"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert argv[0] in PAGE
        assert argv[0] in (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")


def test_scripts_and_commands_of_the_table_are_there() -> None:
    installed = re.findall(r"^(imgcls-[\w-]+) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    rows = re.findall(r"^\| `[^|]+ \| (?:`([^`]+)`|-) \| \[?`(imgcls-[\w-]+)[^|]*\|$", PAGE, re.MULTILINE)
    assert len(rows) == 11
    for script, command in rows:
        assert command in installed
        if script:
            assert command_of(["python", script])[0] == command.removeprefix("imgcls-")


def test_every_command_of_the_page_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(commands())
    assert len(found) > 20
    for words in found:
        command, argv = command_of(words)
        if command == "im2rec" and "=" in argv[-1]:  # the C++ program's form: key=value behind three words
            continue
        accept(command, argv)
        capsys.readouterr()


def test_links_to_differences_lead_somewhere() -> None:
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", PAGE):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        titles = [re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
                  for line in text.splitlines() if line.startswith("#")]
        assert anchor in titles, f"{page}#{anchor}"
    # nothing that is different is left without a link
    for page in ("differences.md", "compat.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for title in re.findall(r"^## (.*)$", text, re.MULTILINE):
            anchor = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
            assert f"{page}#{anchor}" in PAGE or title == "What is there", f"{page}#{anchor}"


def test_python_names_of_the_page_are_there() -> None:
    names = set(re.findall(r"`(imgcls(?:\.\w+)+)", PAGE))
    assert {"imgcls.load_model", "imgcls.fit", "imgcls.Predictor", "imgcls.formats.params.load"} <= names
    for name in names:
        assert pkgutil.resolve_name(name), name
    for name in set(re.findall(r"`mx((?:\.\w+)+)", PAGE)) - REFUSED_NAMES:
        assert pkgutil.resolve_name(f"imgcls.compat.mxnet{name}"), name


def test_names_that_the_page_calls_refused_say_so() -> None:
    for name in REFUSED_NAMES:
        assert f"`mx{name}" in PAGE
        with pytest.raises(AttributeError):
            pkgutil.resolve_name(f"imgcls.compat.mxnet:{name[1:]}")


def test_the_script_of_the_page_in_both_forms() -> None:
    """MXNet's through compat, ours as it stands; on the CPU, and for two epochs."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    old, ours = block.split("# imgcls\n")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(8200, 1, 2, 2)).astype(np.float32)
    labels = (images.sum((1, 2, 3)) > 0).astype(np.int64)
    data = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Variable("data")), num_hidden=2, name="fc")
    scope = {"mx": mx, "X": images, "y": labels, "symbol": mx.sym.SoftmaxOutput(data, name="softmax")}
    exec(old.replace("mx.gpu()", "mx.cpu()").replace("num_epoch=10", "num_epoch=1"), scope)
    assert dict(scope["module"].score(scope["val"], "acc"))["accuracy"] > 0.8
    exec(ours.replace('gpus="0", ', "").replace("num_epochs=10", "num_epochs=1, image_shape=(1, 2, 2)"), scope)
    assert scope["result"].metrics["accuracy"] > 0.8


#: command -> what is typed behind it to make it small
SMALL = {
    "train": "--gpus= --network=mlp --num-epochs=1 --batch-size=8 --data-nthreads=0 --image-shape=3,32,32",
    "finetune": "--gpus= --pretrained-model=old/resnet-50 --num-epochs=1 --batch-size=4 --image-shape=3,32,32 "
                "--num-classes=2 --load-epoch=8",
    "score": "--model=old/resnet-50 --image-shape=3,32,32 --batch-size=4",
    "predict": "", "benchmark": "--image-shape=3,32,32 --warm-up=0 --num-batches=1 --repeats=1 --batch-size=1",
    "im2rec": "", "rec2idx": "", "verify": "", "parse-log": "",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that has what the page's commands name, as small as can be."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("photos", "ilsvrc12"):
        for kind in ("train/cat", "train/dog", "val/cat", "val/dog"):
            Path(name, kind).mkdir(parents=True)
            for number in range(5):
                cv2.imwrite(f"{name}/{kind}/{number}.jpg", generator.integers(0, 255, (40, 40, 3), np.uint8))
    shutil.copy("photos/val/cat/0.jpg", "cat.jpg")
    Path("hosts").write_text("localhost\n")
    for folder in ("old", "model", "train_meta", "mnist"):
        os.mkdir(folder)
    write_digits(Path("mnist"))
    Path("train.log").write_text("INFO:root:Epoch[0] Train-accuracy=0.5\nINFO:root:Epoch[0] Time cost=1.0\n"
                                 "INFO:root:Epoch[0] Validation-accuracy=0.4\n")
    for part in ("train", "val"):
        assert start("im2rec", [part, f"photos/{part}", "--recursive", "--num-thread", "1"]) == 0
        for target in (f"old/{part}.rec", f"ilsvrc12/{part}.rec"):
            shutil.copy(f"{part}.rec", target)
    common = ["--num-epochs", "8", "--batch-size", "8", "--data-nthreads", "0"]
    small = ["--data-train", "train.rec", "--image-shape", "3,32,32", "--network", "mlp"]
    assert start("train", [*small, *common, "--model-prefix", "old/resnet-50", "--num-classes", "2"]) == 0
    assert start("train", ["--dataset", "mnist", "--data-dir", "mnist", *common, "--model-prefix", "model/mnist"]) == 0
    return tmp_path


def test_every_command_of_the_page_does_its_work_in_small(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands():
        command, argv = command_of(words)
        if command == "launch":  # what it starts is tried by tests/test_launch.py
            assert start(command, ["--dry-run", *argv]) == 0
            continue
        small = SMALL[command].split()
        if command == "train" and "mnist" in argv:
            small = [*small[:-1], "--data-dir=mnist"]
        elif command == "train" and "cifar10" in argv:
            small += ["--benchmark=1", "--num-examples=16"]
        if command == "train" and "--load-epoch" in argv:
            small[2] = "--num-epochs=9"
        capsys.readouterr()
        status = start(command, [*argv, *small])
        assert status == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
    assert Path("model/pets-0001.params").exists()
    assert len(list(Path("train_meta").glob("*.rec"))) == 8
