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
_SECOND_HAND = "as re-implementations and later papers quote it"
_LOW = "known to be low: its probe has a ReLU on its logits and 20 epochs of plain SGD"
PROBE_PUBLISHED: Mapping[str, Sequence[Published]] = {
    "mnist": (
        Published(
            value=0.9865, name="k-sparse autoencoder",
            source=f"Makhzani and Frey 2014, {_SECOND_HAND}: 1,000 units, k = 25",
        ),
        Published(
            value=0.918, name="variational sparse coding",
            source="Alfo5123/Variational-Sparse-Coding, vsc-mnist-acc-001.npy: d = 200, "
            f"5,000 labels; {_LOW}",
        ),
    ),
    "fashion-mnist": (
        Published(
            value=0.797, name="variational sparse coding",
            source=f"Alfo5123/Variational-Sparse-Coding: d = 200, 5,000 labels; {_LOW}",
        ),
    ),
}  # fmt: skip
_N2D = f"McConville et al. 2019, {_SECOND_HAND}: all 70,000 images are clustered and compared"
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
    """Return sentences on the linear probe, and its figures; empty where nothing was judged.

    The figures are those of local codes of the latents, and of the model's own sparse codes.
    """
    if not judged:
        return "", []
    by_name = {j.source.name: j for j in judged}
    local, own = by_name["local_codes"], by_name["model_codes"]
    best = max((j for j in judged if j.source.baseline), key=lambda j: j.probe)
    goal = PROBE_GOALS.get(subject.dataset.source)
    anchors = f"{coder.n_nonzero_coefs} of {len(coder.anchors)} anchors"

    def figure(key: str, of: str, judged: Judged, method: str, tried: str) -> Figure:
        return Figure(
            key=key,
            what=f"accuracy of a linear probe on {of}",
            ours=judged.probe,
            method=method,
            better="higher",
            baseline=best.probe,
            baseline_name=best.source.words,
            published=PROBE_PUBLISHED.get(subject.dataset.source, ()),
            goal=goal,
            shortfall=tried if goal is not None and judged.probe < max(goal, best.probe) else "",
        )

    return (
        _probe_sentence(by_name, best, anchors),
        [
            figure(
                "test/probe_accuracy", "local codes of the latents", local,
                f"local codes, {anchors}", _PROBE_TRIED,
            ),
            figure(
                "test/probe_accuracy_model_codes", "the model's own sparse codes", own,
                own.source.words, _MODEL_CODES_TRIED,
            ),
        ],
    )  # fmt: skip


def _probe_sentence(by_name: Mapping[str, Judged], best: Judged, anchors: str) -> str:
    """Say what local codes come to, what of it is the method's, and what the model's own do."""
    local, own, pursuit = (by_name[n] for n in ("local_codes", "model_codes", "pixel_codes"))
    of_pixels = [j for n, j in by_name.items() if n.startswith("pixel_local_codes")]
    alike = max(of_pixels, key=lambda j: j.probe)
    return (
        f"A linear probe on local codes of the latents ({anchors}) names {local.probe:.2%} of the "
        f"test images' classes, {_than(local.probe, best.probe)} the best features made without "
        f"the model ({best.source.words}, {best.probe:.2%}). Local codes ask for no VAE: of "
        f"pixels they name {alike.probe:.2%}, {_than(alike.probe, pursuit.probe)} OMP codes of "
        f"pixels ({pursuit.probe:.2%}): what the method brings; those of latents are "
        f"{_than(local.probe, alike.probe)} them: what the model brings. Sparse codes in the "
        f"model's own dictionary, by pursuit, name {own.probe:.2%}, "
        f"{_than(own.probe, pursuit.probe)} OMP codes of pixels."
    )


def remarks(judged: Sequence[Judged]) -> Iterator[str]:
    """Yield what is best by the other measures, beside the local codes of the latents."""
    ours = next(j for j in judged if j.source.name == "local_codes")

    def remark(by: str, values: Sequence[tuple[float, Judged]], own: float) -> str:
        value, best = max(values, key=lambda pair: pair[0])
        return (
            f"{by}, the best features made without the model are {best.source.words} "
            f"({value:.2%}); local codes of the latents ({own:.2%}) are {_than(own, value)} them."
        )

    baselines = [j for j in judged if j.source.baseline]
    yield remark("By nearest neighbours", [(j.neighbours, j) for j in baselines], ours.neighbours)
    for n, own in ours.shots.items():
        found = [(shot, j) for j in baselines if (shot := j.shots.get(n)) is not None]
        if own is not None and found:
            yield remark(f"With {n} labels of each class", found, own)


def clustering_figures(subject: Subject, groups: Sequence[Grouped]) -> tuple[str, list[Figure]]:
    """Return sentences on the clusters, and their figure; empty where there are no classes.

    The goal's reference is k-means of pixels, as it was set; what the same method makes of pixels
    is told beside it.
    """
    if not groups or not groups[0].scores:
        return "", []
    by_key = {g.key: g for g in groups}
    ours, base = by_key[""], by_key["_kmeans_pixels"]
    accuracy, theirs = ours.scores["accuracy"], base.scores["accuracy"]
    alike = by_key["_umap_pixels"].scores["accuracy"]
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
        f"images, {_than(accuracy, theirs)} k-means of pixels ({theirs:.1%}). The same method, "
        f"layout and mixture, makes {alike:.1%} of pixels, {_than(alike, theirs)} k-means: "
        f"what the method brings; latents are {_than(accuracy, alike)} pixels under it: what the "
        "model brings.",
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
        if j.source.name != "model_codes":  # a figure of its own
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
        return "level with"
    return f"{points:.{1 if points >= 1 else 2}f} points {'above' if ours > theirs else 'BELOW'}"


_PROBE_TRIED = (
    "Tried on validation images: pursuit codes (K = 2,048, k = 16, with and without split signs) "
    "and the 32 or 128 largest products with the atoms, which were worse than local codes; fewer "
    "anchors (2,048 and 4,096) and fewer of them a code (30 and 64) were worse, too."
)
_MODEL_CODES_TRIED = (
    "The model's own codes are chosen to rebuild images, and a pursuit may jump to other atoms "
    "when a latent moves a little. Tried on validation images: 2,048 atoms, k = 16, with and "
    "without split signs, and the 32 or 128 largest products with the atoms; local codes of the "
    "same latents were better than all of these."
)
_CLUSTERS_TRIED = (
    "Tried on training images: mixtures in 6 to 32 leading axes of the latents; spectral "
    "embeddings of the graphs of 10 and 20 neighbours, and of shared neighbours, of 10,000 "
    "latents; UMAP with and without half whitening; mixtures of the latents of the article's VAE, "
    "which on Fashion-MNIST reach 56 % to 66 % of 10,000 to 15,000 images, as their start has it."
)
