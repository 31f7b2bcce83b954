r"""Images of another kind altogether, which a detector must tell from the model's own.

They are the test images of another data set, which the config names, or they are *made*:

======== ==========================================================================================
noise    every pixel uniform in [0, 1]
constant every image one grey
shuffled test images whose pixels all went through the same permutation
negative test images in negative: 1 - x
======== ==========================================================================================

The likelihood of a VAE is known to fail at this: an image can be more likely than all that the
model was trained on, by being simpler.

References:
    Nalisnick et al., "Do Deep Generative Models Know What They Don't Know?", 2019.
    https://arxiv.org/abs/1810.09136
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.detector import Detector
from vaesc.applications.anomaly.images import groups
from vaesc.applications.anomaly.one_class import auroc
from vaesc.applications.anomaly.terms import negative_elbo
from vaesc.applications.requirements import check_shape, outlier_source
from vaesc.applications.subject import Subject
from vaesc.bundle import GROUP
from vaesc.config import AnomalyConfig
from vaesc.datasets.scaling import to_unit
from vaesc.datasets.sources import source_of

LIMIT = 10_000
"""Most outliers of each kind, and most test images they are told from."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Told:
    """How well one kind of outliers is told from the test images."""

    kind: str
    auroc: float
    """Of the combined score."""
    likelihood: float
    """Of the negative ELBO of the article's VAE."""
    examples: Floats
    """The first few, in [0, 1], shape (m, *shape)."""


def outliers(
    config: AnomalyConfig, subject: Subject
) -> tuple[list[tuple[str, Iterator[Floats]]], str]:
    """Return each kind of outliers by name, in groups, and a note on which these are.

    Raises:
        DataError: The data set that the config names is not there, or of another shape.
    """
    wanted = outlier_source(config)
    if wanted is None:
        return list(_made(subject)), (
            "Out of distribution are images that were made: noise, constants, test images with "
            "shuffled pixels or in negative."
        )
    name = wanted.source
    images = source_of(wanted).load(wanted, subject.seed).parts["test"].images
    check_shape(name, images, subject.dataset.shape)
    rows = np.sort(subject.rng("anomaly/outliers").permutation(images.shape[0])[:LIMIT])
    note = f"Out of distribution are {len(rows):,} test images of {name}."
    return [(name, _grouped(to_unit(images[rows])))], note


def told_apart(
    detector: Detector, subject: Subject, kinds: list[tuple[str, Iterator[Floats]]]
) -> list[Told]:
    """Return how well each kind is told from the first test images."""
    usual = _scored(detector, subject, groups(subject, "test"))
    found = []
    for kind, images in kinds:
        examples: list[Floats] = []
        other = _scored(detector, subject, images, examples)
        anomalous = np.repeat([False, True], [usual.shape[0], other.shape[0]])
        ours, likelihood = (auroc(anomalous, s) for s in np.concatenate([usual, other]).T)
        found.append(
            Told(kind=kind, auroc=ours, likelihood=likelihood, examples=examples[0][:4].copy())
        )
    return found


def _scored(
    detector: Detector,
    subject: Subject,
    images: Iterator[Floats],
    examples: list[Floats] | None = None,
) -> NDArray[np.float64]:
    """Return combined score and the article's negative ELBO, shape (n, 2)."""
    found: list[NDArray[np.float64]] = []
    for unit in images:
        if sum(map(len, found)) >= LIMIT:
            break
        if examples is not None and not examples:
            examples.append(unit)
        scores = detector.judge(unit).scores
        found.append(np.column_stack([scores, negative_elbo(subject.article, unit)]))
    return np.concatenate(found)[:LIMIT]


def _made(subject: Subject) -> Iterator[tuple[str, Iterator[Floats]]]:
    shape = subject.dataset.shape
    order = subject.rng("anomaly/outliers/shuffled").permutation(int(np.prod(shape)))
    rng = {n: subject.rng(f"anomaly/outliers/{n}") for n in ("noise", "constant")}

    def noise(unit: Floats) -> Floats:
        return rng["noise"].random(unit.shape, np.float32)

    def constant(unit: Floats) -> Floats:
        grey = rng["constant"].random(len(unit), np.float32)
        return np.broadcast_to(grey.reshape(-1, *[1] * len(shape)), unit.shape).copy()

    def shuffled(unit: Floats) -> Floats:
        return unit.reshape(len(unit), -1)[:, order].reshape(unit.shape)

    def negative(unit: Floats) -> Floats:
        return 1 - unit

    for make in (noise, constant, shuffled, negative):
        yield make.__name__, map(make, groups(subject, "test"))  # read later: binds `make` now


def _grouped(unit: Floats) -> Iterator[Floats]:
    return (unit[i : i + GROUP] for i in range(0, len(unit), GROUP))
