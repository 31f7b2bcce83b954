"""Where part of the images stood for all of them: told in ``results.json`` and in its notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vaesc import windows
from vaesc.evaluation import excerpt, pool
from vaesc.evaluation.batches import ImageRows, Split
from vaesc.latent_rows import LatentRows

if TYPE_CHECKING:
    from vaesc.latents import LatentStore


def parts_of(
    splits: Mapping[str, Split], latents: LatentStore, levels: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Return what was taken of large splits, by name; nothing where all of them fits.

    Returns:
        Each with ``used`` (images or groups), ``of`` (images) and ``about`` (a sentence).
    """
    train, test = splits["train"], splits["test"]
    found: dict[str, dict[str, Any]] = {}

    def tell(name: str, used: int, of: int, about: str) -> None:
        found[name] = {"used": used, "of": of, "about": about.format(used=used, of=of)}

    rows = LatentRows(latents, "train")
    if not windows.fits(rows):
        tell(
            "shuffled", windows.rows_per_window(rows), len(train),
            "The control on shuffled latents learned from {used:,} of {of:,} training latents, "
            "drawn at random by pages: permuting a column takes all of it in memory.",
        )  # fmt: skip
    images = ImageRows(train)
    if 1 in levels and not train.is_spooled() and not windows.fits(images):
        tell(
            "vq", windows.rows_per_window(images), len(train),
            "The codebook of prototypes was fitted to {used:,} of {of:,} training images, drawn "
            "at random by pages: k-means needs them in memory.",
        )  # fmt: skip
    if pool.is_pooled(len(test)):
        tell(
            "intervals", pool.GROUPS, len(test),
            "Intervals come from resampling {used:,} random groups of the {of:,} test images, "
            "dealt once and of equal size: with so many, single images give the same intervals.",
        )  # fmt: skip
    if len(test) > excerpt.MOST:
        tell(
            "cards", len(excerpt.Excerpt(test)), len(test),
            "The cards of the atoms are measured on {used:,} of {of:,} test images, in batches "
            "evenly spaced over the split.",
        )  # fmt: skip
    return found
