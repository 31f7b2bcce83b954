"""Classes of a user's images from a few of their labels, by a registered model alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.semi_supervised.draws import UNKNOWN
from vaesc.applications.semi_supervised.features import Features
from vaesc.applications.semi_supervised.network import predict_all
from vaesc.applications.semi_supervised.selftraining import self_train
from vaesc.applications.semi_supervised.spreading import graph_of
from vaesc.applications.threads import one_thread_everywhere
from vaesc.bundle import SparseVAE
from vaesc.config import SemiSupervisedConfig, derive_seed
from vaesc.errors import DataError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_FEWEST = 10


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
) -> tuple[Ints, Ints, Floats]:
    """Return the classes of images of which few are labelled.

    Args:
        model: Gives the latents that the labels spread over (:mod:`.features`).
        images: As the model's other methods take them, shape (n, *shape).
        labels: Class of each image, or -1, shape (n,).
        config: Settings; those of the measurement are not used.
        seed: Of all randomness; equal seeds, equal classes on the same machine.

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
        latents, _ = Features.of(model).posterior(unit[rows])
        network = self_train(
            lambda at: unit[rows[at]], model.shape, graph_of(latents, config.n_neighbours),
            classes[rows], len(names), epochs=config.epochs, seed=seed,
        )  # fmt: skip
        probabilities = predict_all(network, lambda at: unit[at], len(unit), seed=seed)
    known = classes != UNKNOWN
    probabilities[known] = np.eye(len(names), dtype=np.float32)[classes[known]]
    return names[probabilities.argmax(axis=1)], names, probabilities


def _joined_rows(classes: Ints, n_images: int, seed: int) -> Ints:
    """Return the rows of the graph: all that are labelled, and as many others as may be."""
    known, unknown = (np.flatnonzero(each) for each in (classes != UNKNOWN, classes == UNKNOWN))
    room = max(0, n_images - len(known))
    rng = np.random.default_rng(derive_seed(seed, "semi_supervised/images"))
    if room < len(unknown):
        unknown = rng.choice(unknown, room, replace=False)
    return np.sort(np.concatenate([known, unknown]))
