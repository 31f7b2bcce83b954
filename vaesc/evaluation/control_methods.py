"""The null controls as methods: see :mod:`vaesc.evaluation.controls` for what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaesc import windows
from vaesc.config import derive_seed
from vaesc.dictionary import LatentDictionary
from vaesc.evaluation.baselines import fit_pca
from vaesc.evaluation.batches import Split, in_batches
from vaesc.evaluation.controls import keep_largest
from vaesc.evaluation.dictionaries import clipped, code_levels
from vaesc.evaluation.methods import Approximations, Batch, Method


def random_method(random: LatentDictionary, levels: Sequence[int], n_vae: int) -> Method:
    """Return the article's method with one random dictionary for every level."""

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
        numbers=n_vae + random.dictionary.size,
    )


def shuffled_method(dictionaries: Mapping[int, LatentDictionary], n_vae: int) -> Method:
    """Return the article's method with dictionaries learned on shuffled latents."""

    def approximate(batch: Batch) -> Approximations:
        codes = code_levels(dictionaries, batch.latents)
        return ((k, dictionary.decode(codes[k])) for k, dictionary in dictionaries.items())

    atoms = next(iter(dictionaries.values())).dictionary
    return Method(
        name="shuffled",
        title="Dictionary learned on shuffled latents",
        about="Control: the same as the article's method with dictionaries learned on latents "
        "whose coordinates were permuted across images, each by itself. What the article's gain "
        "over this is owed to how coordinates depend on each other.",
        space="latent",
        approximate=approximate,
        reach=min(atoms.shape),
        numbers=n_vae + atoms.size,
    )


def largest_method(dictionary: LatentDictionary, levels: Sequence[int], n_vae: int) -> Method:
    """Return the control without a dictionary."""

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
        numbers=n_vae,
    )


def pca_methods(
    train: Split, latents: windows.Rows, levels: Sequence[int], n_vae: int, *, seed: int
) -> list[Method]:
    """Return PCA with k components, of latents and of pixels."""
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
            numbers=n_vae + on_latents.components.size,
        ),
        Method(
            name="pca",
            title="PCA of pixels",
            about="The classic: the image projected on the k principal components of images, "
            "clipped to [0, 1].",
            space="pixel",
            approximate=approximate_pixels,
            reach=on_pixels.mean.size,
            numbers=on_pixels.components.size,
        ),
    ]
