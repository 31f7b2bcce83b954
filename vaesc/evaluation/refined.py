"""What the step *refine* left: a VAE and a dictionary for each sparsity level, read back."""

from __future__ import annotations

import json
from pathlib import Path

from vaesc.bundle import SparseVAE

LEVELS = "levels.json"
"""File of the artifact that says which level is served by the models of which level."""


def open_refined(
    dataset_folder: Path, folder: Path, *, device: str = "auto"
) -> dict[int, SparseVAE]:
    """Return compared level -> refined model; levels that share one share the object."""
    at: dict[str, int] = json.loads((folder / LEVELS).read_bytes())
    models = {
        level: SparseVAE.from_artifacts(
            dataset_folder, folder / f"k{level}", folder / f"k{level}", device=device
        )
        for level in sorted(set(at.values()))
    }
    return {int(k): models[level] for k, level in at.items()}


def refined_folder(folder: Path, level: int) -> Path:
    """Return the folder of the refined model that serves `level`."""
    at: dict[str, int] = json.loads((folder / LEVELS).read_bytes())
    return folder / f"k{at[str(level)]}"
