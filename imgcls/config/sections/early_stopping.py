"""Which epoch was best, and when to stop since none is better any more."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_EPOCHS


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Early stopping"""

    patience: int = flag(0, "stop after so many epochs without a better validation accuracy; 0: never",
                         metavar="N", minimum=0, maximum=MAX_EPOCHS)
    keep_best: bool = flag(False, "note which epoch was best (PREFIX-best.json), and save it whatever "
                           "--save-period says; --load-epoch best takes it")
