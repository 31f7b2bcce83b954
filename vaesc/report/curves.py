"""Figures with axes: error against sparsity level, and the VAE's learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.report.style import Theme, save_themed

LABELS = {
    "refined": "refined latents",
    "article": "sparse latents",
    "lasso": "lasso on latents",
    "pixel": "sparse pixels",
    "pixel_lasso": "lasso on pixels",
    "literal": "step 4, literally",
    "random": "random dictionary",
    "shuffled": "shuffled latents",
    "largest": "k largest latents",
    "pca_latents": "PCA of latents",
    "pca": "PCA of pixels",
    "topk_latents": "TopK on latents",
    "topk_pixels": "TopK on pixels",
    "vq": "k-means codebook",
}
"""Short names, written at the curves' ends."""
_MAIN = ("refined", "article", "pixel")
"""Methods drawn with intervals."""
_DASHES = {"literal": (4, 1.6), "random": (1.2, 1.4), "largest": (5, 1.5, 1, 1.5)}
_DASHES |= {"pca_latents": (2.5, 1.2), "pca": (7, 2)}
_DASHES |= {"lasso": (3, 1), "pixel_lasso": (3, 1), "shuffled": (1.2, 2.4), "vq": (1, 1)}
_DASHES |= {"topk_latents": (6, 1.2, 1, 1.2), "topk_pixels": (6, 1.2, 1, 1.2)}
_MARKS = {"better": "o", "worse": "s", "no difference shown": "D"}
_SMALLEST = 1e-14
"""Where an error of zero is drawn, for which an axis of logarithms has no place: the square of
float32's rounding, which nobody can tell from zero."""
_LINE = 0.052
"""Smallest distance between two labels at the curves' ends, as a share of the axes' height."""


def draw_curve(results: Mapping[str, Any], folder: Path) -> None:
    """Draw ``curve``: test MSE against k for every method, and the ratio the verdict rests on."""
    save_themed(lambda theme: _curve(results, theme), folder, "curve")


def _curve(results: Mapping[str, Any], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 6.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
    figure.subplots_adjust(left=0.115, right=0.755, top=0.955, bottom=0.08, hspace=0.13)
    _errors(above, results, theme)
    _ratios(below, results, theme)
    levels = results["levels"]
    below.set_xscale("log", base=2)
    below.set_xticks(levels, [str(k) for k in levels])
    below.minorticks_off()
    below.set_xlim(levels[0] / 1.12, levels[-1] * 1.12)
    below.set_xlabel("sparsity level k: numbers spent on each image")
    return figure


def _errors(axes: Any, results: Mapping[str, Any], theme: Theme) -> None:  # noqa: ANN401
    levels = results["levels"]
    axes.set_yscale("log")
    axes.grid(True, axis="y")
    for name, curve in results["methods"].items():
        colour, main = theme.colours[name], name in _MAIN
        style = {"linewidth": 2.4, "marker": "o", "markersize": 5, "zorder": 4}
        axes.plot(
            levels, _drawn(curve["mse"]), color=colour,
            **(style if main else {"linewidth": 1.3, "dashes": _DASHES[name]}),
        )  # fmt: skip
        if curve["mse"][-1] is None:
            _name_short_curve(axes, levels, curve["mse"], name, colour)
        if main:
            axes.fill_between(
                levels, _drawn(curve["low"]), _drawn(curve["high"]), color=colour, alpha=0.25,
                linewidth=0,
            )  # fmt: skip
    _crossings(axes, results, theme)
    floor = _drawn(results["vae"]["mse"])
    axes.axhline(floor, color=theme.colours["vae"], linewidth=1.0)
    _ticks(axes)
    _end_labels(axes, results, theme)
    axes.set_title("Mean squared error per pixel on the test split", loc="left", fontsize=11)
    axes.tick_params(axis="x", length=0, which="both")


def _drawn(errors: Any) -> Any:  # noqa: ANN401 - a number or numbers
    """Return errors where they are drawn; None, for a level that a method lacks, is nowhere."""
    return np.maximum(np.asarray(errors, float), _SMALLEST)


def _name_short_curve(axes: Any, levels: Any, errors: Any, name: str, colour: str) -> None:  # noqa: ANN401
    """Mark and name the end of a curve that does not reach the largest level."""
    k, error = [(k, e) for k, e in zip(levels, errors, strict=True) if e is not None][-1]
    axes.plot(k, _drawn(error), "D", color=colour, markersize=4)
    axes.annotate(
        LABELS[name], xy=(k, _drawn(error)), xytext=(6, 0), textcoords="offset points",
        va="center", color=colour, fontsize=8.5,
    )  # fmt: skip


def _ticks(axes: Any) -> None:  # noqa: ANN401
    """Label an error axis with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)


def _end_labels(axes: Any, results: Mapping[str, Any], theme: Theme) -> None:  # noqa: ANN401
    """Write each curve's name beside its end, moved apart where ends lie close together."""
    last = {
        LABELS[n]: (c["mse"][-1], theme.colours[n])
        for n, c in results["methods"].items()
        if c["mse"][-1] is not None
    }
    last["VAE itself (floor)"] = results["vae"]["mse"], theme.colours["vae"]
    ends = {name: (_drawn(error), colour) for name, (error, colour) in last.items()}
    order = sorted(ends, key=lambda name: ends[name][0])
    at = _shares(np.log([ends[name][0] for name in order]), np.log(axes.get_ylim()))
    bold = {LABELS[name] for name in _MAIN}
    for name, end, y in zip(order, at, spread(at, _LINE), strict=True):
        colour = ends[name][1]
        axes.annotate(
            name, xy=(1.0, end), xytext=(1.055, y), xycoords="axes fraction",
            textcoords="axes fraction", color=colour, va="center", fontsize=9.5,
            fontweight="bold" if name in bold else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _shares(values: Any, limits: Any) -> Any:  # noqa: ANN401
    """Return how far up an axis values lie, 0 at its lower and 1 at its upper limit."""
    low, high = limits
    return (np.asarray(values) - low) / (high - low or 1.0)


def spread(at: Any, gap: float) -> Any:  # noqa: ANN401
    """Move increasing positions apart to at least `gap`, as little as possible.

    Neighbours that are too close share their mean position (pool adjacent violators, which solves
    the least-squares problem), and nobody leaves [0, 1].

    Args:
        at: Increasing positions, shape (n,).
        gap: Smallest distance between neighbours.
    """
    offsets = gap * np.arange(len(at))
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(at, float) - offsets:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    moved = np.concatenate([np.full(n, value) for value, n in blocks])
    return np.clip(moved, 0, max(0.0, 1 - offsets[-1])) + offsets


def _crossings(axes: Any, results: Mapping[str, Any], theme: Theme) -> None:  # noqa: ANN401
    _crossing_lines(axes, results, theme)
    for crossing in results["crossover"]:
        axes.annotate(
            f"k ≈ {crossing['k']:.1f}", xy=(crossing["k"], 1), xycoords=("data", "axes fraction"),
            xytext=(4, -4), textcoords="offset points", va="top", fontsize=9, color=theme.faint,
        )  # fmt: skip


def _crossing_lines(axes: Any, results: Mapping[str, Any], theme: Theme) -> None:  # noqa: ANN401
    for crossing in results["crossover"]:
        axes.axvline(crossing["k"], color=theme.faint, linewidth=0.9, dashes=(2, 2), zorder=1)


def _ratios(axes: Any, results: Mapping[str, Any], theme: Theme) -> None:  # noqa: ANN401
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log")
    axes.axhline(1, color=theme.faint, linewidth=1)
    _crossing_lines(axes, results, theme)
    for claim in results["claim"]:
        colour = _verdict_colour(claim["verdict"], theme)
        axes.plot([claim["k"]] * 2, [claim["low"], claim["high"]], color=colour, linewidth=2.2)
        axes.plot(claim["k"], claim["ratio"], _MARKS[claim["verdict"]], color=colour, markersize=5)
    ends = [c[end] for c in results["claim"] for end in ("low", "high")]
    low, high = min([*ends, 0.9]) / 1.1, max([*ends, 1.11]) * 1.1
    axes.set_ylim(low, high)
    ticks = ratio_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Ratio latents / pixels, with 95 % interval", loc="left", fontsize=11)
    for text, up, name in (("↑ pixels ahead", 1, "pixel"), ("↓ latents ahead", -1, "article")):
        axes.annotate(
            text, xy=(1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(8, 8 * up),
            textcoords="offset points", va="center", color=theme.colours[name], fontsize=9.5,
            annotation_clip=False,
        )  # fmt: skip


def ratio_ticks(low: float, high: float) -> list[float]:
    """Return round ratios between `low` and `high`, 1 among them, the finest set of at most 6."""
    fine = [0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5]
    middle = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2]
    coarse = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
    decades = [10.0**i for i in range(-12, 13)]
    for candidates in (fine, middle, coarse, decades):
        covers = low >= candidates[0] / 1.6 and high <= candidates[-1] * 1.6
        ticks = [float(tick) for tick in candidates if low <= tick <= high]
        if covers and len(ticks) <= 6:
            return ticks
    return [1.0]


def _verdict_colour(verdict: str, theme: Theme) -> str:
    colours = {"better": theme.colours["article"], "worse": theme.colours["pixel"]}
    return colours.get(verdict, theme.faint)


def draw_history(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw ``learning``: the VAE's negative ELBO over the epochs, training and validation."""
    save_themed(lambda theme: _history(history, theme), folder, "learning")


def _history(history: Sequence[Mapping[str, Any]], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.6, 3.0))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.115, right=0.755, top=0.88, bottom=0.175)
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"epoch (dot: the best, {best + 1}, whose weights are kept)")
    axes.set_title("Negative ELBO of the VAE, nats per image", loc="left", fontsize=11)
    return figure


def _window(axes: Any, values: Sequence[float]) -> None:  # noqa: ANN401
    """Show the part of a learning curve that is worth looking at: the first steep fall is cut."""
    low, high = min(values), float(np.quantile(values, 0.9))
    # A flat curve needs an axis too, which at a large value is not to be lost in rounding.
    margin = 0.08 * max(high - low, 1e-9 * max(1.0, abs(high)))
    axes.set_ylim(low - margin, high + 3 * margin)


def _name_ends(axes: Any, curves: Mapping[str, tuple[Sequence[float], str]]) -> None:  # noqa: ANN401
    order = sorted(curves, key=lambda name: curves[name][0][-1])
    at = _shares([curves[name][0][-1] for name in order], axes.get_ylim())
    for name, y in zip(order, spread(at, 0.1), strict=True):
        values, colour = curves[name]
        axes.annotate(
            f"{name} {values[-1]:.1f}", xy=(1.02, y), xycoords="axes fraction", va="center",
            color=colour, fontsize=9.5, annotation_clip=False,
        )  # fmt: skip
