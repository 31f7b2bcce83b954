"""A decision is kept where people look: on the version, in the MLflow run, and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vaesc.config import home
from vaesc.registry import candidates
from vaesc.registry.candidates import Weighed
from vaesc.registry.card_decision import with_decision
from vaesc.registry.files import shown_version
from vaesc.registry.lookup import ATOMS_TAG, DECISION_TAG
from vaesc.registry.tracking import Tracking
from vaesc.report.decision import render_decision
from vaesc.scratch import scratch


def record(
    tracking: Tracking,
    weighed: Weighed,
    run_id: str,
    *,
    forced: bool = False,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Keep a decision, before anything is done about it.

    Args:
        tracking: Which MLflow.
        weighed: The comparison.
        run_id: The MLflow run that the decision goes to.
        forced: Whether the version is promoted against it.
        tags: More tags of the version.

    Returns:
        The decision as JSON values; ``page`` is where it is shown.
    """
    decision = weighed.to_json()
    if forced:
        decision["outcome"] = "forced"
    _tag(tracking, weighed, decision, tags or {})
    page = home() / "runs" / run_id / "decision.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render_decision(decision, weighed.pictures), encoding="utf-8")
    with scratch("decision") as folder:
        path = folder / "decision.json"
        path.write_text(json.dumps(decision, indent=1, sort_keys=True) + "\n")
        tracking.log_artifacts(run_id, path)
    tracking.log_artifacts(run_id, page)
    tracking.log_metrics(run_id, candidates.metrics_of(decision))
    tracking.set_tags(
        run_id, {"vaesc.gate": decision["outcome"], "vaesc.gate_reason": decision["reason"]}
    )
    return {**decision, "page": str(page)}


def _tag(
    tracking: Tracking, weighed: Weighed, decision: Mapping[str, Any], tags: Mapping[str, str]
) -> None:
    version = weighed.candidate
    every = {
        ATOMS_TAG: candidates.atoms_text(weighed.atoms),
        DECISION_TAG: json.dumps(candidates.short(decision), sort_keys=True),
        **tags,
    }
    with tracking.explained(f"keep the decision on {shown_version(version)}"):
        for key, value in every.items():
            tracking.client.set_model_version_tag(version.name, str(version.version), key, value)
        # Asked again: whoever reads the card may have written in it meanwhile.
        now = tracking.client.get_model_version(version.name, str(version.version))
        card = with_decision(now.description or "", decision)
        tracking.client.update_model_version(version.name, str(version.version), card)
