r"""The one-class protocol: one class is usual, all others are anomalous; each class in its turn.

For each class a detector is made of training images of that class alone: a VAE and a dictionary
from random weights, neighbours, atoms of strokes; validation images of the class standardise the
terms. Then all test images are scored, and the AUROC says how often an image of another class has
a higher score than one of the class. The run's own VAE takes no part: it has seen the anomalies.

References:
    Ruff et al., "Deep One-Class Classification" (Deep SVDD), 2018.
    https://proceedings.mlr.press/v80/ruff18a.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.detector import LEAST_IMAGES, REFERENCES, Detector
from vaesc.applications.anomaly.images import drawn, groups, taken
from vaesc.applications.anomaly.small_model import fit_small_model
from vaesc.applications.subject import Subject
from vaesc.config import derive_seed

RANK = 32
"""Directions of the baseline: the error that a class's principal components leave."""
MOST_CLASSES = 20
_HELD_OUT = 2 * LEAST_IMAGES
"""Images of a class that standardise: training images where validation has fewer."""
LEAST_OF_CLASS = 2 * _HELD_OUT
"""Training images that a class must have."""
_NEIGHBOURS = 5
COMBINED, PCA, PIXEL_NEIGHBOURS = "combined", "PCA residual", "pixel 5-NN"

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class OneClass:
    """AUROC of each method for each class."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    """Combined, baselines, then every term alone."""
    auroc: NDArray[np.float64]
    """Shape (classes, methods)."""

    def mean(self, method: str) -> float:
        """Return a method's mean over the classes."""
        return float(self.auroc[:, self.methods.index(method)].mean())


@dataclass(frozen=True)
class _Usual:
    """One class as the usual one."""

    label: int
    detector: Detector
    baselines: dict[str, Any]

    def scores(self, unit: Floats) -> NDArray[np.float64]:
        """Return what each method says of images, shape (n, methods)."""
        verdict = self.detector.judge(unit)
        flat = unit.reshape(len(unit), -1)
        mean, axes, reference = (self.baselines[n] for n in ("mean", "axes", "reference"))
        centred = flat - mean
        left = np.square(centred).sum(axis=1) - np.square(centred @ axes.T).sum(axis=1)
        from vaesc.applications.neighbours import nearest

        near = nearest(flat, reference, min(_NEIGHBOURS, len(reference)))[1].mean(axis=1)
        return np.column_stack([verdict.scores, left, near, verdict.terms])


def usable_classes(subject: Subject) -> tuple[list[int], str]:
    """Return the labels the protocol can be held over, and why it cannot, if there are none."""
    splits = {name: subject.dataset.labels(name) for name in ("train", "validation", "test")}
    found = {name: labels for name, labels in splits.items() if labels is not None}
    if len(found) < len(splits):
        return [], "The one-class protocol was left out: the images have no labels."
    counts = {name: np.unique_counts(found[name]) for name in ("train", "test")}
    least = {"train": LEAST_OF_CLASS, "test": 1}
    usable = [
        {int(v) for v, n in zip(c.values, c.counts, strict=True) if n >= least[name]}
        for name, c in counts.items()
    ]
    labels = sorted(set.intersection(*usable))
    if len(counts["test"].values) < 2 or not labels:
        return [], (
            "The one-class protocol was left out: it needs two classes in the test split, and one "
            f"of them with {LEAST_OF_CLASS} training images."
        )
    left = sorted({int(v) for v in counts["train"].values} - set(labels[:MOST_CLASSES]))
    note = f"Not taken for usual, for want of images or time: classes {left}." if left else ""
    return labels[:MOST_CLASSES], note


def one_class(subject: Subject, labels: list[int]) -> OneClass:
    """Hold the protocol over these classes.

    Raises:
        DataError: A class's images are all the same.
    """
    truth = subject.dataset.labels("test")
    assert truth is not None
    rows: list[NDArray[np.float64]] = []
    methods: tuple[str, ...] = ()
    # One class after the other: the images that they are compared with are never held together.
    for i, label in enumerate(labels):
        subject.listener.progress(i, len(labels))
        usual = _fitted(subject, label)
        scores = np.concatenate([usual.scores(unit) for unit in groups(subject, "test")])
        rows.append(np.array([auroc(truth != label, column) for column in scores.T]))
        methods = (COMBINED, PCA, PIXEL_NEIGHBOURS, *usual.detector.memory.names)
    subject.listener.progress(len(labels), len(labels))
    names = subject.dataset.classes
    return OneClass(
        classes=tuple(names[n] if names and 0 <= n < len(names) else str(n) for n in labels),
        methods=methods,
        auroc=np.stack(rows),
    )


def auroc(anomalous: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    """Return how often an anomalous image's score is above a usual one's; ties count half."""
    from scipy.stats import rankdata

    n = int(anomalous.sum())
    above = rankdata(scores)[anomalous].sum() - n * (n + 1) / 2
    return float(above / (n * (len(scores) - n)))


def _fitted(subject: Subject, label: int) -> _Usual:
    train, held_out = (_of_class(subject, split, label) for split in ("train", "validation"))
    lacking = max(_HELD_OUT - len(held_out), 0)
    held_out = np.concatenate([held_out, train[len(train) - lacking :]])
    train = train[: len(train) - lacking]
    seed = derive_seed(subject.seed, f"anomaly/one-class/{label}")
    model = fit_small_model(train, seed=seed)
    detector = Detector.fit(model, train, held_out, seed=seed)
    return _Usual(label, detector, _baselines(train))


def _baselines(unit: Floats) -> dict[str, Any]:
    from sklearn.decomposition import PCA as Components

    flat = unit.reshape(len(unit), -1)
    fitted = Components(min(RANK, *flat.shape), random_state=0).fit(flat)
    return {"mean": fitted.mean_, "axes": fitted.components_, "reference": flat}


def _of_class(subject: Subject, split: str, label: int) -> Floats:
    labels = subject.dataset.labels(split)
    assert labels is not None
    rng = subject.rng(f"anomaly/one-class/{split}/{label}")
    rows = drawn(np.flatnonzero(labels == label), REFERENCES, rng)
    return taken(subject.dataset, split, rows, subject.block_size)
