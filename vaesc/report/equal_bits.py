"""The page's section on bits: error at equal rate, and what is paid once for all images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaesc.report.names import label, title
from vaesc.report.page import figure, section, verdict_cell
from vaesc.report.text import escape, number, table


def equal_bits_section(results: Mapping[str, Any], folder: Path) -> str:
    """Return the section "At equal bits"; '' if the evaluation counted none."""
    rate = results.get("rate")
    if not rate:
        return ""
    bits = ", ".join(str(q) for q in rate["coefficient_bits"])
    words = (
        "<p>An image costs the indices of its atoms and its coefficients, each quantised to "
        f"{escape(bits)} bits in turn; faint points are all pairs of k and bits a coefficient, "
        "lines their lower envelopes. Counted for the methods the verdict is on.</p>"
    )
    ends = "; ".join(
        f"{label(name)} {number(found['envelope'][0]['mse'])} at "
        f"{number(found['envelope'][0]['bits'])} bits to {number(found['envelope'][-1]['mse'])} "
        f"at {number(found['envelope'][-1]['bits'])}"
        for name, found in rate["methods"].items()
        if found["envelope"]
    )
    alt = f"Test mean squared error against bits per image, lower envelopes: {ends}."
    caption = (
        "Above: mean squared error at equal bits per image, with 95 % intervals as bands. Below: "
        "the ratio at equal bits, below 1 where latents are ahead."
    )
    return section(
        "At equal bits",
        words + figure(folder, "rate", alt, caption) + _ratios(rate) + _amortised(rate, results),
    )


def _ratios(rate: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{point['bits']:g} bits",
            number(point["ratio"]),
            f"{number(point['low'])} to {number(point['high'])}",
            verdict_cell(point["verdict"]),
        ]
        for point in rate["ratio"]
    ]
    return table(["", "error &times;", "95 % interval", "latents are"], rows) if rows else ""


def _amortised(rate: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """What networks and dictionaries cost, which no image's own bits count."""
    if not rate.get("amortised"):
        return ""
    rows = [
        [
            escape(title(results["methods"], name)),
            f"{cost['numbers']:,}",
            number(cost["bits_per_image"]),
        ]
        for name, cost in rate["amortised"].items()
    ]
    words = (
        "<h3>What is paid once</h3><p>Networks and dictionaries are sent once, not with every "
        "image, and are no part of the bits above. At 32 bits a number and shared among "
        f"{rate['amortised_over']:,} images (the training and the test split) they would add:</p>"
    )
    return words + table(["", "numbers held", "bits per image"], rows)
