"""What was found, in figures, tables and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaesc.applications.anomaly.one_class import COMBINED, PCA, PIXEL_NEIGHBOURS, RANK, OneClass
from vaesc.applications.anomaly.outliers import Told
from vaesc.applications.anomaly.terms import NEIGHBOURS
from vaesc.applications.findings import Figure, Published, Table
from vaesc.config import AnomalyConfig

if TYPE_CHECKING:
    from vaesc.applications.anomaly.application import Alarms

_SECOND_HAND = "as re-implementations and later papers quote it"
PUBLISHED = {
    "mnist": (
        Published(value=0.948, name="Deep SVDD", source=f"Ruff et al. 2018, {_SECOND_HAND}"),
        Published(value=0.975, name="OCGAN", source=f"Perera et al. 2019, {_SECOND_HAND}"),
        Published(value=0.980, name="GeoTrans", source=f"Golan et al. 2018, {_SECOND_HAND}"),
    ),
    "fashion-mnist": (
        Published(value=0.892, name="Deep SVDD", source=f"Ruff et al. 2020, {_SECOND_HAND}"),
        Published(value=0.935, name="GeoTrans", source=f"Golan et al. 2018, {_SECOND_HAND}"),
    ),
}
GOALS = {"mnist": 0.975, "fashion-mnist": 0.93}
_TRIED = (
    "Tried: distances between whitened and between blurred pixels, between shifted copies, errors "
    "of a VAE for each class, and more weight on each term."
)


def one_class_figures(found: OneClass, source: str) -> list[Figure]:
    """Return the figures of the one-class protocol: of the score, and of the VAE alone."""
    ours, goal = found.mean(COMBINED), GOALS.get(source)
    rival = strongest_rival(found)
    return [
        Figure(
            key="test/anomaly_auroc",
            what=f"Mean AUROC, one class of {len(found.classes)} usual and all others anomalous",
            ours=ours, method="combined score", better="higher", baseline=found.mean(rival),
            baseline_name=f"{named(rival)}, the best of those without a VAE",
            published=PUBLISHED.get(source, ()),
            goal=goal, shortfall=_TRIED if goal is not None and ours < goal else "",
        ),
        Figure(
            key="test/anomaly_auroc_vae", what="The same by VAE and sparse code alone",
            ours=found.mean("reconstruction"), method="squared error of decoder(D a)",
            better="higher", baseline=found.mean(PCA), baseline_name=named(PCA),
        ),
    ]  # fmt: skip


def strongest_rival(found: OneClass) -> str:
    """Return the method with the highest mean AUROC of those that know nothing of the VAE."""
    rivals = [PCA, PIXEL_NEIGHBOURS, *(n for n in found.methods if n == "stroke_neighbours")]
    return max(rivals, key=found.mean)


def named(method: str) -> str:
    """Return a method's name for people."""
    names = {
        PCA: f"PCA residual, k = {RANK}",
        "stroke_neighbours": f"{NEIGHBOURS} nearest neighbours among oriented gradients",
    }
    return names.get(method, method.replace("_", " "))


def ood_figures(told: Sequence[Told]) -> list[Figure]:
    """Return the figure of outliers of another kind."""
    kinds = ", ".join(t.kind for t in told)
    return [
        Figure(
            key="test/ood_auroc", what=f"AUROC of images of another kind ({kinds})",
            ours=float(np.mean([t.auroc for t in told])), method="combined score",
            better="higher", baseline=float(np.mean([t.likelihood for t in told])),
            baseline_name="likelihood: negative ELBO of the article's VAE",
        )
    ]  # fmt: skip


def false_alarm_figure(
    share: float, interval: tuple[float, float], alarms: Alarms, config: AnomalyConfig
) -> Figure:
    """Return the figure of false alarms."""
    low, high = interval
    inside = low <= share <= high
    return Figure(
        key="test/anomaly_false_alarm_rate",
        what=f"Share of the {alarms.n_images:,} test images flagged at a false-alarm rate of "
        f"{config.false_alarm_rate:g}; 95 % of calibrations give {low:.4f} to {high:.4f}",
        ours=share, method=f"conformal, {alarms.n_calibration:,} calibration images",
        better="lower", baseline=config.false_alarm_rate, baseline_name="promised",
        shortfall=""
        if inside
        else "The share is outside that interval: the test images are not exchangeable with the "
        "validation images, or this is the one case in twenty.",
    )  # fmt: skip


def one_class_table(found: OneClass) -> Table:
    """Return the AUROC of each class by each method, and their means."""
    rows: list[list[str | float | None]] = [
        [name, *map(float, row)] for name, row in zip(found.classes, found.auroc, strict=True)
    ]
    rows.append(["mean", *map(float, found.auroc.mean(axis=0))])
    heads = [f"{m}, k = {RANK}" if m == PCA else m.replace("_", " ") for m in found.methods]
    return Table(
        title="AUROC by usual class: combined, baselines, and each term alone",
        head=["usual class", *heads], rows=rows,
    )  # fmt: skip


def ood_table(told: Sequence[Told]) -> Table:
    """Return the AUROC of each kind of outliers."""
    return Table(
        title="AUROC of images of another kind",
        head=["images", "combined score", "negative ELBO of the article's VAE"],
        rows=[[t.kind, t.auroc, t.likelihood] for t in told],
    )


def sentence(
    found: OneClass | None, told: Sequence[Told], share: float, config: AnomalyConfig
) -> str:
    """Return what came out."""
    said = []
    if found:
        rival = strongest_rival(found)
        ours, best = found.mean(COMBINED), found.mean(rival)
        verb = "beats" if ours > best else "does not beat"
        said.append(
            f"With one class usual, the combined score has a mean AUROC of {ours:.4f} and {verb} "
            f"the best score without a VAE ({named(rival)}, {best:.4f}); the error of "
            f"reconstruction alone has {found.mean('reconstruction'):.3f}, PCA's residual "
            f"{found.mean(PCA):.3f}"
        )
    kinds = " and ".join(t.kind for t in told) if len(told) < 3 else f"{len(told)} kinds of images"
    ours, raw = (float(np.mean(v)) for v in zip(*((t.auroc, t.likelihood) for t in told)))  # noqa: B905
    said.append(
        f"{kinds} {'is' if len(told) == 1 else 'are'} told from the model's own with an AUROC of "
        f"{ours:.3f}, by the likelihood alone with {raw:.3f}"
    )
    said.append(
        f"of the test images {share:.2%} are flagged at a promised rate of "
        f"{config.false_alarm_rate:.2%}"
    )
    return "; ".join(said) + "."
