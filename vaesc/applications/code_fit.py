r"""Fit the latent classes of sparse codes (:mod:`.code_model`) by expectation and maximisation.

Each probability is estimated from a class's own codes and drawn towards that of all codes by
`_PRIOR` imaginary ones: an atom that a small class never uses is rare there, not impossible. The
probabilities of all codes are drawn, in the same way, towards those of all atoms.

References:
    Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
    1977. https://www.jstor.org/stable/2984875
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import (
    MOST_CLASSES,
    ONE,
    CodeModel,
    class_bits,
    quantised,
    where,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SIZES = 3
"""Decisions on size that have a probability of their own, T."""
_AMOUNTS = 8
"""Levels whose mean coefficient is kept."""
_PASSES = 30
_PRIOR = 6.0
_LEAST = 2.0
"""A class must have at least this many codes to begin with."""

Floats = NDArray[np.float64]


def fit_codes(
    codes: csr_array, *, step: float | Floats, n_classes: int, rng: np.random.Generator
) -> CodeModel:
    """Fit a model to codes that are quantised to the nearest level.

    Args:
        codes: Shape (n, K), n at least 1.
        step: Width of a cell, one for all atoms or one each, shape (K,).
        n_classes: Most classes; few codes get fewer.
        rng: Chooses where the classes begin.
    """
    steps = np.broadcast_to(np.asarray(step, np.float32), codes.shape[1:]).copy()
    sizes = np.abs(codes.data / steps[codes.indices])
    nearest = np.rint(sizes).astype(np.int64)
    return fit_levels(
        quantised(codes, steps), step=steps, amount=mean_amounts(sizes, nearest),
        n_classes=n_classes, rng=rng,
    )  # fmt: skip


def mean_amounts(sizes: NDArray[Any], levels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean size, in steps, of what became level 1, 2, ...; shape (A,)."""
    n = np.bincount(np.minimum(levels, _AMOUNTS + 1), minlength=_AMOUNTS + 2)
    total = np.bincount(
        np.minimum(levels, _AMOUNTS + 1), weights=sizes, minlength=_AMOUNTS + 2
    )  # fmt: skip
    # One imaginary coefficient in the middle of each cell, for levels that are rare.
    middle = np.arange(_AMOUNTS + 2)
    return np.asarray(((total + middle) / (n + 1))[1:-1], np.float32)


def fit_levels(
    levels: csr_array,
    *,
    step: NDArray[np.float32],
    amount: NDArray[np.float32],
    n_classes: int,
    rng: np.random.Generator,
    start: CodeModel | None = None,
    passes: int = _PASSES,
) -> CodeModel:
    """Fit a model to levels.

    Args:
        levels: Whole numbers up to :data:`.MOST`, shape (n, K), n at least 1.
        step: See :class:`.CodeModel`, and so is the next one.
        amount: Shape (A,).
        n_classes: Most classes; few codes get fewer.
        rng: Chooses where the classes begin.
        start: A model whose classes are to be adapted; default: new classes.
        passes: Passes over the codes.
    """
    marks = _decisions(levels)
    share = _first(levels, n_classes, rng) if start is None else _posterior(start.bits(levels))
    for _ in range(passes):
        model = _probabilities(marks, share)
        share = _posterior(class_bits(levels, *model))
    classes, used, negative, larger = _probabilities(marks, share)
    return CodeModel(
        step=step, amount=amount, classes=classes, used=used, negative=negative, larger=larger,
        counts=np.bincount(np.diff(levels.indptr)).astype(np.uint32),
    )  # fmt: skip


def words(probability: NDArray[Any]) -> NDArray[np.uint16]:
    """Return probabilities as 65536ths, none of them 0 or 1."""
    return np.asarray(np.clip(np.rint(probability * ONE), 1, ONE - 1), np.uint16)


def _decisions(levels: csr_array) -> list[csr_array]:
    """Return how often each atom said yes: used, negative, asked for more than t, got more."""
    size = np.abs(levels.data.astype(np.int64))
    marks = [where(levels, size > 0), where(levels, levels.data < 0)]
    for t in range(1, SIZES):
        marks += [where(levels, size >= t), where(levels, size > t)]
    beyond = np.maximum(size - SIZES, 0)
    return [*marks, where(levels, (size >= SIZES) + beyond), where(levels, beyond)]


def _first(levels: csr_array, n_classes: int, rng: np.random.Generator) -> Floats:
    """Let codes begin the classes; each other code goes to that with most in common, (n, M)."""
    n = levels.shape[0]
    m = int(max(1, min(n_classes, n // (4 * _LEAST), MOST_CLASSES)))
    signs = levels.sign().astype(np.float64)
    length = np.sqrt(np.maximum(np.diff(levels.indptr), 1))
    chosen = np.sort(rng.choice(n, m, replace=False))
    likeness = (signs @ signs[chosen].T).toarray() / length[chosen]
    share = np.zeros((n, m))
    share[np.arange(n), likeness.argmax(axis=1)] = 1
    return share


def _posterior(bits: Floats) -> Floats:
    """Return each class's share of each code, shape (n, M)."""
    share = np.exp2(bits.min(axis=1, keepdims=True) - bits)
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def _probabilities(
    marks: list[csr_array], share: Floats
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
    """Return what the codes of each class say: classes, used, negative, larger."""
    n_class = share.sum(axis=0)
    mine = [np.asarray((mark.T @ share).T) for mark in marks]
    used = _drawn(mine[0], np.broadcast_to(n_class[:, None], mine[0].shape))
    negative = _drawn(mine[1], mine[0])
    larger = [_drawn(mine[2 * t + 1], mine[2 * t]) for t in range(1, SIZES + 1)]
    return _whole(n_class), used, negative, np.stack(larger)


def _drawn(yes: Floats, asked: Floats) -> NDArray[np.uint16]:
    """Return shares of yes, drawn to the atom's own, and that to that of all atoms, (M, K)."""
    everywhere = (yes.sum() + 0.5) / (asked.sum() + 1)
    atom = (yes.sum(axis=0) + _PRIOR * everywhere) / (asked.sum(axis=0) + _PRIOR)
    return words((yes + _PRIOR * atom) / (asked + _PRIOR))


def _whole(n_class: Floats) -> NDArray[np.uint32]:
    """Return the classes' probabilities in 65536ths that sum to 1, none of them 0, shape (M,)."""
    found = np.maximum(np.floor(n_class / n_class.sum() * ONE), 1).astype(np.int64)
    found[np.argmax(found)] += ONE - found.sum()
    return np.asarray(found, np.uint32)
