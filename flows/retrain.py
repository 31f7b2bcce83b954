"""What the schedule runs: the pipeline from a preset, with the settings that differ.

A scheduled run whose data and settings have not changed finds every step in the cache and takes
seconds, so a backlog of late runs is cheap.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from flows.pipeline import pipeline
from vaesc.config_files import load_config


@flow(name="retrain", flow_run_name="retrain-{preset}", persist_result=False)
def retrain(
    preset: str = "digits", settings: list[str] | None = None, reason: str = ""
) -> dict[str, Any]:
    """Run the pipeline on whatever the source holds now.

    Args:
        preset: Name of a preset, such as ``fashion-mnist``.
        settings: What differs from it, each ``section.name=value``, as for ``vaesc run --set``.
        reason: Why it is run, where that is not the schedule's doing, such as a drift's reason.

    Returns:
        The summary of the pipeline run.
    """
    if reason:
        get_run_logger().info("retraining because: %s", reason)
    return pipeline(load_config(preset, assignments=settings or []))
