"""What a check found: a sentence for people, and the samples that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: every kind of finding, in the order in which they are shown
KINDS = ("damaged", "half decoded", "index", "label", "class names", "classes", "leak", "duplicate",
         "near duplicate", "suspicious label", "order", "balance", "blank", "size", "colour")

#: a fault is wrong in any data set; what a remark is about may be intended
Severity = Literal["fault", "remark"]
#: "train" or "val", and the number of a sample in it
Sample = tuple[str, int]


@dataclass(frozen=True)
class Finding:
    """One thing that was found; `samples` are what it is about, in groups that belong together.

    A group of duplicates has two samples or more, most other groups one; a finding about a whole data set has
    none. `details` has a text for each group.
    """

    kind: str
    severity: Severity
    message: str
    samples: tuple[tuple[Sample, ...], ...] = ()
    details: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """How many samples it is about."""
        return sum(map(len, self.samples))
