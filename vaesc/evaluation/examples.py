"""A few test images and what the compared methods make of them at each sparsity level."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.bundle import SparseVAE
from vaesc.config import EvaluationConfig
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.dictionaries import Dictionaries, code_levels

if TYPE_CHECKING:
    from vaesc.latents import LatentStore

EXAMPLES = "reconstructions.json"
N_LEVELS = 6
"""Sparsity levels shown."""
_LABELS = 2**16
"""Labels looked at together."""


@dataclass(frozen=True)
class Row:
    """The same images, reconstructed in one way."""

    method: str
    """``original``, ``vae``, ``refined``, ``article`` or ``pixel``."""
    k: int | None
    mse: float | None
    """Mean squared error over the whole test split."""
    images: Floats
    """Shape (n, *shape), in [0, 1]."""


def reconstructions(
    config: EvaluationConfig,
    model: SparseVAE,
    test: Split,
    latents: LatentStore,
    learned: Dictionaries,
    results: Mapping[str, Any],
    refined: Mapping[int, SparseVAE] | None = None,
) -> list[Row]:
    """Reconstruct a few test images by the VAE and from sparse codes of latents and of pixels."""
    chosen = example_rows(test, config.n_examples)
    images = test.pick(chosen)
    shape = (len(images), *model.shape)
    z = np.concatenate([latents.latents(test.name, slice(i, i + 1)) for i in chosen])
    levels = shown_levels(results["levels"])
    latent, pixel = ({k: d[k] for k in levels} for d in (learned.latents, learned.pixels))
    codes, pixel_codes = code_levels(latent, z), code_levels(pixel, images)
    rows = [
        Row("original", None, None, images.reshape(shape)),
        Row("vae", None, results["vae"]["mse"], model.unit_images(z)),
    ]
    for k in levels:
        made: dict[str, Floats] = {}
        if refined:
            own = refined[k]
            level = min(k, own.n_nonzero_coefs)
            made["refined"] = own.unit_reconstructions(images.reshape(shape), level)
        made["article"] = model.unit_images(latent[k].decode(codes[k]))
        made["pixel"] = pixel[k].decode(pixel_codes[k]).reshape(shape)
        at = results["levels"].index(k)
        rows += [Row(m, k, results["methods"][m]["mse"][at], x) for m, x in made.items()]
    return rows


def shown_levels(levels: list[int]) -> list[int]:
    """Return at most six of `levels`, the first and the last among them."""
    at = np.unique(np.linspace(0, len(levels) - 1, N_LEVELS).round().astype(int))
    return [levels[i] for i in at]


def example_rows(test: Split, n: int) -> list[int]:
    """Choose `n` rows of the test split: the first image of every class, then the first others."""
    first = [row for _, row in sorted(sorted(_first_of_classes(test), key=itemgetter(1))[:n])]
    others = [i for i in range(min(len(test), 2 * n)) if i not in first]
    return [*first, *others][: min(n, len(test))]


def _first_of_classes(test: Split) -> list[tuple[int, int]]:
    """Return (label, first row with it) of every class, in no order."""
    found: dict[int, int] = {}
    for start in range(0, len(test), _LABELS):
        labels = test.dataset.labels(test.name, slice(start, min(start + _LABELS, len(test))))
        if labels is None:
            break
        for label, row in zip(*np.unique(labels, return_index=True), strict=True):
            found.setdefault(int(label), start + int(row))
    return list(found.items())


def write_reconstructions(rows: list[Row], folder: Path) -> None:
    """Write ``reconstructions.png``, one line a row, and what the lines are as JSON."""
    from vaesc.report.sprites import as_picture, save_sheet

    pictures = [[as_picture(image) for image in row.images] for row in rows]
    facts = {
        "tile": save_sheet(pictures, folder / "reconstructions.png"),
        "n_images": len(rows[0].images),
        "rows": [{"method": row.method, "k": row.k, "mse": row.mse} for row in rows],
    }
    (folder / EXAMPLES).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
