"""The page's reconstructions: originals above what each method makes of them, level by level."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaesc.report.names import label
from vaesc.report.page import Sprite, section
from vaesc.report.text import number

_ACROSS = 10
"""Images side by side."""
_NAMES = {"original": "originals", "vae": "VAE itself"}


def reconstructions_section(folder: Path) -> str:
    """Return the section of reconstructions; '' if the evaluation wrote none."""
    path = folder / "reconstructions.json"
    if not path.exists():
        return ""
    facts = json.loads(path.read_bytes())
    sprite = Sprite("made", {"any": folder / "reconstructions.png"}, facts["tile"])
    rows = facts["rows"]
    levels = sorted({row["k"] for row in rows if row["k"] is not None})
    blocks = [_block("The VAE itself, nothing coded", [0, 1], facts, sprite)]
    blocks += [
        _block(f"k = {k}", [0, *(i for i, row in enumerate(rows) if row["k"] == k)], facts, sprite)
        for k in levels
    ]
    words = (
        "<p>The same test images throughout (the first of each class, where there are labels), "
        "their originals above each block; the number is the mean squared error over the whole "
        "test split.</p>"
    )
    return section("Reconstructions", words + sprite.embedded() + "".join(blocks))


def _block(title: str, at: list[int], facts: Mapping[str, Any], sprite: Sprite) -> str:
    lines = "".join(_line(i, facts, sprite) for i in at)
    return f'<h3>{title}</h3><div class="made">{lines}</div>'


def _line(i: int, facts: Mapping[str, Any], sprite: Sprite) -> str:
    row, n = facts["rows"][i], facts["n_images"]
    name = _NAMES.get(row["method"], label(row["method"]))
    where = "" if row["k"] is None else f" at k = {row['k']}"
    strips = "".join(
        sprite.cut(i, range(start, min(start + _ACROSS, n)), f"{n} test images: {name}{where}")
        for start in range(0, n, _ACROSS)
    )
    mse = "" if row["mse"] is None else f"<small>{number(row['mse'])}</small>"
    return f'<div class="line {row["method"]}"><p>{name}{mse}</p><div>{strips}</div></div>'
