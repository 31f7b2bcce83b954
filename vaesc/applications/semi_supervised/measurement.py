"""Test errors of every method, over numbers of labels and draws of the labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.semi_supervised.agreement import agreed, enough
from vaesc.applications.semi_supervised.draws import Ints, balanced, known
from vaesc.applications.semi_supervised.features import Features
from vaesc.applications.semi_supervised.kingma import classify, fit_m2
from vaesc.applications.semi_supervised.network import predict_all, train
from vaesc.applications.semi_supervised.probes import probe
from vaesc.applications.semi_supervised.selftraining import self_train, total_steps
from vaesc.applications.semi_supervised.spreading import Graph, graph_of, joined, spread_labels
from vaesc.applications.subject import Subject
from vaesc.bundle import GROUP
from vaesc.config import SemiSupervisedConfig, derive_seed
from vaesc.datasets.scaling import to_unit

Floats = NDArray[np.float32]

METHODS = {
    "pixels": "logistic regression on pixels",
    "supervised": "network on pixels, the labelled images alone, as many steps",
    "m1_linear": "M1, linear: logistic regression on latents",
    "m1_codes": "M1, codes: logistic regression on sparse codes",
    "m1": "M1: support vector machine on latents",
    "m1_m2": "M1+M2: deep generative model on latents",
    "spreading": "labels spread over the graph of latents",
    "best": "ours: self-training; from 60 labels of each class on, network times graph",
}
"""Every method and its name, in the order of their training: the last builds on others."""
NETWORKS = ("supervised", "best")
"""Trained in each draw at the smallest number of labels, in the first few at others."""
Errors = dict[int, dict[str, list[float]]]
"""Number of labels -> method, if it was measured -> test error of each draw, in percent."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images of one split, and what the model makes of them."""

    images: NDArray[Any]
    """As stored: bytes, or floats in [0, 1]."""
    mean: Floats
    std: Floats
    codes: Any
    """CSR."""
    classes: Ints
    """From 0; -1: a class that the training images lack."""

    def read(self, rows: Ints) -> Floats:
        """Return images of some rows in [0, 1], shape (n, *shape)."""
        return _unit(self.images[rows])

    def flat(self, rows: Ints | None = None) -> Floats:
        """Return images in [0, 1] as vectors, shape (n, pixels)."""
        images = self.read(np.arange(len(self.images)) if rows is None else rows)
        return images.reshape(len(images), -1)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One draw of labelled images."""

    train: Split
    test: Split
    graph: Graph
    rows: Ints
    """The labelled images."""
    n_classes: int
    config: SemiSupervisedConfig
    seed: int
    said: dict[str, Floats] = field(default_factory=dict)
    """What methods that others build on said of the test images, shape (n, C) each."""

    def seed_of(self, method: str) -> int:
        """Return the seed of one method's randomness."""
        return derive_seed(self.seed, method)


def splits_of(subject: Subject, n_images: int) -> tuple[Split, Split, int]:
    """Return the training images, at most `n_images`, the test images, and the number of classes.

    Raises:
        ValueError: There are no labels, or of one class only.
    """
    dataset = subject.dataset
    labels, n = dataset.labels("train"), dataset.n("train")
    if labels is None or dataset.labels("test") is None:
        raise ValueError("the data set has no labels")
    rows = np.arange(n)
    if n > n_images:
        rows = np.sort(subject.rng("semi_supervised/images").choice(n, n_images, replace=False))
    names = np.unique(labels[rows])
    if len(names) < 2:
        raise ValueError("the training images are all of one class")
    train = _split(subject, "train", rows, names)
    return train, _split(subject, "test", np.arange(dataset.n("test")), names), len(names)


def measure(subject: Subject, config: SemiSupervisedConfig) -> tuple[Errors, Ints]:
    """Return the test errors of every method, and how often the best erred on each test image.

    No test image is in the graph or in any training; each is classified on its own.

    Raises:
        ValueError: There is nothing to measure.
    """
    train, test, n_classes = splits_of(subject, config.n_images)
    numbers = [n for n in config.n_labels if n_classes <= n <= len(train.classes)]
    if not numbers or not len(test.classes):
        raise ValueError(f"no number of labels fits {len(train.classes)} training images")
    graph = graph_of(train.mean, config.n_neighbours)
    draws = [(n, draw) for n in numbers for draw in range(config.n_draws)]
    errors: Errors = {}
    missed = np.zeros(len(test.classes), np.int64)
    for done, (n, draw) in enumerate(draws):
        stream = f"semi_supervised/{n}/{draw}"
        trial = Trial(
            train=train, test=test, graph=graph, n_classes=n_classes, config=config,
            rows=balanced(train.classes, n, subject.rng(stream)),
            seed=derive_seed(subject.seed, stream),
        )  # fmt: skip
        for method in methods_of(draw, config, smallest=n == min(numbers)):
            wrong = classes_by(method, trial) != test.classes
            errors.setdefault(n, {}).setdefault(method, []).append(100 * float(wrong.mean()))
            if method == "best" and n == min(numbers):
                missed += wrong
        subject.listener.progress(done + 1, len(draws))
    return errors, missed


def methods_of(draw: int, config: SemiSupervisedConfig, *, smallest: bool) -> Iterator[str]:
    """Yield the methods that are measured in a draw: what trains networks is so in few."""
    few = dict.fromkeys(NETWORKS, smallest or draw < config.network_draws)
    few["m1_m2"] = smallest and draw < config.m2_draws
    yield from (name for name in METHODS if few.get(name, True))


def classes_by(method: str, trial: Trial) -> Ints:
    """Return the classes of the test images, shape (n,), by one method of :data:`METHODS`."""
    return _BY[method](trial)


def _pixels(trial: Trial) -> Ints:
    train, test = trial.train, trial.test
    return probe("linear", train.flat(trial.rows), train.classes[trial.rows], test.flat())


def _m1_linear(trial: Trial) -> Ints:
    own, classes = trial.train.mean[trial.rows], trial.train.classes[trial.rows]
    return probe("linear", own, classes, trial.test.mean)


def _m1(trial: Trial) -> Ints:
    own, classes = trial.train.mean[trial.rows], trial.train.classes[trial.rows]
    return probe("svm", own, classes, trial.test.mean)


def _m1_codes(trial: Trial) -> Ints:
    own, classes = trial.train.codes[trial.rows], trial.train.classes[trial.rows]
    return probe("linear", own.toarray(), classes, trial.test.codes.toarray())


def _spreading(trial: Trial) -> Ints:
    spread = spread_labels(trial.graph, known(trial.train.classes, trial.rows), trial.n_classes)
    trial.said["spreading"] = joined(trial.graph, spread, trial.test.mean)
    return np.asarray(trial.said["spreading"].argmax(axis=1))


def _m1_m2(trial: Trial) -> Ints:
    train, labels = trial.train, known(trial.train.classes, trial.rows)
    model = fit_m2(
        train.mean, train.std, labels, trial.n_classes,
        epochs=trial.config.m2_epochs, seed=trial.seed_of("m1_m2"),
    )  # fmt: skip
    return np.asarray(classify(model, trial.test.mean).argmax(axis=1))


def _supervised(trial: Trial) -> Ints:
    n_steps = total_steps(len(trial.train.classes) - len(trial.rows), trial.config.epochs)
    network = train(
        trial.train.read, trial.train.images.shape[1:], trial.n_classes,
        labelled=(trial.rows, trial.train.classes[trial.rows]), guessed=None,
        n_steps=n_steps, seed=trial.seed_of("supervised"),
    )  # fmt: skip
    trial.said["supervised"] = _said(network, trial)
    return np.asarray(trial.said["supervised"].argmax(axis=1))


def _best(trial: Trial) -> Ints:
    if enough(len(trial.rows), trial.n_classes):
        found = agreed(trial.said["supervised"], trial.said["spreading"])
        return np.asarray(found.argmax(axis=1))
    network = self_train(
        trial.train.read, trial.train.images.shape[1:], trial.graph,
        known(trial.train.classes, trial.rows), trial.n_classes,
        epochs=trial.config.epochs, seed=trial.seed_of("best"),
    )  # fmt: skip
    return np.asarray(_said(network, trial).argmax(axis=1))


def _said(network: Any, trial: Trial) -> Floats:  # noqa: ANN401 - of torch
    test = trial.test
    return predict_all(network, test.read, len(test.classes), seed=trial.seed_of("views"))


_BY: Mapping[str, Callable[[Trial], Ints]] = {
    "pixels": _pixels, "supervised": _supervised, "m1_linear": _m1_linear,
    "m1_codes": _m1_codes, "m1": _m1, "m1_m2": _m1_m2, "spreading": _spreading, "best": _best,
}  # fmt: skip


def _inside(rows: Ints, block: slice) -> Ints:
    """Return those of `rows` that lie in a block, counted from its start."""
    inside: Ints = rows[(rows >= block.start) & (rows < block.stop)] - block.start
    return inside


def _unit(images: NDArray[Any]) -> Floats:
    return images if images.dtype == np.float32 else to_unit(images)


def _split(subject: Subject, name: str, rows: Ints, names: Ints) -> Split:
    dataset, article = subject.dataset, subject.article
    features = Features(article.vae.encoder, article.shape)
    images = np.concatenate(
        [
            dataset.images(name, block)[_inside(rows, block)]
            for block in dataset.blocks(name, subject.block_size)
        ]
    )
    groups = [images[first : first + GROUP] for first in range(0, len(images), GROUP)]
    found = [features.posterior(_unit(group)) for group in groups]
    mean, std = (np.concatenate(each) for each in zip(*found, strict=True))
    labels = dataset.labels(name)
    assert labels is not None
    at = np.minimum(np.searchsorted(names, labels[rows]), len(names) - 1)
    return Split(
        images=images, mean=mean, std=std,
        codes=article.dictionary.encode(mean),
        classes=np.where(names[at] == labels[rows], at, -1),
    )  # fmt: skip
