"""Atomic writing: what is on the disk when, and what is left when something goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgcls.errors import RunError, UsageError
from imgcls.storage.atomic import atomic_write, write_bytes


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves an empty file without the first fsync, and no file without the last."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        events.append(f"fsync {'folder' if path.is_dir() else path.read_bytes().decode()}")
        fsync(handle)

    def note_replace(source: str, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_bytes(tmp_path / "new", b"con", b"tent")
    assert events == ["fsync content", "rename", "fsync folder"]


def test_a_failure_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def write_half() -> None:
        with atomic_write(target) as stream:
            stream.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=f"cannot write {target}: no space left on the device"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_file_is_as_readable_as_open_would_make_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_device_or_pipe_is_never_replaced(tmp_path: Path) -> None:
    """By the name that a link has as well: /dev/stdout is one."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link):
        with pytest.raises(UsageError, match="is a device or a pipe"), atomic_write(target) as stream:
            stream.write(b"x")
    assert pipe.is_fifo()
    assert link.is_symlink()
