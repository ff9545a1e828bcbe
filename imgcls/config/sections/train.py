"""The loop: how long, from which seed, and what it logs."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_EPOCHS


@dataclass(frozen=True)
class TrainConfig:
    """Training"""

    num_epochs: int = flag(20, "total number of epochs, including those before a resume", since="g2",
                           minimum=0, maximum=MAX_EPOCHS)
    val_period: int = flag(1, "epochs from one validation to the next; the last epoch always has one",
                           minimum=1, maximum=MAX_EPOCHS)
    # a run is a function of its seed: an epoch's order and augmentation do not depend on earlier epochs
    seed: int = flag(0, "random seed of weights, sample order, augmentation and dropout", minimum=0,
                     maximum=2**63 - 1)
    disp_batches: int = flag(20, "batches between progress lines", since="g2", minimum=1, maximum=10**9)
    top_k: int = flag(0, "also report top-K accuracy", since="g2", metavar="K", minimum=0, maximum=10**7)
    loss: str = flag("", "also report these: ce, nll", since="g3", metavar="LIST")
    monitor: int = flag(0, "every N batches log the size of all tensors", since="g2", metavar="N",
                        minimum=0, maximum=10**9)
    progressive_scale: float = flag(1.0, "scale of the first epochs' images, relative to --image-shape, "
                                    "such as 0.5; it then grows to 1", metavar="PART",
                                    minimum=0.125, maximum=1)
    progressive_epochs: tuple[int, ...] | None = flag(None, "epochs after which that scale starts to grow, "
                                                      "and reaches 1 (if not given: 50 % and 80 % of all)",
                                                      metavar="BEGIN,END", minimum=1, maximum=MAX_EPOCHS,
                                                      counts=(2,))
    dry_run: bool = flag(False, "write nothing: print what would be done, measure a few batches, and "
                         "estimate how long the run takes and what limits its speed", takes="none")
    test_io: bool = flag(False, "only read the training data once and show the speed", since="g2")

    def is_validated(self, epoch: int) -> bool:
        """Return whether the model is validated after `epoch` (from 1)."""
        return epoch % self.val_period == 0 or epoch == self.num_epochs
