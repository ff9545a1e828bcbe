"""Learning from another network as well as from the labels."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag


@dataclass(frozen=True)
class DistillationConfig:
    """Knowledge distillation"""

    teacher: str = flag("", "teacher network for knowledge distillation: the prefix of a checkpoint, "
                        "a network of MXNet's zoo, a URL or torchvision:NAME[:WEIGHTS]", metavar="NAME")
    # DeiT calls them --distillation-alpha and --distillation-tau
    distillation_alpha: float = flag(0.5, "weight of the teacher's term in the loss", metavar="PART",
                                     minimum=0, maximum=1)
    distillation_temperature: float = flag(2.0, "temperature that divides both networks' logits in that "
                                           "term; above 1 gives unlikely classes more weight", metavar="T",
                                           minimum=0.01, maximum=1000)
