"""Figures of the representation: accuracies of probes, and a map of clusters and classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.findings import Picture
from vaesc.report.style import Theme, save_themed


def draw_probes(bars: Sequence[tuple[str, float, bool]], folder: Path) -> Picture:
    """Draw the probes' accuracies as bars.

    Args:
        bars: Name of the features, accuracy in [0, 1], and whether they are a baseline.
        folder: Where to write.
    """
    save_themed(lambda theme: _probes(bars, theme), folder, "probes")
    listed = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy, _ in bars)
    return Picture(
        name="probes",
        alt=f"Bars of the linear probe's accuracy on the test split: {listed}.",
        caption="Test accuracy of a linear probe by the features it is given; features made "
        "without the model are orange. The axis does not begin at 0.",
    )


def draw_map(
    places: NDArray[Any],
    clusters: NDArray[np.int64],
    classes: NDArray[np.int64] | None,
    folder: Path,
) -> Picture:
    """Draw test images as points, coloured by cluster and, beside it, by class.

    Args:
        places: Where each image lies in the plane, shape (n, 2).
        clusters: Shape (n,).
        classes: Shape (n,); None draws the clusters alone.
        folder: Where to write.
    """
    panels = [("clusters", clusters)]
    if classes is not None:
        panels.append(("classes", _matched(classes, clusters)))
    save_themed(lambda theme: _map(places, panels, theme), folder, "clusters")
    coloured = "once by cluster and once by class" if classes is not None else "by cluster"
    return Picture(
        name="clusters",
        alt=f"Map of {len(places)} test images as points, coloured {coloured}.",
        caption=f"{len(places)} test images in UMAP's layout of the training latents, drawn in "
        f"the plane by t-SNE and coloured {coloured}; no label placed or divided them.",
    )


def _matched(classes: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return classes under the numbers of the clusters they match, so that colours agree."""
    from scipy.optimize import linear_sum_assignment

    n = int(max(classes.max(), clusters.max())) + 1
    table = np.zeros((n, n), np.int64)
    np.add.at(table, (classes, clusters), 1)
    matched: NDArray[np.int64] = linear_sum_assignment(table, maximize=True)[1][classes]
    return matched


def _probes(bars: Sequence[tuple[str, float, bool]], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    figure = Figure(figsize=(8, 0.5 + 0.42 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    low = min(accuracy for _, accuracy, _ in bars)
    left = max(0.0, np.floor((low - 0.05) * 10) / 10)
    for row, (_, accuracy, baseline) in enumerate(bars):
        colour = theme.colour("pixel" if baseline else "refined")
        axes.barh(row, accuracy - left, left=left, height=0.62, color=colour)
        axes.annotate(
            f"{accuracy:.1%}", (accuracy, row), xytext=(4, 0), textcoords="offset points",
            va="center", color=theme.ink,
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(left, 1.0 + (1 - left) * 0.1)
    axes.xaxis.set_major_locator(MultipleLocator(0.05 if left >= 0.7 else 0.1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return figure


def _map(
    places: NDArray[Any], panels: Sequence[tuple[str, NDArray[np.int64]]], theme: Theme
) -> Any:  # noqa: ANN401
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 4.2), layout="constrained")
    colours = colormaps["tab10"](np.arange(10))
    for axes, (title, groups) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        axes.scatter(*places.T, s=5, c=colours[groups % len(colours)], linewidths=0)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal", "datalim")
    return figure
