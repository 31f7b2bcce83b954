r"""Whether a batch has drifted, by how much in which respect, and why: one sentence with numbers.

A statistic speaks for drift only if it exceeds both

- its *threshold* (:mod:`vaesc.drift.null`): more than chance gives, at a stated rate of false
  alarms; what governs small batches, and
- its *floor*: an effect that somebody would care about; what governs large ones, in which every
  trifle is beyond chance.

All floors mean the same: what happens when one image in ten is wholly foreign, that is, uses atoms
that no image of the reference uses (a divergence of 0.052 bit), uses no atom or twice as many (a
shift of a tenth of the reference's L0), or has an error above all of the reference's (a distance
of 0.1).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vaesc.drift.null import ALPHA, DRAWS, NAMES, thresholds
from vaesc.drift.reference import Reference
from vaesc.drift.statistics import (
    Statistics,
    divergence_by_atom,
    mse_distance,
    usage_divergence,
)
from vaesc.errors import DataError

_SHOWN = 3
"""Most atoms that the reason names in each direction."""


@dataclass(frozen=True, kw_only=True)
class Floors:
    """Effects below which no batch counts as drifted."""

    usage_divergence: float = 0.052
    """Jensen-Shannon divergence of the uses of atoms, in bits."""
    l0_shift: float = 0.1
    """Difference of the mean numbers of atoms, as a share of the reference's."""
    mse_distance: float = 0.1
    """Kolmogorov-Smirnov distance of the errors."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """One respect in which a batch may differ from the reference."""

    name: str
    """``usage_divergence``, ``l0_shift`` or ``mse_distance``."""
    value: float
    threshold: float
    """What chance exceeds at most rarely."""
    floor: float
    """What somebody would care about."""
    exceeded: bool
    """Whether `value` is above both."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The verdict on a batch of images."""

    drifted: bool
    """Whether any statistic is exceeded."""
    reason: str
    """Why, or why not: one sentence."""
    statistics: tuple[Statistic, ...]
    n_images: int
    """Images of the batch."""
    alpha: float
    """Largest probability of an alarm on a batch that is like the reference."""

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return {**asdict(self), "statistics": [asdict(s) for s in self.statistics]}


def compare(
    reference: Reference,
    statistics: Statistics,
    *,
    alpha: float = ALPHA,
    floors: Floors = Floors(),
    draws: int = DRAWS,
    seed: int = 0,
) -> Drift:
    """Say whether a batch has drifted from the reference.

    Args:
        reference: What the model makes of its own data.
        statistics: What it makes of the batch.
        alpha: Largest probability that a batch like the reference exceeds any threshold.
        floors: Effects below which nothing is said to have drifted.
        draws: Pairs drawn for the thresholds, see :func:`vaesc.drift.thresholds`.
        seed: Seed of these draws.

    Raises:
        DataError: The batch is empty, or was counted beside another reference.
        ConfigError: `alpha` is too small for so few draws.
    """
    if not statistics.n_images:
        raise DataError("a batch of no images cannot have drifted; give at least one")
    k, places = reference.n_atoms, 2 * reference.n_images + 1
    if (len(statistics.uses), len(statistics.places)) != (k, places):
        raise DataError(
            f"the batch was counted beside another reference: it has {len(statistics.uses)} atoms "
            f"and {len(statistics.places)} places, this one {k} and {places}; count it anew"
        )
    limits = thresholds(reference, statistics.n_images, alpha, draws, seed)
    l0 = float(np.mean(reference.l0))
    values = (
        float(usage_divergence(statistics.uses, reference.uses)),
        abs(statistics.l0 - l0),
        mse_distance(reference, statistics),
    )
    least = (floors.usage_divergence, floors.l0_shift * l0, floors.mse_distance)
    found = tuple(
        Statistic(name=n, value=v, threshold=t, floor=f, exceeded=v > max(t, f))
        for n, v, t, f in zip(NAMES, values, limits, least, strict=True)
    )
    return Drift(
        drifted=any(s.exceeded for s in found),
        reason=_reason(reference, statistics, found),
        statistics=found,
        n_images=statistics.n_images,
        alpha=alpha,
    )


def _reason(reference: Reference, statistics: Statistics, found: tuple[Statistic, ...]) -> str:
    batch = f"the batch ({_images(statistics.n_images)})"
    own = f"the model's own data ({reference.n_images:,} validation images)"
    told = dict(zip(NAMES, _told(reference, statistics, found), strict=True))
    exceeded = [told[s.name] for s in found if s.exceeded]
    if not exceeded:
        return f"No drift: {batch} is like {own}: {_list(list(told.values()))}."
    return f"Drift: {batch} differs from {own}: {_list(exceeded)}."


def _told(
    reference: Reference, statistics: Statistics, found: tuple[Statistic, ...]
) -> tuple[str, str, str]:
    """Return what there is to say of each statistic."""
    usage, l0, mse = (
        f"{s.value:.3g}{unit}, alarm above {max(s.threshold, s.floor):.3g}"
        for s, unit in zip(found, (" bit", "", ""), strict=True)
    )
    atoms = _atoms(reference, statistics) if found[0].exceeded else ""
    errors = float(np.mean(reference.mse))
    fold = _fold(statistics.mse, errors)
    return (
        f"its use of atoms differs (by {usage}){atoms}",
        f"an image uses {statistics.l0:.2f} atoms against {np.mean(reference.l0):.2f} "
        f"(difference {l0})",
        f"the mean error is {fold} ({statistics.mse:.4g} against {errors:.4g}; distance of "
        f"the errors {mse})",
    )  # fmt: skip


def _atoms(reference: Reference, statistics: Statistics) -> str:
    """Name the atoms that add most to the divergence, with the change of their share of images."""
    share = statistics.uses / statistics.n_images
    before = reference.uses / reference.n_images
    order = np.argsort(-divergence_by_atom(statistics.uses, reference.uses), kind="stable")
    more = [int(j) for j in order if share[j] > before[j]][:_SHOWN]
    less = [int(j) for j in order if share[j] < before[j]][:_SHOWN]
    told = [
        f"{_list([f'{j} ({_fold(share[j], before[j])})' for j in some])} {how}"
        for some, how in ((more, "more"), (less, "less"))
        if some
    ]
    return f", atoms {_list(told)}" if told else ""


def _fold(value: float, before: float) -> str:
    if before == 0:
        return "new" if value else "1-fold"
    return f"{value / before:.2g}-fold" if value < 10 * before else f"{value / before:.0f}-fold"


def _images(n: int) -> str:
    return f"{n:,} image{'' if n == 1 else 's'}"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
