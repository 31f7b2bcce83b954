"""What was measured, put beside what others have published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vaesc.applications.findings import Figure, Findings, Picture, Published, Table
from vaesc.applications.semi_supervised.draws import Ints
from vaesc.applications.semi_supervised.measurement import METHODS, Errors
from vaesc.applications.subject import Subject
from vaesc.config import SemiSupervisedConfig
from vaesc.report.semi_supervised import draw_errors, draw_missed

TITLE = "Few labels"
_KINGMA = "Kingma et al. 2014, Table 1, as quoted by re-implementations"
_SALIMANS = "Salimans et al. 2016, Table 1"
_M1 = {100: 11.82, 600: 5.72, 1000: 4.24, 3000: 3.49}
_M1_M2 = {100: 3.33}
PUBLISHED: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "mnist": {"M1 + TSVM": _M1, "M2": {100: 11.97}, "M1+M2": _M1_M2, "GAN": {100: 0.93}},
}
"""Data set -> method -> number of labels -> test error in percent."""
_SOURCES = {"GAN": _SALIMANS}
_GOALS = {("mnist", 100): 3.3}
_SUFFIXES = ("m1", "m1_m2", "spreading", "supervised")


def nothing(reason: str) -> Findings:
    """Return the findings where nothing can be measured."""
    return Findings(
        title=TITLE, sentence=f"Nothing was measured: {reason}.", figures=(), notes=(reason,)
    )


def told(config: SemiSupervisedConfig, subject: Subject, errors: Errors, missed: Ints) -> Findings:
    """Return the findings, and draw their pictures."""
    published = PUBLISHED.get(subject.dataset.source, {})
    draw_errors(errors, published, subject.folder)
    pictures = [
        Picture(
            name="few-labels", alt="Test error against the number of labelled images",
            caption="Test error against the number of labelled training images, mean over draws "
            "of these; bars: one standard deviation. Crosses are published figures.",
        )
    ]  # fmt: skip
    if draw_missed(subject.dataset, missed, subject.folder):
        pictures.append(
            Picture(
                name="few-labels-missed", alt="Test images that self-training gets wrong",
                caption=f"Test images that self-training errs on most often with {min(errors)} "
                f"labels, over {len(errors[min(errors)]['best'])} draws; above each, its class.",
            )
        )  # fmt: skip
    return Findings(
        title=TITLE, sentence=_sentence(errors), figures=_figures(subject, errors, published),
        tables=[_table(errors)], pictures=pictures, notes=_notes(config, errors),
        more=_more(errors),
    )  # fmt: skip


def _figures(
    subject: Subject, errors: Errors, published: Mapping[str, Mapping[int, float]]
) -> Sequence[Figure]:
    figures = []
    for n, found in errors.items():
        goal = _GOALS.get((subject.dataset.source, n))
        mean = float(np.mean(found["best"]))
        short = "" if goal is None or mean <= goal else (
            f"Self-training with {n} labels misses {goal} %: the labels spread with an error of "
            f"{np.mean(found['spreading']):.2f} %, and two rounds of networks end at {mean:.2f} %."
        )  # fmt: skip
        figures.append(
            Figure(
                key=f"test/semi_supervised_error_{n}",
                what=f"test error with {n} labels, percent, mean over "
                f"{len(found['best'])} draws (std {np.std(found['best']):.2f})",
                ours=mean, method=METHODS["best"], better="lower", goal=goal, shortfall=short,
                baseline=float(np.mean(found["supervised"])),
                baseline_name=METHODS["supervised"], published=_published(published, n),
            )
        )  # fmt: skip
    return figures


def _published(published: Mapping[str, Mapping[int, float]], n: int) -> Sequence[Published]:
    return [
        Published(value=found[n], name=name, source=_SOURCES.get(name, _KINGMA))
        for name, found in published.items()
        if n in found
    ]


def _more(errors: Errors) -> list[tuple[str, float]]:
    """Return the other methods' means, and the standard deviation of the best's."""
    more = []
    for n, found in errors.items():
        key = f"test/semi_supervised_error_{n}"
        more += [(f"{key}_{name}", float(np.mean(found[name]))) for name in _SUFFIXES]
        more.append((f"{key}_std", float(np.std(found["best"]))))
    return more


def _table(errors: Errors) -> Table:
    rows = [
        [name, *(_cell(found[method]) for found in errors.values())]
        for method, name in METHODS.items()
    ]
    return Table(
        title="Test error in percent, mean ± standard deviation (draws)",
        head=["", *(f"{n} labels" for n in errors)], rows=rows,
    )  # fmt: skip


def _cell(draws: Sequence[float]) -> str:
    return f"{np.mean(draws):.2f} ± {np.std(draws):.2f} ({len(draws)})"


def _sentence(errors: Errors) -> str:
    n = min(errors)
    mean = {name: float(np.mean(draws)) for name, draws in errors[n].items()}
    return " ".join(
        [
            f"With {n} labels self-training errs on {mean['best']:.2f} % of the test images, "
            f"the same network taught by the labels alone on {mean['supervised']:.2f} %; "
            f"spreading alone {mean['spreading']:.2f} %, M1 {mean['m1']:.2f} %, "
            f"M1+M2 {mean['m1_m2']:.2f} %.",
            *filter(None, (_lost(number, found) for number, found in errors.items())),
        ]
    )


def _lost(n: int, found: Mapping[str, Sequence[float]]) -> str:
    """Say to what self-training loses with n labels, over the draws that both have; or nothing."""

    def behind(name: str) -> float:
        common = min(len(found[name]), len(found["best"]))
        return float(np.mean(found["best"][:common]) - np.mean(found[name][:common]))

    rival = max(METHODS, key=behind)
    if behind(rival) <= 0:
        return ""
    common = min(len(found[rival]), len(found["best"]))
    own, theirs = (float(np.mean(found[name][:common])) for name in ("best", rival))
    return f"With {n} labels it loses ({own:.2f} %) to {METHODS[rival]} ({theirs:.2f} %)."


def _notes(config: SemiSupervisedConfig, errors: Errors) -> list[str]:
    notes = [
        "Labelled images are drawn anew for each draw, as many of each class. Test images are in "
        "no graph and in no training; settings were chosen on MNIST's validation images with "
        "other draws.",
        f"M1+M2 makes {config.m2_epochs} passes over the latents with networks of 128 hidden "
        "units; the published one is larger. Support vector machines here see the labels alone; "
        "the published one is transductive.",
        "M2 on pixels is left out: marginalising over the class needs a pass of its networks for "
        "each class and image, ten times a VAE's training for every draw of labels.",
    ]
    if left := [n for n in config.n_labels if n not in errors]:
        notes.append(
            f"Left out: {', '.join(map(str, left))} labels, which are fewer than the classes or "
            "more than the training images."
        )
    return notes
