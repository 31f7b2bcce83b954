"""What the step *refine* left: a VAE and a dictionary for each sparsity level, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.bundle import SparseVAE
from vaesc.evaluation.kept_codes import KeptCodes
from vaesc.evaluation.methods import Batch

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LEVELS = "levels.json"
"""File of the artifact that says which level is served by the models of which level."""


class RefinedCodes:
    """Refined models, and the codes they give: those a user of the models gets.

    A descent through the decoder takes its time, so the codes of each batch are kept for whoever
    asks next: a few hundred bytes an image.

    Args:
        models: Compared level -> model.
        folder: Where codes lie that memory should not hold, see :class:`KeptCodes`.
    """

    def __init__(self, models: Mapping[int, SparseVAE], folder: Path | None = None) -> None:
        self.models = models
        self._kept = KeptCodes(folder)

    def of(self, batch: Batch, k: int) -> csr_array:
        """Return the codes of a batch at level k, or the model's own where that is lower."""
        key = batch.split, batch.rows.start, k
        codes = self._kept.get(key) if batch.split else None
        if codes is None:
            model = self.models[k]
            unit = batch.images.reshape(-1, *model.shape)
            codes = model.codes_of_unit(unit, min(k, model.n_nonzero_coefs))
            if batch.split:
                self._kept.put(key, codes)
        return codes

    def keep(self, split: str, start: int, k: int, codes: csr_array) -> None:
        """Take the codes of a batch that were made elsewhere; `start` is its first row."""
        self._kept.put((split, start, k), codes)


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
