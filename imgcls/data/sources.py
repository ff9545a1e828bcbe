"""What there is to train on: a Source knows how many samples it has, their labels, and how to read one.

No torch here: sources are read in threads and before any device exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from imgcls.errors import UsageError


class Source(Protocol):
    """Samples 0 .. len-1 that can be read in any order, from any thread."""

    #: int64 (N,), or float32 (N, width) where a sample has several labels
    labels: np.ndarray
    #: names of the classes in label order; empty where nobody recorded them
    class_names: Sequence[str]
    #: where it came from, for messages
    description: str

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | np.ndarray:
        """Sample `index`: an encoded image (bytes) or its pixels, uint8 (H, W, C) RGB or grey."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Samples that are already in memory: `images` uint8 or float32 (N, ...), usually (N, C, H, W)."""

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str] = ()
    description: str = "arrays"

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise UsageError(f"{self.description}: {len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        image = self.images[index]
        return image.transpose(1, 2, 0) if image.ndim == 3 else image


@dataclass(frozen=True)
class Splits:
    """What a data set's `load` returns."""

    train: Source
    val: Source | None = None
    notes: Sequence[str] = field(default_factory=tuple)
