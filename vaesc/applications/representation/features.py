"""The features that are compared: the model's, and the linear and sparse ones it must beat.

Local codes (:mod:`.coordinates`) are a method that asks for no VAE. So that its merit is not taken
for the model's, they are made of pixels too, with as many anchors, as many of them a code, of the
same training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.groups import rows_within, some_rows
from vaesc.applications.representation.coordinates import (
    LocalCoder,
    fit_local_coder,
    split_signs,
)
from vaesc.applications.subject import Subject
from vaesc.bundle import SparseVAE
from vaesc.config import RepresentationConfig, derive_seed

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Splits = dict[str, Any]
"""Split -> features, shape (n, D), dense or CSR."""

SPLITS = ("train", "validation", "test")
N_COMPONENTS = 32
"""Principal components of pixels; of as many are the local codes and the layout of pixels made."""
N_WIDE = 128
"""The same for a second kind of local codes of pixels: which is better differs by data set."""
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


@dataclass(frozen=True, kw_only=True)
class Local:
    """Points of some kind, and their local codes, whose anchors are among them."""

    coder: LocalCoder
    codes: Splits


def local_of(config: RepresentationConfig, features: Splits, rng: np.random.Generator) -> Local:
    """Fit anchors to the features of training images and code every split's.

    Raises:
        DataError: The features do not vary.
    """
    coder = fit_local_coder(
        features["train"], n_anchors=config.n_anchors, n_nonzero_coefs=config.n_nonzero_coefs,
        rng=rng,
    )  # fmt: skip
    return Local(coder=coder, codes={split: coder.encode(z) for split, z in features.items()})


def train_rows(subject: Subject) -> Ints:
    """Return the training images that are used: all, or, if they are huge, as many drawn."""
    most = max(1, _NUMBERS // math.prod(subject.dataset.shape))
    return some_rows(subject.dataset.n("train"), most, subject.rng("representation/rows"))


def latents_of(subject: Subject, model: SparseVAE) -> Splits:
    """Return a model's latents of every split, block by block; of training, `train_rows`."""
    found = {}
    for split in SPLITS:
        blocks = [model.latents_of_unit(images) for images in _blocks(subject, split)]
        found[split] = np.concatenate(blocks) if blocks else _none(model.latent_dim)
    return found


def pixels_of(subject: Subject) -> Splits:
    """Return the images of every split, flat, in [0, 1]; of training, `train_rows`."""
    n_pixels, found = math.prod(subject.dataset.shape), {}
    for split in SPLITS:
        blocks = [images.reshape(-1, n_pixels) for images in _blocks(subject, split)]
        found[split] = np.concatenate(blocks) if blocks else _none(n_pixels)
    return found


def sources(
    subject: Subject,
    pixels: Splits,
    components: Splits,
    of_pixels: Local,
    wide: Callable[[Splits], Splits],
    latents: Splits,
    ours: Local,
) -> Iterator[Source]:
    """Yield what is compared, the baselines first.

    Args:
        subject: Model and data.
        pixels: See :func:`pixels_of`.
        components: Theirs, see :func:`pca`.
        of_pixels: Local codes of `components`.
        wide: Makes local codes of more components.
        latents: The model's, see :func:`latents_of`.
        ours: Local codes of `latents`.
    """
    level = min(PIXEL_LEVEL, *pixels["train"].shape)
    own = subject.model.dictionary
    yield Source(name="pixels", words="pixels", make=lambda: pixels, baseline=True)
    yield Source(
        name="pca", words=f"PCA of pixels, {components['train'].shape[1]} components",
        make=lambda: components, baseline=True,
    )  # fmt: skip
    yield Source(
        name="pixel_codes", words=f"split-sign OMP codes of pixels, k = {level}",
        make=lambda: pixel_codes(pixels, seed=subject.seed), baseline=True,
    )  # fmt: skip
    yield Source(
        name="pixel_local_codes",
        words=f"local codes of pixels' {components['train'].shape[1]} principal components",
        make=lambda: of_pixels.codes, baseline=True,
    )  # fmt: skip
    n = min(N_WIDE, *pixels["train"].shape)
    if n > components["train"].shape[1]:
        yield Source(
            name="pixel_local_codes_wide",
            words=f"local codes of pixels' {n} principal components",
            make=lambda: wide(pca(pixels, n)), baseline=True,
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
        name="local_codes", words="local codes of the latents", make=lambda: ours.codes,
        baseline=False,
    )  # fmt: skip
    yield Source(
        name="split_local_codes", words="local codes of the latents, split signs",
        make=lambda: {s: split_signs(a) for s, a in ours.codes.items()}, baseline=False,
    )  # fmt: skip


def pca(pixels: Splits, n_components: int = N_COMPONENTS) -> Splits:
    """Return the components of largest variance of the training images, as many as there are."""
    from sklearn.decomposition import PCA

    n = min(n_components, *pixels["train"].shape)
    fitted = PCA(n, svd_solver="covariance_eigh").fit(pixels["train"])
    return {s: _applied(fitted.transform, x, n) for s, x in pixels.items()}


def pixel_codes(pixels: Splits, *, seed: int) -> Splits:
    """Return split-sign OMP codes of centred pixels in a dictionary learned from them."""
    from vaesc.sparse import learn_dictionary, orthogonal_matching_pursuit

    train = pixels["train"]
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    n_atoms = min(PIXEL_ATOMS, len(train))
    level = min(PIXEL_LEVEL, n_atoms, train.shape[1])
    rng = np.random.default_rng(derive_seed(seed, "representation/pixel-rows"))
    rows = some_rows(len(train), _PIXEL_IMAGES, rng)
    learned = learn_dictionary(
        train[rows] - mean, n_atoms=n_atoms, n_nonzero_coefs=level, selection="omp",
        max_epochs=_PIXEL_EPOCHS, seed=derive_seed(seed, "representation/pixels"),
    )  # fmt: skip
    return {
        s: split_signs(orthogonal_matching_pursuit(x - mean, learned.dictionary, level))
        for s, x in pixels.items()
    }


def _applied(transform: Callable[[Floats], Any], x: Floats, width: int) -> Floats:
    return np.asarray(transform(x), np.float32) if len(x) else _none(width)


def _blocks(subject: Subject, split: str) -> Iterator[Floats]:
    """Yield images of a split in [0, 1]; of the training split, those that are used."""
    rows = train_rows(subject) if split == "train" else np.arange(subject.dataset.n(split))
    for block in subject.dataset.blocks(split, subject.block_size):
        mine = rows_within(rows, block)
        if len(mine):
            images = subject.dataset.floats(split, block)
            yield images if len(mine) == len(images) else images[mine]


def _none(width: int) -> Floats:
    return np.empty((0, width), np.float32)
