"""Locks between processes: exclusive and shared ones, and that they end with the file and with its
process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from imgcls.storage.locks import lock_file


def test_shared_locks_exclude_exclusive_ones(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    with open(path, "rb") as reader, open(path, "rb") as other, open(path, "r+b") as writer:
        assert lock_file(reader, shared=True)
        assert lock_file(other, shared=True)
        assert not lock_file(writer)
        reader.close()
        assert not lock_file(writer)
        other.close()
        assert lock_file(writer)
        with open(path, "rb") as late:
            assert not lock_file(late, shared=True)


def test_a_mapping_extends_the_lock_of_its_file(tmp_path: Path) -> None:
    """The cache counts on it: readers close the file and keep the mapping."""
    path = tmp_path / "x"
    path.write_bytes(b"x")
    with open(path, "rb") as reader:
        lock_file(reader, shared=True)
        mapping = mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_READ)
    with open(path, "r+b") as writer:
        assert not lock_file(writer)
        mapping.close()
        assert lock_file(writer)


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    code = ("import sys, time; from imgcls.storage.locks import lock_file\n"
            "stream = open(sys.argv[1], 'wb'); lock_file(stream)\n"
            "print('locked', flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], text=True,
                              stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with open(tmp_path / "x", "wb") as stream:
            assert not lock_file(stream)
            holder.kill()
            assert lock_file(stream, wait=True)  # comes back when the system has cleaned up
    finally:
        holder.kill()
        holder.communicate()


def test_without_locks_everything_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with open(tmp_path / "x", "wb") as first, open(tmp_path / "x", "wb") as second:
        assert lock_file(first)
        assert lock_file(second)
