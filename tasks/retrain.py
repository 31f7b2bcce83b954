"""What surrounds a retraining: whether there is anything new, and what it starts from."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task

from tasks import logs
from tasks.gate import RETRAIN_TAG
from vaesc import datasets
from vaesc.config import PipelineConfig, canonical_json, config_digest, settings
from vaesc.records import Dataset, Refined, TrainedVAE
from vaesc.registry import candidates, connect, freezing, promotion
from vaesc.registry.failures import AbsentError
from vaesc.registry.lookup import DECISION_TAG, find_version
from vaesc.shared import this_store
from vaesc.source import source_digest
from vaesc.steps import REFINE, TRAIN, steps_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a warm start takes from the champion."""

    version: int
    vae: TrainedVAE | None
    """None: it is not in this store any more, and training starts from random weights."""
    refined: Refined | None


def started_from(start: Start | None, config: PipelineConfig) -> dict[str, str]:
    """Return what a warm start takes from the champion, as tags of the run."""
    if start is None:
        return {}
    taken = ["vae"] if start.vae else []
    taken += ["refined"] if start.refined and config.refine.epochs else []
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
        "source": [source_digest(step.module) for step in steps_of(config)],
        "warm_start": warm_start,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@task(name="anything-new", persist_result=False)
def known_decision(config: PipelineConfig, key: str) -> dict[str, Any] | None:
    """Return what was decided when the same data, settings and code were last trained on.

    That stands if the version that came of it is or was champion (a rollback is not undone by the
    next night), or was rejected against the very champion of now on the very split that is frozen
    now. A decision that was not carried
    out, since its process was killed, does not.

    Raises:
        RegistryError: What a candidate is compared on is not in this store: no use training one.
    """
    logs.install()
    name = config.registry.model_name
    try:
        tracking = connect(config.registry.experiment, create=False)
        candidates.check_comparable(tracking, name)
        found = promotion.tagged(tracking, name, RETRAIN_TAG, key) if key else None
    except AbsentError:
        return None
    if found is None:
        return None
    number, champion = int(found.version), promotion.champion_of(tracking, name)
    decision: dict[str, Any] = json.loads(found.tags.get(DECISION_TAG, "{}"))
    if number in promotion.were_champion(tracking, name):
        what = "is the champion" if number == champion else "was champion before"
    elif (
        decision.get("outcome") == "rejected"
        and decision["champion"] == champion
        and decision.get("frozen_dataset") == freezing.frozen_dataset(tracking, name)
    ):
        what = f"was rejected against the champion, version {champion}"
    else:
        return None
    reason = f"nothing new: data, settings and code are those of version {number}, which {what}"
    logger.warning("%s", reason)
    return {**decision, "outcome": "nothing new", "reason": reason, "run": None}


def check_candidate(config: PipelineConfig, dataset: Dataset) -> None:
    """See that what comes of these images can be compared with the champion, before training.

    Raises:
        RegistryError: It cannot: another shape or range.
    """
    tracking = connect(config.registry.experiment)
    with suppress(AbsentError):
        candidates.check_fits(tracking, config.registry.model_name, Path(dataset.uri))


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
        artifact = this_store().find(step.kind, address) if address else None
        if address and artifact is None:
            logger.warning(
                "the champion's %s is not in this store: %s starts cold", step.kind, step.name
            )
        if step is TRAIN and artifact and not _fits(artifact.path, config):
            logger.warning("the champion's VAE has other settings: training starts cold")
            artifact = None
        found[step.name] = artifact and step.recorded(artifact)
    return Start(version=number, vae=found["train"], refined=found["refine"])


def _fits(vae: Path, config: PipelineConfig) -> bool:
    """Whether a trained VAE has the settings that this run's is to have."""
    told = json.loads((vae / "vae.json").read_bytes())["config"]
    return bool(told == settings(config.vae))
