"""What the schedule runs: a candidate on whatever the source holds now, and a decision about it.

A scheduled run whose data, settings and code are those of an earlier one says so and stops within
seconds, so a backlog of late runs is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from flows.pipeline import pipeline
from tasks import logs
from tasks.alive import on_record
from tasks.gate import gate
from tasks.retrain import champion_artifacts, known_decision, retrain_key
from vaesc.config_files import load_config


@flow(name="retrain", flow_run_name="retrain-{preset}", persist_result=False)
def retrain(
    preset: str = "digits",
    settings: list[str] | None = None,
    config_file: str | None = None,
    warm_start: bool = False,
    force: bool = False,
    reason: str = "",
) -> dict[str, Any]:
    """Train a candidate, compare it with the champion on the frozen split, and decide.

    Args:
        preset: Name of a preset, such as ``fashion-mnist``.
        settings: What differs from it, each ``section.name=value``, as for ``vaesc run --set``.
        config_file: Path of a TOML file laid over the preset, below `settings`.
        warm_start: Start training from the champion's weights.
        force: Run even if data, settings and code are those of an earlier retraining.
        reason: Why it is run, where that is not the schedule's doing, such as a drift's reason.

    Returns:
        ``outcome`` (``promoted``, ``rejected`` or ``nothing new``), ``reason``, the decision's
        numbers, and under ``run`` the summary of the pipeline run, None if there was none.
    """
    logs.install()
    if reason:
        get_run_logger().info("retraining because: %s", reason)
    with on_record():
        path = Path(config_file) if config_file else None
        config = load_config(preset, path, settings or [])
        key = retrain_key(config, warm_start)
        known = None if force else known_decision(config, key)
        if known is not None:
            if reason:
                get_run_logger().warning("the source holds nothing new to learn from: %s", reason)
            return known
        start = champion_artifacts(config) if warm_start else None
        run = pipeline(config, start, candidate=True)
        key = key or retrain_key(config, warm_start)  # data may have been downloaded
        version = run["model"]["version"]
        decision = gate(
            config, version, run["run_id"], key, start.version if start else None, reason
        )
        return {**decision, "run": run}
