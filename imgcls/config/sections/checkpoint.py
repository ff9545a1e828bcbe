"""What is saved, and where a run continues."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_EPOCHS, MAX_NUMBER


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints"""

    model_prefix: str = flag("", "save to PREFIX-symbol.json, PREFIX-0001.params, ...; resume from there",
                             since="g2", metavar="PREFIX")
    # text: a number as MXNet wrote it into file names (0008), or auto
    load_epoch: str = flag("", "resume after this epoch (8 or 0008), or auto: the newest state there is",
                           since="g2", metavar="EPOCH")
    save_model_prefix: str = flag("", "save here instead, still loading from --model-prefix", since="g1",
                                  metavar="PREFIX")
    save_period: int = flag(1, "epochs between checkpoints; the last is always saved", since="g3",
                            minimum=1, maximum=MAX_EPOCHS)
    # on top of save_period: a long epoch that is killed loses minutes, not hours
    save_every: float = flag(10.0, "minutes between saves within an epoch; 0: none", metavar="MINUTES",
                             minimum=0, maximum=MAX_NUMBER)
    # without its states an epoch can be loaded, but training cannot resume from it as if it had not stopped
    keep_states: int | None = flag(None, "number of epochs whose optimizer states are kept; all weights are "
                                   "kept (if not given: the last 10^9 bytes of states, 2 at least)",
                                   metavar="N", minimum=1, maximum=MAX_EPOCHS)

    @property
    def save_prefix(self) -> str:
        """Return the prefix that a run saves under, "" where nothing is saved."""
        return self.save_model_prefix or self.model_prefix
