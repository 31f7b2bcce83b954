r"""What the numbers say about the article's claim: intervals, a verdict for each k, one sentence.

The claim: at equal sparsity level k and equal number of atoms K, decoding sparse codes of latents
reconstructs test images better than sparse-coding their pixels. With :math:`e_i` the squared error
of image i, the statistic is the ratio of means

.. math:: r_k = \sum_i e_i^{\text{article}} / \sum_i e_i^{\text{pixel}} ,

below 1 where the claim holds. Both methods see the same images, hard ones and easy ones, so images
are resampled in pairs: one resample of the test split serves every method and every k. The
percentile interval of :math:`r_k` over the resamples decides: entirely below 1 is "better",
entirely above "worse", anything else "no difference shown".

The interval covers which images were drawn for the test, not how training came out: one seed of
the networks is one sample of that.

References:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Word = Literal["better", "worse", "no difference shown"]

N_RESAMPLES = 2000
"""Resamples of the test split; the ends of a 95 % interval then rest on 50 resamples each."""
MIN_IMAGES = 20
"""Below this many test images a bootstrap interval is too short to be believed."""
_TINY = 1e-9
"""Errors below this count as this, so that 0 / 0 and rounding over rounding are draws: a
thousandth of what rounding pixels to bytes costs, and far above float32's own rounding."""

_ROUNDING = 1e-5
"""Ratios this close to 1 are a draw: one image computed in two ways differs by as much."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The article's method against the pixel dictionary at one sparsity level."""

    k: int
    ratio: float
    """Test MSE of the article's method over that of the pixel dictionary."""
    low: float
    high: float
    """95 % interval of the ratio over test images."""
    verdict: Word


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Where the two error curves cross, as k grows."""

    k: float
    """Interpolated: the logarithm of the ratio, linear in the logarithm of k, is zero here."""
    between: tuple[int, int]
    """The compared sparsity levels on either side."""
    ahead: Literal["article", "pixel"]
    """Which method has the smaller error above the crossing."""


def bootstrap_means(
    errors: NDArray[Any], *, seed: int, n_resamples: int = N_RESAMPLES, block: int = 250
) -> NDArray[np.float64]:
    """Mean error of each column over each of the same resamples of the rows.

    Args:
        errors: One row per image, one column per method and level, shape (n, m).
        seed: Seed of the resamples.
        n_resamples: Number of resamples.
        block: Resamples held in memory at once; the result does not depend on it.

    Returns:
        Shape (n_resamples, m).
    """
    n = len(errors)
    rng = np.random.default_rng(seed)
    centre = errors.mean(axis=0, dtype=np.float64)
    # Centred, so that float32 products lose nothing of the differences that matter.
    centred = (errors - centre).astype(np.float32)
    means = np.empty((n_resamples, errors.shape[1]))
    for start in range(0, n_resamples, block):
        stop = min(start + block, n_resamples)
        counts = np.empty((stop - start, n), np.float32)
        for row in counts:
            row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
        means[start:stop] = centre + counts @ centred / n
    return means


def resample_counts(rng: np.random.Generator, n_resamples: int, n: int) -> NDArray[np.float64]:
    """How often each of n rows is drawn, in each resample, shape (n_resamples, n)."""
    return np.stack(
        [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(n_resamples)]
    ).astype(np.float64)


def interval(samples: NDArray[Any], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap `samples`, shape (n_resamples,)."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio(numerator: Any, denominator: Any) -> Any:  # noqa: ANN401 - floats or arrays alike
    """Quotient of two mean errors, finite even where the denominator is zero."""
    return np.maximum(numerator, _TINY) / np.maximum(denominator, _TINY)


def judge(low: float, high: float, n_images: int) -> Word:
    """Return the verdict that an interval of the ratio allows.

    Args:
        low: Lower end of the interval.
        high: Upper end.
        n_images: Images it rests on; fewer than :data:`MIN_IMAGES` show nothing.
    """
    if n_images < MIN_IMAGES or low - _ROUNDING <= 1 <= high + _ROUNDING:
        return "no difference shown"
    return "better" if high < 1 else "worse"


def weigh(
    levels: Sequence[int],
    article: NDArray[Any],
    pixel: NDArray[Any],
    article_means: NDArray[Any],
    pixel_means: NDArray[Any],
) -> list[Claim]:
    """Judge the claim at every level.

    Args:
        levels: The sparsity levels, m of them.
        article: Squared error per image of the article's method, shape (n, m).
        pixel: The same of the pixel dictionary, for the same images in the same order.
        article_means: Means over resamples (:func:`bootstrap_means`), shape (n_resamples, m).
        pixel_means: Means over the same resamples.
    """
    claims = []
    for i, k in enumerate(levels):
        point = ratio(article[:, i].mean(dtype=np.float64), pixel[:, i].mean(dtype=np.float64))
        low, high = interval(ratio(article_means[:, i], pixel_means[:, i]))
        verdict = judge(low, high, len(article))
        claims.append(Claim(k=k, ratio=float(point), low=low, high=high, verdict=verdict))
    return claims


def crossovers(claims: Sequence[Claim]) -> list[Crossover]:
    """Find where the ratio passes 1 between neighbouring levels, by interpolation in log k."""
    found = []
    # A level at which both errors are equal to the last bit lies on neither side.
    for a, b in pairwise(c for c in claims if c.ratio != 1):
        left, right = math.log(a.ratio), math.log(b.ratio)
        if left * right < 0:
            share = left / (left - right)
            k = a.k * (b.k / a.k) ** share
            ahead: Literal["article", "pixel"] = "article" if right < left else "pixel"
            found.append(Crossover(k=k, between=(a.k, b.k), ahead=ahead))
    return found


def sentence(
    claims: Sequence[Claim],
    crossings: Sequence[Crossover],
    article: Sequence[Claim] | None = None,
    descended: Sequence[Claim] | None = None,
) -> str:
    """Say in one plain sentence whether the claim held, at which k, and where the curves cross.

    Args:
        claims: Of the method that is judged.
        crossings: Of its curve and that of the pixel dictionary.
        article: The claims of the article's own recipe, where `claims` are those of the refined
            method: what holds for one must not be said of the other.
        descended: The claims against pixel codes that descend the clipped error, too.
    """
    groups = {word: [c for c in claims if c.verdict == word] for word in _PHRASES}
    parts = [
        _PHRASES[word].format(k=_levels(group), change=_change(group))
        for word, group in groups.items()
        if group
    ]
    opening = _opening(groups, len(claims))
    told = f"{'; '.join(parts)}; {_crossing_words(crossings)}."
    if article is None:
        return f"{opening}: {told}"
    won = [c for c in article if c.verdict == "better"]
    where = f"at {_levels(won)}" if won else "at no sparsity level"
    opening = opening.replace("The article's claim", "With refinement, the article's claim", 1)
    rival = "" if descended is None else f" {_descended_words(descended)}"
    return f"{opening}: {told}{rival} With the article's own recipe, unrefined, it held {where}."


def _descended_words(claims: Sequence[Claim]) -> str:
    """Say what remains when the coefficients of pixels descend the clipped error as well."""
    won = [c for c in claims if c.verdict == "better"]
    told = "not shown to be better"
    if won:
        where = "every k" if len(won) == len(claims) else _levels(won)
        told = f"better at {where} ({_change(won)})"
    return f"Against pixel codes whose coefficients descend the clipped error, too, it is {told}."


_PHRASES: Mapping[Word, str] = {
    "better": "at {k} decoding sparse codes of latents reconstructs test images better than "
    "sparse-coding their pixels ({change})",
    "worse": "at {k} it is worse ({change})",
    "no difference shown": "at {k} no difference is shown ({change})",
}


def _opening(groups: Mapping[Word, Sequence[Claim]], n: int) -> str:
    n_better = len(groups["better"])
    if n_better == n:
        return "The article's claim held at every sparsity level"
    if n_better:
        return f"The article's claim held at {n_better} of {n} sparsity levels"
    return "The article's claim did not hold at any sparsity level"


def _levels(claims: Sequence[Claim]) -> str:
    return "k = " + _listed([str(c.k) for c in claims])


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _change(claims: Sequence[Claim]) -> str:
    """Say by how much the mean squared error differs, from the smallest to the largest change."""
    ratios = sorted((c.ratio for c in claims), key=lambda r: abs(math.log(r)))
    first, last = _size(ratios[0]), _size(ratios[-1])
    return "mean squared error " + (first if first == last else f"{first} to {last}")


def _size(ratio: float) -> str:
    """Say a ratio as a change in percent, or as a multiple where percents are hard to read."""
    if ratio >= 2:
        return f"{ratio:.3g} times as large"
    change = 100 * (ratio - 1)
    digits = 0 if abs(change) >= 1 else 2  # what is shown to differ is not to read as nothing
    return f"{change:+.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def _crossing_words(crossings: Sequence[Crossover]) -> str:
    if not crossings:
        return "the curves do not cross in this range"
    where = [f"near k = {c.k:.1f} (between {c.between[0]} and {c.between[1]})" for c in crossings]
    return f"the curves cross {_listed(where)}"


def as_json(value: Claim | Crossover) -> dict[str, Any]:
    """Return a claim or a crossover as a plain dict."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(value).items()}
