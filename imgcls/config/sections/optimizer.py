"""How a gradient becomes a step of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER

_ADAMS = ("beta1", "beta2", "epsilon")
#: optimizer -> the settings below that its rule has, besides `wd`
OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "sgd": ("mom",), "nag": ("mom",), "adam": _ADAMS, "adamw": _ADAMS, "adamax": _ADAMS, "nadam": _ADAMS,
    "rmsprop": ("beta2", "epsilon"), "adagrad": ("epsilon",), "groupadagrad": ("epsilon",),
    "adadelta": ("beta2", "epsilon"),
    "ftrl": (), "ftml": _ADAMS, "signum": ("mom",), "signsgd": (), "lamb": _ADAMS, "lars": ("mom", "epsilon"),
    "dcasgd": ("mom",), "sgld": (), "ccsgd": ("mom",), "lbsgd": ("mom",),
    # newer than MXNet
    "muon": ("mom", *_ADAMS), "schedule-free-sgd": ("mom",), "schedule-free-adamw": _ADAMS,
}


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer"""

    optimizer: str = flag("sgd", "optimizer by MXNet's name", since="g2", metavar="NAME")
    # MXNet's names for momentum and weight decay, in its scripts as in its optimizers
    mom: float = flag(0.9, "momentum of sgd and the like", since="g2", minimum=0, maximum=1)
    wd: float = flag(1e-4, "weight decay, on weights and gammas only", since="g2",
                     minimum=0, maximum=MAX_NUMBER)
    norm_wd: bool = flag(True, "weight decay on the gammas of normalisations too, as in MXNet; 0: on weights "
                         "of two and more dimensions only")
    bias_lr_mult: float = flag(1.0, "learning rate of biases and betas, relative to --lr", metavar="X",
                               minimum=0, maximum=MAX_NUMBER)
    clip_gradient: float = flag(0.0, "clip each element of the gradient to [-C, C]; 0: off", since="g1",
                                metavar="C", minimum=0, maximum=1e30)
    clip_norm: float = flag(0.0, "clip the norm of the gradient over all weights to N; 0: off",
                            metavar="N", minimum=0, maximum=1e30)
    accumulate: int = flag(1, "batches whose gradients are accumulated for one step, as one batch of N "
                           "times --batch-size", metavar="N", minimum=1, maximum=10**6)
    macrobatch_size: int = flag(0, "samples, of several batches in a row, whose mean gradient makes one step "
                                "of lbsgd; 0: those of one batch", since="g3", metavar="N",
                                minimum=0, maximum=10**9)
    # MXNet's names; its scripts had no flags for them. At 1 the means would never change.
    beta1: float | None = flag(None, "decay rate of the mean gradient at each update, for adam and the "
                               "like (if not given: MXNet's)", minimum=0, maximum=0.999999)
    beta2: float | None = flag(None, "decay rate of the mean squared gradient (rmsprop's gamma1, adadelta's "
                               "rho)", minimum=0, maximum=0.999999999)
    epsilon: float | None = flag(None, "bounds divisions by small gradients (if not given: MXNet's)",
                                 minimum=0, maximum=1)

    @property
    def name(self) -> str:
        """Return the optimizer's name as `OPTIMIZERS` has it."""
        return self.optimizer.strip().lower()
