"""`find_lr`: which learning rate to take, from a sweep over all of them (Smith 2015, arXiv 1506.01186).

The rate rises at every update by the same factor, from one at which nothing moves to one where the loss
goes up. Between the two there is the rate at which it falls fastest. `run` ends with it; nothing is saved.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing

from imgcls.config.resolve import Config
from imgcls.errors import RunError, spell_settings, tell
from imgcls.optim.cycles import Sweep
from imgcls.optim.schedules import Schedule
from imgcls.report import axes, plot_file
from imgcls.report.run_charts import Plot
from imgcls.report.svg import Line
from imgcls.training.checkpoint import Position
from imgcls.training.timing import endless
from imgcls.training.trainer import Trainer

#: the rates that are tried, and in how many updates
LOWEST, HIGHEST, NUM_UPDATES = 1e-6, 10.0, 120
#: the weight of the earlier losses in the running mean
_SMOOTHING = 0.9
#: the sweep ends where the running mean is so many times its least
_DIVERGED = 3.0
#: the rate with the least loss is divided by this, as Smith and fast.ai advise: above it training diverges
_SAFETY = 10.0


def measure(trainer: Trainer, position: Position, config: Config) -> dict[str, float]:
    """Draw loss against learning rate, print the rate to take, and return {"lr": it}.

    RunError where the loss never falls.
    """
    sweep = Sweep(LOWEST, HIGHEST, NUM_UPDATES)
    trainer.updater.schedule = Schedule(sweep)
    trainer.meter.begin_epoch(position)
    trainer.model.train()
    trainer.sharing.begin_epoch(trainer.model)
    losses: list[float] = []
    with closing(endless(trainer.loader, position.epoch)) as batches:
        for update, batch in zip(range(1, NUM_UPDATES + 1), batches, strict=False):
            trainer.train_step(batch, update)
            losses += trainer.meter.read_losses()
            trainer.handle_stop_request()
            if is_over(losses):
                break
    rates = [sweep.lr_at(update) for update in range(1, len(losses) + 1)]
    lr = suggest(rates, losses)
    if not trainer.sharing.worker.rank:
        plot_file.write_plot(_plot(rates, losses, lr), config.find.find_lr)
        tell(spell_settings(f"`lr` {lr:g}: a tenth of the rate with the least loss, of {len(rates)} rates "
                            f"from {LOWEST:g} to {rates[-1]:.3g} with batches of {trainer.loader.batch_size}",
                            config.spelling), sys.stdout)
        tell(f"picture: {config.find.find_lr}", sys.stdout)
    return {"lr": lr}


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the running mean of losses, corrected for its start as Adam's means are."""
    means = []
    mean = 0.0
    for count, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**count))
    return means


def is_over(losses: Sequence[float]) -> bool:
    """Whether the loss has left the range in which anything is learned."""
    if not math.isfinite(losses[-1]):
        return True
    means = smoothed(losses)
    return len(means) > 10 and means[-1] > _DIVERGED * min(means)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate to take, of two digits; RunError where the loss does not fall at any."""
    means = [mean for mean in smoothed(losses) if math.isfinite(mean)]
    best = min(range(len(means)), key=means.__getitem__, default=0)
    # noise alone moves the mean by a little
    if len(means) < 2 or means[best] > 0.98 * means[0]:
        raise RunError("`find_lr`: the loss does not fall at any learning rate from "
                       f"{LOWEST:g} to {HIGHEST:g}; do labels and images belong together?")
    return float(f"{rates[best] / _SAFETY:.2g}")


def _plot(rates: Sequence[float], losses: Sequence[float], lr: float) -> Plot:
    """Return the chart: the loss, its running mean, and a line at the rate to take."""
    means = smoothed(losses)
    finite = [mean for mean in means if math.isfinite(mean)]
    # the rise at the end would flatten the rest
    top = min(max(finite), 1.3 * max(finite[:10]))
    clipped = [min(loss, top) if math.isfinite(loss) else top for loss in losses]
    lines = [Line("loss", rates, clipped, 0, is_faint=True),
             # as long as the rates: a sweep may end with a loss that is not a number, which is a gap
             Line("running mean", rates, [min(mean, top) if math.isfinite(mean) else math.nan
                                          for mean in means], 0, label="mean loss"),
             Line("taken", [lr, lr], [0, top], 1, label=f"lr {lr:g}", is_dashed=True)]
    return Plot("loss", lines, axes.logarithmic(rates), axes.linear([0, *clipped], floor=0),
                "learning rate", "loss")
