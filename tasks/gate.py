"""The gate: candidate against champion on the frozen split, the decision kept, the alias moved.

The decision is stored on the model version and in the MLflow run before anything moves; the alias
moves last. If another version has become champion meanwhile, the candidate is compared with that
one, so two retrainings that finish together cannot both win over the same champion.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.tasks import exponential_backoff

from tasks import logs
from tasks.publish import in_prefect
from tasks.step import may_pass
from vaesc.config import PipelineConfig, home
from vaesc.registry import candidates, connect, promotion
from vaesc.registry.candidates import Weighed
from vaesc.registry.lookup import ATOMS_TAG
from vaesc.registry.tracking import Tracking
from vaesc.report.decision import render_decision

logger = logging.getLogger(__name__)

RETRAIN_TAG = "vaesc.retrain_key"
"""Tag of a version: data, settings and code of the retraining that made it."""
_TRIES = 10


@task(
    name="gate", retries=3, retry_delay_seconds=exponential_backoff(5), retry_jitter_factor=0.5,
    retry_condition_fn=may_pass, timeout_seconds=3600, persist_result=False,
)  # fmt: skip
def gate(config: PipelineConfig, version: int, run_id: str, key: str = "") -> dict[str, Any]:
    """Decide on a registered version, keep the decision, and promote the version if it is due.

    Args:
        config: Policy, margins and limits (``gate``), the model's name.
        version: The candidate.
        run_id: The MLflow run that made it.
        key: What the retraining worked on, for :func:`known_decision`.

    Returns:
        The decision, its numbers and its reason, see
        :meth:`vaesc.registry.candidates.Weighed.to_json`; ``page`` is where they are shown.
    """
    logs.install()
    tracking = connect(config.registry.experiment)
    name = config.registry.model_name
    for _ in range(_TRIES):
        against = promotion.champion_of(tracking, name)
        weighed = candidates.weigh(
            tracking, version, name=name, policy=config.gate, device=config.runtime.device,
            alone=against == version,
        )  # fmt: skip
        decision = _keep(tracking, weighed, run_id, key)
        if decision["outcome"] == "rejected" or against == version:
            if decision["outcome"] == "rejected" and against == version:
                promotion.withdraw(tracking, name, version, reason=decision["reason"], by=run_id)
            return decision
        try:
            promotion.promote(
                tracking, weighed.candidate, expected=weighed.champion, by=f"run {run_id}",
                reason=weighed.decision.reason,
            )  # fmt: skip
        except promotion.StaleError as error:
            logger.warning("%s", error)
            continue
        return decision
    raise promotion.StaleError(
        f"the champion of {name!r} changed {_TRIES} times while version {version} was compared "
        f"with it; run `vaesc models promote {version}` when it rests"
    )


def _keep(tracking: Tracking, weighed: Weighed, run_id: str, key: str) -> dict[str, Any]:
    """Store the decision on the version, in the run, and in Prefect's UI."""
    decision = weighed.to_json()
    tags = {ATOMS_TAG: candidates.atoms_text(weighed.atoms)}
    if key:
        tags[RETRAIN_TAG] = key
    promotion.keep_decision(tracking, weighed.candidate, candidates.short(decision), tags)
    page = home() / "runs" / run_id / "decision.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render_decision(decision, weighed.pictures), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "decision.json")
        path.write_text(json.dumps(decision, indent=1, sort_keys=True) + "\n")
        tracking.log_artifacts(run_id, path)
    tracking.log_artifacts(run_id, page)
    tracking.log_metrics(run_id, candidates.metrics_of(decision))
    tracking.set_tags(
        run_id, {"vaesc.gate": decision["outcome"], "vaesc.gate_reason": decision["reason"]}
    )
    _show_in_prefect(decision)
    return {**decision, "page": str(page)}


def _show_in_prefect(decision: dict[str, Any]) -> None:
    words = (
        f"**Version {decision['candidate']} of {decision['model']}: {decision['outcome']}** "
        f"(against version {decision['champion']}, {decision['n_images']} frozen images)\n\n"
        f"{decision['reason']}\n"
    )
    with in_prefect():
        create_markdown_artifact(words, key="vaesc-gate", description="Promoted or rejected")
        if decision["comparisons"]:
            create_table_artifact(
                decision["comparisons"], key="vaesc-gate-numbers",
                description="Candidate against champion on the frozen split",
            )  # fmt: skip
