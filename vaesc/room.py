"""Room on the disk: a step that clearly has too little refuses to start, and says what it needs.

What is reckoned is what is known beforehand and certainly written: latents and codes, and the
images that lie in a temporary file while pixel dictionaries are learned from them, where a split
fits one (:meth:`vaesc.evaluation.batches.Split.samples`). It is a lower bound, so that nothing is
refused that might have fitted.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from vaesc.config import PipelineConfig
from vaesc.errors import MachineError
from vaesc.records import Dataset

FLOOR = 64 << 20
"""Bytes that any step needs: checkpoints, pictures, the run database."""
_NUMBER = 4
_AFTER = {
    "train": ("latents", "codes", "images"), "extract": ("latents", "codes", "images"),
    "learn": ("codes", "images"), "refine": ("images",), "evaluate": ("images",),
}  # fmt: skip
"""What is still to be written when a step begins; ingestion comes before there are numbers."""


def needed_bytes(step: str, config: PipelineConfig, dataset: Dataset | None) -> int:
    """Return the bytes that will certainly be written from the beginning of a step on.

    Args:
        step: Name of the step.
        config: The run's config.
        dataset: The images; None for a step that does not see them, which then needs the floor.
    """
    if dataset is None:
        return FLOOR
    learned = (dataset.n_train, dataset.n_validation)
    n = sum(learned) + dataset.n_test
    images = [split * math.prod(dataset.shape) * _NUMBER for split in learned]
    parts = {
        "latents": n * 2 * config.vae.latent_dim * _NUMBER,
        "codes": n * 2 * config.dictionary.n_nonzero_coefs * _NUMBER,
        "images": sum(size for size in images if size <= config.window_bytes),
    }
    return FLOOR + sum(parts[name] for name in _AFTER.get(step, ()))


def require_room(step: str, config: PipelineConfig, dataset: Dataset | None, folder: Path) -> None:
    """Refuse to begin a step on a disk that is clearly too full.

    Raises:
        MachineError: There is less room than :func:`needed_bytes`.
    """
    needed = needed_bytes(step, config, dataset)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise MachineError(
            f"{step} needs at least {needed / 1e6:,.0f} MB in {folder}, and {free / 1e6:,.0f} MB "
            "are free there; free some space (`vaesc gc` says what can go), or set VAESC_HOME to "
            "a folder on a larger disk"
        )
