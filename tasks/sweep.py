"""The table of a sweep: gathered from its cells, kept in files, in MLflow and in Prefect."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact

from tasks.publish import in_prefect
from tasks.runs import Pipeline
from tasks.tracking import PipelineRun
from vaesc.config import home
from vaesc.errors import VaescError
from vaesc.sweep import Cell, as_csv, as_markdown, best_of, ranked

CELLS_MODEL = "-sweep"
"""Added to the registered model's name: no cell of a sweep replaces the champion that is used."""


def pipeline_of(
    cell: Cell, preset: str, config_file: str | None, settings: Sequence[str], model: str
) -> Pipeline:
    """Return the pipeline of one cell."""
    every = (*settings, *cell.assignments, f"registry.model_name={model}{CELLS_MODEL}")
    return Pipeline(f"cell {' '.join(cell.assignments)}", preset, config_file, every)


def row_of(cell: Cell, found: Mapping[str, Any] | VaescError) -> dict[str, Any]:
    """Return one line of the table."""
    common = {"settings": cell.settings, "config_digest": cell.config_digest}
    if isinstance(found, VaescError):
        return {
            **common, "state": "failed", "run_id": "", "metrics": {}, "seconds": None,
            "report": None, "error": str(found),
        }  # fmt: skip
    return {
        **common, "state": "finished", "error": "", "metrics": _said_in_json(found["metrics"]),
        **{key: found[key] for key in ("run_id", "seconds", "report")},
    }  # fmt: skip


def _said_in_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None for what is no finite number: JSON knows no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def tabulate(
    run: PipelineRun, rows: Sequence[Mapping[str, Any]], metric: str, *, largest: bool
) -> dict[str, Any]:
    """Rank the cells, write the table, and record it in MLflow and in Prefect.

    Returns:
        The object that ``vaesc sweep --json`` prints.
    """
    ordered = ranked(rows, metric, largest)
    best = best_of(ordered, metric)
    folder = home() / "runs" / run.run_id
    found = {
        "run_id": run.run_id,
        "preset": run.config.preset,
        "metric": metric,
        "largest": largest,
        "cells": ordered,
        "best": best,
        "n_failed": sum(row["state"] == "failed" for row in ordered),
        "table": str(folder / "sweep.csv"),
        "seconds": round(time.perf_counter() - run.started, 3),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.csv").write_text(as_csv(ordered), encoding="utf-8")
    text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False)
    (folder / "sweep.json").write_text(text + "\n", encoding="utf-8")
    run.tracking.log_artifacts(run.run_id, folder)
    numbers = {"sweep/n_cells": float(len(rows)), "sweep/n_failed": float(found["n_failed"])}
    if best:
        numbers[metric] = best["metrics"][metric]
    run.tracking.log_metrics(run.run_id, numbers, step=0)
    with in_prefect():
        create_markdown_artifact(
            as_markdown(ordered, metric), key="vaesc-sweep", description=f"Cells by {metric}"
        )
    return found
