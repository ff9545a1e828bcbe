"""Hold out `val_ratio` of the training images for validation where no validation data are named.

Called by `run`. The ratio goes into the meta data, so that a resumed run and imgcls-score find the same
images; `data/holdout.py` decides which they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from imgcls.config.flags import convert
from imgcls.config.resolve import FIELDS, Config
from imgcls.data import holdout
from imgcls.data.sources import ArraySource, Source, Splits
from imgcls.distributed.process_group import Worker
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.training.checkpoint import Saved
from imgcls.training.kept_preprocessing import read_noted
from imgcls.training.reporter import Reporter

#: classes that a note names
_MAX_NAMED = 5


def hold_out(config: Config, splits: Splits, saved: Saved | None, worker: Worker,
             reporter: Reporter) -> tuple[Config, Splits]:
    """Return the configuration with `val_ratio` a number, and the data with the images held out.

    Return both unchanged if there is validation data already, or nothing to divide. UsageError for images
    that are read in chunks.
    """
    train = splits.train
    if splits.val is not None or isinstance(train, ArraySource):
        return config, splits
    before = _ratio_before(config, saved, worker)
    if before is not None:
        if config.is_explicit("val_ratio") and config.data.val_ratio != before:
            reporter.warn(f"`val_ratio` {config.data.val_ratio}: the run held out {before:g} until now; "
                          "some of the validation images were trained on")
        config = config.with_defaults(val_ratio=before)
    # resolved here, for the meta data: a later version may have another default
    ratio = holdout.by_default(train, config.data.val_ratio)
    # neither given nor used: the meta data need not mention it
    if not ratio and not config.is_explicit("val_ratio") and before is None:
        return config, splits
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, val_ratio=ratio))
    if not ratio:
        return config, splits
    parts = holdout.divide(train, ratio)
    notes = [*splits.notes, *_describe(train, parts.held_out, ratio)]
    return config, Splits(parts.train, parts.held_out if len(parts.held_out) else None, notes, parts.note)


def _ratio_before(config: Config, saved: Saved | None, worker: Worker) -> float | None:
    """Return the ratio of the resumed run, None for a new one and for MXNet's checkpoints."""
    if saved is None:
        return None
    settings = read_noted(saved, worker).get("config")
    if not isinstance(settings, dict):
        return None
    try:
        # runs from before there was such a setting held out nothing
        ratio = convert(FIELDS["val_ratio"], settings.get("val_ratio", 0.0))
    except UsageError as error:
        raise DataError(f"{saved.path}: the meta data beside it", str(error)) from error
    return ratio


def _describe(source: Source, held_out: Source, ratio: float) -> Sequence[str]:
    """Return the notes about the images that are held out."""
    name = verbatim(source.description)
    if not len(held_out):
        return [f"no validation: of the {len(source):,} images of {name} none falls into the part that "
                f"`val_ratio` {ratio:g} holds out; a larger one does, or name validation data (`data_val`)"]
    notes = [f"{len(held_out):,} of the {len(source):,} images of {name} are held out for validation, chosen "
             f"by their content (`val_ratio` {ratio:g}; 0: none)"]
    # Of ten images of a class a tenth may well be none: said, as an accuracy over the others looks fine.
    if missing := holdout.missing_classes(source, held_out):
        shown = ", ".join(verbatim(name) for name in missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        notes.append(f"none of them is of {shown}{more}: a larger `val_ratio`, or more images, would cover "
                     "every class")
    return notes
