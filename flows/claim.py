"""The article's claim over several seeds: one pipeline each, side by side, then weighed together.

::

    python -m vaesc claim --preset fashion-mnist --seeds 3
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from tasks import logs
from tasks.alive import on_record
from tasks.claim import Seed, no_seed_outlives, run_seed, weigh_seeds_of
from tasks.tracking import pipeline_run
from vaesc.config_files import load_config
from vaesc.errors import ConfigError

_AT_ONCE: Any = ThreadPoolTaskRunner(max_workers=2 * (os.cpu_count() or 1))
"""Seeds that run at once, on one thread each; those beyond the processors share them."""


@flow(
    name="claim", flow_run_name="claim-{preset}-{seeds}-seeds", task_runner=_AT_ONCE,
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
    with on_record(), run_of_claim as run, no_seed_outlives():
        started = [
            run_seed.submit(
                Seed(preset, config_file, tuple(settings), config.seed + i), run.run_id
            )
            for i in range(seeds)
        ]
        summaries = [future.result() for future in started]
        return weigh_seeds_of(run, summaries)
