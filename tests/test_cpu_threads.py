"""How many threads a run computes with: from the cores that are free, and as its checkpoint has it."""

from __future__ import annotations

import re
import threading
import time
import types
from pathlib import Path
from typing import cast

import pytest
import torch

from imgcls.cli.score import main as score_main
from imgcls.cli.train import main as train_main
from imgcls.distributed import cpu_threads
from imgcls.distributed.cpu_threads import Choice, ShortWaits
from imgcls.distributed.process_group import Worker
from imgcls.storage import cores
from imgcls.training import checkpoint, precision
from imgcls.training.shared_cores import SharedCores


@pytest.mark.parametrize(("num_cores", "usable", "taken", "expected"), [
    (2, 2, 0.0, 2),  # the machine is ours
    (2, 2, 0.3, 2),  # a third of a core is less than the half of the speed that one thread would lose
    (2, 2, 0.9, 1),
    (2, 2, 1.0, 1),
    (2, 2, 7.5, 1),  # never below one
    (1, 1, 1.0, 1),
    (16, 16, 0.15, 16),  # services and timers
    (16, 16, 0.3, 15),  # one core in sixteen is lost, else all would wait for the slowest
    (16, 16, 4.0, 12),
    (16, 16, 4.3, 11),
    (64, 2, 40.0, 2),  # a quota of two cores on a busy machine that still has them
    (64, 32, 40.0, 24),
    (16, 8, 4.0, 8),  # two hardware threads a core: there is still one of each for us
])
def test_number_of_free_cores(num_cores: int, usable: int, taken: float, expected: int) -> None:
    assert cores.num_free(num_cores, usable, taken) == expected


@pytest.mark.parametrize(("membership", "files", "expected"), [
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    # of nested groups the tightest holds
    ("0::/job/step\n", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, 2.0),
    ("4:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "50000", "cpu/box/cpu.cfs_period_us": "100000"},
     0.5),
    ("4:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"},
     None),
    # in a container the path is the host's, and the limit stands at the root
    ("2:memory:/x\n1:cpu:/docker/0123\n", {"cpu/cpu.cfs_quota_us": "300000",
                                          "cpu/cpu.cfs_period_us": "100000"}, 3.0),
    ("0::/../../elsewhere\n", {"cpu.max": "100000 100000"}, None),
])
def test_quota_of_a_container(tmp_path: Path, membership: str, files: dict[str, str],
                              expected: float | None) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert cores.quota(tmp_path / "cgroup", tmp_path / "membership") == expected


def _machine(monkeypatch: pytest.MonkeyPatch, usable: int, taken: float) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpu_threads, "_initial_num_threads", lambda: usable)
    monkeypatch.setattr(cores, "affinity", lambda: set(range(usable)))
    monkeypatch.setattr(cores, "quota", lambda: None)
    monkeypatch.setattr(cores, "taken", lambda: taken)


def test_choice_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, 8, taken=0.0)
    assert cpu_threads.choose(0, 1) == Choice(8, 8)
    # of several processes each has its share, whatever they compute at the moment
    assert cpu_threads.choose(0, 3).num == 2
    assert cpu_threads.choose(0, 20).num == 1
    assert cpu_threads.choose(5, 3) == Choice(5, 5, is_by_hand=True)
    _machine(monkeypatch, 8, taken=2.0)
    choice = cpu_threads.choose(0, 1)
    assert (choice.num, choice.most) == (6, 8)
    assert "2.0 of 8 cores" in choice.reason  # in the line of the device
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # what the user set holds
    assert cpu_threads.choose(0, 1).num == 8


@pytest.mark.parametrize(("choice", "flops", "saved", "expected", "is_told"), [
    (Choice(8, 8), 1e12, 0, 8, False),
    (Choice(8, 8), 3.5e8, 0, 3, False),  # a step that is worth three threads
    (Choice(8, 8), 1.0, 0, 1, False),
    (Choice(3, 8), 1e12, 8, 8, False),  # other programs take cores now: the bits are worth more
    (Choice(8, 8), 1e12, 2, 2, False),  # a machine with more cores
    (Choice(8, 8), 1.0, 2, 2, False),
    (Choice(2, 2), 1e12, 8, 2, True),  # a machine with fewer
    (Choice(4, 4, is_by_hand=True), 1.0, 0, 4, False),
    (Choice(4, 4, is_by_hand=True), 1.0, 2, 4, True),
])
def test_threads_of_a_step_and_of_a_checkpoint(choice: Choice, flops: float, saved: int, expected: int,
                                               is_told: bool) -> None:
    limited, note = cpu_threads.limit(choice, flops, saved)
    assert limited.num == expected
    assert bool(note) is is_told
    if is_told:
        assert f"{saved} CPU thread" in note
        assert f"`num_threads` {saved}" in note


def test_probe_of_an_unwatched_machine_is_within_its_cores() -> None:
    assert cores.num_usable() >= 1
    assert cores.taken() >= -0.5  # clocks of threads and of the wall need not agree to the last


def test_a_run_keeps_the_threads_of_its_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    train = ("--network", "mlp", "--benchmark", "1", "--num-examples", "128", "--batch-size", "64",
             "--model-prefix", str(tmp_path / "run"))
    try:
        _machine(monkeypatch, 2, taken=0.0)
        # the flag, where the step alone would be worth a single thread
        assert train_main([*train, "--num-epochs", "1", "--num-threads", "2"]) == 0
        assert "cpu (2 threads)" in capsys.readouterr().err
        _machine(monkeypatch, 4, taken=3.0)  # now shared, and larger
        assert train_main([*train, "--num-epochs", "2", "--load-epoch", "auto"]) == 0
        assert "cpu (2 threads: as in the checkpoint)" in capsys.readouterr().err
        assert torch.get_num_threads() == 2
        _machine(monkeypatch, 1, taken=0.0)
        assert train_main([*train, "--num-epochs", "3", "--load-epoch", "auto"]) == 0
        text = capsys.readouterr().err
        assert "cpu (1 thread" in text
        assert "note: the checkpoint was trained with 2 CPU threads, this run continues with 1" in text
        assert "--num-threads 2 keeps them equal" in text
    finally:
        torch.set_num_threads(before)
    saved = checkpoint.load(str(tmp_path / "run"), "3")
    assert saved
    assert saved.position.num_threads == 1
    assert checkpoint.read_meta(str(tmp_path / "run"))["num_threads"] == 1


def test_a_checkpoint_keeps_its_number_type(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: True)
    prefix = str(tmp_path / "run")
    train = ("--network", "mlp", "--dataset", "digits", "--model-prefix", prefix)
    assert train_main([*train, "--num-epochs", "1", "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert train_main([*train, "--num-epochs", "2", "--load-epoch", "auto"]) == 0
    text = capsys.readouterr().err
    assert "thread), bfloat16" in text or "threads), bfloat16" in text
    last = re.findall(r"Validation-accuracy=([\d.]+)", text)[-1]
    assert checkpoint.read_meta(prefix)["dtype"] == "bfloat16"
    assert score_main(["--model", prefix, "--dataset", "digits"]) == 0
    scored = capsys.readouterr()
    assert "computed in bfloat16, as while it was trained (--dtype)" in scored.err
    assert last[:6] in scored.out
    # what the user asks for holds
    assert train_main([*train, "--num-epochs", "3", "--load-epoch", "auto", "--dtype", "float32"]) == 0
    saved = checkpoint.load(prefix, "3")
    assert saved
    assert saved.position.dtype == "float32"


def _worker(num_threads: int, world_size: int = 1) -> Worker:
    return cast(Worker, types.SimpleNamespace(num_threads=num_threads, world_size=world_size))


def test_a_program_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, 4, taken=0.0)
    answers = iter([None, 0.1, 0.9, 1.0, 0.45, 0.2, 1.0, 2.6])
    monkeypatch.setattr(cores.Watch, "taken", lambda _watch, _shortest_s: next(answers))
    switched: list[bool] = []
    monkeypatch.setattr(ShortWaits, "switch", lambda waits, is_on: switched.append(is_on) or setattr(
        waits, "_end", threading.Event() if is_on else None))
    shared = SharedCores(_worker(4))
    assert [shared.check() for _ in range(2)] == ["", ""]  # too soon to tell, and services
    line = shared.check()
    assert line.startswith("other programs use 0.9 of the machine's cores")
    assert "its 4 threads" in line
    assert "`num_threads` 3" in line
    assert switched == [True]
    assert [shared.check() for _ in range(3)] == ["", "", ""]  # said once; off again when they have gone
    assert switched == [True, True, False]
    assert [shared.check() for _ in range(2)] == ["", ""]
    assert switched[3:] == [True, True]
    shared.close()
    assert switched[-1] is False


def test_nobody_watches_cores_that_a_run_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, 4, taken=0.0)
    monkeypatch.setattr(cores.Watch, "taken", lambda _watch, _shortest_s: 1.9)
    # one thread waits for nobody; processes of one job would take each other for strangers
    assert SharedCores(_worker(1)).check() == ""
    assert SharedCores(_worker(2, world_size=2)).check() == ""
    assert SharedCores(_worker(2)).check() == ""  # two of four cores are left
    assert "`num_threads` 2" in SharedCores(_worker(3)).check()


def test_a_watch_counts_what_others_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([cores._Load(0.0, 10.0, 1.0), cores._Load(10.0, 28.0, 9.0), None])
    monkeypatch.setattr(cores, "_look", lambda: next(looks))
    monkeypatch.setattr(cores.time, "monotonic", lambda: 4.0)
    watch = cores.Watch()
    assert watch.taken(5.0) is None  # 4 s are too few to tell
    assert watch.taken(3.0) == pytest.approx(1.0)  # 18 s of work in 10 s, of which 8 were ours
    monkeypatch.setattr(cores.time, "monotonic", lambda: 99.0)
    assert watch.taken(3.0) is None  # /proc has gone
    assert watch.taken(3.0) is None


def test_short_waits_change_no_bits_and_leave_no_thread() -> None:
    before = threading.active_count()
    num_threads = torch.get_num_threads()
    waits = ShortWaits()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(0)
        a, b = torch.rand(300, 400), torch.rand(400, 300)
        expected = a @ b
        waits.switch(True)
        waits.switch(True)
        assert waits.is_on
        assert threading.active_count() == before + 1
        assert torch.equal(a @ b, expected)
        waits.switch(False)
        for _ in range(500):
            if threading.active_count() == before:
                break
            time.sleep(0.01)
        assert threading.active_count() == before
    finally:
        waits.switch(False)
        torch.set_num_threads(num_threads)
