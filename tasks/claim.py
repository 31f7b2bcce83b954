"""The claim over seeds: what the pipelines of all of them (:mod:`tasks.runs`) say together."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from tasks.publish import in_prefect
from tasks.runs import Pipeline
from tasks.tracking import PipelineRun
from vaesc.config import PipelineConfig, config_digest, derive_seed, home, settings
from vaesc.registry.system import git_tags, system_tags
from vaesc.shared import this_store
from vaesc.source import source_digest
from vaesc.steps import STEPS
from vaesc.store import Artifact, Spec


def seed_of(preset: str, config_file: str | None, settings: Sequence[str], seed: int) -> Pipeline:
    """Return the pipeline of one seed."""
    return Pipeline(f"seed {seed}", preset, config_file, (*settings, f"seed={seed}"))


def weigh_seeds_of(run: PipelineRun, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judge the claim on all seeds, write the report, and record both in MLflow and in Prefect.

    Returns:
        The object that ``vaesc claim --json`` prints.
    """
    from vaesc.evaluation.seeds import metrics_of, weigh_evaluations

    artifacts = [_artifacts(summary) for summary in summaries]
    folders = [each["evaluation"].path for each in artifacts]
    weighed = weigh_evaluations(folders, seed=derive_seed(run.config.seed, "claim/bootstrap"))
    found = {
        "run_id": run.run_id,
        "dataset": run.config.dataset.source,
        "preset": run.config.preset,
        "seeds": [run.config.seed + i for i in range(len(summaries))],
        **weighed,
        "encode_seconds": _encode_seconds(run.config, artifacts[0]),
        "runs": [summary["run_id"] for summary in summaries],
        "reports": [summary["report"] for summary in summaries],
        "seconds": round(time.perf_counter() - run.started, 3),
    }
    found["report"] = str(_publish(run, found, folders))
    run.tracking.log_metrics(run.run_id, metrics_of(weighed), step=0)
    with in_prefect():
        create_markdown_artifact(found["verdict"], key="vaesc-claim", description="All seeds")
    return found


def _artifacts(summary: Mapping[str, Any]) -> dict[str, Artifact]:
    """Return the artifacts of a run by kind, each verified."""
    kinds = {step.name: step.kind for step in STEPS}
    return {
        kinds[step["name"]]: this_store().open(kinds[step["name"]], step["digest"])
        for step in summary["steps"]
        if step["name"] in kinds
    }


def _encode_seconds(
    config: PipelineConfig, artifacts: Mapping[str, Artifact]
) -> dict[str, list[float]]:
    """Time the methods of one seed, once for each evaluation: method -> seconds at each level."""
    from vaesc.evaluation.timing import SECONDS, encode_seconds

    spec = Spec(
        kind="timing", config={}, inputs={"evaluation": artifacts["evaluation"].digest},
        source=source_digest("vaesc.evaluation.timing"),
    )  # fmt: skip
    paths = {kind: artifact.path for kind, artifact in artifacts.items()}
    made = this_store().make(
        spec, lambda folder: encode_seconds(config.evaluation, config.dictionary, paths, folder)
    )
    found: dict[str, list[float]] = json.loads((made.path / SECONDS).read_bytes())
    return found


def _publish(run: PipelineRun, found: Mapping[str, Any], folders: Sequence[Path]) -> Path:
    """Write ``claim.json`` and ``report.html`` beside those of single runs, and log both."""
    from vaesc.report.claim import render_claim

    folder = home() / "runs" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "run_id": run.run_id,
        "flow_run_id": run.flow_run_id,
        "config": settings(run.config),
        "config_digest": config_digest(run.config),
        "tags": {**system_tags(), **git_tags()},
    }
    report = folder / "report.html"
    report.write_text(render_claim(found, folders, run=facts), encoding="utf-8")
    text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False)
    (folder / "claim.json").write_text(text + "\n", encoding="utf-8")
    (folder / "verdict.txt").write_text(found["verdict"] + "\n", encoding="utf-8")
    run.tracking.log_artifacts(run.run_id, folder)
    return report
