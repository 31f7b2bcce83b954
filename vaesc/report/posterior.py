"""The figure of what each latent dimension carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.report.learning import SIZE
from vaesc.report.style import Theme, save_themed


def draw_posterior(kl_dimensions: Sequence[Sequence[float]], folder: Path) -> None:
    """Draw ``posterior``: each latent dimension's KL over the epochs, and at the end.

    Args:
        kl_dimensions: For each epoch, the validation KL of every dimension, in nats.
        folder: Where to write.
    """
    save_themed(lambda theme: _posterior(kl_dimensions, theme), folder, "posterior")


def _posterior(kl_dimensions: Sequence[Sequence[float]], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kl = np.asarray(kl_dimensions, float)
    order = np.argsort(-kl[-1], kind="stable")
    figure = Figure(figsize=SIZE)
    over, end = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    figure.subplots_adjust(left=0.1, right=0.975, top=0.9, bottom=0.165, wspace=0.07)
    epochs = np.arange(1, len(kl) + 1)
    over.plot(epochs, kl[:, order[::-1]], color=theme.colours["article"], linewidth=0.9, alpha=0.7)
    over.set_xlabel("epoch")
    over.set_title("KL of each latent dimension, nats per image", loc="left", fontsize=10.5)
    end.bar(np.arange(1, kl.shape[1] + 1), kl[-1][order], color=theme.colours["article"])
    end.set_xlabel("dimension, sorted")
    for axes in (over, end):
        axes.grid(True, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    over.set_ylim(bottom=0)
    return figure
