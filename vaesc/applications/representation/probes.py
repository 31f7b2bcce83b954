"""What a linear classifier, or the nearest neighbours, make of features.

The probe is multinomial logistic regression. Features are divided by their root mean square and
not centred, so that sparse ones stay sparse; a feature that hardly ever speaks is not blown up to
the size of the others. How strongly the weights are held back is chosen on validation images, and
the probe is then fitted once more, to training and validation images together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, vstack

from vaesc.applications.neighbours import nearest, vote

Ints = NDArray[np.int64]
Features = Any
"""Shape (n, D), float32: a dense array or a CSR matrix."""

STRENGTHS: tuple[float, ...] = tuple(10.0 ** (power / 2) for power in range(-8, 3))
"""Inverse strengths of regularisation (scikit-learn's C) that are tried, in this order."""
PATIENCE = 2
"""Strengths in a row that may bring no gain before no more are tried."""
SHOTS = (10, 100)
"""Labels of each class in few-shot probes."""
DRAWS = 3
"""Draws of the labelled images of a few-shot probe, whose accuracies are averaged."""
_ITERATIONS = 200
_QUIET = 0.2
"""Features whose root mean square is a smaller part of the overall one are divided by this part
of it."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Features of the splits' images, with their classes counted from 0."""

    train: Features
    validation: Features
    test: Features
    train_classes: Ints
    validation_classes: Ints
    test_classes: Ints


def linear_probe(data: Labelled) -> tuple[float, float]:
    """Return the probe's accuracy on the test split, in [0, 1], and the strength chosen for it."""
    divisor = _divisor(data.train)
    train, validation = (_divided(f, divisor) for f in (data.train, data.validation))
    chosen = _strength(train, data.train_classes, validation, data.validation_classes)
    both = np.concatenate([data.train_classes, data.validation_classes])
    probe = _fitted(_stacked(train, validation), both, chosen)
    found = probe.predict(_divided(data.test, divisor))
    return float((found == data.test_classes).mean()), chosen


def few_shot_probe(data: Labelled, n_each: int, rng: np.random.Generator) -> float | None:
    """Return a probe's accuracy on the test split from a few labels of each class.

    The strength of each draw is chosen with as many labels of validation images.

    Args:
        data: Features and classes.
        n_each: Labels of each class.
        rng: Draws them.

    Returns:
        Mean of :data:`DRAWS` draws; None where a class of the training split has fewer images.
    """
    n_classes = len(np.unique(data.train_classes))
    if np.bincount(data.train_classes)[np.unique(data.train_classes)].min() < n_each:
        return None
    # What needs no labels may know all training images.
    divisor = _divisor(data.train)
    test, accuracies = _divided(data.test, divisor), []
    for _ in range(DRAWS):
        rows = drawn(data.train_classes, n_each, rng)
        n_held = min(n_each * n_classes, len(data.validation_classes))
        held = np.sort(rng.choice(len(data.validation_classes), n_held, replace=False))
        few, asked = (_divided(f, divisor) for f in (data.train[rows], data.validation[held]))
        classes = data.train_classes[rows]
        chosen = _strength(few, classes, asked, data.validation_classes[held])
        accuracies.append(
            (_fitted(few, classes, chosen).predict(test) == data.test_classes).mean()
        )
    return float(np.mean(accuracies))


def drawn(classes: Ints, n_each: int, rng: np.random.Generator) -> Ints:
    """Return the rows of `n_each` random images of each class, in increasing order."""
    rows = [
        rng.choice(np.flatnonzero(classes == c), n_each, replace=False) for c in np.unique(classes)
    ]
    return np.sort(np.concatenate(rows))


def neighbours_accuracy(data: Labelled, n_neighbours: int) -> float:
    """Return how often the nearest training images agree with a test image's class, in [0, 1]."""
    n = min(n_neighbours, data.train.shape[0])
    indices, _ = nearest(data.test, data.train, n)
    found = vote(data.train_classes[indices], int(data.train_classes.max()) + 1)
    return float((found == data.test_classes).mean())


def _strength(train: Features, classes: Ints, held_out: Features, truth: Ints) -> float:
    """Return the strength of highest accuracy on `held_out`; of equals, the strongest."""
    best, chosen, idle = -1.0, STRENGTHS[len(STRENGTHS) // 2], 0
    probe: Any = None
    for strength in STRENGTHS if len(truth) else ():
        probe = _fitted(train, classes, strength, start=probe)
        accuracy = float((probe.predict(held_out) == truth).mean())
        idle = 0 if accuracy > best else idle + 1
        if accuracy > best:
            best, chosen = accuracy, strength
        if idle == PATIENCE:
            break
    return chosen


def _fitted(features: Features, classes: Ints, strength: float, start: Any = None) -> Any:  # noqa: ANN401
    """Fit a probe; from where `start` stands, if that is one."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe: Any = start or LogisticRegression(max_iter=_ITERATIONS, tol=1e-3, warm_start=True)
    probe.set_params(C=strength)
    with warnings.catch_warnings():
        # A weak strength may not have settled by then; validation decides whether that is well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(features, classes)
    return probe


def _divisor(features: Features) -> NDArray[np.float32]:
    """Return what each feature is divided by, shape (D,)."""
    squares = features.power(2) if hasattr(features, "indptr") else np.square(features)
    size = np.sqrt(np.asarray(squares.mean(axis=0), np.float64).ravel())
    overall = np.sqrt(np.square(size).mean())
    return np.maximum(size, _QUIET * overall if overall else 1).astype(np.float32)


def _divided(features: Features, divisor: NDArray[np.float32]) -> Features:
    if hasattr(features, "indptr"):
        return csr_array(features @ diags_array(1 / divisor))
    return features / divisor


def _stacked(*parts: Features) -> Features:
    sparse: Sequence[bool] = [hasattr(part, "indptr") for part in parts]
    return vstack(parts, format="csr") if all(sparse) else np.concatenate(parts)
