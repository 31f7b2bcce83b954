"""What surrounds a retraining: whether there is anything new, and what it starts from."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from prefect import task

from tasks import logs
from tasks.gate import RETRAIN_TAG
from vaesc import datasets
from vaesc.config import PipelineConfig, canonical_json, config_digest, settings
from vaesc.records import Refined, TrainedVAE
from vaesc.registry import connect, promotion
from vaesc.registry.connection import AbsentError
from vaesc.registry.lookup import DECISION_TAG, find_version
from vaesc.source import source_digest
from vaesc.steps import REFINE, STEPS, TRAIN
from vaesc.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a warm start takes from the champion."""

    version: int
    vae: TrainedVAE | None
    """None: it is not in this store any more, and training starts from random weights."""
    refined: Refined | None


def started_from(start: Start | None) -> dict[str, str]:
    """Return what a warm start took from the champion, as tags of the run."""
    if start is None:
        return {}
    taken = [name for name in ("vae", "refined") if getattr(start, name) is not None]
    return {"vaesc.warm_start": f"version {start.version}: {', '.join(taken) or 'nothing'}"}


def retrain_key(config: PipelineConfig, warm_start: bool) -> str:
    """Return one digest of data, settings, policy and code; '' if the data is not here yet."""
    if not datasets.is_present(config.dataset):
        return ""
    parts = {
        "config": config_digest(config),
        "gate": settings(config.gate),
        "model": config.registry.model_name,
        "data": datasets.fingerprint(config.dataset),
        "source": [source_digest(step.module) for step in STEPS],
        "warm_start": warm_start,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@task(name="anything-new", persist_result=False)
def known_decision(config: PipelineConfig, key: str) -> dict[str, Any] | None:
    """Return what was decided when the same data, settings and code were last trained on."""
    logs.install()
    try:
        tracking = connect(config.registry.experiment, create=False)
        found = key and promotion.decided(tracking, config.registry.model_name, RETRAIN_TAG, key)
    except AbsentError:
        return None
    if not found:
        return None
    decision = json.loads(found.tags[DECISION_TAG])
    reason = (
        f"nothing new: data, settings and code are those of version {found.version}, which was "
        f"{decision['outcome']}"
    )
    logger.warning("%s", reason)
    return {**decision, "outcome": "nothing new", "reason": reason, "run": None}


@task(name="warm-start", persist_result=False)
def champion_artifacts(config: PipelineConfig) -> Start | None:
    """Return the artifacts that the champion was made from; None if there is no champion."""
    logs.install()
    tracking = connect(config.registry.experiment)
    name = config.registry.model_name
    try:
        number = promotion.champion_of(tracking, name)
    except AbsentError:
        number = None
    if number is None:
        logger.warning("a warm start was asked for, and model %r has no champion", name)
        return None
    tags = find_version(tracking, number, name).tags
    found: dict[str, Any] = {}
    for step in (TRAIN, REFINE):
        address = tags.get(f"vaesc.digest.{step.name}")
        artifact = Store().find(step.kind, address) if address else None
        if address and artifact is None:
            logger.warning(
                "the champion's %s is not in this store: %s starts cold", step.kind, step.name
            )
        found[step.name] = artifact and step.recorded(artifact)
    return Start(version=number, vae=found["train"], refined=found["refine"])
