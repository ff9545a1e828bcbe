"""The learning rate: MXNet's schedulers to rounding, and which rule the flags choose."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, mxnet_file

from imgcls.config.rules import resolve_decay
from imgcls.config.sections import ScheduleConfig
from imgcls.errors import UsageError
from imgcls.optim.schedules import Cosine, Periodic, Power, Schedule, Steps, Warmup, from_config
from imgcls.report import plot_file


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-7, abs=1e-12)


def of_mxnet(cls: str, kwargs: dict[str, object]) -> Schedule:
    """Our schedule for the arguments of one of MXNet's scheduler classes."""
    warmup = Warmup(kwargs.get("warmup_steps", 0), kwargs.get("warmup_begin_lr", 0.0),
                    kwargs.get("warmup_mode", "linear"))
    base_lr, final_lr = kwargs.get("base_lr", 0.01), kwargs.get("final_lr", 0.0)
    if cls == "FactorScheduler":
        decay = Periodic(base_lr, kwargs["factor"], kwargs["step"], kwargs.get("stop_factor_lr", 1e-8))
    elif cls == "MultiFactorScheduler":
        decay = Steps(base_lr, kwargs["factor"], tuple(kwargs["step"]))
    elif cls == "PolyScheduler":
        decay = Power(base_lr, final_lr, warmup.num_updates, kwargs["max_update"], kwargs.get("pwr", 2))
    else:
        assert cls == "CosineScheduler"
        decay = Cosine(base_lr, final_lr, warmup.num_updates, kwargs["max_update"])
    return Schedule(decay, warmup)


def test_every_scheduler_of_mxnet() -> None:
    for case in json.loads(mxnet_file("lr", "manifest.json").read_text())["schedulers"]:
        schedule = of_mxnet(case["cls"], case["kwargs"])
        for run in (case, case.get("late_start")):
            if run:
                ours = [schedule.lr_at(run["first_num_update"] + k) for k in range(len(run["lr"]))]
                assert ours == [close(lr) for lr in run["lr"]], case


def test_the_example_scripts_schedules() -> None:
    """fit.py's rates, also after a resume; pow is left out there: MXNet begins it again at the full rate."""
    for case in json.loads(mxnet_file("lr", "manifest.json").read_text())["example_fit"]:
        args = case["args"]
        config = ScheduleConfig(lr=args["lr"], lr_factor=args["lr_factor"],
                                lr_step_epochs=args["lr_step_epochs"])
        per_epoch, done = case["epoch_size"], args["load_epoch"] or 0
        schedule = rates(config, {"lr", "lr_factor", "lr_step_epochs"}, num_epochs=args["num_epochs"],
                         updates_per_epoch=per_epoch)
        if isinstance(schedule.decay, Power) and done:
            continue
        ours = [schedule.lr_at(done * per_epoch + k + 1) for k in range(len(case["lr_of_each_update"]))]
        assert ours == [close(lr) for lr in case["lr_of_each_update"]], case


def rates(config: ScheduleConfig, explicit: set[str], is_first_generation: bool = False, num_epochs: int = 50,
          updates_per_epoch: int = 10) -> Schedule:
    """The schedule of these flags, of which the user set the `explicit` ones."""
    decay = resolve_decay(config, explicit, num_epochs=num_epochs, is_first_generation=is_first_generation)
    return from_config(replace(config, decay=decay), updates_per_epoch=updates_per_epoch,
                       num_epochs=num_epochs)


@pytest.mark.parametrize(("strategy", "rise"), [
    ("linear", [0.25, 0.5, 0.75]), ("power2", [0.0625, 0.25, 0.5625]), ("sqrt", [0.5, 0.5 ** 0.5, 0.75 ** 0.5]),
    ("constant", [0, 0, 0])])
def test_a_macrobatch_multiplies_the_rate_as_mxnets_lbsgd(strategy: str, rise: list[float]) -> None:
    config = ScheduleConfig(lr=0.2, warmup_epochs=2, warmup_strategy=strategy, lr_step_epochs="3")
    decay = resolve_decay(config, {"lr_step_epochs"}, num_epochs=9)
    schedule = from_config(replace(config, decay=decay), updates_per_epoch=2, num_epochs=9, num_macrobatch=5)
    assert [schedule.lr_at(u) for u in range(1, 8)] == [
        *(close(0.2 * (1 + 4 * part)) for part in rise), close(1), close(1), close(1), close(0.1)]
    assert [u for u in range(1, 18) if schedule.changes_at(u)] == [7]
    assert schedule.description.startswith(f"times 5 batches of a step from 1 over 4 updates ({strategy})")


def test_lars_of_lbsgd_leaves_the_rate_to_the_optimizer() -> None:
    config = ScheduleConfig(lr=0.2, warmup_strategy="lars", lr_step_epochs="3")
    config = replace(config, decay=resolve_decay(config, {"lr_step_epochs"}, num_epochs=9))
    schedule = from_config(config, updates_per_epoch=2, num_epochs=9, num_macrobatch=5, batch_size=16)
    assert [schedule.lr_at(u) for u in (1, 6, 7)] == [0.2, 0.2, close(0.02)]
    assert schedule.macrobatch is not None
    assert schedule.macrobatch.lars_batch_size == 16
    assert "times a factor for each parameter (lars)" in schedule.description
    with pytest.raises(UsageError, match="lars: is for optimizer lbsgd"):
        from_config(config, updates_per_epoch=2, num_epochs=9)


def test_steps_switch_one_update_after_the_epoch() -> None:
    schedule = rates(ScheduleConfig(lr=1, lr_step_epochs="2,3"), {"lr_step_epochs"})
    assert [schedule.lr_at(u) for u in (20, 21, 30, 31)] == [1, close(0.1), close(0.1), close(0.01)]
    assert [u for u in range(1, 60) if schedule.changes_at(u)] == [21, 31]


def test_a_fraction_of_an_epoch() -> None:
    """The seed's `--lr .1 --lr-factor .9 --lr-factor-epoch .5`."""
    schedule = rates(ScheduleConfig(lr=0.1, lr_factor=0.9, lr_factor_epoch=0.5),
                     {"lr_factor", "lr_factor_epoch"})
    assert [schedule.lr_at(u) for u in (1, 5, 6, 11)] == [close(0.1), close(0.1), close(0.09), close(0.081)]


@pytest.mark.parametrize(("explicit", "first", "epochs", "kind"), [
    # the data set's own steps, although they never come
    (set(), False, 50, Steps),
    # the seed: ... --lr-factor .94 --num-epoch 50
    ({"lr_factor"}, False, 50, Periodic),
    ({"lr_factor"}, False, 300, Steps),                       # a default step falls before the end
    # --data-dir marks a command of the first scripts
    ({"lr_factor"}, True, 300, Periodic),
    ({"lr_factor", "lr_step_epochs"}, True, 300, Steps),      # said is said
    ({"lr_factor", "lr_factor_epoch"}, False, 300, Periodic),
])
def test_which_rule(explicit: set[str], first: bool, epochs: int, kind: type) -> None:
    config = ScheduleConfig(lr_factor=0.94, lr_step_epochs="200,250",
                            lr_factor_epoch=2.0 if "lr_factor_epoch" in explicit else 0.0)
    schedule = rates(config, explicit, first, epochs)
    assert isinstance(schedule.decay, kind)
    assert schedule.description


@pytest.mark.parametrize("text", ["pow2", "pow-2", "pow 2", "pow2.0"])
def test_spellings_of_a_power(text: str) -> None:
    schedule = rates(ScheduleConfig(lr=1, lr_step_epochs=text), {"lr_step_epochs"}, num_epochs=10)
    assert schedule.lr_at(50) == close(0.25)
    assert schedule.lr_at(100) == 0


def test_cosine_with_warmup() -> None:
    schedule = rates(ScheduleConfig(lr=1, lr_schedule="cosine", warmup_epochs=1, final_lr=0.1), set(),
                     num_epochs=11)
    assert [schedule.lr_at(u) for u in (0, 5, 10, 60, 110, 200)] == [0, 0.5, 1, close(0.55),
                                                                     close(0.1), close(0.1)]


@pytest.mark.parametrize(("config", "message"), [
    (ScheduleConfig(lr_step_epochs="a"), "lr_step_epochs 'a'"),
    (ScheduleConfig(lr_step_epochs="5,5"), "rising"),
    (ScheduleConfig(lr_step_epochs="0"), "above 0"),
    (ScheduleConfig(lr_step_epochs="powx"), "such as pow2"),
    (ScheduleConfig(lr_factor_epoch=1), "contradict"),
    (ScheduleConfig(lr=0.1, warmup_epochs=1, warmup_begin_lr=1), "warmup_begin_lr 1"),
    (ScheduleConfig(lr_schedule="cosine", warmup_epochs=60), "below num_epochs"),
])
def test_wrong_schedules_are_named(config: ScheduleConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rates(config, {"lr_step_epochs"} | ({"lr_factor_epoch"} if config.lr_factor_epoch else set()))


def test_one_cycle_is_torchs() -> None:
    """torch's OneCycleLR, whose end is a part of its start; ours is at the peak a step later at most."""
    import torch

    config = ScheduleConfig(lr=0.1, lr_schedule="one-cycle")
    schedule = rates(config, {"lr_schedule"}, num_epochs=10, updates_per_epoch=100)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000, final_div_factor=1e9)
    for update in range(1, 1000):
        assert schedule.lr_at(update) == pytest.approx(theirs.get_last_lr()[0], abs=3e-4), update
        optimizer.step()
        theirs.step()
    assert schedule.lr_at(1) == close(0.1 / 25)
    assert schedule.lr_at(300) == close(0.1)
    assert schedule.lr_at(1000) == schedule.lr_at(2000) == close(0.0)
    risen = rates(ScheduleConfig(lr=0.1, lr_schedule="one-cycle", warmup_epochs=1, warmup_begin_lr=0.05),
                  {"lr_schedule"}, num_epochs=10, updates_per_epoch=100)
    assert [risen.lr_at(update) for update in (1, 100)] == [close(0.05), close(0.1)]
    assert rates(config, {"lr_schedule"}, num_epochs=1, updates_per_epoch=1).lr_at(2) == close(0.0)


@pytest.mark.parametrize("factor", [1, 2])
def test_restarts_are_torchs(factor: int) -> None:
    import torch

    config = ScheduleConfig(lr=0.1, lr_schedule="restarts", restart_epochs=2, restart_factor=factor, final_lr=1e-3)
    schedule = rates(config, {"lr_schedule"}, num_epochs=40, updates_per_epoch=7)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, factor, eta_min=1e-3)
    for update in range(1, 281):
        theirs.step((update - 1) / 7)
        assert schedule.lr_at(update) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9), update


def test_the_regime_of_torchs_scripts() -> None:
    """Rate and weight decay by epoch, from 1 there and from 0 here (imagenet-multiGPU.torch, train.lua)."""
    text = "0:0.01:0.0005,18:0.005:0.0005,29:0.001:0,43:0.0005:0,52:0.0001:0"
    config = ScheduleConfig(lr_regime=text)
    schedule = rates(config, {"lr_regime"}, num_epochs=55, updates_per_epoch=10)
    for first, last, lr, wd in ((1, 18, 1e-2, 5e-4), (19, 29, 5e-3, 5e-4), (30, 43, 1e-3, 0), (44, 52, 5e-4, 0),
                                (53, 55, 1e-4, 0)):
        for update in (10 * (first - 1) + 1, 10 * last):
            assert (schedule.lr_at(update), schedule.wd_at(update)) == (lr, wd), update
    assert [update for update in range(1, 551) if schedule.changes_at(update)] == [181, 291, 431, 521]
    assert rates(replace(config, lr_regime="0:1,3:2"), set(), num_epochs=5, updates_per_epoch=1).wd_at(5) is None
    assert rates(ScheduleConfig(), set(), num_epochs=5, updates_per_epoch=1).wd_at(5) is None


@pytest.mark.parametrize(("text", "message"), [
    ("1:0.1", "must begin at 0 and rise"), ("0:0.1,5:0.1,5:0.2", "must begin at 0 and rise"), ("0:x", "must be epochs"),
    ("0", "must be epochs"), ("0:1:2:3", "must be epochs"), ("0:nan", "must be epochs"), ("0:-1", "must be from 0"),
    ("0:1:9999999", "must be from 0"), (",", "must be epochs"),
])
def test_wrong_regimes_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_decay(ScheduleConfig(lr_regime=text), {"lr_regime"}, num_epochs=9)
    with pytest.raises(UsageError, match="contradict each other"):
        resolve_decay(ScheduleConfig(lr_regime="0:1", lr_schedule="cosine"), {"lr_regime"}, num_epochs=9)


def test_the_pictures_of_the_page_are_what_the_script_draws(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_schedules.py"))
    for name in script["SCHEDULES"]:
        plot_file.write_plot(script["plot"](name), str(tmp_path / "one.svg"))
        drawn = (ROOT / "docs" / "pictures" / f"schedule-{name}.svg").read_bytes()
        assert drawn == (tmp_path / "one.svg").read_bytes(), name
    plot_file.write_plot(script["plot"]("cosine"), str(tmp_path / "one.png"))
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"must be a file for a picture, \.svg or \.png"):
        plot_file.check_path("one.gif", "find_lr")


def test_the_weight_decay_of_a_regime_reaches_the_layers() -> None:
    import torch
    from torch import nn

    from imgcls.config.sections import OptimizerConfig
    from imgcls.layers import FullyConnected
    from imgcls.optim import optimizers

    net = nn.Sequential(FullyConnected(2, 2, extra={"__wd_mult__": "3"}), FullyConnected(2, 2))
    # without a decay in the settings too: a bias must not get one later
    optimizer = optimizers.build(OptimizerConfig(wd=0.0), net, torch.device("cpu"))
    optimizers.set_lr(optimizer, 0.1, 0.5)
    by_size = {len(group["params"]): group["weight_decay"] for group in optimizer.param_groups}
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.5, 1.5]
    assert by_size[2] == 0.0, "the two biases"
    optimizers.set_lr(optimizer, 0.1)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.5, 1.5]
