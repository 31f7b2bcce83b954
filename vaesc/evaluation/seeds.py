"""Evaluations of several seeds, read back and weighed together (:mod:`vaesc.evaluation.claim`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.errors import DataError
from vaesc.evaluation.claim import rate_bits, weigh_seeds
from vaesc.evaluation.results import RESULTS, read_errors
from vaesc.evaluation.verdict import Claim, crossovers, sentence

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
        ``crossover``, ``bits`` and the facts that the evaluations share.

    Raises:
        DataError: The evaluations are of different data, levels or methods.
    """
    results = [json.loads((folder / RESULTS).read_bytes()) for folder in folders]
    first = results[0]
    for name in _SHARED:
        if any(result[name] != first[name] for result in results):
            raise DataError(f"the evaluations differ in {name!r}: seeds alone may differ")
    levels = first["levels"]
    weighed = weigh_seeds(
        [read_errors(folder, first["order"], levels) for folder in folders], levels,
        claimant=first["claimant"],
        shared=len({result["test_sha256"] for result in results}) == 1, seed=seed,
    )  # fmt: skip
    claims, article = (
        [Claim(**{key: c[key] for key in Claim.__annotations__}) for c in weighed[name]]
        for name in ("claim", "article_claim")
    )
    crossings = crossovers(claims)
    refined = first["claimant"] != "article"
    return {
        **{name: first[name] for name in _SHARED},
        **weighed,
        "verdict": sentence(claims, crossings, article if refined else None),
        "bits": {
            "coefficient_bits": COEFFICIENT_BITS,
            "per_image": rate_bits(levels, first["n_atoms"], COEFFICIENT_BITS),
        },
        "parameters": first["parameters"],
    }


def metrics_of(weighed: Mapping[str, Any]) -> dict[str, float]:
    """Return the flat metrics of the claim: each level's ratio, and their geometric mean."""
    flat = {"test/mse_ratio_geometric_mean": weighed["geometric_mean"]["ratio"]}
    for claim in weighed["claim"]:
        flat |= {
            f"test/mse_ratio{end}_k{claim['k']}": claim[name]
            for name, end in (("ratio", ""), ("low", "_low"), ("high", "_high"))
        }
    return flat
