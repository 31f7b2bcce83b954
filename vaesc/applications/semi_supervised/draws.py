"""Which images are labelled: as many of each class, drawn with the run's seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

UNKNOWN = -1
"""Stands for the class of an image without label."""


def balanced(classes: Ints, n_labels: int, rng: np.random.Generator) -> Ints:
    """Return rows of `n_labels` images, as many of each class as can be, in increasing order.

    A class that has fewer than its share gives what it has; what does not divide evenly goes to
    classes drawn at random.

    Args:
        classes: Class of each image, from 0, shape (n,).
        n_labels: Number of rows wanted.
        rng: Draws them.
    """
    n_classes = int(classes.max()) + 1
    share = np.full(n_classes, n_labels // n_classes)
    share[rng.permutation(n_classes)[: n_labels % n_classes]] += 1
    rows = []
    for number, wanted in enumerate(share):
        there = np.flatnonzero(classes == number)
        rows.append(rng.choice(there, min(int(wanted), len(there)), replace=False))
    return np.sort(np.concatenate(rows))


def known(classes: Ints, rows: Ints) -> Ints:
    """Return the classes of `rows`, and :data:`UNKNOWN` for all other images, shape (n,)."""
    labels = np.full(len(classes), UNKNOWN, np.int64)
    labels[rows] = classes[rows]
    return labels
