"""Self-training: a graph that labels, a network that learns from it, and the graph once more.

1. The few labels spread over the graph of latents (:mod:`.spreading`).
2. A network is trained on pixels, on the images that the graph is surest about (:mod:`.network`).
   Views that leave the class alone teach it what latents do not know, and a loss that lets go of
   unlikely guesses keeps it from learning the graph's mistakes: it errs less than its teacher.
3. What the network says of every image spreads over the graph, not far: neighbours correct one
   another. Another network is trained on that, and so on.

References:
    Lee, "Pseudo-Label", 2013.
    Iscen, Tolias, Avrithis, Chum, "Label Propagation for Deep Semi-supervised Learning", 2019.
    Xie, Luong, Hovy, Le, "Self-training with Noisy Student improves ImageNet classification",
    2020.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vaesc.applications.semi_supervised.draws import UNKNOWN
from vaesc.applications.semi_supervised.network import Read, predict_all, steps_of, train
from vaesc.applications.semi_supervised.spreading import (
    NEAR,
    Floats,
    Graph,
    Ints,
    class_share,
    spread,
    spread_labels,
    weighed,
)
from vaesc.config import derive_seed
from vaesc.progress import SILENT, Listener, Within

KEPT = (0.9, 0.95)
"""Share of the images of each guessed class, the surest, that each round learns from."""

_TAUGHT = 0.9
"""Share of a round that is training; the rest is for what the network says of all images."""


def total_steps(n_unlabelled: int, epochs: int) -> int:
    """Return the gradient steps that self-training makes in all its rounds, but for rounding."""
    return sum(steps_of(math.ceil(kept * n_unlabelled), epochs) for kept in KEPT)


def self_train(
    read: Read,
    shape: tuple[int, ...],
    graph: Graph,
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    epochs: int,
    seed: int,
    listener: Listener = SILENT,
) -> nn.Sequential:
    """Return a network that was trained on all images, of which few are labelled.

    Args:
        read: Gives the images of rows of the graph, in [0, 1].
        shape: Shape of one image.
        graph: Of the images' latents.
        labels: Class of each image, or :data:`~.draws.UNKNOWN`, shape (n,).
        n_classes: C; each class has a label.
        epochs: Passes over the images in each round.
        seed: Of all randomness.
        listener: Hears of the share that is done.
    """
    rows = np.flatnonzero(labels != UNKNOWN)
    labelled = (rows, labels[rows])
    share = class_share(labels, n_classes)

    def taught(guesses: Floats, number: int) -> nn.Sequential:
        surest = surest_rows(guesses, labels, KEPT[number])
        return train(
            read, shape, n_classes, labelled=labelled, n_steps=steps_of(len(surest), epochs),
            guessed=(surest, guesses[surest].argmax(axis=1)) if len(surest) else None,
            seed=derive_seed(seed, f"network/{number}"),
            listener=Within(listener, number / len(KEPT), (number + _TAUGHT) / len(KEPT)),
        )  # fmt: skip

    network = taught(spread_labels(graph, labels, n_classes), 0)
    for number in range(1, len(KEPT)):
        views = derive_seed(seed, f"views/{number}")
        said = weighed(predict_all(network, read, len(labels), seed=views, n_views=1), share)
        network = taught(weighed(spread(graph, said, NEAR), share), number)
    return network


def surest_rows(probabilities: Floats, labels: Ints, kept: float) -> Ints:
    """Return the rows without label that are surest to be of the class they are guessed to be.

    Args:
        probabilities: Shape (n, C).
        labels: Class, or :data:`~.draws.UNKNOWN`, shape (n,).
        kept: Share that is kept of each guessed class.

    Returns:
        Increasing rows.
    """
    guesses, sureness = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows = []
    for number in range(probabilities.shape[1]):
        own = np.flatnonzero((guesses == number) & (labels == UNKNOWN))
        order = np.argsort(-sureness[own], kind="stable")
        rows.append(own[order[: int(np.ceil(kept * len(own)))]])
    return np.sort(np.concatenate(rows))
