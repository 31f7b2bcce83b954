"""Peers from elsewhere, trained here: TopK sparse autoencoders, and a codebook of prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vaesc import windows
from vaesc.config import derive_seed
from vaesc.dictionary import LatentDictionary
from vaesc.evaluation.batches import Floats
from vaesc.evaluation.dictionaries import clipped
from vaesc.evaluation.methods import Approximations, Batch, Method
from vaesc.latent_rows import LatentRows

Samples = windows.Rows
"""Samples of a split, shape (n, D): an array, a memory map, or lazy."""


def topk_pixels_method(
    train: Samples, validation: Samples, levels: Sequence[int], n_atoms: int, *,
    epochs: int, seed: int, on_rows: Callable[[int], None],
) -> Method:  # fmt: skip
    """Train TopK autoencoders on images, one a level (:mod:`vaesc.evaluation.topk`)."""
    from vaesc.evaluation.topk import fit_topk

    models = {
        k: fit_topk(
            train, validation, n_atoms=n_atoms, k=k, epochs=epochs,
            seed=derive_seed(seed, f"evaluate/topk-pixels/{k}"), on_rows=on_rows,
        )
        for k in levels
    }  # fmt: skip

    def approximate(batch: Batch) -> Approximations:
        return ((k, clipped(model.approximate(batch.images))) for k, model in models.items())

    return Method(
        name="topk_pixels",
        title="TopK autoencoder on pixels",
        about="A peer that needs no search: for each k a sparse autoencoder with as many atoms, "
        "whose encoder finds the k coefficients in one product; reconstructions are clipped to "
        "[0, 1].",
        space="pixel",
        approximate=approximate,
        reach=n_atoms,
        numbers=max(model.numbers for model in models.values()),
    )


def topk_latents_method(
    train: LatentRows, validation: LatentRows, registered: LatentDictionary,
    levels: Sequence[int], n_vae: int, *, epochs: int, seed: int, on_rows: Callable[[int], None],
) -> Method:  # fmt: skip
    """Train TopK autoencoders on latents, scaled as the registered dictionary scales them."""
    from vaesc.evaluation.topk import fit_topk

    mean, scale = registered.mean, registered.scale

    def scaled(latents: Floats) -> Floats:
        return np.asarray((latents - mean) / scale, np.float32)

    inputs = [windows.loaded(replace(z, mean=mean, scale=scale)) for z in (train, validation)]
    models = {
        k: fit_topk(
            *inputs, n_atoms=registered.n_atoms, k=k, epochs=epochs,
            seed=derive_seed(seed, f"evaluate/topk-latents/{k}"), on_rows=on_rows,
        )
        for k in levels
    }  # fmt: skip

    def approximate(batch: Batch) -> Approximations:
        for k, model in models.items():
            found = model.approximate(scaled(batch.latents))
            yield k, np.asarray(registered.mean + registered.scale * found, np.float32)

    return Method(
        name="topk_latents",
        title="TopK autoencoder on latents",
        about="The same peer on latents: the VAE's decoder turns what the sparse autoencoder "
        "makes of a latent into an image.",
        space="latent",
        approximate=approximate,
        reach=registered.n_atoms,
        numbers=n_vae + max(model.numbers for model in models.values()),
    )


def vq_method(train: Samples, n_atoms: int, *, seed: int) -> Method:
    """Fit a codebook of prototypes by k-means; an image costs log2 K bits and no coefficient.

    K-means needs its samples at hand: of lazy ones it gets a window, drawn at random by pages.

    Args:
        train: Training images, flat, in [0, 1].
        n_atoms: Prototypes, K; with fewer images than that, one an image.
        seed: The run's seed.
    """
    from sklearn.cluster import MiniBatchKMeans

    few = windows.sample(train, derive_seed(seed, "evaluate/vq/sample"))
    kmeans = MiniBatchKMeans(
        n_clusters=min(n_atoms, len(few)), batch_size=1024, n_init=3,
        # scikit-learn takes 32 bits.
        random_state=derive_seed(seed, "evaluate/vq") % 2**32,
    )  # fmt: skip
    prototypes = np.asarray(kmeans.fit(few).cluster_centers_, np.float32)
    return Method(
        name="vq",
        title="Codebook of prototypes (k-means)",
        about="The image's nearest of K prototypes, found by k-means: k = 1 without a "
        "coefficient, so it exists at no other k.",
        space="pixel",
        approximate=lambda batch: iter([(1, nearest(batch.images, prototypes))]),
        reach=1,
        numbers=prototypes.size,
        levels=(1,),
    )


def nearest(images: Floats, prototypes: Floats) -> Floats:
    """Return each image's nearest prototype, shape (m, D)."""
    lengths = np.square(prototypes).sum(axis=1)
    distances = lengths - 2 * images @ prototypes.T  # plus a term that all have in common
    return clipped(prototypes[np.argmin(distances, axis=1)])
