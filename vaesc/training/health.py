"""Is training sound: a loss that is no number, a posterior that says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vaesc.config import TrainingConfig
from vaesc.errors import TrainingError


class DivergedError(TrainingError):
    """The loss is not finite; training may go back and try a lower learning rate."""


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
            scaled = "" if config.rate_scaling == "none" else ", grown by training.rate_scaling"
            lowered = f" (lowered to {config.learning_rate * rate_share:g})"
            raise DivergedError(
                f"the loss is not finite ({name} = {value}) in epoch {epoch} at "
                f"training.learning_rate={config.learning_rate:g}"
                f"{lowered if rate_share < 1 else ''}{scaled}; nothing was saved: "
                "lower training.learning_rate, and check that the images are finite"
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
