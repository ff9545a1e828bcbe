"""Start and end a dist_async server beside a worker, and find the store where the workers meet."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from imgcls.errors import RunError

#: the folder that our package is in: a worker may have found the package in ways that a child does not
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]


def start_server(config: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process; `config` is what `server.main` reads."""
    paths = [os.fspath(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, "-m", "imgcls.distributed.parameter_server.server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        # without GPUs: servers work on the CPU, and a CUDA context would cost half a gigabyte
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""})
    # left open: its end tells the server that this process is gone
    assert child.stdin
    child.stdin.write(json.dumps(config).encode() + b"\n")
    child.stdin.flush()
    return child


def wait_until_ready(child: subprocess.Popen[bytes]) -> None:
    """Wait until a server says that it is ready; RunError where it ends instead."""
    if child.stdout and not child.stdout.readline():
        raise RunError(f"`kv_store` dist_async: the server here ended at its start, status {child.wait()}")


def kill_server(child: subprocess.Popen[bytes]) -> None:
    """End a server at once."""
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream:
            with contextlib.suppress(OSError):
                stream.close()


def base_store() -> Any:
    """Return the store where the workers met, without the prefixes that torch puts before its keys."""
    # torch gives no public way to the store of its default group
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store


def store_address(store: Any) -> dict[str, Any]:
    """Return where another process finds that store: {"file"} or {"host", "port"}."""
    if isinstance(store, dist.FileStore):
        return {"file": store.path}  # type: ignore[attr-defined]
    return {"host": store.host, "port": store.port}
