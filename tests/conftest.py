"""What several tests share: files that MXNet wrote, the folder of real data, servers, commands run as by a user."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from faulty_server import FaultyServer, serving
from fixtures.networks.draw import SHAPES, draw

# Else the free cores would decide the number of threads, from test to test, and so the last digits of weights.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the CPU multiplies bfloat16 in hardware, networks compute in it by default: tests run as on all other CPUs.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

ROOT = Path(__file__).resolve().parents[1]
#: names of the networks that `recorded_network` has
RECORDED_NETWORKS = tuple(SHAPES)


#: reasons for which a test may be skipped: everything else that is skipped in CI is a mistake (--strict-skips)
ALLOWED_SKIPS = re.compile(r"GPU|root|no mpirun|network namespaces|setpriv|/dev/full|no Chromium|no ExecuTorch|"
                           r"no tensorboard|no headers of ONNX Runtime|no pyarrow|no timm")
_UNPACKED: list[tempfile.TemporaryDirectory[str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --strict-skips, which CI uses."""
    parser.addoption("--strict-skips", action="store_true",
                     help="fail where a test is skipped for another reason than the machine it runs on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of real data where that is not beside the checkout: they only add cases."""
    absent = not (ROOT.parent / "shared").is_dir()
    mxnet = bool(os.environ.get("MXNET_PYTHON"))
    left_out = [item for item in items if (absent and item.get_closest_marker("real_data"))
                or (not mxnet and item.get_closest_marker("mxnet"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --strict-skips, fail and name the tests that were skipped without one of the allowed reasons."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--strict-skips") and terminal is not None:
        # the reason alone: the path of a checkout may hold one of these words, too
        unexpected = [report for report in terminal.stats.get("skipped", ())
                      if not ALLOWED_SKIPS.search(str(report.longrepr[-1]))]
        for report in unexpected:
            terminal.write_line(f"unexpected skip: {report.nodeid}: {report.longrepr[-1]}", red=True)
        if unexpected:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def mxnet_file(*parts: str) -> Path:
    """Return a path among the files that MXNet 1.9.1 wrote (tests/fixtures/mxnet), unpacked once a run."""
    if not _UNPACKED:
        _UNPACKED.append(tempfile.TemporaryDirectory(prefix="imgcls-fixtures-"))
        for archive in sorted((ROOT / "tests" / "fixtures" / "mxnet").glob("*.tar.xz")):
            with tarfile.open(archive) as tar:
                # the argument came to Python 3.10 and 3.11 with a patch release
                options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(_UNPACKED[0].name, **options)
    return Path(_UNPACKED[0].name, *parts)


@dataclass(frozen=True)
class RecordedNetwork:
    """A network whose answers MXNet recorded: symbol, parameters and images, and what MXNet computes of them.

    The parameters follow from their names (tests/fixtures/networks/draw.py); `params_sha256` is of MXNet's own file.
    """

    name: str
    symbol_path: Path
    image_shape: tuple[int, int, int]
    images: np.ndarray
    logits: np.ndarray
    softmax: np.ndarray
    params_sha256: str

    def save(self, folder: Path) -> Path:
        """Write the checkpoint of epoch 3 into `folder`, and return its prefix."""
        from imgcls import graph
        from imgcls.formats import params

        prefix = folder / self.name
        shutil.copy(self.symbol_path, f"{prefix}-symbol.json")
        model = graph.load(prefix, None, self.image_shape)
        params.save(f"{prefix}-0003.params", {
            name: draw(name.partition(":")[2], array.shape) for name, array in graph.arrays(model).items()})
        return prefix


def recorded_network(name: str) -> RecordedNetwork:
    """Return the network of that name (see RECORDED_NETWORKS)."""
    folder = ROOT / "tests" / "fixtures" / "networks"
    digests = json.loads((folder / "networks.json").read_text())["params_sha256"]
    with np.load(folder / "networks.npz") as arrays:
        return RecordedNetwork(
            name, mxnet_file("nets", f"{name}-symbol.json"), SHAPES[name], draw("data", (5, *SHAPES[name])),
            arrays[f"{name}/logits"], arrays[f"{name}/softmax"], digests[name])


def real_data(*parts: str) -> Path:
    """Return a path in the folder of real data beside the checkout, for tests marked `real_data`."""
    return ROOT.parent.joinpath("shared", "data", *parts)


def run_cli(command: str, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None,
            timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `python -m imgcls <command> args...` in a process of its own, without a terminal."""
    return subprocess.run([sys.executable, "-m", "imgcls", command, *map(str, args)], cwd=cwd, text=True,
                          capture_output=True, timeout=timeout, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})})


def run_workers(script: str, count: int, *args: object, timeout: float = 120) -> None:
    """Run `python script RANK args...` for every rank at once; fail with the output of the first that fails."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([sys.executable, script, str(rank), *map(str, args)], env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for rank in range(count)]
    try:
        for rank, worker in enumerate(workers):
            output = worker.communicate(timeout=timeout)[0]
            assert worker.returncode == 0, f"rank {rank}:\n{output}"
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def write_digits(root: Path) -> Path:
    """Write drawn digits as MNIST's four files, 320 for training and 64 for validation; return `root`."""
    from imgcls.datasets import digits
    from imgcls.formats import idx

    for stem, count, seed in (("train", 320, 1), ("t10k", 64, 2)):
        images, labels = digits.draw(count, seed)
        idx.write_images(root / f"{stem}-images-idx3-ubyte.gz", images[:, 0])
        idx.write_labels(root / f"{stem}-labels-idx1-ubyte.gz", labels)
    return root


#: the object /x.bin of the server `web`
CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _joins_nobody() -> Iterator[None]:
    """Fail a test that joins other processes in this one: the next command in it would end pytest, silently."""
    yield
    process_group = sys.modules.get("imgcls.distributed.process_group")
    assert process_group is None or not process_group.has_joined()


@pytest.fixture(scope="session", autouse=True)
def _no_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests pack and search out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGCLS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder that only this test uses."""
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, so that failed requests are repeated almost at once."""
    from imgcls.storage import retries

    monkeypatch.setattr(retries, "PAUSE_S", 0.01)


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    """Yield a web server on this machine that serves /x.bin and fails on demand."""
    with serving() as server:
        server.objects["/x.bin"] = CONTENT
        yield server


@pytest.fixture
def memory() -> Iterator[str]:
    """Yield the URL of an empty bucket in fsspec's memory://, a store without a server."""
    from fsspec.implementations.memory import MemoryFileSystem

    for contents in (MemoryFileSystem.store, MemoryFileSystem.pseudo_dirs):
        contents.clear()
    yield "memory://bucket"
    MemoryFileSystem.store.clear()


def list_names(url: str) -> list[str]:
    """Return the names of the files beside a URL, sorted."""
    from imgcls.storage.remote import RemotePath

    return [path.name for path in RemotePath(url).parent.iterdir()]
