"""The learning rate: MXNet's schedulers to rounding, and which rule the flags choose."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import mxnet_file

from imgcls.config.rules import resolve_decay
from imgcls.config.sections import ScheduleConfig
from imgcls.errors import UsageError
from imgcls.optim.schedules import Cosine, Periodic, Power, Schedule, Steps, Warmup, from_config


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
