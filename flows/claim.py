"""The article's claim over several seeds: one pipeline each, side by side, then weighed together.

::

    python -m vaesc claim --preset fashion-mnist --seeds 3
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from tasks import logs
from tasks.alive import on_record
from tasks.claim import seed_of, weigh_seeds_of
from tasks.runs import ONE_EACH, none_outlives, run_all
from tasks.tracking import pipeline_run
from vaesc.config_files import load_config
from vaesc.errors import ConfigError, VaescError


@flow(
    name="claim", flow_run_name="claim-{preset}-{seeds}-seeds", task_runner=ONE_EACH,
    persist_result=False,
)  # fmt: skip
def claim(
    preset: str = "digits",
    config_file: str | None = None,
    settings: Sequence[str] = (),
    seeds: int = 3,
) -> dict[str, Any]:
    """Run the pipeline with several seeds, from the config's on, and judge the claim on all.

    Args:
        preset: Name of a preset, such as ``fashion-mnist``.
        config_file: Path of a TOML file laid over it.
        settings: What differs from both, each ``section.name=value``.
        seeds: Number of seeds, at least 1.

    Returns:
        The object that ``vaesc claim --json`` prints.

    Raises:
        ConfigError: `seeds` is below 1, or a setting is wrong.
        VaescError: The run of a seed failed; those that finished are kept.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    logs.install()
    path = Path(config_file) if config_file else None
    config = load_config(preset, path, list(settings))
    tags = {"vaesc.seeds": str(seeds)}
    run_of_claim = pipeline_run(config, name=f"claim-{config.preset}", tags=tags)
    seed_runs = [seed_of(preset, config_file, settings, config.seed + i) for i in range(seeds)]
    with on_record(), run_of_claim as run, none_outlives():
        summaries = []
        for found in run_all(seed_runs, run.run_id, config.runtime):
            if isinstance(found, VaescError):
                raise found
            summaries.append(found)
        return weigh_seeds_of(run, summaries)
