"""What came out: figures beside baselines, published ones and goals, tables, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.findings import Figure, Published, Table
from vaesc.applications.representation.coordinates import LocalCoder
from vaesc.applications.representation.features import Source
from vaesc.applications.representation.probes import SHOTS
from vaesc.applications.subject import Subject

Ints = NDArray[np.int64]

PROBE_GOALS: Mapping[str, float] = {"mnist": 0.97, "fashion-mnist": 0.88}
CLUSTERING_GAIN = 0.20
"""By how much clusters must beat k-means of pixels."""
PROBE_PUBLISHED: Mapping[str, Sequence[Published]] = {
    "mnist": (
        Published(
            value=0.9865, name="k-sparse autoencoder",
            source="Makhzani and Frey 2014, arXiv 1312.5663: 1,000 units, k = 25",
        ),
        Published(
            value=0.918, name="variational sparse coding",
            source="Alfo5123/Variational-Sparse-Coding, vsc-mnist-acc-001.npy: d = 200, "
            "5,000 labels",
        ),
    ),
    "fashion-mnist": (
        Published(
            value=0.797, name="variational sparse coding",
            source="Alfo5123/Variational-Sparse-Coding: d = 200, 5,000 labels",
        ),
    ),
}  # fmt: skip
_N2D = "McConville et al. 2019, arXiv 1908.05968: all 70,000 images are clustered and compared"
CLUSTERING_PUBLISHED: Mapping[str, Sequence[Published]] = {
    "mnist": (Published(value=0.979, name="N2D", source=_N2D),),
    "fashion-mnist": (Published(value=0.672, name="N2D", source=_N2D),),
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one kind of features came to on the test split."""

    source: Source
    width: int
    probe: float
    strength: float
    neighbours: float
    shots: dict[int, float | None]


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """What one way to cluster came to on the test split."""

    key: str
    words: str
    clusters: Ints
    scores: dict[str, float] = field(default_factory=dict)


def probe_figures(
    subject: Subject, coder: LocalCoder, judged: Sequence[Judged]
) -> tuple[str, list[Figure]]:
    """Return a sentence on the linear probe, and its figure; empty where nothing was judged."""
    if not judged:
        return "", []
    ours = next(j for j in judged if j.source.name == "codes")
    best = max((j for j in judged if j.source.baseline), key=lambda j: j.probe)
    goal = PROBE_GOALS.get(subject.dataset.source)
    n, k = len(coder.anchors), coder.n_nonzero_coefs
    figure = Figure(
        key="test/probe_accuracy",
        what="accuracy of a linear probe on sparse codes of the latents",
        ours=ours.probe,
        method=f"local codes, {k} of {n} anchors",
        better="higher",
        baseline=best.probe,
        baseline_name=best.source.words,
        published=PROBE_PUBLISHED.get(subject.dataset.source, ()),
        goal=goal,
        shortfall=_PROBE_TRIED if goal is not None and ours.probe < goal else "",
    )
    return (
        f"A linear probe on sparse codes of the latents ({k} of {n} anchors) names "
        f"{ours.probe:.2%} of the test images' classes, {_than(ours.probe, best.probe)} the best "
        f"features made without the model ({best.source.words}, {best.probe:.2%}).",
        [figure],
    )


def clustering_figures(subject: Subject, groups: Sequence[Grouped]) -> tuple[str, list[Figure]]:
    """Return a sentence on the clusters, and their figure; empty where there are no classes."""
    if not groups or not groups[0].scores:
        return "", []
    ours, base = (next(g for g in groups if g.key == key) for key in ("", "_kmeans_pixels"))
    accuracy, theirs = ours.scores["accuracy"], base.scores["accuracy"]
    has_goal = subject.dataset.source in PROBE_GOALS
    goal = theirs + CLUSTERING_GAIN if has_goal else None
    figure = Figure(
        key="test/clustering_accuracy",
        what="share of images in their class's cluster, clusters found without labels",
        ours=accuracy,
        method=ours.words,
        better="higher",
        baseline=theirs,
        baseline_name=base.words,
        published=CLUSTERING_PUBLISHED.get(subject.dataset.source, ()),
        goal=goal,
        shortfall=_CLUSTERS_TRIED if goal is not None and accuracy < goal else "",
    )
    return (
        f"Clusters found without labels agree with the classes of {accuracy:.1%} of the test "
        f"images, {_than(accuracy, theirs)} k-means of pixels ({theirs:.1%}).",
        [figure],
    )


def tables(judged: Sequence[Judged], groups: Sequence[Grouped]) -> list[Table]:
    """Return accuracies by features and agreement of clusters, as far as there are any."""
    made = []
    if judged:
        heads = ("features", "dimensions", "linear probe", "neighbours", "strength C")
        made.append(
            Table(
                title="Accuracy on the test split by features",
                head=(*heads, *(f"probe, {n} labels a class" for n in SHOTS)),
                rows=[
                    (j.source.words, j.width, j.probe, j.neighbours, j.strength, *j.shots.values())
                    for j in judged
                ],
            )
        )
    if groups:
        made.append(
            Table(
                title="Agreement of clusters with classes on the test split",
                head=("clusters", "accuracy", "NMI", "ARI"),
                rows=[
                    (g.words, *(g.scores[s] for s in ("accuracy", "nmi", "ari"))) for g in groups
                ],
            )
        )
    return made


def further(judged: Sequence[Judged], groups: Sequence[Grouped]) -> Iterator[tuple[str, float]]:
    """Yield the metrics beside those of the figures: key and value."""
    for j in judged:
        yield f"test/probe_accuracy_{j.source.name}", j.probe
        yield f"test/knn_accuracy_{j.source.name}", j.neighbours
        for n, accuracy in j.shots.items():
            if accuracy is not None:
                yield f"test/few_shot_accuracy_{n}_{j.source.name}", accuracy
    for g in groups:
        for name, value in g.scores.items():
            if g.key or name != "accuracy":  # that one is a figure
                yield f"test/clustering_{name}{g.key}", value


def _than(ours: float, theirs: float) -> str:
    points = abs(ours - theirs) * 100
    if points < 0.005:
        return "as many as"
    return f"{points:.{1 if points >= 1 else 2}f} points {'above' if ours > theirs else 'BELOW'}"


_PROBE_TRIED = (
    "Tried on validation images: pursuit codes (K = 2,048, k = 16, with and without split signs) "
    "and the 32 or 128 largest products with the atoms, which were worse than local codes; fewer "
    "anchors (2,048 and 4,096) and fewer of them a code (30 and 64) were worse, too."
)
_CLUSTERS_TRIED = (
    "Tried on training images: mixtures in 6 to 32 leading axes of the latents; spectral "
    "embeddings of the graphs of 10 and 20 neighbours, and of shared neighbours, of 10,000 "
    "latents; UMAP with and without half whitening; mixtures of the latents of the article's VAE, "
    "which on Fashion-MNIST reach 56 % to 66 % of 10,000 to 15,000 images, as their start has it."
)
