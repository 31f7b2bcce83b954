"""The measurement: every kind of features judged alike, and clusters held against classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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
from vaesc.applications.representation.coordinates import LocalCoder, fit_local_coder
from vaesc.applications.representation.features import (
    SPLITS,
    Splits,
    codes_of,
    latents_of,
    n_train,
    pixels_of,
    sources,
)
from vaesc.applications.representation.figures import (
    Grouped,
    Judged,
    clustering_figures,
    further,
    probe_figures,
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

_STEPS = 11
"""Of progress: codes, clusters, their rivals, and eight kinds of features."""


_SHOWN = 2500
"""Test images on the map."""


def apply(config: RepresentationConfig, subject: Subject) -> Findings:
    """Fit codes and clusters to the training images and judge them on the test split.

    Args:
        config: Sizes of the codes, numbers of neighbours and clusters.
        subject: Model, data, and the folder that gets ``part.safetensors`` and the figures.

    Raises:
        DataError: The model's latents do not vary.
    """
    latents = latents_of(subject, subject.model)
    coder = fit_local_coder(
        latents["train"], n_atoms=config.n_atoms, n_nonzero_coefs=config.n_nonzero_coefs,
        rng=subject.rng("representation/anchors"),
    )  # fmt: skip
    codes = codes_of(coder, latents)
    subject.listener.progress(1, _STEPS)
    classes = _classes(subject)
    n_clusters = _n_clusters(config, subject, classes)
    points = coder.points(latents["train"])
    placed_train, found = _clusters(subject, points, n_clusters)
    membership = memberships(codes["train"], found, n_clusters)
    save_representation(coder, membership, subject.folder / PART)
    subject.listener.progress(2, _STEPS)
    pixels = pixels_of(subject)
    groups = list(_groups(subject, pixels, points, coder, latents, codes, membership, n_clusters))
    judged = list(_judged(config, subject, classes, pixels, latents, codes)) if classes else []
    subject.listener.progress(_STEPS, _STEPS)
    return _findings(subject, coder, classes, groups, judged, placed_train, codes)


def _classes(subject: Subject) -> dict[str, Ints] | None:
    """Return every split's classes, counted from 0; None where a split has no labels."""
    labels = {split: subject.dataset.labels(split) for split in SPLITS}
    known = {split: found for split, found in labels.items() if found is not None}
    if len(known) < len(SPLITS) or not len(known["test"]):
        return None
    known["train"] = known["train"][: n_train(subject)]
    values = np.unique(np.concatenate(list(known.values())))
    return {split: np.searchsorted(values, found) for split, found in known.items()}


def _n_clusters(
    config: RepresentationConfig, subject: Subject, classes: dict[str, Ints] | None
) -> int:
    wanted = config.n_clusters
    if not wanted:
        wanted = 10 if classes is None else len(np.unique(classes["train"]))
    return max(1, min(wanted, n_train(subject)))


def _clusters(
    subject: Subject, points: NDArray[np.float32], n_clusters: int
) -> tuple[NDArray[np.float32], Ints]:
    """Return the layout of the training images and the cluster of each."""
    seed = derive_seed(subject.seed, "representation/clusters") % 2**32
    if len(points) < max(LEAST, 2 * n_clusters):
        return points, np.asarray(means(points, n_clusters, seed=seed).labels_, np.int64)
    laid = layout(points, seed=seed)
    return laid, mixture(laid, n_clusters, seed=seed)


def _groups(
    subject: Subject,
    pixels: Splits,
    points: NDArray[np.float32],
    coder: LocalCoder,
    latents: Splits,
    codes: Splits,
    membership: NDArray[np.float32],
    n: int,
) -> Iterator[Grouped]:
    """Yield each way to cluster with the clusters that it gives the test images."""
    seed = derive_seed(subject.seed, "representation/clusters") % 2**32
    if not len(pixels["test"]):
        return
    ours = assigned(codes["test"], membership)
    yield Grouped(key="", words="mixture in UMAP's layout of latents, by codes", clusters=ours)
    test = coder.points(latents["test"])
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
    pixels: Splits,
    latents: Splits,
    codes: Splits,
) -> Iterator[Judged]:
    """Yield what each kind of features comes to, if there is anything to tell apart."""
    if len(np.unique(classes["train"])) < 2:
        return
    for done, source in enumerate(sources(subject, pixels, latents, codes), start=3):
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
    coder: LocalCoder,
    classes: dict[str, Ints] | None,
    groups: Sequence[Grouped],
    judged: Sequence[Judged],
    laid: NDArray[np.float32],
    codes: dict[str, csr_array],
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
        at = placed(codes["train"], laid, codes["test"])
        rows = slice(None, None, -(-len(at) // _SHOWN))
        seed = derive_seed(subject.seed, "representation/map") % 2**32
        named = None if classes is None else classes["test"][rows]
        plane = flattened(at[rows], seed=seed)
        pictures.append(draw_map(plane, groups[0].clusters[rows], named, subject.folder))
    probes, clustered = probe_figures(subject, coder, judged), clustering_figures(subject, groups)
    return Findings(
        title="Representation: features for classes and clusters",
        sentence=" ".join([*(s for s, _ in (probes, clustered) if s)]) or _unlabelled(groups),
        figures=[*probes[1], *clustered[1]],
        tables=tables(judged, groups if classes is not None else []),
        pictures=pictures,
        notes=_notes(subject, coder, classes, judged),
        more=list(further(judged, groups)),
    )


def _unlabelled(groups: Sequence[Grouped]) -> str:
    n = len(np.unique(groups[0].clusters)) if groups else 0
    return f"The test images, which have no labels, fall into {n} clusters."


def _notes(
    subject: Subject,
    coder: LocalCoder,
    classes: dict[str, Ints] | None,
    judged: Sequence[Judged],
) -> list[str]:
    notes = [
        "VAE, anchors, layout and clusters were fitted to training images alone, without labels; "
        f"a local code combines the {coder.n_nonzero_coefs} nearest of {len(coder.anchors)} "
        "anchors.",
    ]
    if judged:
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
    n, there = n_train(subject), subject.dataset.n("train")
    if n < there:
        notes.append(f"Of {there} training images, which are large, the first {n} are used.")
    return notes
