"""Measure every method on every test image, at every sparsity level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows
from vaesc.bundle import SparseVAE, squared_errors
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.methods import Batch, Method, batches_of
from vaesc.evaluation.pool import Pool
from vaesc.evaluation.tensor_file import TensorFile
from vaesc.latent_rows import LatentRows, moments

if TYPE_CHECKING:
    from vaesc.dictionary import LatentDictionary
    from vaesc.latents import LatentStore


ERRORS = "errors.safetensors"
KEPT = ("article", "random")
"""Methods whose error on every single latent is kept, for an interval of their FVU's ratio."""


@dataclass(frozen=True)
class Measured:
    """What was measured on the test split."""

    levels: tuple[int, ...]
    errors: Mapping[str, Floats]
    """Method -> mean squared error of each image at each level, shape (n, m); NaN throughout a
    column whose level the method lacks. Of many images pools take their place, as everywhere
    below (:mod:`vaesc.evaluation.pool`)."""
    unexplained: Mapping[str, Floats]
    """The article's method and the random dictionary -> each latent's share of the FVU at each
    level, shape (n, m): its squared error over the mean squared distance from the mean latent, so
    that the mean over images is the FVU."""
    floor: Floats
    """The VAE's own error on each image, shape (n,)."""
    fvu: Mapping[str, NDArray[np.float64]]
    """Method on latents -> fraction of their variance unexplained at each level, shape (m,)."""
    l0: NDArray[np.float64]
    """Mean number of nonzero coefficients of the article's codes at each level, shape (m,)."""
    usage: NDArray[np.float64]
    """Fraction of images whose code holds each atom, at the level the dictionary was learned at,
    shape (K,)."""


def measure(
    model: SparseVAE,
    methods: Sequence[Method],
    test: Split,
    latents: LatentStore,
    dictionaries: Mapping[int, LatentDictionary],
    *,
    on_rows: Callable[[int], None],
    folder: Path,
) -> Measured:
    """Reconstruct every test image by every method, and write each image's squared error.

    Args:
        model: VAE and dictionary of the article's method.
        methods: Fitted on the training split.
        test: Test images.
        latents: Their latents.
        dictionaries: Sparsity level -> dictionary of latents; the model's own is among them.
        on_rows: Hears how many more images are done.
        folder: Where ``errors.safetensors`` is written, see :func:`error_columns`.
    """
    variation, levels = _variation(LatentRows(latents, test.name)), list(dictionaries)
    shapes = {name: (len(test),) for name in error_columns(methods, levels)}
    with TensorFile(folder / ERRORS, shapes) as file:
        tally = _Tally(methods, levels, len(test), model, variation, file)
        for batch in batches_of(test, latents, dictionaries):
            tally.add(batch)
            on_rows(len(batch.images))
    return tally.result()


def error_columns(methods: Sequence[Method], levels: Sequence[int]) -> list[str]:
    """Return the names in ``errors.safetensors``: ``vae``, and ``<method>_k<level>``.

    A level that a method lacks is no column; those of :data:`KEPT` have ``<method>_fvu_k<level>``
    beside them, each latent's share of the FVU.
    """
    images = [f"{m.name}_k{k}" for m in methods for k in levels if m.has(k)]
    return ["vae", *images, *(f"{name}_fvu_k{k}" for name in KEPT for k in levels)]


def _variation(latents: LatentRows) -> float:
    """Return the sum of squared distances of latents from their mean."""
    mean = moments(latents)[0]
    return sum(float(np.square(z - mean).sum()) for z in windows.blocks(latents))


class _Tally:
    """Running sums over the batches of the test split, and the file of single errors."""

    def __init__(
        self, methods: Sequence[Method], levels: Sequence[int], n: int, model: SparseVAE,
        variation: float, file: TensorFile,
    ) -> None:  # fmt: skip
        self.methods, self.levels, self.model = methods, tuple(levels), model
        self.n, self.variation, self.file = n, variation, file
        self.distance = np.float32(max(variation / n, 1e-12))
        self.column = {k: i for i, k in enumerate(levels)}
        self.errors = {m.name: Pool(n, len(levels)) for m in methods}
        self.shares = {name: Pool(n, len(levels)) for name in KEPT}
        self.floor = Pool(n, 1)
        self.missed = {m.name: np.zeros(len(levels)) for m in methods if m.space == "latent"}
        self.nonzero = np.zeros(len(levels))
        self.uses = np.zeros(model.n_atoms)

    def add(self, batch: Batch) -> None:
        floor = self._error_of_latents(batch, batch.latents)
        self.floor.add(batch.rows, 0, floor)
        self.file.write("vae", batch.rows.start, floor)
        for method in self.methods:
            for k, approximation in method.approximate(batch):
                self._add_level(method, k, batch, approximation)
        for k, codes in batch.codes.items():
            self.nonzero[self.column[k]] += codes.count_nonzero()
        own = batch.codes[self.model.n_nonzero_coefs]
        self.uses += np.bincount(own.indices[own.data != 0], minlength=self.model.n_atoms)

    def _add_level(self, method: Method, k: int, batch: Batch, approximation: Floats) -> None:
        if method.space == "latent":
            residual = np.subtract(batch.latents, approximation, dtype=np.float64)
            squares = np.square(residual).sum(axis=1)
            self.missed[method.name][self.column[k]] += squares.sum()
            if method.name in self.shares:
                share = squares.astype(np.float32) / self.distance
                self._keep(self.shares[method.name], f"{method.name}_fvu", k, batch, share)
            errors = self._error_of_latents(batch, approximation)
        else:
            errors = squared_errors(batch.images, approximation)
        self._keep(self.errors[method.name], method.name, k, batch, errors)

    def _keep(self, pool: Pool, name: str, k: int, batch: Batch, values: NDArray[Any]) -> None:
        pool.add(batch.rows, self.column[k], values)
        self.file.write(f"{name}_k{k}", batch.rows.start, values)

    def _error_of_latents(self, batch: Batch, latents: Floats) -> Floats:
        decoded = self.model.unit_images(latents)
        return squared_errors(batch.images, decoded.reshape(batch.images.shape))

    def result(self) -> Measured:
        variation = max(self.variation, 1e-12)
        return Measured(
            levels=self.levels,
            errors={name: pool.rows() for name, pool in self.errors.items()},
            floor=self.floor.rows()[:, 0],
            fvu={name: missed / variation for name, missed in self.missed.items()},
            unexplained={name: pool.rows() for name, pool in self.shares.items()},
            l0=self.nonzero / self.n, usage=self.uses / self.n,
        )  # fmt: skip
