"""What turns a gradient into a step."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer"""

    optimizer: str = flag("sgd", "optimizer by MXNet's name", since="g2", metavar="NAME")
    # MXNet's names for momentum and weight decay, in its scripts as in its optimizers
    mom: float = flag(0.9, "momentum of sgd and nag", since="g2", minimum=0, maximum=1)
    wd: float = flag(1e-4, "weight decay, on weights and gammas only", since="g2",
                     minimum=0, maximum=MAX_NUMBER)
    clip_gradient: float = flag(0.0, "clip each element of the gradient to [-C, C]; 0: off", since="g1",
                                metavar="C", minimum=0, maximum=1e30)
