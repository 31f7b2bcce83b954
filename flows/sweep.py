"""A grid over any settings: one pipeline a cell, side by side, in one MLflow run and one table.

::

    python -m vaesc sweep --preset digits --grid vae.latent_dim=8,16 --grid seed=0,1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from tasks import logs
from tasks.alive import on_record
from tasks.runs import ONE_EACH, none_outlives, run_all
from tasks.sweep import pipeline_of, row_of, tabulate
from tasks.tracking import pipeline_run
from vaesc.config_files import load_config
from vaesc.sweep import cells_of, metric_of


@flow(name="sweep", flow_run_name="sweep-{preset}", task_runner=ONE_EACH, persist_result=False)
def sweep(
    preset: str = "digits",
    config_file: str | None = None,
    settings: Sequence[str] = (),
    grid: Sequence[str] = (),
    metric: str | None = None,
    largest: bool = False,
) -> dict[str, Any]:
    """Run the pipeline for every combination of a grid, and rank what came out.

    Args:
        preset: Name of a preset, such as ``fashion-mnist``.
        config_file: Path of a TOML file laid over it.
        settings: What differs from both in every cell, each ``section.name=value``.
        grid: What differs between cells, each ``section.name=value,value,...``.
        metric: What cells are ranked by; default: the test error at their sparsity level.
        largest: Whether more of it is better.

    Returns:
        The object that ``vaesc sweep --json`` prints; cells that failed are listed in it.

    Raises:
        ConfigError: The grid or a setting is wrong; nothing has been started then.
    """
    logs.install()
    path = Path(config_file) if config_file else None
    config = load_config(preset, path, list(settings))
    cells = cells_of(preset, path, settings, grid)
    configs = [load_config(preset, path, [*settings, *cell.assignments]) for cell in cells]
    by = metric_of(metric, configs)
    model = config.registry.model_name
    pipelines = [pipeline_of(cell, preset, config_file, settings, model) for cell in cells]
    tags = {"vaesc.cells": str(len(cells)), "vaesc.grid": " ".join(grid)}
    run_of_sweep = pipeline_run(config, name=f"sweep-{config.preset}", tags=tags)
    with on_record(), run_of_sweep as run, none_outlives():
        found = run_all(pipelines, run.run_id, config.runtime)
        rows = [row_of(cell, each) for cell, each in zip(cells, found, strict=True)]
        return tabulate(run, rows, by, largest=largest)
