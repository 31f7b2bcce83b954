"""One look for all figures: two themes, colours that everybody can tell apart, equal bytes.

Colours are Okabe and Ito's, lightened for the dark theme. A figure is saved in both themes, as
``<name>.png`` and ``<name>-dark.png``, at a fixed resolution, in matplotlib's own font and without
metadata: equal input gives equal bytes.

References:
    Okabe and Ito, "Color Universal Design", 2008. https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DARK = "-dark"
DPI = 150
"""Pixels per inch of every figure."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one theme."""

    suffix: str
    background: str
    ink: str
    faint: str
    """Axes, ticks, secondary text."""
    grid: str
    colours: dict[str, str]
    """Colour of each method."""


LIGHT_THEME = Theme(
    suffix="",
    background="#ffffff",
    ink="#1b1f24",
    faint="#5f6873",
    grid="#e6e8eb",
    colours={
        "refined": "#1a1a8c",
        "article": "#0072b2",
        "lasso": "#4b86a8",
        "pixel": "#d55e00",
        "pixel_lasso": "#b0794f",
        "literal": "#a8487f",
        "random": "#3d9ad1",
        "shuffled": "#5b8bc9",
        "largest": "#007d5a",
        "pca_latents": "#8a7a00",
        "pca": "#6b7480",
        "topk_latents": "#2f6f8f",
        "topk_pixels": "#b5432a",
        "vq": "#7a5230",
        "vae": "#1b1f24",
    },
)
DARK_THEME = Theme(
    suffix=DARK,
    background="#15181d",
    ink="#e8eaed",
    faint="#9aa4b0",
    grid="#2b3038",
    colours={
        "refined": "#b9a3ff",
        "article": "#56b4e9",
        "lasso": "#8fbfdc",
        "pixel": "#ff8b3d",
        "pixel_lasso": "#d9a883",
        "literal": "#e39ac4",
        "random": "#3f8fc4",
        "shuffled": "#7ea6dd",
        "largest": "#2fc39a",
        "pca_latents": "#d8c93f",
        "pca": "#9aa4b0",
        "topk_latents": "#69b3d1",
        "topk_pixels": "#f2765a",
        "vq": "#c99a72",
        "vae": "#e8eaed",
    },
)


def save_themed(draw: Callable[[Theme], Any], folder: Path, name: str) -> None:
    """Save the figure that `draw` returns, once in each theme.

    Args:
        draw: Makes a matplotlib figure in a theme.
        folder: Folder of the evaluation.
        name: File name without its ending.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for theme in (LIGHT_THEME, DARK_THEME):
        with mpl.rc_context(_settings(theme)):
            figure = draw(theme)
            FigureCanvasAgg(figure).print_png(
                folder / f"{name}{theme.suffix}.png", metadata={"Software": None}
            )


def _settings(theme: Theme) -> dict[Any, Any]:
    import matplotlib as mpl

    return {
        # The user's own matplotlibrc must not change a byte.
        **{k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")},
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "lines.solid_capstyle": "round",
    }
