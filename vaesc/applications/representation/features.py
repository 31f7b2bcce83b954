"""The features that are compared: the model's, and the linear and sparse ones it must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.representation.coordinates import LocalCoder, split_signs
from vaesc.applications.subject import Subject
from vaesc.bundle import SparseVAE
from vaesc.config import derive_seed

Floats = NDArray[np.float32]
Splits = dict[str, Any]
"""Split -> features, shape (n, D), dense or CSR."""

SPLITS = ("train", "validation", "test")
N_COMPONENTS = 32
PIXEL_ATOMS, PIXEL_LEVEL = 256, 10
_PIXEL_IMAGES, _PIXEL_EPOCHS = 20_000, 3
_NUMBERS = 64_000_000
"""Most pixels of training images held at once, 256 MB: 81,632 images of 28 x 28."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of features, computed when asked for."""

    name: str
    """In metric keys."""
    words: str
    make: Callable[[], Splits]
    baseline: bool
    """Whether it knows nothing of the model."""


def n_train(subject: Subject) -> int:
    """Return how many training images, from the first on, are used: all, unless they are huge."""
    most = _NUMBERS // math.prod(subject.dataset.shape)
    return min(subject.dataset.n("train"), max(1, most))


def latents_of(subject: Subject, model: SparseVAE) -> Splits:
    """Return a model's latents of every split, coded block by block; of training, `n_train`."""
    found = {}
    for split in SPLITS:
        blocks = [
            model.latents_of_unit(subject.dataset.floats(split, rows))
            for rows in _rows(subject, split)
        ]
        found[split] = np.concatenate(blocks) if blocks else _none(model.latent_dim)
    return found


def pixels_of(subject: Subject) -> Splits:
    """Return the images of every split, flat, in [0, 1]; of training, `n_train`."""
    n_pixels, found = math.prod(subject.dataset.shape), {}
    for split in SPLITS:
        blocks = [
            subject.dataset.floats(split, rows).reshape(-1, n_pixels)
            for rows in _rows(subject, split)
        ]
        found[split] = np.concatenate(blocks) if blocks else _none(n_pixels)
    return found


def sources(subject: Subject, pixels: Splits, latents: Splits, codes: Splits) -> Iterator[Source]:
    """Yield what is compared, the baselines first.

    Args:
        subject: Model and data.
        pixels: See :func:`pixels_of`.
        latents: The model's, see :func:`latents_of`.
        codes: The latents' local codes.
    """
    level = min(PIXEL_LEVEL, *pixels["train"].shape)
    own = subject.model.dictionary
    yield Source(name="pixels", words="pixels", make=lambda: pixels, baseline=True)
    yield Source(
        name="pca", words=f"PCA of pixels, {N_COMPONENTS} components",
        make=lambda: pca(pixels), baseline=True,
    )  # fmt: skip
    yield Source(
        name="pixel_codes", words=f"split-sign OMP codes of pixels, k = {level}",
        make=lambda: pixel_codes(pixels, seed=subject.seed), baseline=True,
    )  # fmt: skip
    if subject.article is not subject.model:
        yield Source(
            name="article_latents", words=f"latents of the article's VAE, d = "
            f"{subject.article.latent_dim}",
            make=lambda: latents_of(subject, subject.article), baseline=False,
        )  # fmt: skip
    yield Source(
        name="latents", words=f"latents, d = {subject.model.latent_dim}",
        make=lambda: latents, baseline=False,
    )  # fmt: skip
    yield Source(
        name="model_codes",
        words=f"split-sign pursuit codes of the latents, K = {own.n_atoms}, "
        f"k = {own.n_nonzero_coefs}",
        make=lambda: {s: split_signs(own.encode(z)) for s, z in latents.items()}, baseline=False,
    )  # fmt: skip
    yield Source(
        name="codes", words="local codes of the latents", make=lambda: codes, baseline=False
    )
    yield Source(
        name="split_codes", words="local codes of the latents, split signs",
        make=lambda: {s: split_signs(a) for s, a in codes.items()}, baseline=False,
    )  # fmt: skip


def codes_of(coder: LocalCoder, latents: Mapping[str, Floats]) -> Splits:
    """Return the local codes of every split's latents."""
    return {split: coder.encode(z) for split, z in latents.items()}


def pca(pixels: Splits) -> Splits:
    """Return the components of largest variance of the training images, as many as there are."""
    from sklearn.decomposition import PCA

    n = min(N_COMPONENTS, *pixels["train"].shape)
    fitted = PCA(n, svd_solver="covariance_eigh").fit(pixels["train"])
    return {s: _applied(fitted.transform, x, n) for s, x in pixels.items()}


def pixel_codes(pixels: Splits, *, seed: int) -> Splits:
    """Return split-sign OMP codes of centred pixels in a dictionary learned from them."""
    from vaesc.sparse import learn_dictionary, orthogonal_matching_pursuit

    train = pixels["train"]
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    n_atoms = min(PIXEL_ATOMS, len(train))
    level = min(PIXEL_LEVEL, n_atoms, train.shape[1])
    learned = learn_dictionary(
        train[:_PIXEL_IMAGES] - mean, n_atoms=n_atoms, n_nonzero_coefs=level, selection="omp",
        max_epochs=_PIXEL_EPOCHS, seed=derive_seed(seed, "representation/pixels"),
    )  # fmt: skip
    return {
        s: split_signs(orthogonal_matching_pursuit(x - mean, learned.dictionary, level))
        for s, x in pixels.items()
    }


def _applied(transform: Callable[[Floats], Any], x: Floats, width: int) -> Floats:
    return np.asarray(transform(x), np.float32) if len(x) else _none(width)


def _rows(subject: Subject, split: str) -> Iterator[slice]:
    """Yield blocks of a split; of the training split, of the images that are used."""
    n = n_train(subject) if split == "train" else subject.dataset.n(split)
    for rows in subject.dataset.blocks(split, subject.block_size):
        if rows.start < n:
            yield slice(rows.start, min(rows.stop, n))


def _none(width: int) -> Floats:
    return np.empty((0, width), np.float32)
