"""`deterministic`: torch's algorithms whose result is the same every time, and an error where there is none.

A run on the CPU is the same to the bit without it. On a GPU some kernels add in the order in which threads
come; with it they are replaced by slower ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from imgcls.errors import RunError, first_line


@contextlib.contextmanager
def deterministic(is_asked: bool) -> Iterator[None]:
    """Within the block, have torch compute everything in one order; as it was before at the end.

    RunError for an operation that torch computes in no fixed order only. Does nothing unless `is_asked`.
    """
    if not is_asked:
        yield
        return
    was_on = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    # cuBLAS reads it when it is first used: with more work spaces its sums have no fixed order
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # nothing here reads memory before it is written, so it need not be filled either
    settings: Any = torch.utils.deterministic
    fills = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    # which algorithm is fastest depends on what else the GPU does
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        # what follows the comma is advice for programmers
        raise RunError(f"`deterministic`: {first_line(error).partition(',')[0]}") from error
    finally:
        torch.use_deterministic_algorithms(was_on)
        settings.fill_uninitialized_memory = fills
        torch.backends.cudnn.benchmark = benchmark
