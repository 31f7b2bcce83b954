"""Anomaly detection as a step: the detector of the run's model, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.detector import LEAST_IMAGES, REFERENCES, Detector
from vaesc.applications.anomaly.draw import draw
from vaesc.applications.anomaly.explain import Explanation, explain
from vaesc.applications.anomaly.images import drawn, groups, taken
from vaesc.applications.anomaly.one_class import COMBINED, OneClass, one_class, usable_classes
from vaesc.applications.anomaly.outliers import Told, outliers, told_apart
from vaesc.applications.anomaly.tell import (
    false_alarm_figure,
    one_class_figures,
    one_class_table,
    ood_figures,
    ood_table,
    sentence,
)
from vaesc.applications.anomaly.terms import OF_MODEL, WEIGHTS
from vaesc.applications.findings import Findings, Picture
from vaesc.applications.subject import Subject
from vaesc.config import AnomalyConfig
from vaesc.errors import DataError
from vaesc.parts import PART, save_part
from vaesc.report.style import save_themed

_HELD_OUT = 8192
"""Most validation images that standardise and calibrate."""
_SHOWN = 4
_PICTURE = "anomaly-explained"


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """How many usual images are called anomalous."""

    n_images: int
    n_flagged: int
    n_calibration: int
    rate: float
    """The rate that is promised at most."""

    @property
    def rank(self) -> int:
        """Usual images of the calibration that would be flagged among themselves, and one."""
        return int(np.floor(self.rate * (self.n_calibration + 1) + 1e-9))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        r"""Return the share of flagged images that chance allows, at both ends.

        Over calibrations, the probability of a flag is :math:`Beta(r, m + 1 - r)` with the rank
        :math:`r = \lfloor \alpha (m + 1) \rfloor`; the number of flags among n exchangeable images
        is then beta-binomial.

        References:
            Vovk, "Conditional Validity of Inductive Conformal Predictors", 2012.
            https://proceedings.mlr.press/v25/vovk12.html
        """
        from scipy.stats import betabinom

        if not self.rank:
            return 0.0, 0.0
        law = betabinom(self.n_images, self.rank, self.n_calibration + 1 - self.rank)
        low, high = (float(law.ppf(q)) for q in ((1 - level) / 2, (1 + level) / 2))
        return low / self.n_images, high / self.n_images


def applied(config: AnomalyConfig, subject: Subject) -> Findings:
    """Make the detector, write its part, and measure what it is worth.

    Raises:
        DataError: There are too few images for any detector.
    """
    detector = fit_detector(config, subject)
    save_part(detector.part, subject.folder / PART)
    alarms, flagged = _alarms(config, subject, detector)
    kinds, note = outliers(config, subject)
    told = told_apart(detector, subject, kinds)
    explained, names = _explained(subject, detector, flagged, told)
    save_themed(lambda theme: draw(explained, names, theme), subject.folder, _PICTURE)

    labels, left_out = usable_classes(subject)
    found = one_class(subject, labels) if labels else None
    source = subject.dataset.source
    low, high = alarms.interval()
    return Findings(
        title="Anomaly detection",
        sentence=sentence(found, told, alarms.n_flagged / alarms.n_images, config),
        figures=[
            *(one_class_figures(found, source) if found else []),
            *ood_figures(told),
            false_alarm_figure(alarms.n_flagged / alarms.n_images, (low, high), alarms, config),
        ],
        tables=[*([one_class_table(found)] if found else []), ood_table(told)],
        pictures=[_picture()],
        notes=[n for n in (*_notes(detector), *_best_alone(found), note, left_out) if n],
        more=[
            *([("test/anomaly_auroc_pca", found.mean("PCA residual"))] if found else []),
            ("test/ood_auroc_likelihood", float(np.mean([t.likelihood for t in told]))),
            ("test/anomaly_false_alarm_low", low),
            ("test/anomaly_false_alarm_high", high),
        ],
    )  # fmt: skip


def fit_detector(config: AnomalyConfig, subject: Subject) -> Detector:
    """Return the detector of the run's model, all classes usual.

    It is fitted on training images, standardised and calibrated on validation images.

    Raises:
        DataError: There are too few of them.
    """
    dataset = subject.dataset
    if dataset.n("validation") < 2 * LEAST_IMAGES or not dataset.n("test"):
        raise DataError(
            f"a detector of anomalies needs {2 * LEAST_IMAGES} validation images and a test "
            f"image, got {dataset.n('validation')} and {dataset.n('test')}; give it more images, "
            "or leave anomaly out of applications"
        )
    images = [
        taken(dataset, split, rows, subject.block_size)
        for split, limit in (("train", REFERENCES), ("validation", _HELD_OUT))
        for rows in [
            drawn(np.arange(dataset.n(split)), limit, subject.rng(f"anomaly/detector/{split}"))
        ]
    ]
    seed = int(subject.rng("anomaly/detector/strokes").integers(2**31))
    rate = config.false_alarm_rate
    return Detector.fit(subject.model, *images, seed=seed, false_alarm_rate=rate)


def _alarms(
    config: AnomalyConfig, subject: Subject, detector: Detector
) -> tuple[Alarms, NDArray[np.int64]]:
    """Count false alarms on the test split; also its rows, the highest scores first."""
    verdicts = [detector.judge(unit) for unit in groups(subject, "test")]
    n_flagged = sum(int(v.flags(config.false_alarm_rate).sum()) for v in verdicts)
    scores = np.concatenate([v.scores for v in verdicts])
    alarms = Alarms(
        n_images=len(scores), n_flagged=n_flagged, rate=config.false_alarm_rate,
        n_calibration=len(detector.memory.calibration),
    )  # fmt: skip
    return alarms, np.argsort(-scores, kind="stable")


def _explained(
    subject: Subject, detector: Detector, order: NDArray[np.int64], told: list[Told]
) -> tuple[list[Explanation], list[str]]:
    """Explain the strangest test images, and one outlier of each kind."""
    rows = order[:_SHOWN]
    usual = taken(subject.dataset, "test", rows, subject.block_size)
    other = [t.examples[:1] for t in told][:_SHOWN]
    names = [f"test {row}" for row in rows] + [t.kind for t in told][:_SHOWN]
    return explain(detector, np.concatenate([usual, *other])), names


def _picture() -> Picture:
    return Picture(
        name=_PICTURE,
        alt="Images with high scores, their reconstructions, heat maps and most surprising atoms.",
        caption="The test images with the highest scores, then images of another kind. Where: the "
        "parts of the image that the score comes from. Atoms: what each of the three most "
        "surprising ones adds to the reconstruction, and its surprise: that it is used, and how "
        "far its coefficient is from usual.",
    )


def _notes(detector: Detector) -> list[str]:
    return [
        "On average over calibrations, a new usual image is flagged with a probability of at "
        f"most the rate, if it is exchangeable with the {len(detector.memory.calibration):,} "
        "validation images of the calibration. No weight was fitted to these, but they chose the "
        "epoch, so that they are exchangeable with new images only nearly; one calibration may "
        "lie above the rate, see the interval.",
        "The terms of the score and their weights were chosen on validation images of MNIST and "
        "Fashion-MNIST in the one-class protocol, 1,600 usual images a class: anomalies of these "
        "two were looked at there, and none of any test split.",
    ]


def _best_alone(found: OneClass | None) -> list[str]:
    """Say which single term is worth most: where it beats the combined score, that is said."""
    if found is None:
        return []
    alone = {name: found.mean(name) for name in WEIGHTS if name in found.methods}
    best = max(alone, key=lambda name: alone[name])
    of_vae = max(alone[name] for name in OF_MODEL)
    return [
        f"The best single term, {best.replace('_', ' ')}, has a mean AUROC of {alone[best]:.4f}, "
        f"the combined score {found.mean(COMBINED):.4f}, the best term of VAE and codes "
        f"{of_vae:.4f}: distances between oriented gradients carry the score."
        if best.startswith("stroke")
        else f"The best single term, {best.replace('_', ' ')}, has a mean AUROC of "
        f"{alone[best]:.4f}, the combined score {found.mean(COMBINED):.4f}.",
    ]
