"""Few labels: error against their number, and the test images that are missed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.report.axes import end_labels
from vaesc.report.sprites import as_picture
from vaesc.report.style import Theme, save_themed

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

_DRAWN = {
    "best": ("ours", "refined"),
    "supervised": ("labels alone", "pixel"),
    "m1": ("M1", "lasso"),
    "m1_m2": ("M1+M2", "topk_latents"),
    "spreading": ("spreading", "article"),
}
"""Method -> its short name, and whose colour it takes."""
_COLUMNS, _ROWS = 10, 2


def draw_errors(
    errors: Mapping[int, Mapping[str, Sequence[float]]],
    published: Mapping[str, Mapping[int, float]],
    folder: Path,
) -> None:
    """Draw ``few-labels``: test error against the number of labels, both on log scales.

    Args:
        errors: Number of labels -> method -> error of each draw, in percent.
        published: Method -> number of labels -> error in percent.
        folder: Where to write.
    """
    save_themed(lambda theme: _errors(errors, published, theme), folder, "few-labels")


def draw_missed(dataset: ImageDataset, missed: NDArray[np.int64], folder: Path) -> bool:
    """Draw ``few-labels-missed``: the test images that are missed most often, with their classes.

    Args:
        dataset: The data set.
        missed: How often each test image was missed.
        folder: Where to write.

    Returns:
        Whether there is anything to draw: images that are pictures, of which some were missed.
    """
    order = np.argsort(-missed, kind="stable")[: _COLUMNS * _ROWS]
    rows = order[missed[order] > 0]
    labels = dataset.labels("test")
    if not len(rows) or labels is None or not 2 <= len(dataset.shape) <= 3:
        return False
    images = [dataset.floats("test", slice(int(row), int(row) + 1))[0] for row in rows]
    names = dataset.classes
    words = [names[k] if names else str(k) for k in labels[rows].tolist()]
    save_themed(lambda theme: _missed(images, words, theme), folder, "few-labels-missed")
    return True


def _errors(
    errors: Mapping[int, Mapping[str, Sequence[float]]],
    published: Mapping[str, Mapping[int, float]],
    theme: Theme,
) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7.2, 4.4))
    axes = figure.add_axes((0.07, 0.12, 0.74, 0.79))
    axes.set_xscale("log")
    axes.set_yscale("log")
    numbers = list(errors)
    ends = []
    for method, (name, colour_of) in _DRAWN.items():
        there = [n for n in numbers if method in errors[n]]
        mean = [float(np.mean(errors[n][method])) for n in there]
        std = np.array([np.std(errors[n][method]) for n in there])
        if min(mean, default=0.0) <= 0:
            continue
        colour = theme.colour(colour_of)
        axes.errorbar(
            there, mean, yerr=np.stack([np.minimum(std, 0.9 * np.array(mean)), std]),
            color=colour, marker="o", markersize=4, capsize=2,
            linewidth=2.4 if method == "best" else 1.4,
        )  # fmt: skip
        if there == numbers:
            ends.append((name, mean[-1], colour, method == "best"))
        else:
            axes.annotate(
                name, (there[-1], mean[-1]), xytext=(6, 6), textcoords="offset points",
                color=colour, fontsize=9.5,
            )  # fmt: skip
    for points in published.values():
        known = {n: value for n, value in points.items() if n in errors}
        axes.plot(list(known), list(known.values()), "x", color=theme.faint, markersize=6)
    for (n, value), name in _named(published, errors).items():
        axes.annotate(
            name, (n, value), xytext=(-6, 0), textcoords="offset points", ha="right",
            va="center", color=theme.faint, fontsize=8.5,
        )  # fmt: skip
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlim(min(numbers) / (1.9 if published else 1.1), max(numbers) * 1.1)
    for each in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        each(FuncFormatter(lambda value, _: f"{value:g}" if _leading(value) in "125" else ""))
    axes.grid(axis="y", which="both", alpha=0.6)
    axes.set_xlabel("labelled training images")
    axes.set_title("Test error in percent", loc="left", fontsize=11)
    end_labels(axes, ends, 9.5)
    return figure


def _named(
    published: Mapping[str, Mapping[int, float]], errors: Mapping[int, Any]
) -> dict[tuple[int, float], str]:
    """Return where to write each published method: at its first point, once where two meet."""
    at: dict[tuple[int, float], str] = {}
    for name, points in published.items():
        first = next(((n, value) for n, value in points.items() if n in errors), None)
        if first is None:
            continue
        near = next((p for p in at if p[0] == first[0] and abs(p[1] / first[1] - 1) < 0.1), None)
        if near:
            at[near] += f", {name}"
        else:
            at[first] = name
    return at


def _leading(value: float) -> str:
    return f"{value:e}"[0] if value > 0 and math.isfinite(value) else ""


def _missed(images: Sequence[Any], words: Sequence[str], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(0.9 * columns, 1.15 * rows), layout="constrained")
    for number, (image, word) in enumerate(zip(images, words, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(as_picture(image), cmap="gray", vmin=0, vmax=1)
        axes.set_title(word, fontsize=8.5, color=theme.ink)
        axes.set_axis_off()
    return figure
