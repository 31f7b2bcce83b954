"""Training curves: the VAE's negative ELBO, and the refined models' errors, over the epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.report.axes import drawn, end_labels, error_axis, shares, spread
from vaesc.report.style import Theme, save_themed

SIZE = (4.6, 3.1)
"""Inches of a small figure: two stand side by side on a page, one fills a phone."""
Epochs = Sequence[Mapping[str, Any]]


def draw_history(history: Epochs, folder: Path) -> None:
    """Draw ``learning``: the VAE's negative ELBO over the epochs, training and validation."""
    save_themed(lambda theme: _history(history, theme), folder, "learning")


def draw_refinement(history: Epochs, folder: Path) -> None:
    """Draw ``refining``: validation error of the refined model of every level over the epochs.

    Args:
        history: One dict an epoch, the first before any training, with the keys
            ``validation/refined_mse_k<level>``.
        folder: Where to write.
    """
    save_themed(lambda theme: _refinement(history, theme), folder, "refining")


def small_figure(right: float) -> tuple[Any, Any]:
    """Return a small figure and its axes, which end at `right` of its width."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.145, right=right, top=0.9, bottom=0.165)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _history(history: Epochs, theme: Theme) -> Any:  # noqa: ANN401
    figure, axes = small_figure(0.7)
    axes.grid(True, axis="y")
    epochs = np.arange(1, len(history) + 1)
    curves = {
        "validation": ([e["validation/negative_elbo"] for e in history], theme.colours["article"]),
        "training": ([e["train/negative_elbo"] for e in history], theme.faint),
    }
    for values, colour in curves.values():
        axes.plot(epochs, values, color=colour, linewidth=2)
    validation = curves["validation"][0]
    best = int(np.argmin(validation))
    axes.plot(best + 1, validation[best], "o", color=theme.colours["article"], markersize=6)
    _window(axes, [v for values, _ in curves.values() for v in values])
    _name_ends(axes, curves)
    axes.set_xlabel(f"epoch (dot: the best, {best + 1}, kept)")
    axes.set_title("Negative ELBO of the VAE, nats per image", loc="left", fontsize=10.5)
    return figure


def _window(axes: Any, values: Sequence[float]) -> None:  # noqa: ANN401
    """Show the part of a learning curve that is worth looking at: the first steep fall is cut."""
    low, high = min(values), float(np.quantile(values, 0.9))
    # A flat curve needs an axis too, which at a large value is not to be lost in rounding.
    margin = 0.08 * max(high - low, 1e-9 * max(1.0, abs(high)))
    axes.set_ylim(low - margin, high + 3 * margin)


def _name_ends(axes: Any, curves: Mapping[str, tuple[Sequence[float], str]]) -> None:  # noqa: ANN401
    order = sorted(curves, key=lambda name: curves[name][0][-1])
    at = shares([curves[name][0][-1] for name in order], axes.get_ylim())
    for name, y in zip(order, spread(at, 0.16), strict=True):
        values, colour = curves[name]
        axes.annotate(
            f"{name}\n{values[-1]:.1f}", xy=(1.03, y), xycoords="axes fraction", va="center",
            color=colour, fontsize=9.5, annotation_clip=False,
        )  # fmt: skip


def _refinement(history: Epochs, theme: Theme) -> Any:  # noqa: ANN401
    figure, axes = small_figure(0.84)
    error_axis(axes)
    ends = []
    for k, values in _by_level(history).items():
        axes.plot(range(len(values)), drawn(values), color=theme.colours["refined"], linewidth=1.7)
        best = int(np.argmin(values))
        axes.plot(best, drawn(values[best]), "o", color=theme.colours["refined"], markersize=5)
        ends.append((f"k = {k}", values[-1], theme.colours["refined"], False))
    end_labels(axes, ends, 9)
    axes.set_xlabel("epoch (0: the pixel dictionary; dot: the best)")
    axes.set_title("Refinement: validation MSE", loc="left", fontsize=10.5)
    return figure


def _by_level(history: Epochs) -> dict[int, list[float]]:
    """Return level -> its validation errors, as many as it had epochs."""
    found: dict[int, list[float]] = {}
    for epoch in history:
        for key, value in epoch.items():
            match = re.fullmatch(r"validation/refined_mse_k(\d+)", key)
            if match:
                found.setdefault(int(match[1]), []).append(float(value))
    return found
