"""The measurement: every kind of features judged alike, and clusters held against classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.findings import Findings
from vaesc.applications.representation.clusters import (
    LEAST,
    agreement,
    assigned,
    flattened,
    layout,
    leading,
    means,
    memberships,
    mixture,
    placed,
)
from vaesc.applications.representation.features import (
    SPLITS,
    Local,
    Source,
    Splits,
    latents_of,
    local_of,
    pca,
    pixels_of,
    sources,
    train_rows,
)
from vaesc.applications.representation.figures import (
    Grouped,
    Judged,
    clustering_figures,
    further,
    probe_figures,
    remarks,
    tables,
)
from vaesc.applications.representation.part import save_representation
from vaesc.applications.representation.probes import (
    SHOTS,
    Labelled,
    few_shot_probe,
    linear_probe,
    neighbours_accuracy,
)
from vaesc.applications.subject import Subject
from vaesc.config import RepresentationConfig, derive_seed
from vaesc.parts import PART

Ints = NDArray[np.int64]

_STEPS = 13
"""Of progress: codes, clusters, their rivals, and ten kinds of features."""


_SHOWN = 2500
"""Test images on the map."""
_CLUSTERS = "mixture in UMAP's layout of {}, by local codes"


def apply(config: RepresentationConfig, subject: Subject) -> Findings:
    """Fit codes and clusters to the training images and judge them on the test split.

    Args:
        config: Sizes of the codes, numbers of neighbours and clusters.
        subject: Model, data, and the folder that gets ``part.safetensors`` and the figures.

    Raises:
        DataError: The model's latents do not vary.
    """
    latents = latents_of(subject, subject.model)
    ours = local_of(config, latents, subject.rng("representation/anchors"))
    subject.listener.progress(1, _STEPS)
    classes = _classes(subject)
    n = _n_clusters(config, classes, len(latents["train"]))
    laid, membership = _clusters(subject, ours, latents["train"], n)
    save_representation(ours.coder, membership, subject.folder / PART)
    subject.listener.progress(2, _STEPS)
    pixels = pixels_of(subject)
    components = pca(pixels)
    of_pixels = local_of(config, components, subject.rng("representation/pixel-anchors"))
    groups: list[Grouped] = []
    if len(pixels["test"]):
        clusters = assigned(ours.codes["test"], membership)
        groups += [Grouped(key="", words=_CLUSTERS.format("latents"), clusters=clusters)]
        groups += _rivals(subject, pixels, components, of_pixels, latents, ours, n)
    rng = subject.rng("representation/wide-anchors")
    compared = sources(
        subject, pixels, components, of_pixels, lambda wide: local_of(config, wide, rng).codes,
        latents, ours,
    )  # fmt: skip
    judged = list(_judged(config, subject, classes, compared)) if classes else []
    subject.listener.progress(_STEPS, _STEPS)
    return _findings(subject, ours, classes, groups, judged, laid)


def _classes(subject: Subject) -> dict[str, Ints] | None:
    """Return every split's classes, counted from 0; None where a split has no labels."""
    labels = {split: subject.dataset.labels(split) for split in SPLITS}
    known = {split: found for split, found in labels.items() if found is not None}
    if len(known) < len(SPLITS) or not len(known["test"]):
        return None
    known["train"] = known["train"][train_rows(subject)]
    values = np.unique(np.concatenate(list(known.values())))
    return {split: np.searchsorted(values, found) for split, found in known.items()}


def _n_clusters(
    config: RepresentationConfig, classes: dict[str, Ints] | None, n_images: int
) -> int:
    wanted = config.n_clusters
    if not wanted:
        wanted = 10 if classes is None else len(np.unique(classes["train"]))
    return max(1, min(wanted, n_images))


def _clusters(
    subject: Subject, local: Local, train: NDArray[np.float32], n_clusters: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the layout of the training images, and which clusters each anchor belongs to."""
    seed = derive_seed(subject.seed, "representation/clusters") % 2**32
    laid = points = local.coder.points(train)
    if len(points) < max(LEAST, 2 * n_clusters):
        found = np.asarray(means(points, n_clusters, seed=seed).labels_, np.int64)
    else:
        laid = layout(points, seed=seed)
        found = mixture(laid, n_clusters, seed=seed)
    return laid, memberships(local.codes["train"], found, n_clusters)


def _rivals(
    subject: Subject,
    pixels: Splits,
    components: Splits,
    of_pixels: Local,
    latents: Splits,
    ours: Local,
    n: int,
) -> Iterator[Grouped]:
    """Yield the other ways to cluster with the clusters that they give the test images."""
    seed = derive_seed(subject.seed, "representation/clusters") % 2**32
    # Ours but for the latents: what it comes to is the method's merit.
    _, membership = _clusters(subject, of_pixels, components["train"], n)
    yield Grouped(
        key="_umap_pixels",
        words=_CLUSTERS.format(f"pixels' {components['train'].shape[1]} principal components"),
        clusters=assigned(of_pixels.codes["test"], membership),
    )
    points, test = (ours.coder.points(latents[split]) for split in ("train", "test"))
    for key, words, train, asked in (
        ("_kmeans_pixels", "k-means of pixels", pixels["train"], pixels["test"]),
        ("_kmeans_latents", "k-means of half whitened latents", points, test),
    ):
        found = means(train, n, seed=seed).predict(asked)
        yield Grouped(key=key, words=words, clusters=np.asarray(found, np.int64))
    if len(points) >= max(LEAST, 2 * n):
        found = mixture(leading(points), n, seed=seed, others=leading(test))
        yield Grouped(
            key="_mixture_latents", words="Gaussian mixture of half whitened latents",
            clusters=found,
        )  # fmt: skip


def _judged(
    config: RepresentationConfig,
    subject: Subject,
    classes: dict[str, Ints],
    compared: Iterator[Source],
) -> Iterator[Judged]:
    """Yield what each kind of features comes to, if there is anything to tell apart."""
    if len(np.unique(classes["train"])) < 2:
        return
    for done, source in enumerate(compared, start=3):
        subject.listener.progress(done, _STEPS)
        features = source.make()
        data = Labelled(
            **features, train_classes=classes["train"],
            validation_classes=classes["validation"], test_classes=classes["test"],
        )  # fmt: skip
        probe, strength = linear_probe(data)
        shots = {
            n: few_shot_probe(data, n, subject.rng(f"representation/few-shot/{n}")) for n in SHOTS
        }
        yield Judged(
            source=source, width=data.train.shape[1], probe=probe, strength=strength,
            neighbours=neighbours_accuracy(data, config.n_neighbours), shots=shots,
        )  # fmt: skip


def _findings(
    subject: Subject,
    ours: Local,
    classes: dict[str, Ints] | None,
    groups: Sequence[Grouped],
    judged: Sequence[Judged],
    laid: NDArray[np.float32],
) -> Findings:
    from vaesc.report.representation import draw_map, draw_probes

    if classes is not None:
        for group in groups:
            group.scores.update(agreement(group.clusters, classes["test"]))
    pictures = []
    if judged:
        bars = [(j.source.words, j.probe, j.source.baseline) for j in judged]
        pictures.append(draw_probes(bars, subject.folder))
    if groups and laid.shape[1] >= 2:
        at = placed(ours.codes["train"], laid, ours.codes["test"])
        rows = slice(None, None, -(-len(at) // _SHOWN))
        seed = derive_seed(subject.seed, "representation/map") % 2**32
        named = None if classes is None else classes["test"][rows]
        plane = flattened(at[rows], seed=seed)
        pictures.append(draw_map(plane, groups[0].clusters[rows], named, subject.folder))
    probes, clustered = (
        probe_figures(subject, ours.coder, judged),
        clustering_figures(subject, groups),
    )
    return Findings(
        title="Representation: features for classes and clusters",
        sentence=" ".join([*(s for s, _ in (probes, clustered) if s)]) or _unlabelled(groups),
        figures=[*probes[1], *clustered[1]],
        tables=tables(judged, groups if classes is not None else []),
        pictures=pictures,
        notes=_notes(subject, ours, classes, judged),
        more=list(further(judged, groups)),
    )


def _unlabelled(groups: Sequence[Grouped]) -> str:
    n = len(np.unique(groups[0].clusters)) if groups else 0
    return f"The test images, which have no labels, fall into {n} clusters."


def _notes(
    subject: Subject,
    ours: Local,
    classes: dict[str, Ints] | None,
    judged: Sequence[Judged],
) -> list[str]:
    coder = ours.coder
    notes = [
        "VAE, anchors, layout and clusters were fitted to training images alone, without labels; "
        f"a local code combines the {coder.n_nonzero_coefs} nearest of {len(coder.anchors)} "
        "anchors, which are no atoms: nothing decodes it. Local codes and layout of pixels are "
        "made with as many anchors of the same training images, of principal components of the "
        "pixels to save time; on validation images, after 8,000 training images, local codes of "
        "32 served better than of 64 or all on MNIST, and of 128 on Fashion-MNIST.",
    ]
    if judged:
        notes += remarks(judged)
        notes.append(
            "Probes: logistic regression on features divided by their root mean square; its "
            "strength is chosen on validation images, then it is fitted to training and "
            "validation images. Few-shot probes choose it with as many validation labels, and "
            "are means of 3 draws."
        )
    elif classes is None:
        notes.append("The data set has no labels: probes and agreement with classes are left out.")
    else:
        notes.append("All training images are of one class: probes are left out.")
    n, there = ours.codes["train"].shape[0], subject.dataset.n("train")
    if n < there:
        notes.append(f"Of {there} training images, which are large, {n} drawn at random are used.")
    return notes
