"""Pieces that several figures with axes share: logarithms, labels at curves' ends, ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaesc.report.style import Theme

SMALLEST = 1e-14
"""Where an error of zero is drawn, for which an axis of logarithms has no place: the square of
float32's rounding, which nobody can tell from zero."""
_MARKS = {"better": "o", "worse": "s", "no difference shown": "D"}

End = tuple[str, float, str, bool]
"""A curve's label, its last value, its colour, and whether the label is bold."""


def drawn(errors: Any) -> Any:  # noqa: ANN401 - a number or numbers
    """Return errors where they are drawn; one that was not measured (None) leaves a gap."""
    values = np.asarray(errors, float)
    return np.where(np.isnan(values), np.nan, np.maximum(values, SMALLEST))


def error_axis(axes: Any) -> None:  # noqa: ANN401
    """Make the y axis one of logarithms, with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.grid(True, axis="y")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)


def level_axis(axes: Any, levels: Sequence[float], label: str) -> None:  # noqa: ANN401
    """Make the x axis one of logarithms with a tick at each of `levels`."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [f"{k:g}" for k in levels])
    axes.minorticks_off()
    axes.set_xlim(levels[0] / 1.12, levels[-1] * 1.12)
    axes.set_xlabel(label)


def end_labels(axes: Any, ends: Sequence[End], size: float) -> None:  # noqa: ANN401
    """Write each curve's name beside its end, moved apart where ends lie close together."""
    ends = sorted(ends, key=lambda end: end[1])
    at = shares(np.log([drawn(end[1]) for end in ends]), np.log(axes.get_ylim()))
    height = axes.figure.get_size_inches()[1] * axes.get_position().height
    gap = 1.27 * size / 72 / height
    for (text, value, colour, bold), y in zip(ends, spread(at, gap), strict=True):
        axes.annotate(
            text, xy=(1.0, drawn(value)), xytext=(1.055, y), xycoords=("axes fraction", "data"),
            textcoords="axes fraction", color=colour, va="center", fontsize=size,
            fontweight="bold" if bold else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def name_point(axes: Any, text: str, at: tuple[float, float], colour: str, size: float) -> None:  # noqa: ANN401
    """Write the name of a curve that ends early beside its end, on a rim of the background."""
    from matplotlib.patheffects import withStroke

    background = axes.figure.get_facecolor()
    axes.annotate(
        text, xy=at, xytext=(4, -13), textcoords="offset points", color=colour, fontsize=size,
        path_effects=[withStroke(linewidth=3, foreground=background)], zorder=6,
    )  # fmt: skip


def shares(values: Any, limits: Any) -> Any:  # noqa: ANN401
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


def crossings(axes: Any, at: Sequence[float], theme: Theme) -> None:  # noqa: ANN401
    """Mark where curves cross by a line across."""
    for x in at:
        axes.axvline(x, color=theme.faint, linewidth=0.9, dashes=(2, 2), zorder=1)


def name_crossings(axes: Any, at: Mapping[float, str], theme: Theme) -> None:  # noqa: ANN401
    """Mark crossings and write at each where it is."""
    crossings(axes, list(at), theme)
    for x, text in at.items():
        axes.annotate(
            text, xy=(x, 1), xycoords=("data", "axes fraction"), xytext=(4, -4),
            textcoords="offset points", va="top", fontsize=9, color=theme.faint,
        )  # fmt: skip


def ratios(axes: Any, points: Sequence[Mapping[str, Any]], x: str, theme: Theme) -> None:  # noqa: ANN401
    """Draw ratios with their intervals, and the line at 1 that a verdict is about.

    Args:
        axes: Where; the x axis is left to the caller.
        points: Each with ``ratio``, ``low``, ``high``, ``verdict`` and the key `x`; where it has
            ``by_seed``, the ratio of every seed is drawn faintly too.
        x: Key of the horizontal position.
        theme: Colours.
    """
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log")
    axes.axhline(1, color=theme.faint, linewidth=1)
    ends = [0.9, 1.11]
    for point in points:
        colour = verdict_colour(point["verdict"], theme)
        seeds = drawn(point.get("by_seed", ()))
        axes.plot(
            [point[x]] * len(seeds), seeds, "_", color=theme.ink, markersize=8,
            markeredgewidth=0.8, zorder=5,
        )  # fmt: skip
        axes.plot(
            [point[x]] * 2, drawn([point["low"], point["high"]]), color=colour, linewidth=2.2
        )
        axes.plot(
            point[x], drawn(point["ratio"]), _MARKS[point["verdict"]], color=colour, markersize=5
        )
        ends += [*seeds, *drawn([point["low"], point["high"]])]
    low, high = min(ends) / 1.1, max(ends) * 1.1
    axes.set_ylim(low, high)
    ticks = ratio_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Ratio latents / pixels, with 95 % interval", loc="left", fontsize=11)


def ratio_sides(axes: Any, theme: Theme, size: float) -> None:  # noqa: ANN401
    """Say which side of 1 is whose."""
    for text, up, name in (("↑ pixels ahead", 1, "pixel"), ("↓ latents ahead", -1, "article")):
        axes.annotate(
            text, xy=(1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(8, 8 * up),
            textcoords="offset points", va="center", color=theme.colours[name], fontsize=size,
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


def verdict_colour(verdict: str, theme: Theme) -> str:
    """Return the colour of the side that a verdict is for."""
    colours = {"better": theme.colours["article"], "worse": theme.colours["pixel"]}
    return colours.get(verdict, theme.faint)
