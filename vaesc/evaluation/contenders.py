"""The methods that rest on learned dictionaries: the claim's two sides, and variants of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.dictionary import LatentDictionary
from vaesc.evaluation.batches import Floats
from vaesc.evaluation.dictionaries import PixelDictionary, clipped, code_levels
from vaesc.evaluation.kept_codes import KeptCodes
from vaesc.evaluation.methods import Approximations, Batch, Method, network_size
from vaesc.evaluation.refined import RefinedCodes

if TYPE_CHECKING:
    from scipy.sparse import csr_array


RIVAL_STEPS = 20
"""Steps of descent of the pixel dictionaries: more than the refined method's own; they are cheap
and go on paying (MNIST, k = 32: error .655 of the plain one after 4 steps, .583 after 20)."""


def refined_method(refined: RefinedCodes) -> Method:
    """Return the method that the step *refine* trained, one model for each level."""
    models = refined.models

    def approximate(batch: Batch) -> Approximations:
        for k, model in models.items():
            latents = model.dictionary.decode(refined.of(batch, k))
            yield k, model.unit_images(latents).reshape(batch.images.shape)

    return Method(
        name="refined",
        title="Refined: decoder trained on D a",
        about="The default method: for each k a VAE and a dictionary of its latents, started from "
        "the pixel dictionary and trained through the sparse code, so that the decoder knows what "
        "it will see; when an image is coded, its coefficients then descend the decoded error. "
        "Its networks are larger than the article's, and there is one for each k.",
        space="pixel",
        approximate=approximate,
        reach=max(model.n_nonzero_coefs for model in models.values()),
        numbers=max(network_size(m) + m.dictionary.dictionary.size for m in models.values()),
    )


def article_method(
    dictionaries: Mapping[int, LatentDictionary], registered: LatentDictionary, n_vae: int
) -> Method:
    """Return the article's method; `n_vae` is the number of the VAE's weights."""

    def approximate(batch: Batch) -> Approximations:
        return ((k, dictionaries[k].decode(codes)) for k, codes in batch.codes.items())

    return Method(
        name="article",
        title="Sparse codes of latents",
        about="The article's method: the latent is coded with k atoms of a learned dictionary, "
        "and the VAE's decoder turns the coded latent into an image.",
        space="latent",
        approximate=approximate,
        reach=min(registered.dictionary.shape),
        numbers=n_vae + registered.dictionary.size,
    )


def pixel_method(dictionaries: Mapping[int, PixelDictionary]) -> Method:
    """Return what the claim compares with."""

    def approximate(batch: Batch) -> Approximations:
        codes = code_levels(dictionaries, batch.images)
        return ((k, dictionary.decode(codes[k])) for k, dictionary in dictionaries.items())

    atoms = next(iter(dictionaries.values())).dictionary
    return Method(
        name="pixel",
        title="Sparse codes of pixels",
        about="What the claim compares with: images minus their mean, coded with k atoms of a "
        "pixel dictionary of the same size, learned by the same learner on all training images; "
        "reconstructions are clipped to [0, 1].",
        space="pixel",
        approximate=approximate,
        reach=min(atoms.shape),
        numbers=atoms.size,
    )


class DescendedPixels:
    """The pixel dictionaries with coefficients that know of the clipping, and their codes.

    The refined method's coefficients descend the error of the picture; so may those of pixels. It
    is the rival at its strongest, and stands beside the one that the claim names. Twenty steps
    take their time: the codes of each batch are kept for whoever asks next.

    Args:
        dictionaries: Compared level -> pixel dictionary.
        folder: Where codes lie that memory should not hold, see :class:`KeptCodes`.
    """

    def __init__(
        self, dictionaries: Mapping[int, PixelDictionary], folder: Path | None = None
    ) -> None:
        self.dictionaries = _with_descent(dictionaries)
        self._kept = KeptCodes(folder)

    def of(self, batch: Batch) -> Mapping[int, csr_array]:
        """Return level -> codes of a batch."""
        if not batch.split:
            return code_levels(self.dictionaries, batch.images)
        keys = {k: (batch.split, batch.rows.start, k) for k in self.dictionaries}
        kept = {k: codes for k, key in keys.items() if (codes := self._kept.get(key)) is not None}
        if len(kept) < len(keys):
            kept = code_levels(self.dictionaries, batch.images)
            for k, codes in kept.items():
                self._kept.put(keys[k], codes)
        return kept

    def keep(self, split: str, start: int, k: int, codes: csr_array) -> None:
        """Take the codes of a batch that were made elsewhere; `start` is its first row."""
        self._kept.put((split, start, k), codes)


def descended_method(rival: DescendedPixels) -> Method:
    """Return the rival of :class:`DescendedPixels`."""

    def approximate(batch: Batch) -> Approximations:
        codes = rival.of(batch)
        return ((k, dictionary.decode(codes[k])) for k, dictionary in rival.dictionaries.items())

    return replace(
        pixel_method(rival.dictionaries),
        approximate=approximate,
        name="pixel_descended",
        title="Sparse codes of pixels, descended",
        about="The pixel dictionaries and their atoms as above, but the coefficients then descend "
        "the error of the clipped image, as those of the refined method descend its error: "
        f"{RIVAL_STEPS} steps.",
    )


def _with_descent(dictionaries: Mapping[int, PixelDictionary]) -> dict[int, PixelDictionary]:
    """Return the same dictionaries with descent; what was one object stays one."""
    made = {id(d): replace(d, descent_steps=RIVAL_STEPS) for d in dictionaries.values()}
    return {k: made[id(d)] for k, d in dictionaries.items()}


def lasso_method(
    dictionaries: Mapping[int, LatentDictionary], registered: LatentDictionary, n_vae: int
) -> Method:
    """Return the article's method with its own dictionaries, coded by the lasso."""
    by_lasso = _shared(dictionaries)

    def approximate(batch: Batch) -> Approximations:
        codes = code_levels(by_lasso, batch.latents)
        return ((k, dictionary.decode(codes[k])) for k, dictionary in by_lasso.items())

    return replace(
        article_method(dictionaries, registered, n_vae),
        name="lasso",
        title="Lasso codes of latents",
        about="The article's dictionaries with another coder: the atoms are the first k on the "
        "lasso's path, their coefficients refitted by least squares.",
        approximate=approximate,
    )


def pixel_lasso_method(dictionaries: Mapping[int, PixelDictionary]) -> Method:
    """Return the pixel dictionaries coded by the lasso."""
    by_lasso = _shared_pixels(dictionaries)
    return replace(
        pixel_method(by_lasso),
        name="pixel_lasso",
        title="Lasso codes of pixels",
        about="The pixel dictionaries with the same other coder: the first k atoms on the lasso's "
        "path, their coefficients refitted by least squares.",
    )


def _shared(dictionaries: Mapping[int, LatentDictionary]) -> dict[int, LatentDictionary]:
    """Return the same dictionaries under the coder ``lasso``; what was one object stays one."""
    made = {id(d): replace(d, coder="lasso", network=None) for d in dictionaries.values()}
    return {k: made[id(d)] for k, d in dictionaries.items()}


def _shared_pixels(dictionaries: Mapping[int, PixelDictionary]) -> dict[int, PixelDictionary]:
    made = {id(d): replace(d, coder="lasso") for d in dictionaries.values()}
    return {k: made[id(d)] for k, d in dictionaries.items()}


def literal_method(
    fitted: Mapping[int, Floats], mean: Floats, registered: LatentDictionary, n_vae: int
) -> Method:
    """Return the article's last step read to the letter."""

    def approximate(batch: Batch) -> Approximations:
        return ((k, clipped(a @ fitted[k] + mean)) for k, a in batch.codes.items())

    return Method(
        name="literal",
        title="Step 4 read literally",
        about="The article's last step to the letter: the sparse codes of latents are decoded by "
        "a pixel-space dictionary fitted to the training codes by least squares, without the "
        "VAE's decoder.",
        space="pixel",
        approximate=approximate,
        reach=min(registered.dictionary.shape),
        numbers=n_vae + registered.dictionary.size + registered.n_atoms * mean.size,
    )
