"""What one model does with the frozen images: an error and a number of atoms for each, and health.

Everything is measured in one pass. Time is taken apart from it (:func:`encode_seconds`), of both
models in turns, since what else the machine does must not look like a slow model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc import metrics
from vaesc.bundle import GROUP, SparseVAE, squared_errors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_TIMED = 256
"""Images of a timed batch."""
_SETTLED_ROUNDS, _MOST_ROUNDS = 5, 30

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model on n images."""

    errors: Floats
    """Squared error of each image, mean over its pixels in [0, 1], shape (n,)."""
    l0: NDArray[np.int64]
    """Nonzero coefficients of each image's code, shape (n,)."""
    codes: csr_array
    """The codes themselves, shape (n, K)."""
    active_units: float
    """Latent dimensions whose posterior mean has a variance above 0.01 over the images."""
    dead_fraction: float
    """Share of atoms that none of the images uses."""
    mutual_coherence: float
    """Largest absolute cosine between two atoms."""

    @property
    def is_finite(self) -> bool:
        """Whether every error and every coefficient is a number."""
        return bool(np.isfinite(self.errors).all() and np.isfinite(self.codes.data).all())


def measure(model: SparseVAE, images: Floats) -> Measurement:
    """Measure a model on images in [0, 1].

    Args:
        model: Codes at its own sparsity level.
        images: Shape (n, *shape), float32 in [0, 1].
    """
    from scipy.sparse import csr_array, vstack

    errors = np.empty(len(images), np.float32)
    latents = np.empty((len(images), model.latent_dim), np.float32)
    parts = []
    for start in range(0, len(images), GROUP):
        rows = slice(start, start + GROUP)
        codes = model.codes_of_unit(images[rows])
        decoded = model.unit_images(model.dictionary.decode(codes))
        errors[rows] = squared_errors(images[rows], decoded)
        latents[rows] = model.latents_of_unit(images[rows])
        parts.append(codes)
    every = csr_array(vstack(parts, format="csr"))
    every.eliminate_zeros()
    return Measurement(
        errors=errors, l0=np.diff(every.indptr).astype(np.int64), codes=every,
        active_units=metrics.active_units(latents), dead_fraction=metrics.dead_fraction(every),
        mutual_coherence=metrics.mutual_coherence(model.dictionary.dictionary),
    )  # fmt: skip


def broken(n: int, n_atoms: int) -> Measurement:
    """Return the measurement of a model that cannot code n images, since it holds no numbers."""
    from scipy.sparse import csr_array

    return Measurement(
        errors=np.full(n, np.nan, np.float32), l0=np.zeros(n, np.int64),
        codes=csr_array((n, n_atoms), dtype=np.float32), active_units=0.0, dead_fraction=1.0,
        mutual_coherence=1.0,
    )  # fmt: skip


def encode_seconds(models: Sequence[SparseVAE], images: Floats) -> list[float]:
    """Return the seconds each model takes to encode an image, in its best round.

    On a busy machine most rounds are slow, and not evenly: rounds go on until the last five have
    made no model faster by a percent, thirty at most.

    Args:
        models: They take turns.
        images: Of which the first 256 are encoded at once, in [0, 1].
    """
    few = images[:_TIMED]
    best, settled = [np.inf] * len(models), 0
    for model in models:
        model.codes_of_unit(few)  # what is compiled or kept is so before the clock runs
    for _ in range(_MOST_ROUNDS):
        before = list(best)
        for i, model in enumerate(models):
            start = time.perf_counter()
            model.codes_of_unit(few)
            best[i] = min(best[i], (time.perf_counter() - start) / len(few))
        faster = any(now < 0.99 * then for now, then in zip(best, before, strict=True))
        settled = 0 if faster else settled + 1
        if settled == _SETTLED_ROUNDS:
            break
    return [float(seconds) for seconds in best]
