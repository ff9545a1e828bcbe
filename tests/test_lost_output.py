"""A terminal that is closed under a run, a log that nobody reads: the position is saved, printed or not."""

from __future__ import annotations

import errno
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, write_digits

from imgcls.cli import train as command
from imgcls.errors import Stopped
from imgcls.training import checkpoint, trainer
from imgcls.training.output import LastingStream, is_unread, lasting_output
from imgcls.training.stop import StopSignal

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")


class LostStream(io.StringIO):
    """A stream that fails from a word on, as a terminal that was closed does."""

    def __init__(self, error: int, after: str = "") -> None:
        super().__init__()
        self.error = error
        self.after = after

    def write(self, text: str) -> int:
        if self.after in self.getvalue():
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Return what has something done after an update of the training."""
    original = trainer.Trainer.train_step

    def arrange(at: int, event: Callable[[], object]) -> None:
        def train_step(self: trainer.Trainer, batch: object, update: int) -> None:
            original(self, batch, update)
            if update == at:
                event()

        monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    return arrange


def train(folder: Path, prefix: Path, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "32", "--disp-batches", "1", "--num-epochs", "2",
                         "--model-prefix", str(prefix), *map(str, flags)])


def position_of(prefix: Path) -> tuple[int, int]:
    saved = checkpoint.load(str(prefix), "auto")
    assert saved
    return saved.position.epoch, saved.position.batch


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EAGAIN])
def test_a_log_that_cannot_be_written_ends_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   error: int) -> None:
    monkeypatch.setattr(sys, "stderr", LostStream(error, "Batch [1-2]"))
    assert train(folder, tmp_path / "net") == 0
    assert position_of(tmp_path / "net") == (2, 0)


def test_a_terminal_that_is_closed_saves_the_position(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      after_step: Callable[..., None]) -> None:
    """SIGHUP, and from then on every write fails."""
    stream = LostStream(errno.EIO, "<gone>")

    def close() -> None:
        stream.write("<gone>")
        signal.raise_signal(signal.SIGHUP)

    after_step(4, close)
    monkeypatch.setattr(sys, "stderr", stream)
    assert train(folder, tmp_path / "net") == 129
    assert position_of(tmp_path / "net") == (0, 4)


def test_a_log_that_nobody_reads_any_more_saves_the_position(folder: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `2>&1 | head`: other programs end by SIGPIPE."""
    monkeypatch.setattr(sys, "stderr", LostStream(errno.EPIPE, "Batch [2-3]"))
    assert train(folder, tmp_path / "net") == 141
    epoch, batch = position_of(tmp_path / "net")
    assert (epoch, batch) in ((0, 3), (0, 4), (0, 5))


def test_under_nohup_neither_ends_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          after_step: Callable[..., None]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        after_step(4, lambda: signal.raise_signal(signal.SIGHUP))
        monkeypatch.setattr(sys, "stderr", LostStream(errno.EPIPE, "Batch [2-3]"))
        assert train(folder, tmp_path / "net") == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert position_of(tmp_path / "net") == (2, 0)


def test_no_stderr_at_all(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert train(folder, tmp_path / "net") == 0
    if sys.stderr is not None:  # /dev/null, opened by the command until its process ends
        sys.stderr.close()


@pytest.mark.parametrize(("words", "status"), [("--version >&-", 0), ("nothing 2>&-", 2), ("nothing 2>&- >&-", 2)])
def test_a_stream_that_was_closed_before(words: str, status: int) -> None:
    result = subprocess.run(["sh", "-c", f'exec "$0" -m imgcls {words}', sys.executable], capture_output=True,
                            check=False, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (status, b"", b"")


def test_results_that_nobody_reads_are_told_by_the_status(folder: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", LostStream(errno.EIO))
    assert train(folder, tmp_path / "net") == 0


def test_saving_takes_no_stop_back() -> None:
    stop = StopSignal()
    with stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Stopped, match="stopped by SIGTERM") as raised:
            stop.raise_if_requested("epoch 0", stop.request)
    assert raised.value.exit_status == 143
    with stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.request == stop.SAVE


def test_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = sys.stdout, sys.stderr
    with lasting_output():
        assert isinstance(sys.stderr, LastingStream)
        assert sys.stderr.isatty() == err.isatty()
        assert not is_unread()
    assert (sys.stdout, sys.stderr) == (out, err)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--workers-per-host", "2")])
def test_a_real_terminal_that_is_closed(tmp_path: Path, flags: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "imgcls", "train", "--dataset", "digits", "--network", "mlp", "--num-epochs", "5000",
            "--model-prefix", str(tmp_path / "net"), *flags]
    process, terminal = pty.fork()
    if not process:
        os.chdir(ROOT)
        os.execv(argv[0], argv)
    deadline = time.monotonic() + 100
    while not (tmp_path / "net-0001.params").exists():
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert (tmp_path / "net-position.states").exists()
