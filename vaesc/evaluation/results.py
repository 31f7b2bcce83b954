"""Turn what was measured into metrics and files: the curves, the verdict, each image's error."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.evaluation.batches import Floats
from vaesc.evaluation.comparison import Measured
from vaesc.evaluation.methods import Method
from vaesc.evaluation.verdict import (
    as_json,
    bootstrap_means,
    crossovers,
    interval,
    sentence,
    weigh,
)
from vaesc.metrics import mse_to_psnr_db

RESULTS = "results.json"
TABLE = "table.csv"
ERRORS = "errors.safetensors"
_FORMAT = 1
_SMALLEST = 1e-12
"""Errors below float32's rounding count as this much: no PSNR above 120 dB, and none infinite."""


def assemble(
    measured: Measured, methods: Sequence[Method], facts: Mapping[str, Any], *, seed: int
) -> dict[str, Any]:
    """Return the content of ``results.json``.

    Args:
        measured: Errors of every method on every test image.
        methods: The methods, in the order in which they are shown.
        facts: What was compared (source, n_test, n_atoms, relearn ...), copied in.
        seed: Seed of the bootstrap over test images.

    Returns:
        Under ``methods`` the curves with their intervals (to be shown in ``order``), under
        ``claim`` the verdict for each k on the method named by
        ``claimant`` (the refined one where there is one), under ``article_claim`` that on the
        article's own recipe, under ``verdict`` the sentence, under ``notes`` what a
        reader must know beside it.
    """
    names = [m.name for m in methods]
    columns = np.concatenate([measured.errors[n] for n in names] + [measured.floor[:, None]], 1)
    means = bootstrap_means(columns, seed=seed)
    m = len(measured.levels)
    resampled = {name: means[:, i * m : (i + 1) * m] for i, name in enumerate(names)}
    claimant = "refined" if "refined" in names else "article"
    claims, article = (
        weigh(
            measured.levels,
            measured.errors[name], measured.errors["pixel"], resampled[name], resampled["pixel"],
        )
        for name in (claimant, "article")
    )  # fmt: skip
    crossings = crossovers(claims)
    return {
        "format": _FORMAT,
        **facts,
        "levels": list(measured.levels),
        "order": names,
        "methods": {x.name: _curve(x, measured, resampled[x.name]) for x in methods},
        "vae": _point(measured.floor, means[:, -1]),
        "l0": measured.l0.tolist(),
        "claimant": claimant,
        "claim": [as_json(c) for c in claims],
        "article_claim": [as_json(c) for c in article],
        "crossover": [as_json(c) for c in crossings],
        "verdict": sentence(claims, crossings, article if claimant == "refined" else None),
        "notes": [_learning(facts), *_sizes(facts, claimant), *_notes(methods, measured)],
        "table": _table(methods, measured),
    }


def metrics_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the flat metrics ``test/...`` of the curves in `results`."""
    flat = {"test/vae_mse": results["vae"]["mse"], "test/vae_psnr_db": results["vae"]["psnr_db"]}
    for name in results["order"]:
        curve = results["methods"][name]
        prefix = "test/" if name == "article" else f"test/{name}_"
        for metric in ("mse", "psnr_db", "fvu"):
            for k, value in zip(results["levels"], curve.get(metric, ()), strict=False):
                flat[f"{prefix}{metric}_k{k}"] = value
    for k, l0, claim in zip(results["levels"], results["l0"], results["claim"], strict=True):
        flat[f"test/l0_k{k}"] = l0
        flat[f"test/mse_ratio_k{k}"] = claim["ratio"]
    return flat


def write(results: Mapping[str, Any], measured: Measured, folder: Path) -> None:
    """Write the three files into `folder`."""
    from safetensors.numpy import save_file

    text = json.dumps(results, indent=1, sort_keys=True, allow_nan=False)
    (folder / RESULTS).write_text(text + "\n")
    (folder / TABLE).write_text(table(results))
    per_image = {"vae": measured.floor}
    for name, errors in measured.errors.items():
        columns = zip(measured.levels, errors.T, strict=True)
        per_image |= {f"{name}_k{k}": np.ascontiguousarray(e) for k, e in columns}
    save_file(per_image, folder / ERRORS)


def read_errors(folder: Path, names: Sequence[str], levels: Sequence[int]) -> dict[str, Floats]:
    """Return method -> squared error of each test image at each level, shape (n, m)."""
    from safetensors.numpy import load_file

    columns = load_file(folder / ERRORS)
    return {name: np.stack([columns[f"{name}_k{k}"] for k in levels], axis=1) for name in names}


def table(results: Mapping[str, Any]) -> str:
    """Return the curves as CSV: one row for each method and sparsity level."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "k", "mse", "mse_low", "mse_high", "psnr_db", "fvu"])
    for name in results["order"]:
        curve = results["methods"][name]
        fvu = curve.get("fvu", [""] * len(results["levels"]))
        rows = zip(
            results["levels"], curve["mse"], curve["low"], curve["high"], curve["psnr_db"], fvu,
            strict=True,
        )  # fmt: skip
        writer.writerows([name, *row] for row in rows)
    floor = results["vae"]
    writer.writerow(["vae", "", floor["mse"], floor["low"], floor["high"], floor["psnr_db"], ""])
    return out.getvalue()


def _curve(method: Method, measured: Measured, resampled: Any) -> dict[str, Any]:  # noqa: ANN401
    errors = measured.errors[method.name]
    points = [_point(errors[:, i], resampled[:, i]) for i in range(errors.shape[1])]
    curve: dict[str, Any] = {name: [p[name] for p in points] for name in points[0]}
    if method.name in measured.fvu:
        curve["fvu"] = measured.fvu[method.name].tolist()
    return {**curve, "title": method.title, "about": method.about, "space": method.space}


def _point(errors: Any, resampled: Any) -> dict[str, float]:  # noqa: ANN401
    mse = float(errors.mean(dtype=np.float64))
    low, high = interval(resampled)
    psnr = mse_to_psnr_db(max(mse, _SMALLEST))
    return {"mse": mse, "low": low, "high": high, "psnr_db": psnr}


def _table(methods: Sequence[Method], measured: Measured) -> list[dict[str, Any]]:
    """Return the test MSE as rows for a display: one a method, one column for each k."""
    rows = []
    for method in methods:
        means = measured.errors[method.name].mean(axis=0, dtype=np.float64)
        columns = zip(measured.levels, means, strict=True)
        rows.append({"method": method.title, **{f"k = {k}": f"{mse:.5f}" for k, mse in columns}})
    floor = f"{measured.floor.mean(dtype=np.float64):.5f}"
    every = {f"k = {k}": floor for k in measured.levels}
    return [*rows, {"method": "VAE itself (the floor)", **every}]


def _learning(facts: Mapping[str, Any]) -> str:
    """Say which dictionaries served which level."""
    k = facts["n_nonzero_coefs"]
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


def _notes(methods: Sequence[Method], measured: Measured) -> list[str]:
    """Say where a level asks a method for more than it has."""
    notes = []
    for method in methods:
        beyond = [str(k) for k in measured.levels if k > method.reach]
        if beyond:
            notes.append(
                f"{method.title}: at k = {', '.join(beyond)} it uses {method.reach} numbers, "
                "all there are."
            )
    return notes
