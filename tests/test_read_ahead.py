"""What is fetched before it is read, and when the rest follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from imgcls.storage import read_ahead
from imgcls.storage.read_ahead import ReadAhead

RECORD, COUNT, FIRST = 1000, 50, 10


class Copy:
    """A partial copy that notes what is fetched: records, or -1 where it is filled."""

    def __init__(self) -> None:
        self.size = RECORD * COUNT
        self.fetched: list[int] = []
        self.around: list[int] = []
        self.lock = threading.Lock()
        self.is_complete = False

    def fetch(self, begin: int, end: int) -> None:
        time.sleep(0.002)
        with self.lock:
            self.fetched.append(begin // RECORD)

    def fetch_around(self, begin: int, end: int, max_bytes: int) -> bool:
        with self.lock:
            self.around.append(begin // RECORD)
        return True

    def fetch_some(self, *, max_bytes: int) -> bool:
        with self.lock:
            self.fetched.append(-1)
            self.is_complete = self.fetched.count(-1) >= 5
        return True

    def own(self) -> bool:
        return True

    def note_complete(self) -> None:
        pass


def wait_until(is_true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch) -> Copy:
    monkeypatch.setattr(read_ahead, "_NEAR_BYTES", RECORD * FIRST + 1)
    monkeypatch.setattr(read_ahead, "_GRACE_S", 30.0)
    return Copy()


def begin(copy: Copy) -> tuple[ReadAhead, list[int]]:
    ahead = ReadAhead([cast(Any, copy)])
    order = np.random.default_rng(0).permutation(COUNT)
    ahead.expect(np.zeros(COUNT, np.int64), order * RECORD, (order + 1) * RECORD)
    return ahead, order.tolist()


def test_files_are_filled_when_the_first_was_read(copy: Copy) -> None:
    ahead, order = begin(copy)
    wait_until(lambda: len(copy.fetched) == FIRST)
    for _ in range(FIRST - 1):
        ahead.note_read(RECORD - 8)
        time.sleep(0.002)
    assert sorted(copy.fetched) == sorted(order[:FIRST])
    assert not copy.around
    ahead.note_read(RECORD - 8)
    wait_until(lambda: copy.is_complete)
    assert sorted(copy.fetched[:FIRST]) == sorted(order[:FIRST])
    assert sorted(copy.around) == sorted(order[FIRST:])  # the rest about in its order, then what nobody reads
    assert ahead.is_done


def test_a_reader_that_takes_its_time_does_not_hold_them_up(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_GRACE_S", 0.05)
    _, order = begin(copy)
    wait_until(lambda: copy.is_complete)
    assert sorted(copy.fetched[:FIRST]) == sorted(order[:FIRST])
