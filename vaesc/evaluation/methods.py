"""What a method is: a way to spend k numbers on an image, fitted and ready for test batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.dictionaries import code_levels

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.bundle import SparseVAE
    from vaesc.dictionary import LatentDictionary
    from vaesc.latents import LatentStore

Approximations = Iterator[tuple[int, Floats]]
"""Pairs of a sparsity level and what a method makes of a batch at that level."""


@dataclass(frozen=True)
class Batch:
    """A few images of one split, with their latents and the article's codes of them."""

    rows: slice
    images: Floats
    """Shape (m, n_pixels), in [0, 1]."""
    latents: Floats
    """Posterior means, shape (m, d)."""
    codes: Mapping[int, csr_array]
    """Sparsity level -> sparse codes of the latents in that level's dictionary, shape (m, K)."""
    split: str = ""
    """The split's name; empty for images that belong to none."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to spend k numbers an image."""

    name: str
    """Prefix of its metrics: ``test/<name>_mse_k8``; the claimant's have none."""
    title: str
    about: str
    """What it does, in a sentence for the report."""
    space: Literal["latent", "pixel"]
    """What `approximate` yields: latents, to be decoded by the VAE, or finished images."""
    approximate: Callable[[Batch], Approximations]
    reach: int
    """Largest sparsity level that makes a difference to it."""
    numbers: int
    """Numbers in the networks and dictionaries that serve one level (the most, where they
    differ), means and scales not counted: learned once, whatever the number of images."""
    levels: tuple[int, ...] | None = None
    """The compared levels it exists at; None: all."""

    def has(self, k: int) -> bool:
        """Whether it exists at level k."""
        return self.levels is None or k in self.levels


def batches_of(
    split: Split,
    latents: LatentStore,
    dictionaries: Mapping[int, LatentDictionary],
    within: slice | None = None,
) -> Iterator[Batch]:
    """Yield the batches of a split, each with its latents and their codes at every level.

    Args:
        split: Images.
        latents: Latents of every split.
        dictionaries: Sparsity level -> dictionary of latents.
        within: Rows of whole batches; default: all.
    """
    for rows, images in split.batches(within):
        z = latents.latents(split.name, rows)
        yield Batch(rows, images, z, code_levels(dictionaries, z), split.name)


def network_size(model: SparseVAE) -> int:
    """Return how many weights the VAE of `model` has."""
    return sum(w.numel() for w in model.vae.parameters())
