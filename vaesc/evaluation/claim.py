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

from vaesc.evaluation.verdict import N_RESAMPLES, interval, judge, ratio

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
    rng = np.random.default_rng(seed)
    n_seeds, n = len(errors), len(errors[0])
    draws = rng.integers(0, n_seeds, (n_resamples, n_seeds))
    share = np.stack([(draws == s).mean(axis=1) for s in range(n_seeds)])
    means = np.zeros((n_resamples, errors[0].shape[1]))
    for start in range(0, n_resamples, block):
        rows = slice(start, min(start + block, n_resamples))
        counts = _counts(rng, rows.stop - start, n)
        for s, columns in enumerate(errors):
            if s and not shared:
                counts = _counts(rng, rows.stop - start, n)
            means[rows] += share[s, rows, None] * (counts @ np.asarray(columns, np.float64)) / n
    return means


def _counts(rng: np.random.Generator, n_resamples: int, n: int) -> NDArray[np.float64]:
    """How often each of n rows is drawn, in each resample."""
    return np.stack(
        [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(n_resamples)]
    ).astype(np.float64)


def weigh_seeds(
    by_seed: Sequence[Errors],
    levels: Sequence[int],
    *,
    claimant: str,
    shared: bool,
    seed: int,
) -> dict[str, Any]:
    """Judge the claim, and learned against random dictionaries, over several seeds.

    Args:
        by_seed: Errors of every method, one mapping a seed.
        levels: Sparsity levels, the columns of every array.
        claimant: Method whose errors are held against those of ``pixel``.
        shared: Whether row i is the same image under every seed.
        seed: Seed of the resamples.

    Returns:
        ``claim`` (for each k: ratio, low, high, verdict, by_seed), ``geometric_mean`` (of the
        ratios, with its interval), ``learned_against_random`` (as ``claim``, the article's
        learned dictionary over a random one) and ``methods`` (MSE with intervals).
    """
    names, m = list(by_seed[0]), len(levels)
    stacked = [np.concatenate([errors[name] for name in names], axis=1) for errors in by_seed]
    means = resampled_means(stacked, shared=shared, seed=seed)
    resampled = {name: means[:, i * m : (i + 1) * m] for i, name in enumerate(names)}

    def compare(ours: str, theirs: str) -> list[dict[str, Any]]:
        return [
            _compared(
                k, [_mean(errors[ours][:, i]) for errors in by_seed],
                [_mean(errors[theirs][:, i]) for errors in by_seed],
                ratio(resampled[ours][:, i], resampled[theirs][:, i]), len(stacked[0]),
            )
            for i, k in enumerate(levels)
        ]  # fmt: skip

    claims = compare(claimant, "pixel")
    logs = np.log(ratio(resampled[claimant], resampled["pixel"])).mean(axis=1)
    low, high = interval(np.exp(logs))
    middle = math.exp(float(np.mean([math.log(c["ratio"]) for c in claims])))
    return {
        "claim": claims,
        "geometric_mean": {"ratio": middle, "low": low, "high": high},
        "article_claim": compare("article", "pixel"),
        "learned_against_random": compare("article", "random"),
        "methods": {name: _curve(by_seed, name, resampled[name]) for name in names},
    }


def rate_bits(levels: Sequence[int], n_atoms: int, coefficient_bits: int) -> list[float]:
    r"""Bits an image costs at each level: the support, and coefficients of so many bits.

    .. math:: k (\log_2 K + q)

    What dictionary and networks cost is not in it: that is paid once, not for each image.
    """
    return [k * (math.log2(n_atoms) + coefficient_bits) for k in levels]


def _compared(
    k: int, ours: list[float], theirs: list[float], resampled: NDArray[Any], n: int
) -> dict[str, Any]:
    low, high = interval(resampled)
    return {
        "k": int(k),
        "ratio": float(ratio(sum(ours), sum(theirs))),
        "low": low,
        "high": high,
        "verdict": judge(low, high, n),
        "by_seed": [float(ratio(a, b)) for a, b in zip(ours, theirs, strict=True)],
    }


def _curve(by_seed: Sequence[Errors], name: str, resampled: NDArray[Any]) -> dict[str, Any]:
    seeds = np.array([[_mean(column) for column in errors[name].T] for errors in by_seed])
    ends = [interval(column) for column in resampled.T]
    return {
        "mse": seeds.mean(axis=0).tolist(),
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "by_seed": seeds.tolist(),
    }


def _mean(errors: NDArray[Any]) -> float:
    return float(errors.mean(dtype=np.float64))
