"""What an application needs beside the run's own data: looked for before hours of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vaesc.config import AnomalyConfig, Application, DatasetConfig, PipelineConfig
from vaesc.datasets.sources import is_present, source_of
from vaesc.errors import ConfigError, DataError


def check_applications(config: PipelineConfig) -> None:
    """Refuse a run whose applications lack what its settings name.

    Raises:
        ConfigError: `anomaly.outliers` names the data set that the model is made for.
        DataError: The images that it names are not on this machine.
    """
    if "anomaly" not in config.applications:
        return
    if config.anomaly.outliers == config.dataset.source:
        raise ConfigError(
            f"anomaly.outliers={config.anomaly.outliers} is the run's own data set, and nothing "
            "could be told from it; name another one, or set anomaly.outliers=made"
        )
    outlier_source(section_of("anomaly", config))


def check_outliers(config: PipelineConfig, shape: tuple[int, ...]) -> None:
    """Refuse outliers that the model could not take, once its own images are known.

    Args:
        config: The run's config.
        shape: Of one image of its data set.

    Raises:
        DataError: Those that `anomaly.outliers` names have another shape.
    """
    if "anomaly" not in config.applications:
        return
    wanted = outlier_source(section_of("anomaly", config))
    if wanted is not None:
        check_shape(wanted.source, source_of(wanted).load(wanted, 0).parts["test"].images, shape)


def check_shape(name: str, images: Any, shape: tuple[int, ...]) -> None:  # noqa: ANN401
    """Refuse outliers of another shape than the model's images.

    Raises:
        DataError: They are.
    """
    if tuple(images.shape[1:]) != tuple(shape):
        raise DataError(
            f"anomaly.outliers={name} has images of shape {tuple(images.shape[1:])}, the model "
            f"takes {tuple(shape)}; set anomaly.outliers=made"
        )


def outside(name: Application, config: PipelineConfig) -> str:
    """Return the fingerprint of what an application looks at beside the run's artifacts.

    It goes into the cache key: other files, or other image formats, another result.

    Raises:
        DataError: It is not on this machine.
    """
    if name == "compression":
        from vaesc.applications.compression.peers import versions

        return f"formats {versions()}"
    if name != "anomaly":
        return ""
    wanted = outlier_source(section_of("anomaly", config))
    return "" if wanted is None else f"outliers {source_of(wanted).fingerprint(wanted)}"


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
