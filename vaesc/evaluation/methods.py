"""The methods that are compared, each fitted on the training split and ready for test batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vaesc.config import derive_seed
from vaesc.dictionary import LatentDictionary
from vaesc.evaluation.baselines import LiteralFit, fit_pca
from vaesc.evaluation.batches import Floats, Split, in_batches
from vaesc.evaluation.controls import keep_largest, random_dictionary
from vaesc.evaluation.dictionaries import Dictionaries, PixelDictionary, clipped, code_levels

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.bundle import SparseVAE
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


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to spend k numbers an image."""

    name: str
    """Prefix of its metrics: ``test/<name>_mse_k8``; the article's have none."""
    title: str
    about: str
    """What it does, in a sentence for the report."""
    space: Literal["latent", "pixel"]
    """What `approximate` yields: latents, to be decoded by the VAE, or finished images."""
    approximate: Callable[[Batch], Approximations]
    reach: int
    """Largest sparsity level that makes a difference to it."""


def batches_of(
    split: Split, latents: LatentStore, dictionaries: Mapping[int, LatentDictionary]
) -> Iterator[Batch]:
    """Yield the batches of a split, each with its latents and their codes at every level."""
    for rows, images in split.batches():
        z = latents.latents(split.name, rows)
        yield Batch(rows, images, z, code_levels(dictionaries, z))


def fit_methods(
    train: Split,
    latents: LatentStore,
    registered: LatentDictionary,
    learned: Dictionaries,
    *,
    seed: int,
    on_rows: Callable[[int], None],
    refined: Mapping[int, SparseVAE] | None = None,
) -> list[Method]:
    """Fit every method on the training split, in the order in which they are shown.

    Args:
        train: Training images.
        latents: Latents of every split.
        registered: The model's dictionary, which the controls take their size and scaling from.
        learned: Dictionaries of latents and of pixels for every compared level.
        seed: The run's seed.
        on_rows: Hears how many more training images have been used.
        refined: Compared level -> refined model, if the run has any.
    """
    levels, mean = list(learned.pixels), next(iter(learned.pixels.values())).mean
    literal = LiteralFit(levels, registered.n_atoms, mean)
    for batch in batches_of(train, latents, learned.latents):
        literal.add(batch.codes, batch.images)
        on_rows(len(batch.images))
    random = random_dictionary(registered, seed=derive_seed(seed, "evaluate/random-dictionary"))
    return [
        *([_refined(refined)] if refined else []),
        _article(learned.latents, registered),
        _pixel(learned.pixels),
        _literal(literal.solve(), mean, registered),
        _random(random, levels),
        _largest(registered, levels),
        *_pcas(train, latents.latents("train"), levels, seed),
    ]


def _refined(models: Mapping[int, SparseVAE]) -> Method:
    def approximate(batch: Batch) -> Approximations:
        for k, model in models.items():
            images = batch.images.reshape(-1, *model.shape)
            made = model.unit_reconstructions(images, min(k, model.n_nonzero_coefs))
            yield k, made.reshape(batch.images.shape)

    return Method(
        name="refined",
        title="Refined: decoder trained on D a",
        about="The default method: for each k a VAE and a dictionary of its latents, started from "
        "the pixel dictionary and trained through the sparse code, so that the decoder knows what "
        "it will see. Its networks are larger than the article's, and there is one for each k.",
        space="pixel",
        approximate=approximate,
        reach=max(model.n_nonzero_coefs for model in models.values()),
    )


def _article(dictionaries: Mapping[int, LatentDictionary], registered: LatentDictionary) -> Method:
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
    )


def _pixel(dictionaries: Mapping[int, PixelDictionary]) -> Method:
    def approximate(batch: Batch) -> Approximations:
        codes = code_levels(dictionaries, batch.images)
        return ((k, dictionary.decode(codes[k])) for k, dictionary in dictionaries.items())

    return Method(
        name="pixel",
        title="Sparse codes of pixels",
        about="What the claim compares with: images minus their mean, coded with k atoms of a "
        "pixel dictionary of the same size, learned by the same learner on all training images; "
        "reconstructions are clipped to [0, 1].",
        space="pixel",
        approximate=approximate,
        reach=min(next(iter(dictionaries.values())).dictionary.shape),
    )


def _literal(fitted: Mapping[int, Floats], mean: Floats, registered: LatentDictionary) -> Method:
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
    )


def _random(random: LatentDictionary, levels: Sequence[int]) -> Method:
    def approximate(batch: Batch) -> Approximations:
        codes = random.path(batch.latents, levels)
        return ((k, random.decode(codes[k])) for k in levels)

    return Method(
        name="random",
        title="Random dictionary on latents",
        about="Control: the same as the article's method with atoms drawn at random, once for all "
        "k. What the learned dictionary gains over this is what learning it was worth.",
        space="latent",
        approximate=approximate,
        reach=min(random.dictionary.shape),
    )


def _largest(dictionary: LatentDictionary, levels: Sequence[int]) -> Method:
    def approximate(batch: Batch) -> Approximations:
        return ((k, keep_largest(batch.latents, dictionary.mean, k)) for k in levels)

    return Method(
        name="largest",
        title="k largest latent coordinates",
        about="Control: no dictionary; each latent keeps its k coordinates farthest from their "
        "mean.",
        space="latent",
        approximate=approximate,
        reach=dictionary.latent_dim,
    )


def _pcas(train: Split, latents: Floats, levels: Sequence[int], seed: int) -> list[Method]:
    """PCA with k components, of latents and of pixels."""
    most, stream = max(levels), derive_seed(seed, "evaluate/pca")
    on_latents = fit_pca(in_batches(latents), most, seed=stream)
    on_pixels = fit_pca(train.images, most, seed=stream)

    def approximate_latents(batch: Batch) -> Approximations:
        return ((k, on_latents.approximate(batch.latents, k)) for k in levels)

    def approximate_pixels(batch: Batch) -> Approximations:
        return ((k, clipped(on_pixels.approximate(batch.images, k))) for k in levels)

    return [
        Method(
            name="pca_latents",
            title="PCA of latents",
            about="Control: the latent projected on the k principal components of latents.",
            space="latent",
            approximate=approximate_latents,
            reach=on_latents.mean.size,
        ),
        Method(
            name="pca",
            title="PCA of pixels",
            about="The classic: the image projected on the k principal components of images, "
            "clipped to [0, 1].",
            space="pixel",
            approximate=approximate_pixels,
            reach=on_pixels.mean.size,
        ),
    ]
