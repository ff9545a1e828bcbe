"""The learning rate over time."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER


@dataclass(frozen=True)
class Decay:
    """How the learning rate falls: not a flag, but what several flags mean together (`rules.resolve_decay`).

    `kind` is constant, steps (times `lr_factor` after each of `step_epochs`), every (times `lr_factor` each
    `every_epochs` epochs, fractions too), power ((1 - progress)^power), cosine, one-cycle, restarts or regime
    (its own rate and weight decay from each epoch on); `reason` is the rule that chose it.
    """

    kind: str = "constant"
    step_epochs: tuple[int, ...] = ()
    #: set for other kinds too where the flags mean such steps: it decides which flag `resolve.dump` writes
    every_epochs: float = 0.0
    power: float = 2.0
    #: (epoch, rate, weight decay or None for `wd`), epochs rising from 0
    regime: tuple[tuple[int, float, float | None], ...] = ()
    #: for people, in the line that is printed at the start; names settings between backquotes
    reason: str = ""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate"""

    lr: float = flag(0.05, "learning rate at the start", since="g2", minimum=0, maximum=MAX_NUMBER)
    # what these three mean together depends on which the user set: `rules.resolve_decay`
    lr_factor: float = flag(0.1, "multiplies the learning rate at each step; 1: constant", since="g2",
                            minimum=0, maximum=MAX_NUMBER)
    lr_step_epochs: str = flag("10", "epochs to step at (30,60), or powP for (1 - progress)^P", since="g2",
                               metavar="E,E")
    lr_factor_epoch: float = flag(0.0, "step every E epochs, fractions allowed", since="g1", metavar="E",
                                  minimum=0, maximum=MAX_NUMBER)
    lr_schedule: str = flag("auto", "auto: as the flags above say; cosine: down to --final-lr at the last "
                            "update; one-cycle: up and down; restarts: cosine again and again",
                            choices=("auto", "cosine", "one-cycle", "restarts"))
    lr_regime: str = flag("", "rate and weight decay from each epoch on, such as 0:0.01:0.0005,18:0.005:0 "
                          "(in place of all above)", metavar="E:LR:WD,...")
    final_lr: float = flag(0.0, "learning rate at the end of powP, cosine, one-cycle and every restart",
                           minimum=0, maximum=MAX_NUMBER)
    restart_epochs: float = flag(10.0, "epochs of the first cycle of restarts, fractions allowed",
                                 metavar="E", minimum=1e-3, maximum=MAX_NUMBER)
    restart_factor: float = flag(2.0, "how much longer each cycle of restarts is than the one before",
                                 metavar="F", minimum=1, maximum=100)
    # MXNet warmed up with lbsgd only; here every optimizer can
    warmup_epochs: float = flag(0.0, "epochs of warm-up, fractions allowed", since="g3",
                                minimum=0, maximum=MAX_NUMBER)
    warmup_begin_lr: float = flag(0.0, "learning rate the warm-up starts from", minimum=0, maximum=MAX_NUMBER)
    warmup_strategy: str = flag("linear", "shape of the warm-up", since="g3",
                                choices=("linear", "constant", "power2", "sqrt", "lars"))
    #: no flag: filled in by `resolve`
    decay: Decay = Decay()
