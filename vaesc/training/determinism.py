"""Named random streams, and torch told to compute the same bits every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vaesc.config import derive_seed


def stream(seed: int, name: str) -> torch.Generator:
    """Return a fresh generator for one named stream of the run.

    It lies on the CPU whatever the device, so that every device sees the same numbers; and a
    stream per epoch or batch needs no generator state to resume from the middle.
    """
    return torch.Generator().manual_seed(derive_seed(seed, name))


@contextmanager
def deterministic() -> Iterator[None]:
    """Let torch use deterministic algorithms only; the caller's settings return afterwards."""
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it first starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    # Every buffer is written before it is read; filling each with NaN first costs time.
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
