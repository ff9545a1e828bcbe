"""What `dtype` means: the number type of the forward pass, and the loss scale that float16 needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch


class Precision:
    """Autocast for the forward pass, and a loss scaler for float16. Weights and gradients stay float32.

    `dtype` auto is what the checkpoint was trained in, `saved`, where that is known.
    """

    def __init__(self, dtype: str, device: torch.device, saved: str = "") -> None:
        # a loss scale and half the range: worth it on a GPU alone
        if dtype == "auto" and not (saved == "float16" and device.type == "cpu"):
            dtype = saved or dtype
        # bfloat16 on a CPU is there for the asking: faster on some, and other numbers on all
        if dtype == "auto":
            dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        self.name = dtype
        self._device = device
        self._type = None if dtype == "float32" else getattr(torch, dtype)
        # float16 alone has so few bits of exponent that small gradients vanish without a scale
        self.scaler = torch.amp.GradScaler(device.type) if dtype == "float16" else None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the loss scale from a checkpoint that has one."""
        if self.scaler and state:
            self.scaler.load_state_dict(dict(state))

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale for a checkpoint, {} where there is none."""
        return self.scaler.state_dict() if self.scaler else {}

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        # a disabled autocast would do the same, and cost a small network about a per cent of its step
        if self._type is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._type)
