"""Jobs over ssh on two hosts, which are network namespaces with disks of their own.

Skipped where those cannot be made: they need root, iproute2, openssh-server and rsync (see two_hosts.py).
About two minutes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from two_hosts import TwoHosts, Unavailable

pytestmark = pytest.mark.slow

TRAIN = ["--dataset", "digits", "--num-epochs", "1", "--disp-batches", "1000"]


class Bench:
    """Two hosts, and how to start jobs on them from a third."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        self.folder = hosts.folder
        (self.folder / "hosts").write_text("hosta\nhostb slots=1\n")
        #: a checkout of its own, small enough to be copied
        self.checkout = self.folder / "checkout"
        for name in ("imgcls", "scripts", "tools"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {**os.environ, "PYTHONPATH": str(self.checkout)}

    def launch(self, *arguments: object, hosts: str = "hosts") -> subprocess.Popen[str]:
        """Start tools/launch.py -n 2 on the third host."""
        command = [*self.hosts.words("hostl"), sys.executable, "tools/launch.py", "-n", "2", "-H",
                   self.folder / hosts,
                   "--ssh-config", self.hosts.config, *arguments]
        return subprocess.Popen(list(map(str, command)), cwd=self.checkout, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def steps(self, *launcher: object,
              worker: tuple[object, ...] = (4000,)) -> tuple[subprocess.Popen[str], Path]:
        """Start the workers of fixtures/steps.py with a new folder, shared by the hosts."""
        run = self.folder / f"run{time.monotonic_ns()}"
        run.mkdir()
        script = ROOT / "tests" / "fixtures" / "steps.py"
        return self.launch(*launcher, sys.executable, script, run, *worker), run

    def agent(self, host: str) -> int:
        """The process id of the agent on a host."""
        return next(pid for pid, line in self.hosts.processes(host).items()
                    if line.startswith(sys.executable) and "imgcls.launch.agent" in line)

    def assert_empty(self, seconds: float = 5) -> None:
        """Nothing of a job is left on the hosts."""
        deadline = time.monotonic() + seconds
        while left := [line for host in ("hosta", "hostb") for line in self.hosts.processes(host).values()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    hosts = TwoHosts(tmp_path_factory.mktemp("hosts"), tag=f"t{os.getpid() % 1000}")
    try:
        hosts.up()
    except Unavailable as reason:
        pytest.skip(f"no network namespaces with ssh here: {reason}")
    try:
        yield Bench(hosts)
    finally:
        hosts.down()


def finish(process: subprocess.Popen[str], seconds: float = 90) -> tuple[int, list[str], list[str]]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out.splitlines(), err.splitlines()


def until_running(process: subprocess.Popen[str], run: Path, lines: int = 5) -> None:
    deadline = time.monotonic() + 60
    while not (run / "trace").exists() or len((run / "trace").read_text().splitlines()) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trace(run: Path) -> tuple[list[int], list[int]]:
    """The steps that were taken, and how many workers took each."""
    pairs = [line.split() for line in (run / "trace").read_text().splitlines()]
    return [int(step) for step, _ in pairs], [int(workers) for _, workers in pairs]


def test_two_hosts_give_the_bytes_of_one(bench: Bench, tmp_path: Path) -> None:
    prefix = bench.folder / "net"
    process = bench.launch("--sync-dir", bench.hosts.disk / "a job", "--env", "OMP_NUM_THREADS=1", "python",
                           "scripts/train_mnist.py", "--kv-store", "dist_sync", "--model-prefix",
                           prefix, *TRAIN)
    status, out, err = finish(process)
    assert status == 0, err
    assert all(line.startswith("[hosta:0] ") for line in [*out, *err]), err  # hostb has nothing to say
    single = subprocess.run([sys.executable, "-m", "imgcls", "train", *TRAIN, "--batch-size", "128",
                             "--micro-batches",
                             "2", "--model-prefix", str(tmp_path / "net")], check=False,
                            capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert single.returncode == 0, single.stderr
    digests = [hashlib.sha256(path.with_name("net-0001.params").read_bytes()).hexdigest()
               for path in (prefix, tmp_path / "net")]
    assert digests[0] == digests[1]
    bench.assert_empty()


def test_unusable_hosts_are_reported_before_anything_starts(bench: Bench) -> None:
    (bench.folder / "wrong").write_text("hosta\nnowhere\nhostb:2222\n")
    begun = time.monotonic()
    status, out, err = finish(bench.launch("--python", "/no/python", "true", hosts="wrong"))
    assert (status, out) == (1, [])
    assert time.monotonic() - begun < 20
    assert len(err) == 3, err  # one of the three is not needed for two workers
    assert "hostb not needed" in err[0]
    assert err[1].startswith("imgcls-launch: error: hosta: /no/python does not run there (--python PATH")
    assert err[2].startswith("imgcls-launch: error: nowhere: cannot be reached by ssh: ")
    status, _out, err = finish(bench.launch("--ssh-option", "Port=9", "true"))
    assert (status, len(err)) == (1, 2)
    assert all("Connection refused" in line for line in err), err


def test_ctrl_c_ends_everything_on_both_hosts(bench: Bench) -> None:
    process, run = bench.steps()
    until_running(process, run)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    status, _out, err = finish(process)
    assert time.monotonic() - begun < 8
    assert status == 130
    assert len(err) == 1
    assert err[0].startswith("imgcls-launch: error: stopped by SIGINT in step ")
    assert trace(run)[0] == list(range(int((run / "position").read_text())))
    bench.assert_empty(0.5)


def test_a_killed_launcher_leaves_nothing_behind(bench: Bench) -> None:
    process, run = bench.steps()
    until_running(process, run)
    process.kill()
    process.communicate()
    bench.assert_empty(8)
    assert (run / "position").exists()


def test_a_killed_worker_is_named_with_its_host_and_restarted(bench: Bench) -> None:
    process, run = bench.steps("--max-restarts", 1, worker=(12, "kill", 1, 5))
    status, out, err = finish(process)
    assert status == 0, err
    assert err == ["imgcls-launch: rank 1 (hostb) was killed by SIGKILL (out of memory?); "
                   "restarting 1/1 from the last position saved"]
    assert trace(run) == (list(range(12)), [2] * 12)
    assert "[hostb:1] rank 1 of 2 from 5" in out


def test_a_failure_on_one_host_ends_both_with_its_line_last(bench: Bench) -> None:
    process, _run = bench.steps(worker=(4000, "fail", 1, 5))
    status, _out, err = finish(process)
    assert (status, err) == (1, ["imgcls-launch: error: rank 1 (hostb): bad JPEG in record 17"])
    bench.assert_empty()


def test_a_host_that_is_taken_away_costs_no_step(bench: Bench) -> None:
    process, run = bench.steps("--nnodes", "1:2", "--timeout", 15, worker=(60,))
    until_running(process, run)
    os.kill(bench.agent("hostb"), signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 0, err
    assert any(line == "imgcls-launch: hostb: was terminated; the other hosts continue" for line in err), err
    steps, workers = trace(run)
    assert steps == list(range(60))
    assert set(workers) == {1, 2}
    assert "[hosta:0] done 60" in out


def test_a_killed_agent_ends_the_job_or_the_others_go_on(bench: Bench) -> None:
    process, run = bench.steps()
    until_running(process, run)
    os.kill(bench.agent("hostb"), signal.SIGKILL)
    status, _out, err = finish(process)
    assert status == 1
    assert err[-1] == "imgcls-launch: error: hostb: its agent was killed by SIGKILL"
    bench.assert_empty()


def test_a_pulled_cable_is_noticed_and_the_other_host_goes_on(bench: Bench) -> None:
    process, run = bench.steps("--nnodes", "1:2", "--timeout", 8, worker=(60,))
    until_running(process, run)
    bench.hosts.link("hostb", "down")
    begun = time.monotonic()
    try:
        status, _out, err = finish(process)
        assert status == 0, err
        assert time.monotonic() - begun < 60
        assert any(line.startswith("imgcls-launch: lost contact with hostb; restarting") for line in err), err
        steps, workers = trace(run)
        assert steps == list(range(60))
        assert set(workers) == {1, 2}
        bench.assert_empty(25)  # hostb ends by itself
    finally:
        bench.hosts.link("hostb", "up")


def test_mpirun_over_both_hosts(bench: Bench) -> None:
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun here")
    show = ("import os, socket, sys; "
            "sys.stdout.write(f\"{os.environ['OMPI_COMM_WORLD_RANK']} {socket.gethostname()}\\n\")")
    status, out, err = finish(bench.launch("--launcher", "mpi", sys.executable, "-c", show))
    assert (status, sorted(out)) == (0, ["0 hosta", "1 hostb"]), err
