r"""Why an image is anomalous: which terms, which pixels, which atoms, and what no atom explains.

*Terms.* The score is a weighted mean of standardised terms: each term's share of it is exact.

*Pixels.* Four terms are (logarithms of) sums of squares over pixels or over cells of a grid. The
heat map gives each of them its share of the score, where it is above zero, and spreads that over
the pixels as its sum of squares is spread; what cells have goes to their pixels by their windows.
The map's sum is so the part of the score that has a place in the image.

*Atoms.* Of each atom the image uses: how many nats its being used and its coefficient are above
what they are on average when usual images use an atom (:mod:`.atoms`), and what it contributes
to the picture, :math:`g(D a) - g(D a - a_j d_j)` with the decoder g. What no atom explains is
:math:`\|z - D a\|^2`, shown as its standardised term.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.detector import Detector, Verdict
from vaesc.applications.anomaly.terms import NEIGHBOURS, Coded, Seen
from vaesc.applications.anomaly.views import DIRECTIONS, pixel_windows, stroke_windows

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AtomShare:
    """One atom that an image uses."""

    atom: int
    coefficient: float
    use_nats: float
    """-log of the probability that a usual image uses the atom."""
    coefficient_nats: float
    """Half the squared distance of the coefficient from that of usual images, in their std."""
    contribution: Floats
    """What it changes in the decoded image, shape (*shape)."""

    @property
    def nats(self) -> float:
        """How surprising the atom is in this image."""
        return self.use_nats + self.coefficient_nats


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why one image has its score."""

    image: Floats
    rebuilt: Floats
    score: float
    p_value: float
    terms: dict[str, float]
    """What each term adds to the score; they sum to it."""
    heat: Doubles
    """Where in the image, shape (*shape), at least 0; sums to the terms that have a place."""
    atoms: tuple[AtomShare, ...]
    """The atoms it uses, the most surprising first."""
    unexplained: float
    """What no atom explains: the standardised latent residual."""


def explain(detector: Detector, unit: Floats) -> list[Explanation]:
    """Explain the scores of images in [0, 1], shape (n, *shape); meant for tens of them."""
    verdict, coded = detector.judge(unit), Coded.of(detector.model, unit)
    added = verdict.terms * detector.weights
    heats = _heat(detector, unit, coded, dict(zip(verdict.names, added.T, strict=True)))
    return [
        Explanation(
            image=unit[i], rebuilt=coded.rebuilt[i], score=float(verdict.scores[i]),
            p_value=float(verdict.p_values[i]), heat=heats[i],
            terms=dict(zip(verdict.names, added[i].tolist(), strict=True)),
            atoms=_atoms(detector, coded, i), unexplained=_unexplained(verdict, i),
        )
        for i in range(len(unit))
    ]  # fmt: skip


def _unexplained(verdict: Verdict, i: int) -> float:
    return float(verdict.terms[i, verdict.names.index("latent_residual")])


def _atoms(detector: Detector, coded: Coded, i: int) -> tuple[AtomShare, ...]:
    model, use = detector.model, detector.memory.use
    start, stop = coded.codes.indptr[i : i + 2]
    atoms = np.asarray(coded.codes.indices[start:stop], np.int64)
    values = np.asarray(coded.codes.data[start:stop], np.float64)
    if not len(atoms):
        return ()
    near = model.dictionary.decode(coded.codes[i : i + 1])
    steps = values[:, None] * model.dictionary.dictionary[atoms] * model.dictionary.scale
    without = model.unit_images(np.asarray(near - steps, np.float32))
    used, _ = use.surprise(atoms, values)
    away = np.square((values - use.mean[atoms]) / use.std[atoms]) / 2
    shares = [
        AtomShare(
            atom=int(atoms[j]), coefficient=float(values[j]), use_nats=float(used[j]),
            coefficient_nats=float(away[j]), contribution=coded.rebuilt[i] - without[j],
        )
        for j in range(len(atoms))
    ]  # fmt: skip
    return tuple(sorted(shares, key=lambda s: (-s.nats, s.atom)))


def _heat(detector: Detector, unit: Floats, coded: Coded, added: dict[str, Doubles]) -> Doubles:
    memory, seen = detector.memory, Seen.of(unit)
    squares = {"reconstruction": np.square(unit - coded.rebuilt, dtype=np.float64)}
    near = _near_squares(seen.pixels, memory.pixels)
    squares["pixel_neighbours"] = _pixels_of_cells(near, unit.shape)
    if seen.strokes is not None and memory.strokes is not None:
        near = _near_squares(seen.strokes, memory.strokes)
        left = np.square(memory.stroke_residuals(seen.strokes), dtype=np.float64)
        squares["stroke_neighbours"] = _pixels_of_strokes(near, unit.shape)
        squares["stroke_sparse"] = _pixels_of_strokes(left, unit.shape)
    heat = np.zeros(unit.shape)
    for name, values in squares.items():
        total = values.reshape(len(unit), -1).sum(axis=1)
        amount = np.maximum(added[name], 0) / np.where(total > 0, total, 1)
        heat += values * amount.reshape(-1, *[1] * (unit.ndim - 1))
    return heat


def _near_squares(queries: Floats, reference: Floats) -> Doubles:
    """Return the mean squared difference to the three nearest, by feature, shape (n, F)."""
    from vaesc.applications.neighbours import nearest

    rows = nearest(queries, reference, min(NEIGHBOURS, len(reference)))[0]
    difference = reference[rows] - queries[:, None]
    return np.asarray(np.square(difference, dtype=np.float64).mean(axis=1), np.float64)


def _pixels_of_strokes(cells: Doubles, shape: tuple[int, ...]) -> Doubles:
    """Spread squares of strokes, shape (n, F), over the pixels; sums are kept."""
    rows, columns = stroke_windows(shape[-2:])
    grid = cells.reshape(len(cells), DIRECTIONS, len(rows), len(columns)).sum(axis=1)
    spread = rows.T.astype(np.float64) @ grid @ columns
    if len(shape) == 3:
        return np.asarray(spread, np.float64)
    channels = shape[1]
    return np.repeat(spread[:, None] / channels, channels, axis=1)


def _pixels_of_cells(cells: Doubles, shape: tuple[int, ...]) -> Doubles:
    """Spread squares of blurred pixels over the pixels; sums are kept."""
    if cells.shape[1] == int(np.prod(shape[1:])):
        return cells.reshape(shape)
    rows, columns = pixel_windows(shape[-2:])
    grid = cells.reshape(len(cells), *shape[1:-2], len(rows), len(columns))
    return np.asarray(rows.T.astype(np.float64) @ grid @ columns, np.float64)
