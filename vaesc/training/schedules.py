"""The learning rate over a run."""

from __future__ import annotations

import math

from vaesc.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, n_batches: int) -> float:
    """Return Adam's step size for one gradient step.

    Args:
        config: `learning_rate`, `schedule`, `warmup_epochs`, `epochs`.
        step: Number of the gradient step, from 0.
        n_batches: Gradient steps of an epoch; early stopping is left aside.
    """
    share = step / (config.epochs * n_batches)
    rise = config.warmup_epochs * n_batches
    warm = min(1.0, (step + 1) / rise) if rise else 1.0
    return config.learning_rate * warm * _decay(config.schedule, share)


def _decay(schedule: str, share: float) -> float:
    if schedule == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    if schedule == "flat-linear":
        return min(1.0, 2 * (1 - share))
    return 1.0
