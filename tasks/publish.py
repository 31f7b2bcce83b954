"""What a finished run shows: the report, and artifacts in MLflow and in Prefect's UI.

Nothing here is computed: figures and tables come from the evaluation artifact, so a run whose
steps were all cached is published just the same, in a second. A display that Prefect's API refuses
is logged as a warning and does not fail a run whose results are safe.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.exceptions import PrefectException

from tasks.tracking import PipelineRun
from vaesc.config import config_digest, home, settings
from vaesc.records import Applied, ModelVersion
from vaesc.registry import show_model
from vaesc.registry.recorded import MANIFESTS
from vaesc.registry.system import git_tags, system_tags
from vaesc.report.html import render_report
from vaesc.store import MANIFEST

logger = logging.getLogger(__name__)

NOTE_TAG = "mlflow.note.content"
"""Tag that MLflow shows as a run's description, in Markdown."""


def publish(run: PipelineRun) -> dict[str, Any]:
    """Write the report, fill the MLflow run and Prefect's UI, and return the run's summary.

    Returns:
        The object that ``vaesc run --json`` prints.
    """
    evaluation = Path(run.records["evaluate"].uri)
    results = json.loads((evaluation / "results.json").read_text())
    report = _write_report(run, evaluation, results["verdict"])
    run.tracking.log_metrics(run.run_id, run.metrics, step=0)
    run.tracking.log_artifacts(run.run_id, evaluation, "evaluation")
    for folder in _applied(run):
        run.tracking.log_artifacts(run.run_id, folder, folder.parents[1].name)
    run.tracking.log_artifacts(run.run_id, report)
    run.tracking.log_json(run.run_id, _manifests(run), MANIFESTS)
    run.tracking.set_tags(run.run_id, {NOTE_TAG: _note(run, results["verdict"])})
    summary = _summary(run, report)
    _show_in_prefect(run, evaluation, results, report)
    return summary


def _manifests(run: PipelineRun) -> dict[str, Any]:
    """Return what went into each step's artifact, and the SHA-256 of every file that came out."""
    return {
        step: json.loads(Path(record.uri, MANIFEST).read_bytes())
        for step, record in run.records.items()
        if not isinstance(record, ModelVersion)
    }


def _applied(run: PipelineRun) -> list[Path]:
    return [Path(r.uri) for r in run.records.values() if isinstance(r, Applied)]


def _note(run: PipelineRun, verdict: str) -> str:
    """Say on the run's page in MLflow what came out of it, and where the rest is."""
    model = run.records.get("register")
    told = f"Model: {model.uri}. " if isinstance(model, ModelVersion) else ""
    # The page cuts what is long: where things are comes first.
    unsound = f"Not as it should be: {' '.join(run.health)}\n\n" if run.health else ""
    return f"{told}Report: `report.html`, under Artifacts.\n\n{unsound}{verdict}"


def _write_report(run: PipelineRun, evaluation: Path, verdict: str) -> Path:
    path = home() / "runs" / run.run_id / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    history = Path(run.records["train"].uri) / "history.json"
    facts = {
        "run_id": run.run_id,
        "flow_run_id": run.flow_run_id,
        "config": settings(run.config),
        "config_digest": config_digest(run.config),
        "steps": run.steps,
        "records": {name: record.to_json() for name, record in run.records.items()},
        "tags": {**system_tags(), **git_tags()},
        "health": run.health,
    }
    path.write_text(
        render_report(
            evaluation, history=json.loads(history.read_text()), run=facts, applied=_applied(run)
        ),
        encoding="utf-8",
    )
    path.with_name("verdict.txt").write_text(verdict + "\n", encoding="utf-8")
    path.with_name("health.txt").write_text("".join(f"{s}\n" for s in run.health), "utf-8")
    return path


def _summary(run: PipelineRun, report: Path) -> dict[str, Any]:
    model = run.records.get("register")
    return {
        "run_id": run.run_id,
        "flow_run_id": run.flow_run_id,
        "dataset": run.config.dataset.source,
        "config_digest": config_digest(run.config),
        "steps": run.steps,
        "metrics": dict(sorted(run.metrics.items())),
        "model": _model(run, model) if isinstance(model, ModelVersion) else None,
        "report": str(report),
        "seconds": round(time.perf_counter() - run.started, 3),
    }


def _model(run: PipelineRun, model: ModelVersion) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "aliases": show_model(model.version, name=model.name)["aliases"],
        "uri": model.uri,
    }


def _in_order(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the method first and the levels in numeric order: the JSON file sorts its keys."""
    levels = sorted(set(table[0]) - {"method"}, key=lambda name: int(name.split("=")[1]))
    return [{name: row[name] for name in ("method", *levels)} for row in table]


def _show_in_prefect(
    run: PipelineRun, evaluation: Path, results: Mapping[str, Any], report: Path
) -> None:
    curve = base64.b64encode((evaluation / "curve.png").read_bytes()).decode()
    with in_prefect():
        create_markdown_artifact(results["verdict"], key="vaesc-verdict", description="The claim")
        create_table_artifact(
            _in_order(results["table"]),
            key="vaesc-results",
            description="Test MSE by method and sparsity",
        )
        _link_in_prefect(run, report)
        create_image_artifact(
            f"data:image/png;base64,{curve}", key="vaesc-curve", description="MSE against k"
        )


def _link_in_prefect(run: PipelineRun, report: Path) -> None:
    """Say where run and report are: a link if a server shows them; browsers follow no file's."""
    key, about = "vaesc-mlflow-run", "Where the MLflow run and the report are"
    link = run.tracking.run_url(run.run_id)
    if link:
        create_link_artifact(
            link, link_text=f"MLflow run {run.run_id}", key=key, description=about
        )
    else:
        words = f"MLflow run `{run.run_id}` (`make ui` shows it)\n\nReport: `{report}`"
        create_markdown_artifact(words, key=key, description=about)


@contextmanager
def in_prefect() -> Iterator[None]:
    """Show something in Prefect's UI; that its API refuses it is no failure of the run."""
    try:
        yield
    except (PrefectException, httpx.HTTPError) as error:
        logger.warning("the results are safe, but Prefect's UI does not show them: %s", error)
