"""Ranges read by plain signed requests: the bytes, or left to the driver, or an error that may pass."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import CONTENT
from faulty_server import FaultyServer

from imgcls.storage import direct
from imgcls.storage.http import HttpStatusError


class SignedFileSystem:
    """What `direct` asks of s3fs's file system."""

    anon, version_aware = False, False

    def __init__(self, url: str) -> None:
        self.url = url
        self.num_signed = 0
        self.req_kw: dict[str, Any] = {}
        self.s3_additional_kwargs: dict[str, Any] = {}
        self.client_kwargs: dict[str, Any] = {}
        self.config_kwargs: dict[str, Any] = {}

    def sign(self, path: str, expiration: int) -> str:
        self.num_signed += 1
        return f"{self.url}/{path}?signed"


def read_direct(fs: object, path: str, begin: int, end: int) -> bytes | None:
    buffer = bytearray(end - begin)
    num_bytes = direct.read_direct(fs, path, begin, memoryview(buffer))
    return None if num_bytes is None else bytes(buffer[:num_bytes])


@pytest.fixture
def fs(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> SignedFileSystem:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(SignedFileSystem, "__module__", "s3fs.core")
    web.objects["/x.bin?signed"] = CONTENT
    return SignedFileSystem(web.url)


def test_a_range_is_read_and_signed_once(fs: SignedFileSystem, web: FaultyServer) -> None:
    assert read_direct(fs, "x.bin", 10, 300) == CONTENT[10:300]
    assert read_direct(fs, "x.bin", 0, 1) == CONTENT[:1]
    assert fs.num_signed == 1
    assert [seen[2] for seen in web.seen] == ["bytes=10-299", "bytes=0-0"]


def test_what_is_set_up_otherwise_is_left_to_the_driver(fs: SignedFileSystem, web: FaultyServer) -> None:
    assert read_direct(object(), "x.bin", 0, 5) is None
    fs.req_kw = {"RequestPayer": "requester"}
    assert read_direct(fs, "x.bin", 0, 5) is None
    fs.req_kw, fs.client_kwargs = {}, {"verify": False}
    assert read_direct(fs, "x.bin", 0, 5) is None
    assert not web.seen


def test_a_refusal_is_left_to_the_driver(fs: SignedFileSystem, web: FaultyServer) -> None:
    assert read_direct(fs, "nothing.bin", 0, 5) is None
    assert read_direct(fs, "x.bin", 0, 5) == CONTENT[:5]
    web.faults = ["403"]
    assert [read_direct(fs, "x.bin", 0, 5) for _ in range(2)] == [None, None]
    assert len(web.seen) == 3  # once refused, the store is not asked again


def test_a_server_without_ranges_is_left_to_the_driver(fs: SignedFileSystem, web: FaultyServer) -> None:
    web.ranges = False
    assert read_direct(fs, "x.bin", 5, 9) is None


def test_what_may_pass_is_raised(fs: SignedFileSystem, web: FaultyServer) -> None:
    web.faults = ["500", "reset", "cut"]
    for error in (HttpStatusError, ConnectionError):
        with pytest.raises(error):
            read_direct(fs, "x.bin", 0, 50)
    assert read_direct(fs, "x.bin", 0, 50) == CONTENT[:25]  # the caller counts
    assert read_direct(fs, "x.bin", 0, 50) == CONTENT[:50]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(fs: SignedFileSystem, web: FaultyServer) -> None:
    assert read_direct(fs, "x.bin", 0, 5) == CONTENT[:5]
    web.faults = ["reset"]
    assert read_direct(fs, "x.bin", 0, 5) == CONTENT[:5]
