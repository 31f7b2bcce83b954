"""Scores of every prior's samples, and of what they are held against, on the same features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.generation.coverage import (
    memorised_fraction,
    nearest_training,
    precision_recall,
)
from vaesc.applications.generation.distances import frechet_distance, kernel_distance
from vaesc.applications.generation.features import Features
from vaesc.applications.generation.sampler import NEW
from vaesc.applications.groups import floats_of, groups, rows_within, some_rows

if TYPE_CHECKING:
    from vaesc.applications.generation.sampler import Prior, Sampler
    from vaesc.applications.subject import Subject

Floats = NDArray[np.float32]
Draw = Callable[[int, np.random.Generator], Floats]
"""Number and chance -> images in [0, 1], shape (n, *shape)."""

N_COVERED, N_NEAREST, N_FLOOR = 5_000, 1_000, 16
"""Images of precision and recall, and images whose nearest training image is sought: of samples
and test images, and of training images, which are their own."""
FEWEST = 10
"""Test images below which nothing is scored."""
_CHUNK = 1024
_MOST_PIXELS = 4096


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How like the test images some images are."""

    frechet: float
    kernel: float
    precision: float
    recall: float
    memorised: float
    """Share nearer to a training image than 99 % of test images are."""
    first: Floats
    """The first of them, shape (m, *shape)."""
    nearest: NDArray[np.int64]
    """Rows of their nearest training images, shape (m,)."""


class Judge:
    """Holds images against the test split.

    Args:
        subject: Whose test images.
        features: What is compared.
        n_samples: Images of each set; no more than there are test images, of which as many are
            drawn.

    Raises:
        ValueError: There are fewer than :data:`FEWEST` test images.
    """

    def __init__(self, subject: Subject, features: Features, n_samples: int) -> None:
        self.subject, self.features = subject, features
        self.n = min(n_samples, subject.dataset.n("test"))
        if self.n < FEWEST:
            raise ValueError(f"samples need at least {FEWEST} test images, got {self.n}")
        rows = some_rows(subject.dataset.n("test"), self.n, subject.rng("generation/test"))
        self.test = features_of_rows(subject, features, "test", rows)
        # What looks at fewer looks at any of them.
        self._order = subject.rng("generation/order").permutation(self.n)
        self.first_test = self._first("test", rows, N_NEAREST)
        self.test_distances, self.test_nearest = nearest_training(
            self.first_test, subject.dataset, block_size=subject.block_size
        )

    def scores(self, name: str, draw: Draw) -> Scores:
        """Return the scores of samples; `name` is that of their random stream."""
        rng = self.subject.rng(f"generation/sample/{name}")
        features, kept = [], []
        for start in range(0, self.n, _CHUNK):
            images = draw(min(_CHUNK, self.n - start), rng)
            features.append(self.features.of(images))
            if start < N_NEAREST:
                kept.append(images)
        first = np.concatenate(kept)[:N_NEAREST]
        return self._scored(np.concatenate(features), first)

    def floor(self) -> Scores:
        """Return the scores of training images, drawn as the samples are."""
        n = self.subject.dataset.n("train")
        rows = some_rows(n, self.n, self.subject.rng("generation/sample/train"))
        features = features_of_rows(self.subject, self.features, "train", rows)
        return self._scored(features, self._first("train", rows, N_FLOOR))

    def _first(self, split: str, rows: NDArray[np.int64], n: int) -> Floats:
        """Return n images of some rows, drawn at random and in random order."""
        chosen = rows[self._order[self._order < len(rows)][:n]]
        return floats_of(self.subject.dataset, split, chosen, self.subject.block_size)

    def _covered(self, features: Floats) -> Floats:
        return features[self._order[self._order < len(features)][:N_COVERED]]

    def _scored(self, features: Floats, first: Floats) -> Scores:
        distances, nearest = nearest_training(
            first, self.subject.dataset, block_size=self.subject.block_size
        )
        precision, recall = precision_recall(self._covered(self.test), self._covered(features))
        return Scores(
            frechet=frechet_distance(features, self.test),
            kernel=kernel_distance(features, self.test),
            precision=precision,
            recall=recall,
            memorised=memorised_fraction(distances, self.test_distances),
            first=first,
            nearest=nearest,
        )


def best_prior(
    sampler: Sampler, subject: Subject, features: Features, n_samples: int
) -> tuple[Prior, dict[str, float]]:
    """Return the prior whose samples are nearest to the validation images.

    Args:
        sampler: Draws them.
        subject: Whose validation split.
        features: What is compared.
        n_samples: Samples of each prior; no more than there are validation images.

    Returns:
        The prior, and the Fréchet distance of each; the first one and nothing if there are fewer
        than :data:`FEWEST` validation images.
    """
    n = min(n_samples, subject.dataset.n("validation"))
    if n < FEWEST:
        return NEW[0], {}
    rows = some_rows(subject.dataset.n("validation"), n, subject.rng("generation/validation"))
    real = features_of_rows(subject, features, "validation", rows)
    found: dict[Prior, float] = {}
    for prior in NEW:
        draw = prior_draw(sampler, prior)
        rng = subject.rng(f"generation/validation/{prior}")
        sizes = [min(_CHUNK, n - start) for start in range(0, n, _CHUNK)]
        made = np.concatenate([features.of(draw(size, rng)) for size in sizes])
        found[prior] = frechet_distance(made, real)
    best = min(found, key=lambda prior: found[prior])
    return best, {str(prior): distance for prior, distance in found.items()}


def prior_draw(sampler: Sampler, prior: Prior) -> Draw:
    """Return what draws images from a prior of the sampler."""
    return lambda n, rng: sampler.model.unit_images(sampler.latents(n, rng, prior=prior))


def features_of_rows(
    subject: Subject, features: Features, split: str, rows: NDArray[np.int64]
) -> Floats:
    """Return the features of some images of a split, rows in increasing order."""
    parts = []
    for block, images in groups(subject.dataset, split, subject.block_size):
        mine = rows_within(rows, block)
        if len(mine):
            parts.append(features.of(images[mine]))
    return np.concatenate(parts)


def pixel_gaussian(subject: Subject) -> Draw | None:
    """Return a sampler of the Gaussian with the training pixels' mean and covariance, clipped.

    It is the simplest density of images that knows which pixels go together. None if an image has
    more than 4,096 pixels, whose covariance would be too large.
    """
    dataset = subject.dataset
    n_pixels = math.prod(dataset.shape)
    if n_pixels > _MOST_PIXELS:
        return None
    n, total, products = dataset.n("train"), np.zeros(n_pixels), np.zeros((n_pixels, n_pixels))
    for _, images in groups(dataset, "train", subject.block_size):
        flat = images.reshape(-1, n_pixels).astype(np.float64)
        total += flat.sum(axis=0)
        products += flat.T @ flat
    mean = total / n
    values, vectors = np.linalg.eigh(products / n - np.outer(mean, mean))
    root = np.asarray(vectors * np.sqrt(np.maximum(values, 0)), np.float32)

    def draw(n: int, rng: np.random.Generator) -> Floats:
        noise = rng.standard_normal((n, n_pixels), np.float32)
        images = np.clip(mean + noise @ root.T, 0, 1)
        return np.asarray(images, np.float32).reshape(n, *dataset.shape)

    return draw


def class_agreement(sampler: Sampler, judge: Judge, names: Mapping[str, int]) -> float | None:
    """Return the share of class-conditional samples that the classifier gives their class.

    Args:
        sampler: Draws them, as many of each class.
        judge: Has the classifier.
        names: Label of each class.

    Returns:
        In [0, 1]; None without classes.
    """
    if judge.features.classify is None or not sampler.priors.by_class:
        return None
    rng = judge.subject.rng("generation/sample/classes")
    each, right, total = max(1, min(judge.n, N_COVERED) // len(names)), 0, 0
    for name, label in names.items():
        latents = sampler.latents(each, rng, of_class=name)
        found = judge.features.classes_of(sampler.model.unit_images(latents))
        right, total = right + int((found == label).sum()), total + each
    return right / total
