#!/usr/bin/env python3
"""Draw the learning rate of each schedule for docs/optimizers.md, as the trainer would be given it.

    python scripts/draw_schedules.py            # writes docs/pictures/schedule-*.svg
    python scripts/draw_schedules.py FOLDER     # writes them there
"""

from __future__ import annotations

import sys
from pathlib import Path

from imgcls.config import resolve
from imgcls.optim import schedules
from imgcls.report import axes, plot_file
from imgcls.report.run_charts import Plot
from imgcls.report.svg import Line

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, UPDATES_PER_EPOCH = 60, 20
#: the regime of AlexNet in Torch's scripts (imagenet-multiGPU.torch, train.lua)
TORCH_REGIME = "0:0.01:0.0005,18:0.005:0.0005,29:0.001:0,43:0.0005:0,52:0.0001:0"
#: picture -> the flags that it shows
SCHEDULES = {
    "steps": {"lr": "0.1", "lr_step_epochs": "30,45"},
    "factor": {"lr": "0.1", "lr_factor": "0.94", "lr_factor_epoch": "1"},
    "power": {"lr": "0.1", "lr_step_epochs": "pow2"},
    "cosine": {"lr": "0.1", "lr_schedule": "cosine", "warmup_epochs": "5"},
    "one-cycle": {"lr": "0.1", "lr_schedule": "one-cycle"},
    "restarts": {"lr": "0.1", "lr_schedule": "restarts", "restart_epochs": "8"},
    "regime": {"lr_regime": TORCH_REGIME},
}


def plot(name: str) -> Plot:
    """Return the chart of one schedule over the epochs."""
    flags = SCHEDULES[name]
    config = resolve.build({}, {**flags, "num_epochs": EPOCHS})
    schedule = schedules.from_config(config.schedule, updates_per_epoch=UPDATES_PER_EPOCH, num_epochs=EPOCHS)
    updates = range(1, EPOCHS * UPDATES_PER_EPOCH + 1)
    epochs = [update / UPDATES_PER_EPOCH for update in updates]
    lines = [Line("learning rate", epochs, [schedule.lr_at(update) for update in updates], 0)]
    return Plot(f"learning rate of {name}", lines, axes.linear([0, EPOCHS], is_integer=True),
                axes.linear(lines[0].ys, floor=0), "epoch", "learning rate")


def main() -> int:
    """Write all pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCHEDULES:
        plot_file.write_plot(plot(name), str(folder / f"schedule-{name}.svg"))
    print(f"{len(SCHEDULES)} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
