"""Pictures for the figures: example reconstructions, and what single atoms look like decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.bundle import SparseVAE
from vaesc.config import EvaluationConfig
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.comparison import AtomUse
from vaesc.evaluation.dictionaries import Dictionaries, code_levels

if TYPE_CHECKING:
    from vaesc.latents import LatentStore

N_LEVELS = 4
"""Sparsity levels shown in the grid of reconstructions."""
N_ATOMS = 63
"""Atoms shown in the sheet, beside the mean."""


@dataclass(frozen=True)
class Row:
    """One row of the grid: the same images, reconstructed in one way."""

    title: str
    group: str
    """What it belongs to: ``input``, ``vae``, ``refined``, ``article`` or ``pixel``."""
    mse: float | None
    """Mean squared error over the whole test split."""
    images: Floats
    """Shape (n, *shape), in [0, 1]."""


@dataclass(frozen=True)
class AtomPictures:
    """The atoms that carry most of the codes' energy, decoded."""

    mean: Floats
    """The image of the mean latent, shape `shape`."""
    images: Floats
    """The image of each atom, shape (n, *shape)."""
    share: Floats
    """Fraction of test images that use each, shape (n,)."""
    n_atoms: int
    """Atoms in the whole dictionary."""


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
    floor = results["vae"]["mse"]
    rows = [
        Row("original", "input", None, images.reshape(shape)),
        Row("VAE", "vae", floor, model.unit_images(z)),
    ]
    for k in levels:
        at = results["levels"].index(k)
        mse = {m: curve["mse"][at] for m, curve in results["methods"].items()}
        if refined:
            own = refined[k]
            made = own.unit_reconstructions(images.reshape(shape), min(k, own.n_nonzero_coefs))
            rows.append(Row(f"refined, k = {k}", "refined", mse["refined"], made))
        decoded = model.unit_images(latent[k].decode(codes[k]))
        rows.append(Row(f"latents, k = {k}", "article", mse["article"], decoded))
        coded = pixel[k].decode(pixel_codes[k]).reshape(shape)
        rows.append(Row(f"pixels, k = {k}", "pixel", mse["pixel"], coded))
    return rows


def shown_levels(levels: list[int]) -> list[int]:
    """Return at most four of `levels`, the first and the last among them."""
    at = np.unique(np.linspace(0, len(levels) - 1, N_LEVELS).round().astype(int))
    return [levels[i] for i in at]


def example_rows(test: Split, n: int) -> list[int]:
    """Choose `n` rows of the test split: the first image of every class, then the first others."""
    labels = test.dataset.labels(test.name)
    first: list[int] = []
    if labels is not None:
        first = sorted(np.unique(labels, return_index=True)[1].tolist())[:n]
        first.sort(key=lambda i: int(labels[i]))
    others = [i for i in range(min(len(test), 2 * n)) if i not in first]
    return [*first, *others][: min(n, len(test))]


def atom_sheet(model: SparseVAE, use: AtomUse) -> AtomPictures:
    """Decode the atoms that matter most: ``decoder(mean + t * scale * atom)``.

    They are ordered by the energy of their coefficients. Ordered by usage, the first would be
    those that code the jitter of collapsed dimensions, which many images use and no pixel shows.
    The amount t is the mean coefficient with which test images use the atom, counting its uses of
    the commoner sign, so that a picture shows what the atom does where it is really used.
    """
    used = np.flatnonzero(use.share)
    order = used[np.argsort(-use.energy[used], kind="stable")][:N_ATOMS]
    d = model.dictionary
    steps = use.amount[order, None].astype(np.float32) * d.dictionary[order] * d.scale
    decoded = model.unit_images(np.concatenate([d.mean[None], d.mean + steps]))
    share = use.share[order].astype(np.float32)
    return AtomPictures(decoded[0], decoded[1:], share, d.n_atoms)
