"""The gate: candidate against champion on the frozen split, the decision kept, the alias moved.

The decision is stored on the model version, in the MLflow run and in Prefect before anything
moves; the alias moves last. If another version has become champion meanwhile, the candidate is
compared with that one, so two retrainings that finish together cannot both win over the same
champion; if another split was frozen meanwhile, on that one.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.tasks import exponential_backoff

from tasks import events, logs
from tasks.publish import in_prefect
from tasks.step import may_pass
from vaesc.config import PipelineConfig
from vaesc.registry import candidates, connect, decisions, freezing, promotion
from vaesc.registry.lookup import DECISION_TAG, find_version
from vaesc.registry.tracking import HEALTH_TAG, Tracking

logger = logging.getLogger(__name__)

RETRAIN_TAG = "vaesc.retrain_key"
"""Tag of a version: data, settings and code of the retraining that made it."""
_TRIES = 10


@task(
    name="gate", retries=3, retry_delay_seconds=exponential_backoff(5), retry_jitter_factor=0.5,
    retry_condition_fn=may_pass, timeout_seconds=3600, persist_result=False,
)  # fmt: skip
def gate(
    config: PipelineConfig,
    version: int,
    run_id: str,
    key: str,
    start: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Decide on a registered version, keep the decision, and promote the version if it is due.

    Args:
        config: Policy, margins and limits (``gate``), the model's name.
        version: The candidate.
        run_id: The MLflow run that made it.
        key: What the retraining worked on, see :func:`tasks.retrain.known_decision`.
        start: The version whose weights it started from.
        reason: Why it was trained, where the schedule was not the reason; a tag of the run.

    Returns:
        The decision, its numbers and its reason, see
        :meth:`vaesc.registry.candidates.Weighed.to_json`; ``page`` is where they are shown.
    """
    logs.install()
    tracking = connect(config.registry.experiment)
    name = config.registry.model_name
    if reason:
        tracking.set_tags(run_id, {"vaesc.retrain_reason": reason[:4000]})
    candidates.note_ancestry(tracking, find_version(tracking, version, name), start)
    for _ in range(_TRIES):
        against = promotion.champion_of(tracking, name)
        if against == version:
            return _standing(tracking, name, version)
        if against is not None:
            freezing.freeze_first(tracking, against, name)
        weighed = candidates.weigh(
            tracking, version, against=against, name=name, policy=config.gate,
            device=config.runtime.device,
        )  # fmt: skip
        decision = decisions.record(tracking, weighed, run_id, tags={RETRAIN_TAG: key})
        _show_in_prefect(decision)
        if decision["outcome"] == "rejected":
            _announce(tracking, events.REJECTED, decision, run_id)
            return decision
        if against is None:
            freezing.freeze_first(tracking, version, name)
        try:
            promotion.promote(
                tracking, weighed.candidate, expected=against, judged_on=weighed.frozen,
                reason=weighed.decision.reason, by=f"run {run_id}",
                kind="promote" if against else "first",
            )  # fmt: skip
        except promotion.StaleError as error:
            logger.warning("%s", error)
            continue
        _announce(tracking, events.PROMOTED, decision, run_id)
        return decision
    raise promotion.StaleError(
        f"the champion of {name!r} changed {_TRIES} times while version {version} was compared "
        f"with it; run `vaesc models promote {version} --name {name}` when it rests"
    )


def _standing(tracking: Tracking, name: str, version: int) -> dict[str, Any]:
    """Return what there is to say of a candidate that is the champion: nothing is decided anew."""
    text = find_version(tracking, version, name).tags.get(DECISION_TAG)
    known: dict[str, Any] = json.loads(text) if text else {}
    reason = f"nothing new: the candidate is version {version}, the champion"
    return {
        "model": name, "candidate": version, "champion": version, "comparisons": [], "checks": [],
        "atoms": None, **known, "outcome": "nothing new", "reason": reason,
    }  # fmt: skip


def _announce(tracking: Tracking, event: str, decision: dict[str, Any], run_id: str) -> None:
    """Tell Prefect what was decided; `flows.notifications` tells people of a rejection."""
    said = {name: decision[name] for name in ("outcome", "reason", "candidate", "champion")}
    said |= {"run_id": run_id, "health": tracking.tag(run_id, HEALTH_TAG)}
    events.send(event, decision["model"], said)


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
