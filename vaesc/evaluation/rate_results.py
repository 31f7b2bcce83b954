"""Rate and distortion for ``results.json``: points, the best of them, and the ratio at equal bits.

Which point (k, q) serves a budget is chosen on the validation split, and what it yields is
measured on the test split: the choice sees none of the images it is judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.evaluation.methods import Method
from vaesc.evaluation.pool import pooled_rows, safe_tensors
from vaesc.evaluation.rate import COEFFICIENT_BITS, Rates
from vaesc.evaluation.tensor_file import TensorFile
from vaesc.evaluation.verdict import bootstrap_means, interval, judge, ratio

RATE_ERRORS = "rate_errors.safetensors"
SIDES = ("claimant", "pixel")
"""Names in that file: each test image's error at each budget, shape (n, b)."""
BITS_OF_A_NUMBER = 32
"""What a weight or an entry of an atom is counted as: float32."""

Floats = NDArray[np.float32]
Place = tuple[int, int]
"""Indices of a level and of a number of bits."""


def assemble_rates(
    rates: Mapping[str, Rates],
    levels: Sequence[int],
    methods: Sequence[Method],
    n_images: int,
    *,
    claimant: str,
    seed: int,
) -> dict[str, Any]:
    """Return what ``results["rate"]`` holds.

    Args:
        rates: Of each codec.
        levels: Sparsity levels.
        methods: All methods, of which the amortised cost is told.
        n_images: Images that networks and dictionaries are shared by.
        claimant: Codec that is held against ``pixel``.
        seed: Seed of the bootstrap.
    """
    means = {name: _resampled(r, seed) for name, r in rates.items()}
    ours, theirs = rates[claimant], rates["pixel"]
    budgets, chosen = chosen_points(rates, claimant)
    ratios = []
    for b, here, there in zip(budgets, chosen["claimant"], chosen["pixel"], strict=True):
        point = ratio(_mean(ours.errors[:, *here]), _mean(theirs.errors[:, *there]))
        low, high = interval(ratio(means[claimant][:, *here], means["pixel"][:, *there]))
        verdict = judge(low, high, len(ours.errors))
        ratios.append(
            {
                "bits": b, "ratio": float(point), "low": low, "high": high, "verdict": verdict,
                "claimant": _place(levels, here), "pixel": _place(levels, there),
            }
        )  # fmt: skip
    return {
        "coefficient_bits": list(COEFFICIENT_BITS),
        "methods": {
            name: {
                "points": _points(r, levels, means[name]),
                "envelope": _envelope(r, levels),
            }
            for name, r in rates.items()
        },
        "ratio": ratios,
        "amortised": amortised(methods, n_images),
        "amortised_over": n_images,
    }


def chosen_points(
    rates: Mapping[str, Rates], claimant: str
) -> tuple[list[int], dict[str, list[Place]]]:
    """Return the budgets, and for each side the point that validation chooses for each."""
    sides = dict(zip(SIDES, (rates[claimant], rates["pixel"]), strict=True))
    budgets = common_budgets(*(r.bits for r in sides.values()))
    chosen = {
        side: [best_within(r.bits, r.validation, b) for b in budgets] for side, r in sides.items()
    }
    return budgets, chosen


def common_budgets(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[int]:
    """Return budgets in whole bits that both can use, two an octave and the largest.

    They depend on levels, atoms and bits alone, so that runs of several seeds share them.

    Args:
        ours: Bits of the points of one method.
        theirs: Bits of those of another.
    """
    low = int(np.ceil(max(ours.min(), theirs.min())))
    high = int(np.floor(min(ours.max(), theirs.max())))
    steps = int(2 * np.log2(max(high / low, 1.0))) + 1
    return sorted({*(int(np.ceil(low * 2 ** (i / 2))) for i in range(steps)), max(low, high)})


def best_within(bits: NDArray[np.float64], errors: NDArray[np.float64], budget: float) -> Place:
    """Return the indices of the point of least error among those within a budget of bits."""
    allowed = np.where(bits <= budget + 1e-9, errors, np.inf)
    return divmod(int(np.argmin(allowed)), len(bits[0]))


def amortised(methods: Sequence[Method], n_images: int) -> dict[str, dict[str, float]]:
    """Return what networks and dictionaries cost: paid once, here spread over all images."""
    return {
        m.name: {
            "numbers": m.numbers,
            "bits_per_image": BITS_OF_A_NUMBER * m.numbers / n_images,
        }
        for m in methods
    }


class RateErrors:
    """Writes each test image's error at each budget of ``rate.ratio``, as it is measured.

    Args:
        folder: Where ``rate_errors.safetensors`` is written.
        claimant: Codec that is held against ``pixel``.
    """

    def __init__(self, folder: Path, claimant: str) -> None:
        self.folder, self.sides = folder, dict(zip(SIDES, (claimant, "pixel"), strict=True))
        self._files = ExitStack()

    def begin(self, rates: Mapping[str, Rates], n: int) -> None:
        """Choose the points by what they yield on validation images."""
        budgets, self._chosen = chosen_points(rates, self.sides["claimant"])
        shapes = dict.fromkeys(SIDES, (n, len(budgets)))
        self._file = self._files.enter_context(TensorFile(self.folder / RATE_ERRORS, shapes))

    def add(self, codec: str, rows: slice, errors: Floats) -> None:
        """Write the errors of consecutive test images, if the codec is one of the two."""
        for side, name in self.sides.items():
            if name == codec:
                chosen = np.stack([errors[:, *at] for at in self._chosen[side]], axis=1)
                self._file.write(side, rows.start, chosen)

    def __enter__(self) -> RateErrors:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()


def read_rate_errors(folder: Path) -> dict[str, Floats]:
    """Return what :class:`RateErrors` wrote, (n, b) each, or pools of it."""
    with safe_tensors(folder / RATE_ERRORS) as file:
        return {side: pooled_rows(file, side) for side in file.keys()}  # noqa: SIM118 - no dict


def _resampled(rates: Rates, seed: int) -> NDArray[np.float64]:
    """Mean errors over resamples, the same for every codec, shape (n_resamples, m, q)."""
    flat = rates.errors.reshape(len(rates.errors), -1)
    return bootstrap_means(flat, seed=seed).reshape(-1, *rates.bits.shape)


def _points(
    rates: Rates, levels: Sequence[int], resampled: NDArray[np.float64]
) -> list[dict[str, Any]]:
    points = []
    n_levels, n_bits = rates.bits.shape
    for at in product(range(n_levels), range(n_bits)):
        low, high = interval(resampled[:, *at])
        points.append({**_point(rates, levels, at), "low": low, "high": high})
    return points


def _envelope(rates: Rates, levels: Sequence[int]) -> list[dict[str, Any]]:
    """Return the staircase: each point that is better than all cheaper ones, by validation."""
    stairs, least = [], np.inf
    order = np.lexsort((rates.validation.ravel(), rates.bits.ravel()))
    for index in order:
        at = divmod(int(index), len(COEFFICIENT_BITS))
        if rates.validation[at] < least:
            least = rates.validation[at]
            stairs.append(_point(rates, levels, at))
    return stairs


def _point(rates: Rates, levels: Sequence[int], at: Place) -> dict[str, Any]:
    bits = float(rates.bits[at])
    return {**_place(levels, at), "bits": bits, "mse": _mean(rates.errors[:, at[0], at[1]])}


def _place(levels: Sequence[int], at: Place) -> dict[str, int]:
    return {"k": int(levels[at[0]]), "q": COEFFICIENT_BITS[at[1]]}


def _mean(errors: NDArray[Any]) -> float:
    return float(errors.mean(dtype=np.float64))
