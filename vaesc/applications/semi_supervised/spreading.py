r"""Labels that spread over the graph of nearest neighbours.

Images are joined to their nearest in latent space, nearer ones more strongly,

.. math:: W_{ij} = \exp\big(-\|z_i - z_j\|^2 / (s_i s_j)\big), \qquad
          S = D^{-1/2} \, \tfrac12 (W + W^\top) \, D^{-1/2},

where :math:`s_i` is the distance to the seventh neighbour, so that sparse and dense regions are
joined alike. What is known of the classes, :math:`Y`, spreads until
:math:`F = \alpha S F + (1 - \alpha) Y` holds. Few labels leave some classes with too much of it,
since the chance of where they lie decides; classes are weighed until each has its share.

References:
    Zhou, Bousquet, Lal, Weston, Schölkopf, "Learning with Local and Global Consistency", 2004.
    Zelnik-Manor, Perona, "Self-Tuning Spectral Clustering", 2004 (the widths s).
    Zhu, Ghahramani, Lafferty, "Semi-Supervised Learning Using Gaussian Fields and Harmonic
    Functions", 2003 (class mass normalisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from vaesc.applications.neighbours import nearest
from vaesc.applications.semi_supervised.draws import UNKNOWN
from vaesc.progress import SILENT, Listener

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

FAR, NEAR = 0.99, 0.8
"""Alpha for a handful of labels, which must reach far, and for a guess at every image."""
_WIDTH_NEIGHBOUR = 7
_STEPS = 100
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The normalised graph S of some images, and their latents, to which new ones are joined."""

    latents: Floats
    """Shape (n, d)."""
    n_neighbours: int
    affinity: csr_array
    """S, shape (n, n), symmetric, its largest eigenvalue 1."""


def graph_of(latents: Floats, n_neighbours: int, listener: Listener = SILENT) -> Graph:
    """Return the graph of `latents`, shape (n, d); at most n - 1 neighbours are joined."""
    k = min(n_neighbours, len(latents) - 1)
    indices, distances = nearest(latents, latents, k, own=True, listener=listener)
    n = len(indices)
    widths = distances[:, min(k, _WIDTH_NEIGHBOUR) - 1] + np.float32(_TINY)
    weights = np.exp(-np.square(distances) / (widths[:, None] * widths[indices]))
    # No image may stand alone: copies have no width, and what is far from them no weight.
    weights = np.maximum(weights, np.float32(1e-6))
    directed = csr_array((weights.ravel(), indices.ravel(), np.arange(n + 1) * k), shape=(n, n))
    joined = (directed + directed.T) / 2
    root = diags_array(1 / np.sqrt(np.asarray(joined.sum(axis=1)).ravel()))
    affinity = csr_array(root @ joined @ root, dtype=np.float32)
    return Graph(latents=latents, n_neighbours=k, affinity=affinity)


def spread(graph: Graph, known: Floats, alpha: float) -> Floats:
    """Return F of the graph.

    Args:
        graph: Of n images.
        known: Y, what is known of each image's classes, not negative, shape (n, C).
        alpha: How much of F comes from neighbours, in (0, 1).

    Returns:
        Not negative, shape (n, C), to within ``alpha ** 100`` of the fixed point.
    """
    found = known.copy()
    for _ in range(_STEPS):
        found = np.float32(alpha) * (graph.affinity @ found) + np.float32(1 - alpha) * known
    return np.asarray(found, np.float32)


def weighed(scores: Floats, share: Floats, steps: int = 20) -> Floats:
    """Return class probabilities whose mean over the images is near `share`.

    Args:
        scores: Not negative, shape (n, C); an image without any is given `share`.
        share: Of each class, shape (C,).
        steps: Times that the classes are weighed anew.

    Returns:
        Rows that sum to 1, shape (n, C).
    """
    scores = np.where(scores.sum(axis=1, keepdims=True) > 0, scores, share)
    weights = np.ones(scores.shape[1])
    probabilities = _normalised(scores.astype(np.float64))
    for _ in range(steps):
        weights *= share / np.maximum(probabilities.mean(axis=0), _TINY)
        probabilities = _normalised(scores * weights)
    return np.asarray(probabilities, np.float32)


def spread_labels(graph: Graph, labels: Ints, n_classes: int) -> Floats:
    """Return class probabilities of every image of the graph, of which few are labelled.

    Args:
        graph: Of n images.
        labels: Class of each image, or :data:`~.draws.UNKNOWN`, shape (n,).
        n_classes: C.

    Returns:
        Shape (n, C); a labelled image has its own class.
    """
    exact = one_hot(labels, n_classes)
    probabilities = weighed(spread(graph, exact, FAR), class_share(labels, n_classes))
    return np.where(labels[:, None] == UNKNOWN, probabilities, exact)


def joined(graph: Graph, probabilities: Floats, latents: Floats) -> Floats:
    """Return class probabilities of images that are not in the graph, from those of neighbours.

    Args:
        graph: Of n images.
        probabilities: Of those, shape (n, C).
        latents: Of the new images, shape (m, d).

    Returns:
        Shape (m, C).
    """
    k = min(5, len(graph.latents))
    indices, distances = nearest(latents, graph.latents, k)
    weights = np.exp(-np.square(distances / (distances[:, -1:] + np.float32(_TINY))))
    return np.asarray(
        _normalised(np.einsum("mk,mkc->mc", weights, probabilities[indices])), np.float32
    )


def class_share(labels: Ints, n_classes: int) -> Floats:
    """Return the share of each class among the labels, each counted once more, shape (C,)."""
    counts = np.bincount(labels[labels != UNKNOWN], minlength=n_classes) + 1
    return np.asarray(counts / counts.sum(), np.float32)


def one_hot(labels: Ints, n_classes: int) -> Floats:
    """Return a row of zeros and a one for each label; of zeros where it is unknown."""
    return np.asarray(labels[:, None] == np.arange(n_classes), np.float32)


def _normalised(scores: NDArray[Any]) -> NDArray[Any]:
    total = np.maximum(scores.sum(axis=1, keepdims=True), _TINY)
    return np.asarray(scores / total)
