"""Turn what was measured into metrics and files: the curves, the verdict, each image's error."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.evaluation.batches import Floats
from vaesc.evaluation.comparison import ERRORS, KEPT, Measured
from vaesc.evaluation.methods import Method
from vaesc.evaluation.notes import all_notes, display_rows
from vaesc.evaluation.pool import pooled_rows, safe_tensors
from vaesc.evaluation.verdict import (
    Claim,
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
UNEXPLAINED = {name: f"{name}_fvu" for name in KEPT}
"""Method -> under which name :func:`read_errors` finds what its latents leave unexplained."""
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
        article's own recipe, under ``learned_against_random`` what learning was worth at each k,
        in pixels and in latents, under ``verdict`` the sentence, under ``notes`` what a
        reader must know beside it. A method that lacks a level has None there.
    """
    names = [m.name for m in methods]
    # One draw of test images serves all, so that any two columns may be compared in pairs.
    columns = {
        **measured.errors,
        **{f"{name}/fvu": measured.unexplained[name] for name in KEPT},
        "vae": measured.floor[:, None],
    }
    resampled = _resampled(columns, seed)

    def against(ours: str, theirs: str) -> list[Claim]:
        return weigh(
            measured.levels, columns[ours], columns[theirs], resampled[ours], resampled[theirs]
        )

    claimant = "refined" if "refined" in names else "article"
    claims, article = against(claimant, "pixel"), against("article", "pixel")
    descended = against(claimant, "pixel_descended") if "pixel_descended" in names else None
    crossings = crossovers(claims)
    return {
        "format": _FORMAT,
        **facts,
        "levels": list(measured.levels),
        "order": names,
        "methods": {
            x.name: _curve(x, measured, resampled[x.name], against(x.name, "pixel"))
            for x in methods
        },
        "vae": _point(measured.floor, resampled["vae"][:, 0]),
        "l0": measured.l0.tolist(),
        "claimant": claimant,
        "claim": [as_json(c) for c in claims],
        "article_claim": [as_json(c) for c in article],
        "descended_claim": None if descended is None else [as_json(c) for c in descended],
        "learned_against_random": learned_against_random(
            against("article", "random"), against("article/fvu", "random/fvu")
        ),
        "crossover": [as_json(c) for c in crossings],
        "verdict": sentence(
            claims, crossings, article if claimant == "refined" else None, descended
        ),
        "notes": all_notes(facts, claimant, methods, measured),
        "table": display_rows(methods, measured),
    }


def _resampled(columns: Mapping[str, Floats], seed: int) -> dict[str, NDArray[np.float64]]:
    """Bootstrap named groups of columns together: name -> means, shape (n_resamples, m)."""
    means = bootstrap_means(np.concatenate(list(columns.values()), axis=1), seed=seed)
    ends = np.cumsum([group.shape[1] for group in columns.values()])[:-1]
    return dict(zip(columns, np.split(means, ends, axis=1), strict=True))


def learned_against_random(mse: Sequence[Claim], fvu: Sequence[Claim]) -> dict[str, Any]:
    """Return k -> the article's dictionary over a random one, in pixel MSE and in FVU."""
    return {
        str(m.k): {
            name: {key: getattr(c, key) for key in ("ratio", "low", "high", "verdict")}
            for name, c in (("mse", m), ("fvu", f))
        }
        for m, f in zip(mse, fvu, strict=True)
    }


def metrics_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the flat metrics ``test/...`` of the curves in `results`.

    Those of the claimant, which is the method of the model that gets registered, have no prefix.
    """
    flat = {"test/vae_mse": results["vae"]["mse"], "test/vae_psnr_db": results["vae"]["psnr_db"]}
    for name in results["order"]:
        curve = results["methods"][name]
        prefix = "test/" if name == results["claimant"] else f"test/{name}_"
        for metric in ("mse", "psnr_db", "fvu"):
            for k, value in zip(results["levels"], curve.get(metric, ()), strict=False):
                if value is not None:
                    flat[f"{prefix}{metric}_k{k}"] = value
    coded = "test/" if results["claimant"] == "article" else "test/article_"
    for k, l0, claim in zip(results["levels"], results["l0"], results["claim"], strict=True):
        flat[f"{coded}l0_k{k}"] = l0
        flat[f"test/mse_ratio_k{k}"] = claim["ratio"]
    return flat


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``results.json`` and ``table.csv`` into `folder`."""
    text = json.dumps(results, indent=1, sort_keys=True, allow_nan=False)
    (folder / RESULTS).write_text(text + "\n")
    (folder / TABLE).write_text(table(results))


def read_errors(folder: Path, names: Sequence[str], levels: Sequence[int]) -> dict[str, Floats]:
    """Return method -> squared error of each test image at each level, or of pools, shape (n, m).

    A level that a method lacks is a column of NaN. Names may also be those of
    :data:`UNEXPLAINED`, whose columns are each latent's share of the FVU.
    """
    with safe_tensors(folder / ERRORS) as file:
        there = set(file.keys())
        missing = np.full_like(pooled_rows(file, "vae"), np.nan)

        def column(name: str) -> NDArray[Any]:
            return pooled_rows(file, name) if name in there else missing

        return {name: np.stack([column(f"{name}_k{k}") for k in levels], axis=1) for name in names}


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


def _curve(
    method: Method, measured: Measured, resampled: NDArray[Any], claims: Sequence[Claim]
) -> dict[str, Any]:
    """One method: its errors with their intervals, and its ratio to the pixel dictionary."""
    errors = measured.errors[method.name]
    points = [
        {**_point(errors[:, i], resampled[:, i]), **_ratio(claim)}
        for i, claim in enumerate(claims)
    ]
    curve: dict[str, Any] = {
        key: [
            point[key] if method.has(k) else None
            for k, point in zip(measured.levels, points, strict=True)
        ]
        for key in points[0]
    }
    if method.name in measured.fvu:
        curve["fvu"] = measured.fvu[method.name].tolist()
    return {
        **curve, "title": method.title, "about": method.about, "space": method.space,
        "numbers": method.numbers,
    }  # fmt: skip


def _ratio(claim: Claim) -> dict[str, Any]:
    return {
        "ratio": claim.ratio, "ratio_low": claim.low, "ratio_high": claim.high,
        "verdict": claim.verdict,
    }  # fmt: skip


def _point(errors: NDArray[Any], resampled: NDArray[Any]) -> dict[str, float]:
    mse = float(errors.mean(dtype=np.float64))
    low, high = interval(resampled)
    psnr = mse_to_psnr_db(max(mse, _SMALLEST))
    return {"mse": mse, "low": low, "high": high, "psnr_db": psnr}
