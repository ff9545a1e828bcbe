"""Scripts are called as MXNet's users type them, and the lines that a run ends with can be pasted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from imgcls.cli._typed import installed_command, typed_command

SCRIPTS = sorted(path for folder in ("tools", "scripts") for path in (ROOT / folder).glob("*.py")
                 if not path.name.startswith("_"))
#: the environment of this test's Python, whether or not anybody has activated it
PATH = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])


def run(command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Paste a line into a shell."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("IMGCLS_", "PYTHONPATH"))}
    return subprocess.run(["sh", "-c", command], cwd=cwd, text=True, capture_output=True, timeout=120, check=False,
                          env={**environment, "PATH": PATH, "OMP_NUM_THREADS": "1", **variables})


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run(path: Path) -> None:
    with path.open("rb") as stream:
        assert stream.readline() == b"#!/usr/bin/env python3\n"
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("name", ["tools/launch.py", "tools/im2rec.py", "scripts/train_cifar10.py"])
def test_from_any_folder_and_without_an_installation(name: str, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    os.symlink(ROOT, tmp_path / "checkout")
    assert run(f"../checkout/{name} --help", tmp_path / "a b").returncode == 0
    # -S: not even our package is installed for this Python
    result = run(f"{shlex.quote(sys.executable)} -S ../checkout/{name} --no-such-flag", tmp_path / "a b")
    expected = "flag --no-such-flag is not known|numpy is not installed for .*: pip install numpy"
    assert re.fullmatch(rf".*: error: ({expected}).*\n", result.stderr)


@pytest.mark.parametrize(("words", "expected"), [
    ("python -m imgcls train --lr 1", "python -m imgcls train --lr 1"),
    ("python -X dev -m imgcls train --lr 1", "python -X dev -m imgcls train --lr 1"),
    ("python plain.py --lr 1", "python plain.py --lr 1"),
    ("python3 run.py --lr 1", "./run.py --lr 1"),           # its first line names that interpreter
    ("python run.py --lr 1", "python run.py --lr 1"),       # and not this one
    ("python3 sub/run.py --lr 1", "sub/run.py --lr 1"),
    ("bin/python sub/run.py --lr 1", "bin/python sub/run.py --lr 1"),
    ("python3 {here}/bin/imgcls-train --lr 1", "imgcls-train --lr 1"),
    ("something else", "imgcls-train --lr 1"),              # called from Python
])
def test_the_command_as_it_was_typed(words: str, expected: str, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run.py", "sub/run.py", "bin/imgcls-train", "bin/python", "bin/python3", "other/python"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/usr/bin/env python3\n")
        path.chmod(0o755)
    (tmp_path / "plain.py").write_text("pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    if "bin/python" in words:
        monkeypatch.setenv("PATH", f"{tmp_path}/other")
    monkeypatch.setattr(sys, "orig_argv", words.format(here=tmp_path).split())
    assert typed_command(["--lr", "1"], "imgcls-train") == expected.split()


def test_another_command_is_called_from_where_this_one_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", "/no/such/folder")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert installed_command("imgcls-predict")[:2] == ["env", f"PYTHONPATH={ROOT}"]
    assert installed_command("imgcls-predict")[-3:] == ["-m", "imgcls", "predict"]
    script = tmp_path / "bin" / "imgcls-predict"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert installed_command("imgcls-predict") == ["bin/imgcls-predict"]
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert installed_command("imgcls-predict") == ["imgcls-predict"]


def paste(command: str, folder: Path, **variables: str) -> None:
    """Run a training, and paste what it says comes next."""
    prefix = "my models/it's \"$x\""
    flags = f"--dataset digits --network mlp --num-epochs 1 --batch-size 500 --model-prefix {shlex.quote(prefix)}"
    first = run(f"{command} {flags}", folder, **variables)
    assert first.returncode == 0, first.stderr
    assert (folder / f"{prefix}-0001.params").is_file()
    resume = re.search(r"^(?:\[0\] )?resume: +(.*)$", first.stdout, re.MULTILINE)
    assert resume
    again = run(resume[1], folder)
    assert again.returncode == 0, again.stderr
    assert f"Loaded model {prefix}_0001.params" in again.stderr
    assert (folder / f"{prefix}-0002.params").is_file()
    if variables:
        assert "disp_batches=7" in again.stderr, "settings of the environment belong to the command"
    (folder / "IMAGE").write_bytes((ROOT / "tests/fixtures/records/tree/cats/b.png").read_bytes())
    predict = re.search(r"^(?:\[0\] )?predict: +(.*)$", again.stdout, re.MULTILINE)
    assert predict
    if "launch" in command:  # the same line as without a launcher, which is run for those: a start less
        assert prefix in shlex.split(predict[1])
        return
    named = run(predict[1], folder)
    assert named.returncode == 0, named.stderr
    assert "(score = " in named.stdout


def test_what_a_run_says_comes_next_can_be_pasted(tmp_path: Path) -> None:
    paste(f"{shlex.quote(sys.executable)} -m imgcls train", tmp_path, IMGCLS_DISP_BATCHES="7")


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    "checkout/scripts/train_mnist.py",
    "{python} checkout/scripts/train_mnist.py",
    "checkout/tools/launch.py -n 2 checkout/scripts/train_mnist.py",
    "checkout/tools/launch.py -n 2 --env 'A=b c' python checkout/scripts/train_mnist.py --kv-store dist_sync",
    "{python} -m imgcls launch -n 2 imgcls-train",
    "{python} -m imgcls train --workers-per-host 2",
])
def test_under_launchers_and_from_scripts_too(command: str, tmp_path: Path) -> None:
    os.symlink(ROOT, tmp_path / "checkout")
    paste(command.format(python=shlex.quote(sys.executable)), tmp_path)


def test_an_environment_whose_stamp_is_empty_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import _environment

    commands: list[list[str]] = []
    monkeypatch.setattr(_environment, "STAMP", tmp_path / "installed")
    monkeypatch.setattr(_environment, "_run", lambda command, _complaint: commands.append(command))
    (tmp_path / "installed").write_text("")
    _environment.ensure("test")
    assert [command[2] for command in commands] == ["venv", "pip"]
    assert (tmp_path / "installed").read_text().endswith(" test")
