"""What `dtype` means: the precision of the forward pass, and the loss scaling that float16 needs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from imgcls.config.resolve import Config
from imgcls.distributed.process_group import Worker
from imgcls.training.checkpoint import Saved

#: oneDNN's switch for the instructions that it may use
_ISA_SWITCH = "ONEDNN_MAX_CPU_ISA"


class Precision:
    """Autocast for the forward pass, and a loss scaler for float16. Weights and gradients stay float32.

    `dtype` is float32, bfloat16 or float16; `decide` and `trained_dtype` resolve auto.
    """

    def __init__(self, dtype: str, device: torch.device) -> None:
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
        # a disabled autocast would do the same, and cost a small network about one per cent of its step
        if self._type is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._type)


def decide(config: Config, model: nn.Module, saved: Saved | None, worker: Worker) -> Config:
    """Return the configuration of a run with `dtype` auto resolved.

    A resumed run keeps the dtype of its checkpoint, on which the bits depend. A new one computes in bfloat16
    if every process of the job is on a GPU that has it, or on a CPU that multiplies it in hardware and the
    network has convolutions; else in float32.
    """
    if config.device.dtype != "auto":
        return config
    device = worker.device
    if saved:
        # even on a machine without the hardware for it: slower, but the same run
        dtype = _noted(saved.position.dtype, device)
    else:
        # a perceptron is slower in it
        is_worth_it = device.type != "cpu" or _has_convolutions(model)
        is_faster = is_worth_it and has_bfloat16(device)
        # one dtype for the job, even if its machines differ
        dtype = "bfloat16" if all(worker.gather_at_start(float(is_faster))) else "float32"
    # shown in the line about the device: it explains results that differ from those of other machines
    chosen = {"dtype": dtype} if (dtype, device.type) == ("bfloat16", "cpu") else {}
    return dataclasses.replace(config, device=dataclasses.replace(config.device, dtype=dtype),
                               chosen={**config.chosen, **chosen})


def describe(config: Config, device: torch.device) -> str:
    """Return the resolved dtype for the summary; where a CPU was given bfloat16, also how to undo it."""
    dtype = config.device.dtype
    if "dtype" not in config.chosen:
        return dtype
    if has_bfloat16(device):
        return f"{dtype} (this CPU multiplies it in hardware; `dtype` float32 has more digits)"
    return f"{dtype} (as in the checkpoint; this CPU has no hardware for it, `dtype` float32 may be faster)"


def trained_dtype(dtype: str, noted: str, device: torch.device) -> tuple[str, str]:
    """Return the dtype that a trained network computes in, and a note about it or "".

    `dtype` auto means `noted`, the dtype of its training; but float32 on a CPU that does not multiply that in
    hardware, where it would be slower and no better.
    """
    if dtype != "auto":
        return dtype, ""
    dtype = _noted(noted, device)
    if device.type == "cpu" and not has_bfloat16(device):
        dtype = "float32"
    if noted in ("", "float32"):
        return dtype, ""
    if noted == dtype:
        return dtype, f"note: computed in {dtype}, as while it was trained (`dtype`)"
    return dtype, (f"note: computed in {dtype}: it was trained in {noted}, for which this CPU has no "
                   "hardware (`dtype`)")


def _noted(noted: str, device: torch.device) -> str:
    """Return the dtype that a checkpoint notes if the device can train in it, else the device's default."""
    # float16 has no advantage on a CPU, and needs a loss scale
    if noted and not (noted == "float16" and device.type == "cpu"):
        return noted
    # a checkpoint without a note was trained in float32, by MXNet or by an early version
    return "bfloat16" if device.type == "cuda" and has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware, at a multiple of float32's speed.

    Of CPUs only those with AMX: AVX512-BF16 alone, or emulation, makes no network faster as a whole.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # oneDNN does the arithmetic, and its environment variable may rule AMX out
    isa = os.environ.get(_ISA_SWITCH, "").upper()
    is_switched_off = isa not in ("", "ALL", "DEFAULT") and "AMX" not in isa and not isa.startswith("AVX10")
    # older versions of torch cannot say what the CPU has: float32 then
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return (device.type == "cpu" and torch.backends.mkldnn.is_available() and not is_switched_off
            and bool(capabilities.get("amx_bf16")))


def _has_convolutions(model: nn.Module) -> bool:
    # (filters, channels, height, width), in torch's layers and ours; a fully connected one's have two sizes
    return any(parameter.dim() > 2 for parameter in model.parameters())

