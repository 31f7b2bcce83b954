"""Words beside the numbers: what a reader must know, and the test MSE as rows for a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaesc.evaluation.comparison import Measured
from vaesc.evaluation.methods import Method


def all_notes(
    facts: Mapping[str, Any], claimant: str, methods: Sequence[Method], measured: Measured
) -> list[str]:
    """Return the sentences under ``notes``."""
    return [
        _learning(facts), *_sizes(facts, claimant), *_limits(methods, measured),
        *(part["about"] for part in facts.get("parts", {}).values()),
    ]  # fmt: skip


def display_rows(methods: Sequence[Method], measured: Measured) -> list[dict[str, Any]]:
    """Return the test MSE as rows for a display: one a method, one column for each k."""
    rows = []
    for method in methods:
        means = measured.errors[method.name].mean(axis=0, dtype=np.float64)
        columns = zip(measured.levels, means, strict=True)
        cells = {f"k = {k}": f"{e:.5f}" if method.has(k) else "\N{EN DASH}" for k, e in columns}
        rows.append({"method": method.title, **cells})
    floor = f"{measured.floor.mean(dtype=np.float64):.5f}"
    every = {f"k = {k}": floor for k in measured.levels}
    return [*rows, {"method": "VAE itself (the floor)", **every}]


def _learning(facts: Mapping[str, Any]) -> str:
    """Say which dictionaries served which level."""
    k = facts["n_nonzero_coefs"]
    if not facts["relearn"] and facts["parameters"]["refined"]:
        return (
            f"One dictionary of latents, learned at k = {k}, serves every k; those of pixels, and "
            "the refined models that started from them, are learned anew for each."
        )
    if not facts["relearn"]:
        return (
            f"One dictionary of latents and one of pixels, both learned at k = {k}, serve every "
            "k; elsewhere either side might do better with a dictionary of its own."
        )
    return (
        "The dictionaries of latents and of pixels were both learned anew for each k, with the "
        f"same settings; at k = {k} that of latents is the model's own."
    )


def _sizes(facts: Mapping[str, Any], claimant: str) -> list[str]:
    """Say what the refined method holds beside an image's own numbers: more than its rival."""
    if claimant != "refined":
        return []
    sizes = facts["parameters"]
    return [
        f"The refined method holds {max(sizes['refined']):,} numbers in network and dictionary "
        f"for each k, a pixel dictionary {sizes['pixel'][0]:,}, the article's VAE and dictionary "
        f"{sizes['article'][0]:,}: budgets are equal for each image, not for what is learned once."
    ]


def _limits(methods: Sequence[Method], measured: Measured) -> list[str]:
    """Say where a level asks a method for more than it has."""
    notes = []
    for method in methods:
        beyond = [str(k) for k in measured.levels if k > method.reach and method.has(k)]
        if beyond:
            notes.append(
                f"{method.title}: at k = {', '.join(beyond)} it uses {method.reach} numbers, "
                "all there are."
            )
    return notes
