"""Is training sound: what can go wrong, how it is recognised, and what may be done about it.

=========== ============================================================ =================
trouble     sign                                                         setting
=========== ============================================================ =================
no number   loss, KL or (one step later) a gradient is NaN or infinite   ``max_rollbacks``
explosion   finite, yet worse than twice what untrained weights have     ``on_explosion``
collapse    no latent dimension varies with the image                    ``on_collapse``
=========== ============================================================ =================

A loss that is no number always sends training back (:class:`vaesc.training.run.Run`). The others
are a matter of policy: `continue`, `mend` or `fail`. Whatever was found or done ends as a sentence
in the artifact's summary, and from there in the log, in MLflow and on the model's card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from vaesc.config import TrainingConfig
from vaesc.errors import TrainingError

_FREE_BITS = 0.1
"""Nats that each latent dimension may use at no cost once a collapse is being mended."""

_ABSURD = 100.0
"""A KL so many times what untrained weights score has exploded even while it costs nothing."""


class DivergedError(TrainingError):
    """The loss is no number, or has exploded; training may go back with a lower learning rate."""


def check_finite(
    metrics: Mapping[str, float], epoch: int, config: TrainingConfig, rate_share: float = 1.0
) -> None:
    """Refuse to go on with a loss that is no number.

    Args:
        metrics: What was measured.
        epoch: Its epoch.
        config: Names the learning rate.
        rate_share: What is left of the learning rate after rollbacks.

    Raises:
        DivergedError: A metric is NaN or infinite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is not finite in epoch {epoch} at {_rate(config, rate_share)}; "
                f"{name} = {value}, and nothing was saved: "
                "lower training.learning_rate, and check that the images are finite"
            )


def explosion_sentence(
    distortion: float,
    penalty: float,
    kl: float,
    untrained: float,
    epoch: int,
    config: TrainingConfig,
    rate_share: float = 1.0,
) -> str:
    """Return a sentence if an epoch is far worse than no training at all, else nothing.

    Args:
        distortion: Of the validation images, nats per image.
        penalty: What their KL costs in this epoch, nats per image.
        kl: Their KL, whatever it costs, nats per image.
        untrained: Distortion and KL of the weights before the first step, nats per image.
        epoch: Its number.
        config: Names the learning rate.
        rate_share: What is left of the learning rate after rollbacks.
    """
    scale = max(abs(untrained), 1.0)
    worse = distortion + penalty - untrained
    if worse <= scale and kl <= _ABSURD * scale:
        return ""
    of_kl = penalty > worse / 2 or kl > _ABSURD * scale
    return (
        f"the {'KL' if of_kl else 'loss'} has exploded in epoch {epoch} at "
        f"{_rate(config, rate_share)}: distortion {distortion:.4g} and KL {kl:.4g} nats per "
        f"validation image, against {untrained:.4g} of both before training; "
        "lower training.learning_rate"
    )


def collapse_sentence(active_units: float, latent_dim: int) -> str:
    """Return a sentence if no latent dimension carries anything, else nothing."""
    if active_units > 0:
        return ""
    return (
        f"posterior collapse: none of the {latent_dim} latent dimensions varies with the image; "
        "try training.beta_schedule=warm-up, training.free_bits=0.1 or a lower vae.beta, "
        "and check that the images differ"
    )


def mended(config: TrainingConfig) -> TrainingConfig | None:
    """Return the training that follows a collapse; None if this one was all that is known.

    The KL term comes in slowly, over half of the epochs, and the first nats of each dimension are
    free: there is nothing to win by switching one off.
    """
    if config.importance_samples > 1 or config.capacity or config.free_bits >= _FREE_BITS:
        return None
    return replace(
        config, beta_schedule="warm-up", beta_epochs=max(1.0, config.epochs / 2),
        free_bits=_FREE_BITS,
    )  # fmt: skip


def _rate(config: TrainingConfig, rate_share: float) -> str:
    scaled = "" if config.rate_scaling == "none" else ", grown by training.rate_scaling"
    lowered = f" (lowered to {config.learning_rate * rate_share:g})" if rate_share < 1 else ""
    return f"training.learning_rate={config.learning_rate:g}{lowered}{scaled}"
