"""What an application needs beside the run's own data: looked for before hours of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vaesc.config import AnomalyConfig, Application, DatasetConfig, PipelineConfig
from vaesc.datasets.sources import is_present
from vaesc.errors import DataError


def check_applications(config: PipelineConfig) -> None:
    """Refuse a run whose applications lack what its settings name.

    Raises:
        DataError: The images that `anomaly.outliers` names are not on this machine.
    """
    if "anomaly" in config.applications:
        outlier_source(section_of("anomaly", config))


def section_of(name: Application, config: PipelineConfig) -> Any:  # noqa: ANN401 - of any application
    """Return an application's settings; other images are looked for where the run's own lie."""
    section = getattr(config, name)
    if name == "anomaly" and section.outliers_folder is None:
        return replace(section, outliers_folder=config.dataset.folder)
    return section


def outlier_source(config: AnomalyConfig) -> DatasetConfig | None:
    """Return where the outliers that `config` names lie; None if they are made.

    Raises:
        DataError: They are not on this machine.
    """
    if config.outliers == "made":
        return None
    wanted = DatasetConfig(source=config.outliers, folder=config.outliers_folder, download=False)
    if not is_present(wanted):
        raise DataError(
            f"anomaly.outliers={config.outliers} is nowhere on this machine; set "
            "anomaly.outliers_folder to the folder that holds it, or anomaly.outliers=made"
        )
    return wanted
