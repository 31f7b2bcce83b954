"""Several seeds' evaluations read back and weighed together (:mod:`vaesc.evaluation.claim`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaesc.config import derive_seed
from vaesc.errors import DataError
from vaesc.evaluation.claim import weigh_seeds
from vaesc.evaluation.rate_results import read_rate_errors
from vaesc.evaluation.results import RESULTS, UNEXPLAINED, read_errors

COMMON = ("claimant", "levels", "n_atoms", "n_test", "order", "parameters")
"""What is the same in every seed's results, and copied."""


def weigh_evaluations(folders: Sequence[Path], *, seed: int) -> dict[str, Any]:
    """Return :func:`vaesc.evaluation.claim.weigh_seeds` of evaluation artifacts, and `COMMON`.

    Args:
        folders: One evaluation artifact a seed, all of one configuration but for the seed.
        seed: Seed of the resamples.

    Raises:
        DataError: The evaluations did not compare the same methods at the same budgets.
    """
    results = [json.loads((folder / RESULTS).read_bytes()) for folder in folders]
    first = results[0]
    levels, names = first["levels"], first["order"]
    budgets = [entry["bits"] for entry in first["rate"]["ratio"]]
    for other in results[1:]:
        theirs = [entry["bits"] for entry in other["rate"]["ratio"]]
        if (other["levels"], other["order"], theirs) != (levels, names, budgets):
            raise DataError("the evaluations differ in methods, levels or bits; run them alike")
    kept = [read_errors(folder, list(UNEXPLAINED.values()), levels) for folder in folders]
    weighed = weigh_seeds(
        [read_errors(folder, names, levels) for folder in folders], levels,
        claimant=first["claimant"],
        shared=len({r["test_sha256"] for r in results}) == 1,
        seed=derive_seed(seed, "claim/bootstrap"),
        unexplained=[{name: e[key] for name, key in UNEXPLAINED.items()} for e in kept],
        rates=[read_rate_errors(folder) for folder in folders],
        budgets=budgets,
    )  # fmt: skip
    return {**{key: first[key] for key in COMMON}, **weighed}
