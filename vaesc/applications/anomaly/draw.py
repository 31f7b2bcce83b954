"""Drawn explanations: each image beside what the model makes of it, its heat map, its atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.explain import Explanation
from vaesc.report.sprites import as_picture, effect_picture
from vaesc.report.style import Theme

ATOMS = 3
"""Most surprising atoms that are shown of each image."""
_WORDS = {
    "stroke_neighbours": "strokes: neighbours",
    "stroke_sparse": "strokes: sparse residual",
    "pixel_neighbours": "pixels: neighbours",
    "reconstruction": "reconstruction error",
    "negative_elbo": "negative ELBO",
    "latent_residual": "latent residual",
    "code": "code",
}


def draw(explained: Sequence[Explanation], names: Sequence[str], theme: Theme) -> Any:  # noqa: ANN401
    """Return a matplotlib figure with one row an image.

    Args:
        explained: At least one explanation.
        names: What each image is called.
        theme: Colours.
    """
    from matplotlib.figure import Figure

    columns = 4 + ATOMS
    figure = Figure(figsize=(10.2, 0.55 + 1.5 * len(explained)), layout="constrained")
    axes = figure.subplots(
        len(explained), columns, squeeze=False, width_ratios=[1, 1, 1, *[1] * ATOMS, 1.7]
    )
    for row, each, name in zip(axes, explained, names, strict=True):
        _draw_row(row, each, name, theme)
    atoms = ["atom, its part"] * ATOMS
    heads = ["image", "decoder(D a)", "where", *atoms, "what adds to the score"]
    for axis, head in zip(axes[0], heads, strict=True):
        axis.annotate(
            head, (0.5, 1), (0, 27), xycoords="axes fraction", textcoords="offset points",
            ha="center", va="bottom", fontsize=8.5, color=theme.faint,
        )  # fmt: skip
    return figure


def _draw_row(row: Any, each: Explanation, name: str, theme: Theme) -> None:  # noqa: ANN401
    _show(row[0], as_picture(each.image), f"{name}\np = {each.p_value:.2g}")
    _show(row[1], as_picture(each.rebuilt), "")
    heat = as_picture(_gray(each.heat))
    _show(row[2], heat / max(float(np.nanmax(heat)), 1e-12), "", cmap="inferno")
    for i, axis in enumerate(row[3 : 3 + ATOMS]):
        if i >= len(each.atoms):
            axis.set_axis_off()
            continue
        atom = each.atoms[i]
        limit = max(float(np.abs(a.contribution).max()) for a in each.atoms)
        picture = effect_picture(atom.contribution, limit, theme)
        nats = f"{atom.use_nats:.1f} + {atom.coefficient_nats:.1f} nats"
        _show(axis, picture, f"{atom.atom}: {nats}")
    _bars(row[-1], each, theme)


def _gray(heat: NDArray[Any]) -> NDArray[Any]:
    """Return a heat map without channels."""
    return heat.sum(axis=0) if heat.ndim == 3 else heat


def _show(axis: Any, picture: NDArray[Any], title: str, cmap: str = "gray") -> None:  # noqa: ANN401
    axis.imshow(np.clip(picture, 0, 1), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=7.5, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _bars(axis: Any, each: Explanation, theme: Theme) -> None:  # noqa: ANN401
    names = list(each.terms)
    values = [each.terms[n] for n in names]
    axis.barh(range(len(names)), values, color=theme.colour("article"), height=0.7)
    axis.set_yticks(range(len(names)), [_WORDS[n] for n in names], fontsize=6)
    axis.yaxis.tick_right()
    axis.invert_yaxis()
    axis.tick_params(axis="both", labelsize=6, length=0)
    axis.axvline(0, color=theme.faint, linewidth=0.6)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
