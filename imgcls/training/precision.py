"""What `dtype` means: the number type of the forward pass, and the loss scale that float16 needs."""

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

    `dtype` is float32, bfloat16 or float16; what auto means, `decide` and `trained_dtype` say.
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
        # a disabled autocast would do the same, and cost a small network about a per cent of its step
        if self._type is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._type)


def decide(config: Config, model: nn.Module, saved: Saved | None, worker: Worker) -> Config:
    """Return the configuration of a run with the number type that `dtype` auto stands for.

    That of the checkpoint, if there is one: bits depend on it. A network that begins here computes in
    bfloat16 where each process of the job is on a GPU that has it, or on a CPU that multiplies it in hardware
    while the network has convolutions; else in float32.
    """
    if config.device.dtype != "auto":  # what the user says holds
        return config
    device = worker.device
    if saved:
        # on a machine that has no hardware for it, too: slower, and the same run
        dtype = _noted(saved.position.dtype, device)
    else:
        # a perceptron is slower in it
        is_worth_it = device.type != "cpu" or _has_convolutions(model)
        has_it = is_worth_it and has_bfloat16(device)
        # one type for the job, whatever machines it is on
        dtype = "bfloat16" if all(worker.gather_at_start(float(has_it))) else "float32"
    # for the line of the device: who finds other digits than elsewhere learns why
    chosen = {"dtype": dtype} if (dtype, device.type) == ("bfloat16", "cpu") else {}
    return dataclasses.replace(config, device=dataclasses.replace(config.device, dtype=dtype),
                               chosen={**config.chosen, **chosen})


def describe(config: Config, device: torch.device) -> str:
    """Return the number type that was decided; on a CPU that takes bfloat16 by itself, the way back too."""
    dtype = config.device.dtype
    if "dtype" not in config.chosen:
        return dtype
    # how to go back is told to whoever has not asked for it
    if has_bfloat16(device):
        return f"{dtype} (this CPU multiplies it in hardware; `dtype` float32 has more digits)"
    return f"{dtype} (as in the checkpoint; this CPU has no hardware for it, `dtype` float32 may be faster)"


def trained_dtype(dtype: str, noted: str, device: torch.device) -> tuple[str, str]:
    """Return what a trained network computes in, and a note about it or "".

    `dtype` auto is `noted`, the type that it was trained in; but float32 on a CPU that does not multiply that
    in hardware, where it would be slower and no better.
    """
    if dtype != "auto":  # what the user says holds
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
    """Return the type that a checkpoint notes where the device can train in it, or that of one without."""
    # a loss scale and half the range: worth it on a GPU alone
    if noted and not (noted == "float16" and device.type == "cpu"):
        return noted
    # what nobody noted was trained in float32, by MXNet or before types were noted
    return "bfloat16" if device.type == "cuda" and has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bfloat16 in hardware, at a multiple of float32's speed.

    Of CPUs those with AMX have it. AVX512-BF16 alone, and emulation, are not faster as a whole.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # oneDNN computes it all: what its users may not have, it does not use
    isa = os.environ.get(_ISA_SWITCH, "").upper()
    is_switched_off = isa not in ("", "ALL", "DEFAULT") and "AMX" not in isa and not isa.startswith("AVX10")
    # a torch that cannot tell what the CPU has computes in float32
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return (device.type == "cpu" and torch.backends.mkldnn.is_available() and not is_switched_off
            and bool(capabilities.get("amx_bf16")))


def _has_convolutions(model: nn.Module) -> bool:
    # (filters, channels, height, width), in torch's layers and ours; a fully connected one's have two sizes
    return any(parameter.dim() > 2 for parameter in model.parameters())

