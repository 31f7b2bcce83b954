"""Error against sparsity level: for every method, and as the ratio that the verdict rests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaesc.report.axes import (
    crossings,
    drawn,
    end_labels,
    error_axis,
    level_axis,
    name_crossings,
    name_point,
    ratio_sides,
    ratios,
)
from vaesc.report.names import MAIN, dashes, group_of, label
from vaesc.report.style import Theme, save_wide_and_narrow


def draw_curve(results: Mapping[str, Any], folder: Path, name: str = "curve") -> None:
    """Draw test MSE against k for every method, and the ratio the verdict rests on.

    Args:
        results: As in ``results.json``; ``vae`` and ``crossover`` may be missing. A method with
            ``by_seed``, shape (seeds, levels), gets a thin line for every seed.
        folder: Where to write.
        name: File name without its ending.
    """
    save_wide_and_narrow(lambda theme, narrow: _curve(results, theme, narrow), folder, name)


def two_panels(narrow: bool) -> tuple[Any, Any, Any, float]:
    """Return a figure, its axes for errors, those for ratios below, and the labels' size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 6.0) if narrow else (6.6, 6.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
    left, right = (0.155, 0.655) if narrow else (0.115, 0.755)
    figure.subplots_adjust(left=left, right=right, top=0.955, bottom=0.08, hspace=0.13)
    return figure, above, below, 8.5 if narrow else 9.5


def _curve(results: Mapping[str, Any], theme: Theme, narrow: bool) -> Any:  # noqa: ANN401
    figure, above, below, size = two_panels(narrow)
    _errors(above, results, theme, size)
    at = [c["k"] for c in results.get("crossover", ())]
    name_crossings(above, {k: f"k ≈ {k:.1f}" for k in at}, theme)
    ratios(below, results["claim"], "k", theme)
    ratio_sides(below, theme, size)
    crossings(below, at, theme)
    words = "sparsity level k" if narrow else "sparsity level k: numbers spent on each image"
    level_axis(below, results["levels"], words)
    return figure


def _errors(axes: Any, results: Mapping[str, Any], theme: Theme, size: float) -> None:  # noqa: ANN401
    error_axis(axes)
    ends = []
    for name, curve in results["methods"].items():
        _method(axes, name, curve, results["levels"], theme)
        measured = [
            (k, e) for k, e in zip(results["levels"], curve["mse"], strict=True) if e is not None
        ]
        if curve["mse"][-1] is not None:
            ends.append((label(name), curve["mse"][-1], theme.colour(name), name in MAIN))
        elif measured:
            name_point(axes, label(name), measured[-1], theme.colour(name), size)
    if "vae" in results:
        floor = results["vae"]["mse"]
        axes.axhline(drawn(floor), color=theme.colours["vae"], linewidth=1.0)
        ends.append(("VAE itself (floor)", floor, theme.colours["vae"], False))
    end_labels(axes, ends, size)
    axes.set_title("Mean squared error per pixel", loc="left", fontsize=11)
    axes.tick_params(axis="x", length=0, which="both")


def _method(
    axes: Any,  # noqa: ANN401
    name: str,
    curve: Mapping[str, Any],
    levels: list[int],
    theme: Theme,
) -> None:
    """Draw one method: those that are compared boldly with their interval, others thinly."""
    colour, errors = theme.colour(name), drawn(curve["mse"])
    if name in MAIN:
        axes.plot(levels, errors, color=colour, linewidth=2.4, marker="o", markersize=5, zorder=4)
        low, high = drawn(curve["low"]), drawn(curve["high"])
        axes.fill_between(levels, low, high, color=colour, alpha=0.25, linewidth=0)
        for seed in curve.get("by_seed", ()):
            axes.plot(levels, drawn(seed), color=colour, linewidth=0.7, alpha=0.7, zorder=3)
        return
    alone = sum(e is not None for e in curve["mse"]) == 1  # a point has no line to show it
    axes.plot(
        levels, errors, color=colour, linewidth=1.2, dashes=dashes(name),
        alpha=0.75 if group_of(name) == "controls" else 1.0,
        marker="x" if alone else None, markersize=6,
    )  # fmt: skip
