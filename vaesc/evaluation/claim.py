r"""The claim over several seeds: one ratio, one interval and one verdict for each sparsity level.

Each seed is a whole pipeline: other splits where the source has none, other first weights, other
dictionaries. With :math:`e^s_i` the squared error of test image i under seed s, the statistic is

.. math:: r_k = \sum_s \sum_i e^{s, \text{ours}}_i \Big/ \sum_s \sum_i e^{s, \text{pixel}}_i .

Both sources of chance are resampled with replacement: seeds, and test images in pairs (one draw of
rows serves both methods and every k) and, since seeds share the test images, one draw for all.
Where a source has no test split of its own, its rows are other images under
every seed; they are then drawn for each seed by itself.

With few seeds the interval says little about seeds: three can be drawn in ten ways. The ratio of
every seed is therefore given beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.evaluation.rate import rate
from vaesc.evaluation.verdict import N_RESAMPLES, interval, judge, ratio, resample_counts

Errors = Mapping[str, NDArray[Any]]
"""Method -> squared error of each test image at each level, shape (n, m)."""


def resampled_means(
    errors: Sequence[NDArray[Any]],
    *,
    shared: bool,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    block: int = 200,
) -> NDArray[np.float64]:
    """Mean of each column over resamples of seeds and of images.

    Args:
        errors: One array a seed, rows images, columns methods and levels, all of one shape (n, m).
        shared: Whether row i is the same image under every seed.
        seed: Seed of the resamples.
        n_resamples: Number of resamples.
        block: Resamples held in memory at once; the result does not depend on it.

    Returns:
        Shape (n_resamples, m).
    """
    n_seeds, n = len(errors), len(errors[0])
    # A stream for the seeds, and one for the images of each: blocks then shift nothing.
    rng, *images = (np.random.default_rng([seed, stream]) for stream in range(n_seeds + 1))
    draws = rng.integers(0, n_seeds, (n_resamples, n_seeds))
    share = np.stack([(draws == s).mean(axis=1) for s in range(n_seeds)])
    means = np.zeros((n_resamples, errors[0].shape[1]))
    for start in range(0, n_resamples, block):
        rows = slice(start, min(start + block, n_resamples))
        for s, columns in enumerate(errors):
            if s == 0 or not shared:
                counts = resample_counts(images[s], rows.stop - start, n)
            means[rows] += share[s, rows, None] * (counts @ np.asarray(columns, np.float64)) / n
    return means


def weigh_seeds(
    by_seed: Sequence[Errors],
    levels: Sequence[int],
    *,
    claimant: str,
    shared: bool,
    seed: int,
    unexplained: Sequence[Errors] | None = None,
    rates: Sequence[Errors] | None = None,
    budgets: Sequence[int] = (),
) -> dict[str, Any]:
    """Judge the claim, at equal k and at equal bits, and what learning was worth, over seeds.

    Args:
        by_seed: Errors of every method, one mapping a seed; NaN at a level that a method lacks.
        levels: Sparsity levels, the columns of every array.
        claimant: Method whose errors are held against those of ``pixel``.
        shared: Whether row i is the same image under every seed.
        seed: Seed of the resamples.
        unexplained: Of ``article`` and ``random``, each latent's share of the FVU.
        rates: Errors of ``claimant`` and ``pixel`` at each of `budgets`, shape (n, b).
        budgets: Bits an image.

    Returns:
        ``claim``, ``article_claim`` and, where there is ``pixel_descended`` to hold it against,
        ``descended_claim`` (for each k: ratio, low, high, verdict, by_seed),
        ``geometric_mean`` (of the ratios, with its interval), ``learned_against_random`` (k ->
        ``mse`` and, where `unexplained` is given, ``fvu``, each as an entry of ``claim``: the
        article's learned dictionary over a random one), ``methods`` (MSE, and ratio to the pixel
        dictionary, with intervals; None at a level that a method lacks) and, where `rates` is
        given, ``rate`` (as ``claim``, for each budget of bits).
    """
    seeds = _Seeds(
        [
            _named("", errors) | _named("fvu/", fvu) | _named("rate/", rate)
            for errors, fvu, rate in zip(
                by_seed, unexplained or [{}] * len(by_seed), rates or [{}] * len(by_seed),
                strict=True,
            )
        ],
        shared=shared, seed=seed,
    )  # fmt: skip
    claims = seeds.compare("k", levels, claimant, "pixel")
    learned = {"mse": seeds.compare("k", levels, "article", "random")}
    if unexplained:
        learned["fvu"] = seeds.compare("k", levels, "fvu/article", "fvu/random")
    found = {
        "claim": claims,
        "geometric_mean": _geometric_mean(claims, seeds, claimant),
        "article_claim": seeds.compare("k", levels, "article", "pixel"),
        "descended_claim": (
            seeds.compare("k", levels, claimant, "pixel_descended")
            if "pixel_descended" in by_seed[0]
            else None
        ),
        "learned_against_random": {
            str(k): {metric: _without(compared[i], "k") for metric, compared in learned.items()}
            for i, k in enumerate(levels)
        },
        "methods": {name: _curve(seeds, name, levels) for name in by_seed[0]},
    }
    if rates:
        found["rate"] = seeds.compare("bits", budgets, "rate/claimant", "rate/pixel")
    return found


class _Seeds:
    """Named groups of columns of errors under several seeds, and all their resamples."""

    def __init__(self, by_seed: Sequence[Errors], *, shared: bool, seed: int) -> None:
        self.by_seed = by_seed
        first = by_seed[0]
        stacked = [np.concatenate([errors[name] for name in first], axis=1) for errors in by_seed]
        self.n = len(stacked[0])
        means = resampled_means(stacked, shared=shared, seed=seed)
        ends = np.cumsum([group.shape[1] for group in first.values()])[:-1]
        self.resampled = dict(zip(first, np.split(means, ends, axis=1), strict=True))

    def means(self, name: str) -> NDArray[np.float64]:
        """Return the mean errors of a group, shape (seeds, columns)."""
        return np.array([[_mean(column) for column in e[name].T] for e in self.by_seed])

    def compare(
        self, key: str, places: Sequence[int], ours: str, theirs: str
    ) -> list[dict[str, Any]]:
        """Hold one group against another, column by column; `places` are their names of `key`."""
        here, there = self.means(ours), self.means(theirs)
        resampled = ratio(self.resampled[ours], self.resampled[theirs])
        compared = []
        for i, place in enumerate(places):
            low, high = interval(resampled[:, i])
            compared.append(
                {
                    key: int(place),
                    "ratio": float(ratio(here[:, i].sum(), there[:, i].sum())),
                    "low": low,
                    "high": high,
                    "verdict": judge(low, high, self.n),
                    "by_seed": ratio(here[:, i], there[:, i]).tolist(),
                }
            )
        return compared


def _named(prefix: str, errors: Errors) -> dict[str, NDArray[Any]]:
    return {prefix + name: array for name, array in errors.items()}


def _without(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


def _geometric_mean(
    claims: Sequence[Mapping[str, Any]], seeds: _Seeds, claimant: str
) -> dict[str, float]:
    logs = np.log(ratio(seeds.resampled[claimant], seeds.resampled["pixel"])).mean(axis=1)
    low, high = interval(np.exp(logs))
    middle = math.exp(float(np.mean([math.log(c["ratio"]) for c in claims])))
    return {"ratio": middle, "low": low, "high": high}


def _curve(seeds: _Seeds, name: str, levels: Sequence[int]) -> dict[str, Any]:
    """One method: MSE, and ratio to the pixel dictionary, each with its interval."""
    means, against = seeds.means(name), seeds.compare("k", levels, name, "pixel")
    ends = [interval(column) for column in seeds.resampled[name].T]
    has = [not math.isnan(mean) for mean in means.sum(axis=0)]

    def where_it_is(values: Sequence[Any]) -> list[Any]:
        return [value if here else None for value, here in zip(values, has, strict=True)]

    return {
        "mse": where_it_is(means.mean(axis=0).tolist()),
        "low": where_it_is([low for low, _ in ends]),
        "high": where_it_is([high for _, high in ends]),
        "by_seed": [where_it_is(row) for row in means.tolist()],
        "ratio": where_it_is([c["ratio"] for c in against]),
        "ratio_low": where_it_is([c["low"] for c in against]),
        "ratio_high": where_it_is([c["high"] for c in against]),
        "verdict": where_it_is([c["verdict"] for c in against]),
    }


def rate_bits(levels: Sequence[int], n_atoms: int, coefficient_bits: int) -> list[float]:
    r"""Bits an image costs at each level: the support, and coefficients of so many bits.

    .. math:: k (\log_2 K + q)

    What dictionary and networks cost is not in it: that is paid once, not for each image.
    """
    return [rate(k, n_atoms, coefficient_bits) for k in levels]


def _mean(errors: NDArray[Any]) -> float:
    return float(errors.mean(dtype=np.float64))
