"""What an application is given: the model that will be registered, its data, where to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaesc.bundle import SparseVAE
from vaesc.config import derive_seed
from vaesc.progress import SILENT, Listener
from vaesc.windows import WINDOW_BYTES

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One run's model and data."""

    model: SparseVAE
    """The model that will be registered: the refined one, if the run refines."""
    article: SparseVAE
    """The article's own: a VAE trained for its bound, and a dictionary of its latents."""
    dataset: ImageDataset
    folder: Path
    """Where figures are drawn and the part for the registered model is written."""
    seed: int
    block_size: int = 8192
    """Images in memory at once; no result may depend on it."""
    window_bytes: int = WINDOW_BYTES
    """Images shuffled together where networks are trained on all, see :mod:`vaesc.windows`."""
    listener: Listener = SILENT

    def rng(self, stream: str) -> np.random.Generator:
        """Return the generator of one named random stream."""
        return np.random.default_rng(derive_seed(self.seed, stream))


def open_subject(
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    seed: int,
    n_nonzero_coefs: int,
    device: str = "auto",
    block_size: int = 8192,
    window_bytes: int = WINDOW_BYTES,
    listener: Listener = SILENT,
) -> Subject:
    """Open a run's artifacts; arguments as for :func:`vaesc.applications.apply`.

    Raises:
        DataError: An artifact is damaged, or the dictionary belongs to another VAE.
    """
    from vaesc.datasets.reader import open_dataset
    from vaesc.evaluation.refined import refined_folder

    article = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device=device
    )
    model = article
    if "refined" in inputs:
        level = refined_folder(inputs["refined"], n_nonzero_coefs)
        model = SparseVAE.from_artifacts(inputs["dataset"], level, level, device=device)
    return Subject(
        model=model, article=article, dataset=open_dataset(inputs["dataset"]), folder=folder,
        seed=seed, block_size=block_size, window_bytes=window_bytes, listener=listener,
    )  # fmt: skip
