"""Classes of a user's images from a few of their labels, by a registered model alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vaesc.applications.semi_supervised.agreement import agreed, enough
from vaesc.applications.semi_supervised.draws import UNKNOWN
from vaesc.applications.semi_supervised.features import Features
from vaesc.applications.semi_supervised.network import Read, predict_all, train
from vaesc.applications.semi_supervised.selftraining import self_train, total_steps
from vaesc.applications.semi_supervised.spreading import Graph, graph_of, joined, spread_labels
from vaesc.applications.threads import one_thread_everywhere
from vaesc.bundle import SparseVAE
from vaesc.config import SemiSupervisedConfig, derive_seed
from vaesc.errors import DataError
from vaesc.progress import SILENT, Listener, Within

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_FEWEST = 10
_TRAINED = (0.05, 0.95)
"""Shares of the work that are done before self-training, and after."""


def check_labels(labels: NDArray[Any], n_images: int) -> Ints:
    """Return a user's labels as int64, shape (n,).

    Raises:
        DataError: They are not one whole number per image, at least :data:`~.draws.UNKNOWN`, or
            name fewer than two classes.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (n_images,):
        raise DataError(
            f"labels must be one integer for each of the {n_images} images, {UNKNOWN} where it "
            f"is unknown, got {labels.dtype} of shape {labels.shape}"
        )
    if labels.dtype.kind == "u" and len(labels) and int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"labels must be below 2^63, got {labels.max()}")
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < UNKNOWN:
        raise DataError(f"labels must be {UNKNOWN} (unknown) or more, got {labels.min()}")
    if len(np.unique(labels[labels != UNKNOWN])) < 2:
        raise DataError("labels must name at least 2 classes; label an image of each class")
    if n_images < _FEWEST:
        raise DataError(f"there must be at least {_FEWEST} images, got {n_images}")
    return labels


def label(
    model: SparseVAE,
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    config: SemiSupervisedConfig | None = None,
    seed: int = 0,
    listener: Listener = SILENT,
) -> tuple[Ints, Ints, Floats]:
    """Return the classes of images of which few are labelled.

    Args:
        model: Gives the latents that the labels spread over (:mod:`.features`).
        images: As the model's other methods take them, shape (n, *shape).
        labels: Class of each image, or -1, shape (n,).
        config: Settings; those of the measurement are not used.
        seed: Of all randomness; equal seeds, equal classes on the same machine.
        listener: Hears of the share that is done.

    Returns:
        The class of each image, shape (n,), a labelled one's own; the C classes that there are,
        increasing; and the probability of each, shape (n, C).

    Raises:
        DataError: Images, labels or the model's part cannot be used.
    """
    config = config or SemiSupervisedConfig()
    labels = check_labels(labels, len(images))
    unit = model.to_unit(images)
    names = np.unique(labels[labels != UNKNOWN])
    classes = np.where(labels == UNKNOWN, UNKNOWN, np.searchsorted(names, labels))
    rows = _joined_rows(classes, config.n_images, seed)
    with one_thread_everywhere():
        latents, _ = Features.of(model).posterior(unit)
        graph = graph_of(latents[rows], config.n_neighbours, Within(listener, 0, _TRAINED[0]))
        joint = enough(int((classes != UNKNOWN).sum()), len(names))
        learn = _taught if joint else self_train
        network = learn(
            lambda at: unit[rows[at]], model.shape, graph, classes[rows], len(names),
            epochs=config.epochs, seed=seed, listener=Within(listener, *_TRAINED),
        )  # fmt: skip
        probabilities = predict_all(network, lambda at: unit[at], len(unit), seed=seed)
        if joint:
            probabilities = agreed(probabilities, _spread(graph, classes, rows, latents))
        listener.progress(1, 1)
    known = classes != UNKNOWN
    probabilities[known] = np.eye(len(names), dtype=np.float32)[classes[known]]
    return names[probabilities.argmax(axis=1)], names, probabilities


def _taught(
    read: Read,
    shape: tuple[int, ...],
    graph: Graph,
    labels: Ints,
    n_classes: int,
    *,
    epochs: int,
    seed: int,
    listener: Listener,
) -> nn.Sequential:
    """Return a network taught by the labels alone, in as many steps as self-training makes."""
    rows = np.flatnonzero(labels != UNKNOWN)
    return train(
        read, shape, n_classes, labelled=(rows, labels[rows]), guessed=None,
        n_steps=total_steps(len(graph.latents) - len(rows), epochs), seed=seed, listener=listener,
    )  # fmt: skip


def _spread(graph: Graph, classes: Ints, rows: Ints, latents: Floats) -> Floats:
    """Return what the graph says of all images: of its own `rows`, and of those that join it."""
    own = spread_labels(graph, classes[rows], int(classes.max()) + 1)
    found = np.empty((len(classes), own.shape[1]), np.float32)
    found[rows] = own
    others = np.setdiff1d(np.arange(len(classes)), rows)
    if len(others):
        found[others] = joined(graph, own, latents[others])
    return found


def _joined_rows(classes: Ints, n_images: int, seed: int) -> Ints:
    """Return the rows of the graph: all that are labelled, and as many others as may be."""
    known, unknown = (np.flatnonzero(each) for each in (classes != UNKNOWN, classes == UNKNOWN))
    room = max(0, n_images - len(known))
    rng = np.random.default_rng(derive_seed(seed, "semi_supervised/images"))
    if room < len(unknown):
        unknown = rng.choice(unknown, room, replace=False)
    return np.sort(np.concatenate([known, unknown]))
