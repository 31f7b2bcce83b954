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
    from scipy.sparse import csr_array

    from vaesc.dictionary import LatentDictionary
    from vaesc.latents import LatentStore


KEPT = ("article", "random")
"""Methods whose error on every single latent is kept, for an interval of their FVU's ratio."""


@dataclass(frozen=True)
class AtomUse:
    """How the test split uses each atom, at the sparsity level the dictionary was learned at."""

    share: NDArray[np.float64]
    """Fraction of images whose code holds the atom, shape (K,)."""
    amount: NDArray[np.float64]
    """Mean coefficient among its uses of the commoner sign, shape (K,); 0 if it has none."""
    energy: NDArray[np.float64]
    """Sum of its squared coefficients, shape (K,): how much of the latents it carries."""


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
    atoms: AtomUse


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
        # Uses of each atom and sum of its coefficients, positive ones first.
        self.uses = np.zeros((2, model.n_atoms))
        self.sums = np.zeros((2, model.n_atoms))
        self.energy = np.zeros(model.n_atoms)

    def add(self, batch: Batch) -> None:
        self.floor[batch.rows] = self._error_of_latents(batch, batch.latents)
        for method in self.methods:
            for k, approximation in method.approximate(batch):
                self._add_level(method, k, batch, approximation)
        for k, codes in batch.codes.items():
            self.nonzero[self.column[k]] += codes.count_nonzero()
        self._add_uses(batch.codes[self.model.n_nonzero_coefs])

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

    def _add_uses(self, codes: csr_array) -> None:
        squares = np.square(codes.data, dtype=np.float64)
        self.energy += np.bincount(codes.indices, squares, minlength=self.model.n_atoms)
        for row, part in enumerate((codes.data > 0, codes.data < 0)):
            atoms, values = codes.indices[part], codes.data[part]
            self.uses[row] += np.bincount(atoms, minlength=self.model.n_atoms)
            self.sums[row] += np.bincount(atoms, values, minlength=self.model.n_atoms)

    def result(self, variation: float) -> Measured:
        n = len(self.floor)
        commoner = np.argmax(self.uses, axis=0)[None]
        uses, sums = (np.take_along_axis(a, commoner, 0)[0] for a in (self.uses, self.sums))
        share, amount = self.uses.sum(axis=0) / n, sums / np.maximum(uses, 1)
        atoms = AtomUse(share, amount, self.energy)
        fvu: dict[str, Any] = {name: v / max(variation, 1e-12) for name, v in self.missed.items()}
        distance = np.float32(max(variation / n, 1e-12))
        return Measured(
            levels=self.levels, errors=self.errors, floor=self.floor, fvu=fvu,
            unexplained={name: e / distance for name, e in self.latent_errors.items()},
            l0=self.nonzero / n, atoms=atoms,
        )  # fmt: skip
