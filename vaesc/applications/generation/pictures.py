"""What the priors look like: samples beside real images, ways between images, switched atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.findings import Picture
from vaesc.applications.generation.interpolation import linear, spherical
from vaesc.applications.generation.scoring import Judge, Scores
from vaesc.report.sprites import as_picture
from vaesc.report.style import Theme, save_themed

if TYPE_CHECKING:
    from vaesc.applications.generation.sampler import Sampler

Floats = NDArray[np.float32]
Row = tuple[str, Floats]
"""What a row shows, and its images, (n, *shape) in [0, 1]."""

N_SHOWN = 10
_N_WAYS, _N_ATOMS = 3, 3


def draw_samples(
    judge: Judge,
    scored: Mapping[str, Scores],
    labels: Mapping[str, str],
    with_nearest: Sequence[str],
) -> Picture:
    """Draw the first samples of each prior, some above the training images nearest to them."""
    rows: list[Row] = [("test images", judge.first_test[:N_SHOWN])]
    for name, scores in scored.items():
        rows.append((labels[name], scores.first[:N_SHOWN]))
        if name in with_nearest:
            dataset = judge.subject.dataset
            nearest = [dataset.floats("train", slice(i, i + 1)) for i in scores.nearest[:N_SHOWN]]
            rows.append(("  nearest training images", np.concatenate(nearest)))
    save_rows(rows, judge, "samples")
    return Picture(
        name="samples",
        alt="A row of samples for each prior, below a row of test images",
        caption="The first samples of each prior, not chosen; below some of them the training "
        "images that are nearest to them in pixels.",
    )


def draw_ways(sampler: Sampler, judge: Judge) -> Picture:
    """Draw ways between pairs of test images, straight and along the sphere."""
    n_pairs = min(_N_WAYS, len(judge.first_test) // 2)
    ends = sampler.model.latents_of_unit(judge.first_test[: 2 * n_pairs])
    rows: list[Row] = []
    for first, last in ends.reshape(n_pairs, 2, -1):
        centre = sampler.model.dictionary.mean
        rows += [
            ("linear", sampler.model.unit_images(linear(first, last, N_SHOWN))),
            ("spherical", sampler.model.unit_images(spherical(first, last, N_SHOWN, centre))),
        ]
    save_rows(rows, judge, "interpolation")
    return Picture(
        name="interpolation",
        alt="Rows of images that lead from one test image to another",
        caption="From one test image to another in equal steps of the latent: along a straight "
        "line, and along the sphere around the mean latent.",
    )


def draw_switched(sampler: Sampler, judge: Judge) -> Picture:
    """Draw samples of the sparse prior with the atoms that it uses most switched on and off."""
    rng = judge.subject.rng("generation/pictures/atoms")
    codes = sampler.priors.codes.sample(1000, rng)
    uses = np.bincount(codes.indices, minlength=sampler.model.n_atoms)
    atoms = [int(a) for a in np.argsort(-uses, kind="stable")[:_N_ATOMS]]

    def made(on: Sequence[int] = (), off: Sequence[int] = ()) -> Floats:
        latents = sampler.latents(N_SHOWN, rng, prior="sparse", on=on, off=off)
        return sampler.model.unit_images(latents)

    rows: list[Row] = [("all atoms free", made())]
    rows += [(f"atom {atom} on", made(on=[atom])) for atom in atoms]
    rows += [(f"atom {atom} off", made(off=[atom])) for atom in atoms]
    save_rows(rows, judge, "atoms")
    return Picture(
        name="atoms",
        alt="Rows of samples with an atom switched on or off",
        caption=f"Samples of the sparse-code prior. Its most used atoms are "
        f"{', '.join(map(str, atoms))}; each is switched on in one row, and off in another.",
    )


def draw_classes(sampler: Sampler, judge: Judge) -> Picture:
    """Draw samples of each class."""
    rng = judge.subject.rng("generation/pictures/classes")
    rows = [
        (name, sampler.model.unit_images(sampler.latents(N_SHOWN, rng, of_class=name)))
        for name in list(sampler.priors.by_class)[:20]
    ]
    save_rows(rows, judge, "classes")
    return Picture(
        name="classes", alt="A row of samples for each class",
        caption="The first samples of each class's own mixture, not chosen.",
    )  # fmt: skip


def save_rows(rows: Sequence[Row], judge: Judge, name: str) -> None:
    """Save rows of images with their words beside them, in both themes."""
    save_themed(lambda theme: _figure(rows, theme), judge.subject.folder, name)


def _figure(rows: Sequence[Row], theme: Theme) -> Any:  # noqa: ANN401 - matplotlib's
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 0.62 * len(rows) + 0.1), facecolor=theme.background)
    grid = figure.subplots(
        len(rows), 1, squeeze=False,
        gridspec_kw={"left": 0.25, "right": 0.995, "top": 0.99, "bottom": 0.01, "hspace": 0.08},
    )[:, 0]  # fmt: skip
    for axes, (words, images) in zip(grid, rows, strict=True):
        strip = _strip(images)
        grey = strip.ndim == 2
        axes.imshow(strip, vmin=0, vmax=1, cmap="gray" if grey else None, aspect="equal")
        axes.set_anchor("W")
        axes.set_axis_off()
        axes.text(
            -0.02, 0.5, words, transform=axes.transAxes, ha="right", va="center",
            fontsize=8.5, color=theme.ink,
        )  # fmt: skip
    return figure


def _strip(images: Floats) -> Floats:
    """Return pictures side by side."""
    pictures = [np.nan_to_num(as_picture(image)) for image in images]
    return np.concatenate(pictures, axis=1)
