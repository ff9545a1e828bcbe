"""Learning from another network as well as from the labels."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag


@dataclass(frozen=True)
class DistillationConfig:
    """Knowledge distillation"""

    teacher: str = flag("", "a trained network whose answers are learned too: the prefix of a checkpoint, "
                        "a network of MXNet's zoo, a URL or torchvision:NAME[:WEIGHTS]", metavar="NAME")
    # DeiT calls them --distillation-alpha and --distillation-tau
    distillation_alpha: float = flag(0.5, "how much of the loss is the teacher's part", metavar="PART",
                                     minimum=0, maximum=1)
    distillation_temperature: float = flag(2.0, "divides both networks' logits there: above 1, classes "
                                           "that the teacher holds for unlikely count too", metavar="T",
                                           minimum=0.01, maximum=1000)
