"""Files under a prefix: of which run they are, what is written over them, how many states stay, wrong prefixes."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from conftest import write_digits

from imgcls.cli import train as command
from imgcls.errors import UsageError
from imgcls.storage import uploads
from imgcls.storage.atomic import atomic_write
from imgcls.storage.remote import RemotePath
from imgcls.training import checkpoint
from imgcls.training.checkpoint import history, writer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def train(folder: Path, prefix: Path | str, *flags: object) -> int:
    return command.main(["--data-dir", str(folder), "--batch-size", "160", "--model-prefix", str(prefix),
                         *map(str, flags)])


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def epochs_of(prefix: Path, suffix: str) -> list[int]:
    return sorted(int(path.stem[-4:]) for path in prefix.parent.glob(f"{prefix.name}-[0-9]*.{suffix}"))


# ---- going back


def test_going_back_says_what_is_missing_and_what_is_written_over(folder: Path, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 5, "--keep-states", 2) == 0
    capsys.readouterr()
    assert train(folder, prefix, "--num-epochs", 5, "--load-epoch", 2) == 0
    [line] = warnings(capsys)
    assert f"{prefix}-0002.states" in line
    assert "without momentum" in line
    assert f"{prefix}-0003.params to 0005" in line
    assert "--save-model-prefix" in line


def test_going_back_with_states_and_elsewhere_says_less(folder: Path, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 3) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert train(folder, prefix, "--num-epochs", 2, "--load-epoch", 1, "--save-model-prefix", tmp_path / "new") == 0
    assert warnings(capsys) == []
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert train(folder, prefix, "--num-epochs", 3, "--load-epoch", 2) == 0
    [line] = warnings(capsys)
    assert f"{prefix}-0003.params of the run" in line
    assert "momentum" not in line
    # plain sgd remembers nothing that could be missing
    (tmp_path / "net-0003.states").unlink()
    assert train(folder, prefix, "--num-epochs", 4, "--load-epoch", 3, "--mom", 0) == 0
    assert warnings(capsys) == []


def test_auto_goes_on_with_the_run_that_went_back(folder: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Not with the longer one before it, whose epochs and states are still there."""
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 6) == 0
    assert train(folder, prefix, "--num-epochs", 3, "--load-epoch", 2, "--lr", 0.01) == 0
    assert epochs_of(prefix, "states") == [1, 2, 3, 4, 5, 6]
    saved = checkpoint.load(str(prefix), "auto")
    assert saved
    assert saved.position.epoch == 3
    # and once more, over files of two earlier runs
    assert train(folder, prefix, "--num-epochs", 4, "--load-epoch", "auto", "--lr", 0.01) == 0
    assert train(folder, prefix, "--num-epochs", 3, "--load-epoch", 2, "--lr", 0.001) == 0
    saved = checkpoint.load(str(prefix), "auto")
    assert saved
    assert saved.position.epoch == 3
    capsys.readouterr()
    assert train(folder, prefix, "--num-epochs", 4, "--load-epoch", "auto", "--lr", 0.001) == 0
    assert f"Loaded model {prefix}_0003.params" in capsys.readouterr().err


def test_a_position_of_another_run_is_not_gone_on_from(folder: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 2) == 0
    saved = checkpoint.load(str(prefix), "auto")
    assert saved
    position = Path(f"{prefix}-position.states")
    for run, epoch in ((saved.run, 2), ("another", 2)):
        ahead = dataclasses.replace(saved, position=checkpoint.Position(epoch=2, batch=1, update=5), run=run)
        position.write_bytes(writer.states.encode(ahead, with_weights=True))
        found = checkpoint.load(str(prefix), "auto")
        assert found
        assert (found.position.epoch, found.position.batch) == (epoch, 1 if run == saved.run else 0)


def test_beginning_anew_removes_nothing_before_it_has_something_better(folder: Path, tmp_path: Path,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 3) == 0
    states = {epoch: Path(f"{prefix}-{epoch:04d}.states").read_bytes() for epoch in (2, 3)}
    saved = checkpoint.load(str(prefix), "auto")
    assert saved
    Path(f"{prefix}-position.states").write_bytes(writer.states.encode(saved, with_weights=True))
    capsys.readouterr()
    assert train(folder, prefix, "--num-epochs", 1, "--seed", 1) == 0
    [line] = warnings(capsys)
    assert f"{prefix}-position.states" in line
    assert {epoch: Path(f"{prefix}-{epoch:04d}.states").read_bytes() for epoch in (2, 3)} == states
    newest = checkpoint.load(str(prefix), "auto")
    assert newest
    assert newest.position.epoch == 1


# ---- how many states stay


def test_small_states_all_stay_and_of_large_ones_the_last(folder: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 6) == 0
    assert epochs_of(prefix, "states") == [1, 2, 3, 4, 5, 6]
    size = Path(f"{prefix}-0001.states").stat().st_size
    for budget, kept in ((3 * size + size // 2, [4, 5, 6]), (size, [5, 6]), (1, [5, 6])):
        monkeypatch.setattr(writer, "STATES_BYTES", budget)
        other = tmp_path / f"net{budget}"
        assert train(folder, other, "--num-epochs", 6) == 0
        assert epochs_of(other, "states") == kept
        assert epochs_of(other, "params") == [1, 2, 3, 4, 5, 6]
    assert train(folder, tmp_path / "one", "--num-epochs", 6, "--keep-states", 1) == 0
    assert epochs_of(tmp_path / "one", "states") == [6]


def test_going_back_keeps_as_many_states_of_its_own(folder: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 6, "--keep-states", 6) == 0
    assert train(folder, prefix, "--num-epochs", 4, "--load-epoch", 2, "--keep-states", 2) == 0
    assert epochs_of(prefix, "states") == [3, 4, 5, 6]


# ---- epochs and prefixes that cannot be


@pytest.mark.parametrize("epoch", ["²", "٣", "-1", "+8", "8.0", "1e3", "0x8", "1_0", "9" * 30, "9" * 5000, "8\n9"])
def test_an_epoch_is_a_number_in_plain_digits(epoch: str) -> None:
    with pytest.raises(UsageError, match=r"must be an epoch such as 8 or 0008, auto or best") as raised:
        checkpoint.parse_epoch(epoch)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(("text", "epoch"), [("8", 8), ("0008", 8), ("0000", 0), (" 8 ", 8), ("00000000000012", 12)])
def test_epochs_of_all_spellings(text: str, epoch: int) -> None:
    assert checkpoint.parse_epoch(text) == epoch


@pytest.mark.parametrize("prefix", ["x/", "/", ".", "..", "x/..", "x/.", "x" * 300, "x/" * 3000 + "net", "x\ny",
                                    "x\x1b[31my", "s3://bucket", "s3://bucket/", "memory://bucket"])
@pytest.mark.parametrize("setting", ["model_prefix", "save_model_prefix"])
def test_a_prefix_that_no_file_can_begin_with(folder: Path, capsys: pytest.CaptureFixture[str], prefix: str,
                                              setting: str, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flag = f"--{setting.replace('_', '-')}"
    assert command.main(["--data-dir", str(folder), flag, prefix, "--num-epochs", "1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"imgcls-train: error: {flag} ")
    assert line.isprintable()
    assert len(line) < 400
    assert list(tmp_path.iterdir()) == []


def test_a_prefix_with_a_zero_byte() -> None:
    with pytest.raises(UsageError, match=r"must not hold a line break"):
        checkpoint.check_prefix("x\0y", "`model_prefix`")


def test_a_prefix_named_as_a_folder_and_one_that_is_no_text(folder: Path, tmp_path: Path) -> None:
    """As in MXNet the files stand beside the folder; names of files are bytes, whatever they mean."""
    (tmp_path / "net").mkdir()
    assert train(folder, tmp_path / "net", "--num-epochs", 1) == 0
    assert (tmp_path / "net-0001.params").exists()
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert train(folder, odd, "--num-epochs", 1) == 0
    assert json.loads(Path(f"{odd}-meta.json").read_bytes())["command"]
    assert train(folder, odd, "--num-epochs", 2, "--load-epoch", "auto") == 0


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_lock_that_is_no_file(folder: Path, tmp_path: Path, kind: str,
                                capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "net.lock"
    (tmp_path / "precious").write_text("precious")
    {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock),
     "link": lambda: lock.symlink_to(tmp_path / "precious")}[kind]()
    assert train(folder, tmp_path / "net", "--num-epochs", 1) == 1
    assert f"cannot lock {lock}: " in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "precious").read_text() == "precious"
    assert not list(tmp_path.glob("*.params"))


def test_a_lock_that_somebody_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of a group: it may be read and not written, and not be removed."""
    lock = tmp_path / "net.lock"
    lock.write_text("theirs")
    opened = os.open

    def open_as_another(path: str, flags: int, *rest: int, **named: int) -> int:
        if str(path) == str(lock) and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", open_as_another)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: (_ for _ in ()).throw(PermissionError(1, "no"))
                        if self == lock else os.unlink(self))
    assert train(folder, tmp_path / "net", "--num-epochs", 1) == 0
    assert lock.read_text() == "theirs"


def test_meta_data_that_cannot_be_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "net"
    assert train(folder, prefix, "--num-epochs", 1) == 0
    meta = tmp_path / "net-meta.json"
    content = meta.read_text()
    meta.unlink()
    assert train(folder, prefix, "--num-epochs", 2, "--load-epoch", "auto") == 0
    assert Path(f"{prefix}-0002.params").exists()
    for make in (lambda: meta.mkdir(), lambda: meta.write_text(content[:100]), lambda: meta.write_text("[]"),
                 lambda: meta.write_bytes(b"\xff\xfe\0")):
        meta.rmdir() if meta.is_dir() else meta.unlink()
        make()
        capsys.readouterr()
        assert train(folder, prefix, "--num-epochs", 3, "--load-epoch", "auto") == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("imgcls-train: error: ")
        assert str(meta) in error


# ---- what kills leave


def test_what_a_killed_save_left_goes_with_the_next_run(folder: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "a.b"
    assert train(folder, prefix, "--num-epochs", 1) == 0
    left = [tmp_path / f".a.b-{name}.ab_12cd9.tmp" for name in (
        "0001.params", "0002.states", "10000.params", "position.states", "meta.json", "metrics.jsonl", "symbol.json",
        "mean.bin")]
    # another prefix's, the user's, and one that somebody is writing
    others = [tmp_path / name for name in (
        ".aXb-0001.params.ab_12cd9.tmp", ".a.b-c-0001.params.ab_12cd9.tmp", ".a.b-notes.txt.ab_12cd9.tmp",
        "a.b-0001.params.ab_12cd9.tmp", ".a.b-0001.params.tmp", ".a.b-0001.params.backup.tmp", ".a.b-0007.params.ab")]
    for path in (*left, *others):
        path.write_bytes(b"half")
    (tmp_path / ".a.b-0004.params.ab_12cd9.tmp").mkdir()
    (tmp_path / ".a.b-0005.params.ab_12cd9.tmp").symlink_to(others[0])
    with atomic_write(tmp_path / "a.b-0003.params") as stream:
        stream.write(b"being written")
        assert train(folder, prefix, "--num-epochs", 2, "--load-epoch", "auto") == 0
    assert (tmp_path / "a.b-0003.params").read_bytes() == b"being written"
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)
    assert (tmp_path / ".a.b-0004.params.ab_12cd9.tmp").is_dir()


def test_what_a_killed_upload_left_goes_with_the_next(own_cache: Path) -> None:
    first, second = uploads._Folder(), uploads._Folder()
    assert first.path.is_dir()
    # as a kill leaves it: the folder, and nobody who holds its lock
    second._lock.close()
    elsewhere = own_cache / "upload" / "another-host-abc"
    elsewhere.mkdir()
    (elsewhere / ".lock").touch()
    third = uploads._Folder()
    assert first.path.is_dir()
    assert elsewhere.is_dir()
    assert not second.path.exists()
    for folder in (first, third):
        folder.remove()
        assert not folder.path.exists()


@pytest.mark.parametrize("content", [b"", b"\x10\0\0", (99).to_bytes(8, "little") + b"{}"])
def test_states_that_are_cut_name_no_run(memory: str, tmp_path: Path, content: bytes) -> None:
    for path in (tmp_path / "net-0001.states", RemotePath(f"{memory}/net-0001.states")):
        path.write_bytes(content)
        assert history._run_of(path) == ""


def test_a_folder_of_uploads_that_is_written_to_stays_however_old(own_cache: Path) -> None:
    first = uploads._Folder()
    elsewhere = own_cache / "upload" / "another-host-abc"
    elsewhere.mkdir()
    long_ago_s = time.time() - 30 * 24 * 3600
    for folder in (first.path, elsewhere):
        (folder / ".lock").touch()
        (folder / "net-metrics.jsonl").touch()  # a line now: the times of the folder and of the lock stay
        for path in (folder / ".lock", folder):
            os.utime(path, (long_ago_s, long_ago_s))
    # one that its process removes between listing and looking at it
    (own_cache / "upload" / "gone").symlink_to("nowhere")
    second = uploads._Folder()
    assert (first.path / "net-metrics.jsonl").exists()
    assert (elsewhere / "net-metrics.jsonl").exists()
    os.utime(elsewhere / "net-metrics.jsonl", (long_ago_s, long_ago_s))
    os.utime(elsewhere, (long_ago_s, long_ago_s))
    third = uploads._Folder()
    assert not elsewhere.exists()
    for left in (first, second, third):
        left.remove()


def test_what_a_killed_upload_left_at_a_url_goes_when_it_is_old(folder: Path, memory: str, own_cache: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    left = RemotePath(f"{memory}/net-0007.params.0123abcd.tmp")
    others = [RemotePath(f"{memory}/{name}") for name in ("net-notes.txt.0123abcd.tmp", "net-0007.params.old.tmp",
                                                          "other-0007.params.0123abcd.tmp")]
    for path in (left, *others):
        path.write_bytes(b"half")
    assert train(folder, f"{memory}/net", "--num-epochs", 1) == 0
    assert left.exists()  # perhaps another machine is writing it
    monkeypatch.setattr(RemotePath, "modified_s", lambda self: time.time() - 3 * 24 * 3600)
    assert train(folder, f"{memory}/net", "--num-epochs", 2, "--load-epoch", "auto") == 0
    assert not RemotePath(str(left)).exists()
    assert all(RemotePath(str(path)).exists() for path in others)
