"""An error that nobody expected: one line, status 1, and a traceback that is kept where only the user can read it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_cli

from imgcls.cli._run import run_main
from imgcls.errors import UsageError
from imgcls.storage.tracebacks import as_told


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that tracebacks go to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("IMGCLS_TRACEBACK", raising=False)
    return tmp_path


def fail(error: BaseException) -> int:
    def function(_argv: Sequence[str]) -> int:
        raise error
    return run_main(function, [], "imgcls-test")


def test_a_bug_is_a_line_that_says_where_the_traceback_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(KeyError("depth")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("imgcls-test: error: a bug in imgcls: KeyError: 'depth'; the traceback is in ")
    (path,) = folder.iterdir()
    assert f"is in {path}, please report it" in error
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "arguments may hold what is nobody else's business"
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "python " in text


def test_a_variable_shows_the_traceback_at_once(folder: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLS_TRACEBACK", "1")
    assert as_told(KeyError("x")).args == as_told(KeyError("x"), {"IMGCLS_TRACEBACK": "1"}).args
    assert fail(KeyError("depth")) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.splitlines()[-1].startswith("imgcls-test: error: a bug in imgcls: KeyError: 'depth'; the ")
    assert not list(folder.iterdir())


def test_where_nothing_can_be_written_the_traceback_is_printed(capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    assert fail(ValueError("x")) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "the traceback is above" in error.splitlines()[-1]


@pytest.mark.parametrize(("error", "expected"), [
    (MemoryError(), "not enough memory (MemoryError)"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to"), "not enough memory"),
    (type("error", (Exception,), {})("OpenCV(4): (-4:Insufficient memory) Failed"), "not enough memory"),
    (RecursionError("maximum recursion depth"), "nested too deeply"),
    (ValueError("Expected more than 1 value per channel when training, got"), "leaves no batch of one image over"),
    (OSError(5, "Input/output error", "/data/a.rec"), "error: /data/a.rec: input/output error; the traceback is in"),
    (UsageError("`lr` x: must"), "error: --lr x: must"),
])
def test_what_is_no_bug_is_not_called_one(error: BaseException, expected: str, capsys: pytest.CaptureFixture[str],
                                          ) -> None:
    assert fail(error) in (1, 2)
    line = capsys.readouterr().err
    assert expected in line
    assert line.count("\n") == 1
    assert "a bug" not in line


def test_numpys_lack_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    def function(_argv: Sequence[str]) -> int:
        return int(np.empty(1 << 60, dtype=np.uint8)[0])

    assert run_main(function, [], "imgcls-test") == 1
    assert "error: not enough memory (MemoryError: Unable to allocate" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_told_and_the_command_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise KeyError("thread")

    def function(_argv: Sequence[str]) -> int:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return 0

    before = threading.excepthook
    assert run_main(function, [], "imgcls-test") == 1
    assert threading.excepthook is before
    assert re.fullmatch(r"imgcls-test: error: a bug in imgcls: KeyError: 'thread'; .*\n", capsys.readouterr().err)


def test_a_name_that_is_not_utf8_is_printed_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.rec")
    result = run_cli("verify", name, cwd=tmp_path, env={"PYTHONIOENCODING": "utf-8:strict"})
    assert result.returncode in (1, 2)
    assert "caf\\xe9.rec" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_versions_of_what_is_loaded_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="9.9"))
    told = str(as_told(KeyError("x")))
    path = told.partition("the traceback is in ")[2].partition(",")[0]
    assert "torch 9.9" in Path(path).read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["train", "--print-config"],
                                   ["launch", "-n", "2", "--launcher", "slurm", "true"]])
def test_a_full_disk_behind_stdout_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-m", "imgcls", *words], stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == []
    assert "error: standard output: no space left on the device; not all could be printed" in done.stderr
