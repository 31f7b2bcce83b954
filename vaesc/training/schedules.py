"""The learning rate over a run.

Larger batches have less noise in their gradients and make fewer steps, which a larger rate can
make up for: in proportion to the batch under plain gradient descent (Goyal et al. 2017,
https://arxiv.org/abs/1706.02677), to its root under Adam (Malladi et al. 2022,
https://arxiv.org/abs/2205.10287).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from vaesc.config import TrainingConfig

REFERENCE_BATCH = 128
"""Batch size at which `learning_rate` is Adam's step size whatever `rate_scaling` says."""
_GROWTH: dict[str, Callable[[float], float]] = {
    "none": lambda ratio: 1.0, "sqrt": math.sqrt, "linear": float
}  # fmt: skip


def learning_rate(
    config: TrainingConfig, step: int, n_batches: int, batch_size: int | None = None
) -> float:
    """Return Adam's step size for one gradient step.

    Args:
        config: `learning_rate`, `rate_scaling`, `schedule`, `warmup_epochs`, `epochs`.
        step: Number of the gradient step, from 0.
        n_batches: Gradient steps of an epoch; early stopping is left aside.
        batch_size: Images of a batch, if there are fewer than `config.batch_size`.
    """
    share = step / (config.epochs * n_batches)
    rise = config.warmup_epochs * n_batches
    warm = min(1.0, (step + 1) / rise) if rise else 1.0
    peak = peak_rate(config, batch_size or config.batch_size)
    return peak * warm * _decay(config.schedule, share)


def peak_rate(config: TrainingConfig, batch_size: int) -> float:
    """Return the largest learning rate of a run with batches of `batch_size`."""
    return config.learning_rate * _GROWTH[config.rate_scaling](batch_size / REFERENCE_BATCH)


def _decay(schedule: str, share: float) -> float:
    if schedule == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    if schedule == "flat-linear":
        return min(1.0, 2 * (1 - share))
    return 1.0
