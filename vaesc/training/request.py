"""A whole training as a value, and as what JSON can say, to be handed to other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaesc.config import TrainingConfig, VAEConfig, settings
from vaesc.config_files import config_from_mapping
from vaesc.training.prepare import How


@dataclass(frozen=True, kw_only=True)
class Work:
    """A whole training, from folder to folder."""

    vae: VAEConfig
    training: TrainingConfig
    dataset: Path
    folder: Path
    seed: int
    window_bytes: int
    start: Path | None
    how: How


def work_as_json(work: Work) -> dict[str, Any]:
    """Return a training as what JSON can say; the ranks are left out."""
    paths = {name: getattr(work, name) for name in ("dataset", "folder", "start")}
    how = {k: v for k, v in vars(work.how).items() if k != "ranks"}
    how["checkpoints"] = how["checkpoints"] and str(how["checkpoints"])
    return {
        "vae": settings(work.vae), "training": settings(work.training), "seed": work.seed,
        "window_bytes": work.window_bytes,
        **{name: path and str(path) for name, path in paths.items()}, "how": how,
    }  # fmt: skip


def work_from_json(told: Mapping[str, Any]) -> Work:
    """Rebuild a training from :func:`work_as_json`."""
    config = config_from_mapping({"vae": told["vae"], "training": told["training"]})
    paths = {name: told[name] and Path(told[name]) for name in ("dataset", "folder", "start")}
    checkpoints = told["how"]["checkpoints"]
    how = How(**{**told["how"], "checkpoints": checkpoints and Path(checkpoints)})
    return Work(
        vae=config.vae, training=config.training, seed=told["seed"],
        window_bytes=told["window_bytes"], how=how, **paths,
    )  # fmt: skip
