"""What an application needs beside the run's own data: looked for before hours of training."""

from __future__ import annotations

from vaesc.config import AnomalyConfig, DatasetConfig, PipelineConfig
from vaesc.datasets.sources import is_present
from vaesc.errors import DataError


def check_applications(config: PipelineConfig) -> None:
    """Refuse a run whose applications lack what its settings name.

    Raises:
        DataError: The images that `anomaly.outliers` names are not on this machine.
    """
    if "anomaly" in config.applications:
        outlier_source(config.anomaly, config.dataset.folder)


def outlier_source(config: AnomalyConfig, folder: str | None = None) -> DatasetConfig | None:
    """Return where the outliers that `config` names lie; None if they are made.

    Args:
        config: Names them.
        folder: Where to look if `config` names no folder.

    Raises:
        DataError: They are not on this machine.
    """
    if config.outliers == "made":
        return None
    wanted = DatasetConfig(
        source=config.outliers, folder=config.outliers_folder or folder, download=False
    )
    if not is_present(wanted):
        raise DataError(
            f"anomaly.outliers={config.outliers} is nowhere on this machine; set "
            "anomaly.outliers_folder to the folder that holds it, or anomaly.outliers=made"
        )
    return wanted
