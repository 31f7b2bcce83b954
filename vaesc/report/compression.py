"""The codec's pictures: error against bits beside others, and images at several qualities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.report.sprites import as_picture
from vaesc.report.style import Theme, save_themed

OURS = "vaesc"
CONTROL = "kinds and details without the VAE"
PCA = "PCA, same coder"
_MAIN = (OURS, CONTROL)
_COLOURS = {
    OURS: "refined", CONTROL: "pixel", PCA: "pixel", "JPEG": "topk_pixels", "WebP": "topk_latents",
    "JPEG XL": "vq", "AVIF": "lasso",
}  # fmt: skip
_DASHES = {
    PCA: (2, 2),
    "JPEG": (1, 1.2),
    "WebP": (3, 1.2),
    "JPEG XL": (6, 1.4),
    "AVIF": (5, 1.5, 1, 1.5),
}


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], folder: Path, name: str
) -> None:
    """Draw PSNR against bits a pixel.

    Args:
        curves: Method -> its points (bits a pixel, PSNR in dB), by increasing rate.
        folder: Where to write.
        name: File name without its ending.
    """
    save_themed(lambda theme: _curves(curves, theme), folder, name)


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for method, points in curves.items():
        colour, main = theme.colour(_COLOURS.get(method, "")), method in _MAIN
        style: dict[str, Any] = {} if main else {"dashes": _DASHES.get(method, (2, 2))}
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], color=colour, marker="o",
            markersize=4 if main else 2.5, linewidth=2.2 if main else 1.3, label=method, **style,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bits per pixel, all bytes counted")
    axes.set_title("PSNR of the set of test images, dB", loc="left", fontsize=11)
    axes.grid()
    axes.legend(frameon=False, loc="upper left")
    return figure


def draw_strip(rows: Sequence[tuple[str, NDArray[np.float32]]], folder: Path, name: str) -> None:
    """Draw images, one row of them under another, each row with its words.

    Args:
        rows: Words, and images in [0, 1], shape (n, h, w) or (n, c, h, w).
        folder: Where to write.
        name: File name without its ending.
    """
    save_themed(lambda theme: _strip(rows, theme), folder, name)


def _strip(rows: Sequence[tuple[str, NDArray[np.float32]]], theme: Theme) -> Any:  # noqa: ANN401
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.6 * len(rows)))
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.12, right=0.995, bottom=0.01, top=0.99, hspace=0.06)
    for axes, (words, images) in zip(panels, rows, strict=True):
        line = np.concatenate([as_picture(image) for image in images], axis=1)
        axes.imshow(line, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8.5)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure
