"""All parameters of a network as one vector, which the servers of dist_async share.

The parameters follow one another, and each server has an equal part, which may begin at any element: every
optimizer that is offered works element by element. (MXNet cuts only keys of over a million elements.)
`client` fills and reads the vectors; they are made once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FlatParameters:
    """Gradients and weights of `parameters` as float32 vectors, on their device and as they are sent."""

    def __init__(self, parameters: Sequence[Tensor], num_servers: int) -> None:
        self.parameters = list(parameters)
        self.num_servers = num_servers
        self.size = sum(p.numel() for p in self.parameters)
        device = self.parameters[0].device
        self._gradients = torch.zeros(self.size, device=device)
        self._weights = torch.zeros(self.size, device=device)
        #: what is sent and received, on the CPU
        self.sent = self._gradients
        self.received = self._weights
        if device.type != "cpu":  # pinned: copies from the device then need no buffer in between
            self.sent = torch.zeros(self.size, pin_memory=True)
            self.received = torch.zeros(self.size, pin_memory=True)
        self._gradient_views = self._views(self._gradients)
        self._weight_views = self._views(self._weights)

    def gather_gradients(self) -> None:
        """Copy the gradients of all parameters to `sent`; zeros where there is none."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        # one call for all: a network has hundreds of parameters
        torch._foreach_copy_(self._gradient_views, gradients)
        if self._gradients is not self.sent:
            self.sent.copy_(self._gradients)  # waits for the device

    def gather_weights(self) -> None:
        """Copy the weights of all parameters to `received`, which `restore` sends."""
        with torch.no_grad():
            torch._foreach_copy_(self._weight_views, self.parameters)
        if self._weights is not self.received:
            self.received.copy_(self._weights)

    def scatter_weights(self) -> None:
        """Copy `received` to the parameters."""
        if self._weights is not self.received:
            self._weights.copy_(self.received)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self._weight_views)

    def slices(self, flat: Tensor) -> list[Tensor]:
        """Return the part of a vector that each server has."""
        return [flat[begin:end] for begin, end in map(self._range, range(self.num_servers))]

    def pieces(self, server: int) -> list[tuple[int, int, int]]:
        """Return (index of the parameter, begin, end within it) of what a server has."""
        first, last = self._range(server)
        pieces = []
        start = 0  # of the parameter, in the vector
        for index, p in enumerate(self.parameters):
            begin = max(first - start, 0)
            end = min(last - start, p.numel())
            if begin < end:
                pieces.append((index, begin, end))
            start += p.numel()
        return pieces

    def _range(self, server: int) -> tuple[int, int]:
        # whole numbers, so that the parts meet without gaps
        return self.size * server // self.num_servers, self.size * (server + 1) // self.num_servers

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Return the parameters in that vector, each in the memory order it has itself."""
        pieces = flat.split([p.numel() for p in self.parameters])
        return [view_like(piece, p) for piece, p in zip(pieces, self.parameters, strict=True)]


def flatten_like(value: Tensor, p: Tensor) -> Tensor:
    """Return `value`, shaped as `p`, as a vector on the CPU in the memory order of `p`."""
    flat = torch.empty(p.numel(), dtype=value.dtype)
    view_like(flat, p).copy_(value)
    return flat


def view_like(flat: Tensor, p: Tensor) -> Tensor:
    """Return a vector seen in the shape of `p` and, where `p` fills its memory, in its memory order."""
    # so that copies run along memory: a channels_last weight would otherwise be turned around at every step
    is_dense = torch.empty_like(p, device="meta").stride() == p.stride()
    return flat.as_strided(p.shape, p.stride()) if is_dense else flat.view(p.shape)
