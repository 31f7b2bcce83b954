"""Evaluations of several seeds, read back and weighed together (:mod:`vaesc.evaluation.claim`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.errors import DataError
from vaesc.evaluation.claim import rate_bits, weigh_seeds
from vaesc.evaluation.rate_results import read_rate_errors
from vaesc.evaluation.results import RESULTS, UNEXPLAINED, read_errors
from vaesc.evaluation.verdict import Claim, as_json, crossovers, sentence

COEFFICIENT_BITS = 8
"""Bits of a coefficient in the rate that stands beside each level."""
_SHARED = ("source", "shape", "claimant", "levels", "n_atoms", "n_test", "order")


def weigh_evaluations(folders: Sequence[Path], *, seed: int) -> dict[str, Any]:
    """Judge the claim on the evaluations of several seeds.

    Args:
        folders: Artifacts of :func:`vaesc.evaluation.evaluate`; only their seeds may differ.
        seed: Seed of the resamples.

    Returns:
        What :func:`vaesc.evaluation.claim.weigh_seeds` returns, with ``verdict`` (a sentence),
        ``crossover``, ``rate`` (as in ``results.json``: the first seed's curves, with the ratios
        of all seeds), ``vae`` (its own mean error), ``bits`` and the facts that are common to all.

    Raises:
        DataError: The evaluations are of different data, levels or methods.
    """
    results = [json.loads((folder / RESULTS).read_bytes()) for folder in folders]
    first, budgets = results[0], _budgets(results[0])
    for result in results:
        for name in _SHARED:
            if result[name] != first[name]:
                raise DataError(f"the evaluations differ in {name!r}: seeds alone may differ")
        if _budgets(result) != budgets:
            raise DataError("the evaluations differ in their budgets of bits: run them alike")
    levels, names = first["levels"], first["order"]
    kept = [read_errors(folder, list(UNEXPLAINED.values()), levels) for folder in folders]
    weighed = weigh_seeds(
        [read_errors(folder, names, levels) for folder in folders], levels,
        claimant=first["claimant"],
        shared=len({result["test_sha256"] for result in results}) == 1, seed=seed,
        unexplained=[{name: e[key] for name, key in UNEXPLAINED.items()} for e in kept],
        rates=[read_rate_errors(folder) for folder in folders],
        budgets=budgets,
    )  # fmt: skip
    claims, article, descended = (
        [Claim(**{key: c[key] for key in Claim.__annotations__}) for c in weighed[name] or ()]
        for name in ("claim", "article_claim", "descended_claim")
    )
    crossings = crossovers(claims)
    refined = first["claimant"] != "article"
    return {
        **{name: first[name] for name in _SHARED},
        **weighed,
        "crossover": [as_json(c) for c in crossings],
        "vae": {"mse": sum(r["vae"]["mse"] for r in results) / len(results)},
        "verdict": sentence(claims, crossings, article if refined else None, descended or None),
        "bits": {
            "coefficient_bits": COEFFICIENT_BITS,
            "per_image": rate_bits(levels, first["n_atoms"], COEFFICIENT_BITS),
        },
        "parameters": first["parameters"],
        "rate": {**first["rate"], "ratio": weighed["rate"]},
    }


def _budgets(result: Mapping[str, Any]) -> list[int]:
    return [entry["bits"] for entry in result["rate"]["ratio"]]


def metrics_of(weighed: Mapping[str, Any]) -> dict[str, float]:
    """Return the flat metrics of the claim: each level's ratio, and their geometric mean."""
    flat = {"test/mse_ratio_geometric_mean": weighed["geometric_mean"]["ratio"]}
    for claim in weighed["claim"]:
        flat |= {
            f"test/mse_ratio{end}_k{claim['k']}": claim[name]
            for name, end in (("ratio", ""), ("low", "_low"), ("high", "_high"))
        }
    return flat
