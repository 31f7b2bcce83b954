"""Error against bits: what a method makes of an image that may cost so and so much.

At equal k the methods do not cost the same: a coefficient may need more bits in one space than in
the other. Counted in bits, every pair of k and of bits a coefficient is a point; a method is its
points' lower envelope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vaesc.report.axes import (
    crossings,
    drawn,
    end_labels,
    error_axis,
    name_crossings,
    name_point,
    ratio_sides,
    ratios,
)
from vaesc.report.curves import two_panels
from vaesc.report.names import MAIN, dashes, label
from vaesc.report.style import Theme, save_wide_and_narrow


def draw_rate(rate: Mapping[str, Any], folder: Path) -> None:
    """Draw ``rate``: test MSE against bits an image, and the ratio at equal bits.

    Args:
        rate: ``results["rate"]``: for every method its points and their envelope, and the ratios.
        folder: Where to write.
    """
    save_wide_and_narrow(lambda theme, narrow: _rate(rate, theme, narrow), folder, "rate")


def crossover_bits(ratio: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return where the ratio at equal bits passes 1, its logarithm linear in that of bits."""
    found = []
    # A ratio of exactly 1 lies on neither side.
    for a, b in pairwise(point for point in ratio if point["ratio"] != 1):
        left, right = math.log(a["ratio"]), math.log(b["ratio"])
        if left * right < 0:
            found.append(a["bits"] * (b["bits"] / a["bits"]) ** (left / (left - right)))
    return found


def _rate(rate: Mapping[str, Any], theme: Theme, narrow: bool) -> Any:  # noqa: ANN401
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, above, below, size = two_panels(narrow)
    error_axis(above)
    ends = []
    most = max((p["bits"] for m in rate["methods"].values() for p in m["envelope"]), default=1)
    for name, found in rate["methods"].items():
        _method(above, name, found, theme)
        last = found["envelope"][-1] if found["envelope"] else None
        if last and last["bits"] >= most / 2:
            ends.append((label(name), last["mse"], theme.colour(name), name in MAIN))
        elif last:
            name_point(above, label(name), (last["bits"], last["mse"]), theme.colour(name), size)
    at = crossover_bits(rate["ratio"])
    name_crossings(above, {bits: f"{bits:.0f} bits" for bits in at}, theme)
    end_labels(above, ends, size)
    above.set_title("Mean squared error per pixel", loc="left", fontsize=11)
    above.tick_params(axis="x", length=0, which="both")
    ratios(below, rate["ratio"], "bits", theme)
    ratio_sides(below, theme, size)
    crossings(below, at, theme)
    below.set_xscale("log", base=2)
    below.xaxis.set_major_locator(LogLocator(base=2))
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    below.xaxis.set_minor_formatter(NullFormatter())
    below.set_xlabel("bits per image")
    return figure


def _method(axes: Any, name: str, found: Mapping[str, Any], theme: Theme) -> None:  # noqa: ANN401
    """Draw the envelope as a line with its points' intervals as a band, all points faintly."""
    colour, points, envelope = theme.colour(name), found["points"], found["envelope"]
    axes.plot(
        [p["bits"] for p in points], drawn([p["mse"] for p in points]), ".", color=colour,
        markersize=3.5, alpha=0.45, linewidth=0,
    )  # fmt: skip
    bits, main = [p["bits"] for p in envelope], name in MAIN
    style: dict[str, Any] = {"linewidth": 2.4} if main else {"linewidth": 1.2}
    if not main:
        style["dashes"] = dashes(name)
    axes.plot(bits, drawn([p["mse"] for p in envelope]), color=colour, zorder=4, **style)
    if main:
        ends = {(p["k"], p["q"]): (p["low"], p["high"]) for p in points}
        band = [ends.get((p["k"], p["q"]), (p["mse"], p["mse"])) for p in envelope]
        low, high = drawn([b[0] for b in band]), drawn([b[1] for b in band])
        axes.fill_between(bits, low, high, color=colour, alpha=0.25, linewidth=0)
