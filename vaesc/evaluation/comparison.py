"""Measure every method on every test image, at every sparsity level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.bundle import SparseVAE, squared_errors
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.methods import Batch, Method, batches_of

if TYPE_CHECKING:
    from vaesc.dictionary import LatentDictionary
    from vaesc.latents import LatentStore


KEPT = ("article", "random")
"""Methods whose error on every single latent is kept, for an interval of their FVU's ratio."""


@dataclass(frozen=True)
class Measured:
    """What was measured on the test split."""

    levels: tuple[int, ...]
    errors: Mapping[str, Floats]
    """Method -> mean squared error of each image at each level, shape (n, m); NaN throughout a
    column whose level the method lacks."""
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
) -> Measured:
    """Reconstruct every test image by every method, and keep each image's squared error.

    Args:
        model: VAE and dictionary of the article's method.
        methods: Fitted on the training split.
        test: Test images.
        latents: Their latents.
        dictionaries: Sparsity level -> dictionary of latents; the model's own is among them.
        on_rows: Hears how many more images are done.
    """
    tally = _Tally(methods, list(dictionaries), len(test), model)
    z = latents.latents(test.name)
    for batch in batches_of(test, latents, dictionaries):
        tally.add(batch)
        on_rows(len(batch.images))
    variation = float(np.square(z - z.mean(axis=0, dtype=np.float64)).sum())
    return tally.result(variation)


class _Tally:
    """Running sums over the batches of the test split."""

    def __init__(
        self, methods: Sequence[Method], levels: Sequence[int], n: int, model: SparseVAE
    ) -> None:
        self.methods, self.levels, self.model = methods, tuple(levels), model
        self.column = {k: i for i, k in enumerate(levels)}
        self.errors = {m.name: np.full((n, len(levels)), np.nan, np.float32) for m in methods}
        self.latent_errors = {name: np.empty((n, len(levels)), np.float32) for name in KEPT}
        self.floor = np.empty(n, np.float32)
        self.missed = {m.name: np.zeros(len(levels)) for m in methods if m.space == "latent"}
        self.nonzero = np.zeros(len(levels))
        self.uses = np.zeros(model.n_atoms)

    def add(self, batch: Batch) -> None:
        self.floor[batch.rows] = self._error_of_latents(batch, batch.latents)
        for method in self.methods:
            for k, approximation in method.approximate(batch):
                self._add_level(method, k, batch, approximation)
        for k, codes in batch.codes.items():
            self.nonzero[self.column[k]] += codes.count_nonzero()
        own = batch.codes[self.model.n_nonzero_coefs]
        self.uses += np.bincount(own.indices[own.data != 0], minlength=self.model.n_atoms)

    def _add_level(self, method: Method, k: int, batch: Batch, approximation: Floats) -> None:
        at = batch.rows, self.column[k]
        if method.space == "latent":
            residual = np.subtract(batch.latents, approximation, dtype=np.float64)
            squares = np.square(residual).sum(axis=1)
            self.missed[method.name][self.column[k]] += squares.sum()
            if method.name in self.latent_errors:
                self.latent_errors[method.name][at] = squares
            self.errors[method.name][at] = self._error_of_latents(batch, approximation)
        else:
            self.errors[method.name][at] = squared_errors(batch.images, approximation)

    def _error_of_latents(self, batch: Batch, latents: Floats) -> Floats:
        decoded = self.model.unit_images(latents)
        return squared_errors(batch.images, decoded.reshape(batch.images.shape))

    def result(self, variation: float) -> Measured:
        n = len(self.floor)
        fvu: dict[str, Any] = {name: v / max(variation, 1e-12) for name, v in self.missed.items()}
        distance = np.float32(max(variation / n, 1e-12))
        return Measured(
            levels=self.levels, errors=self.errors, floor=self.floor, fvu=fvu,
            unexplained={name: e / distance for name, e in self.latent_errors.items()},
            l0=self.nonzero / n, usage=self.uses / n,
        )  # fmt: skip
