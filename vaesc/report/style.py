"""One look for all figures: two themes, colours that everybody can tell apart, equal bytes.

Colours are Okabe and Ito's, lightened for the dark theme. A figure is saved in both themes, as
``<name>.png`` and ``<name>-dark.png``, at a fixed resolution, in matplotlib's own font and without
metadata: equal input gives equal bytes.

References:
    Okabe and Ito, "Color Universal Design", 2008. https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DARK = "-dark"
NARROW = "-narrow"
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
    """Colour of each method that has one of its own."""

    def colour(self, method: str) -> str:
        """Return a method's colour; controls and methods unknown here share the faint one."""
        return self.colours.get(method, self.faint)


LIGHT_THEME = Theme(
    suffix="",
    background="#ffffff",
    ink="#1b1f24",
    faint="#5f6873",
    grid="#e6e8eb",
    colours={
        "refined": "#1a1a8c",
        "article": "#0072b2",
        "pixel": "#d55e00",
        "lasso": "#3d9ad1",
        "pixel_lasso": "#b0763f",
        "topk_latents": "#007d5a",
        "topk_pixels": "#8a7a00",
        "vq": "#a8487f",
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
        "pixel": "#ff8b3d",
        "lasso": "#3f8fc4",
        "pixel_lasso": "#c79a6b",
        "topk_latents": "#2fc39a",
        "topk_pixels": "#d8c93f",
        "vq": "#e39ac4",
        "vae": "#e8eaed",
    },
)


def save_wide_and_narrow(draw: Callable[[Theme, bool], Any], folder: Path, name: str) -> None:
    """Save a figure for wide pages and one for phones, ``<name>-narrow``, each in both themes.

    Words in a figure shrink with it. One as wide as a page would be unreadable on a phone.

    Args:
        draw: Makes a matplotlib figure in a theme, narrow or not.
        folder: Folder of the evaluation.
        name: File name without its ending.
    """
    save_themed(lambda theme: draw(theme, False), folder, name)
    save_themed(lambda theme: draw(theme, True), folder, name + NARROW)


def save_themed(draw: Callable[[Theme], Any], folder: Path, name: str) -> None:
    """Save the figure that `draw` returns, once in each theme.

    Args:
        draw: Makes a matplotlib figure in a theme.
        folder: Folder of the evaluation.
        name: File name without its ending.
    """
    for theme in (LIGHT_THEME, DARK_THEME):
        (folder / f"{name}{theme.suffix}.png").write_bytes(png_of(draw, theme))


def png_of(draw: Callable[[Theme], Any], theme: Theme) -> bytes:
    """Return the figure that `draw` returns, in a theme, as a PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    made = io.BytesIO()
    with mpl.rc_context(_settings(theme)):
        FigureCanvasAgg(draw(theme)).print_png(made, metadata={"Software": None})
    return made.getvalue()


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
