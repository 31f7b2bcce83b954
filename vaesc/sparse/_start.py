"""Where dictionary learning starts from: spread-out samples and the data's main directions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.sparse._validation import as_dictionary

_BLOCK = 2**20
"""Numbers that are worked on in float64 at once."""


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows divided by their norms, float32; zero rows stay zero."""
    units = np.empty(rows.shape, np.float32)
    step = max(1, _BLOCK // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        block /= np.maximum(np.abs(block).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        block /= np.where(norms > 0, norms, 1.0)
        units[start : start + step] = block
    return units


def spread_samples(
    pool: NDArray[np.float32], n_atoms: int, rng: np.random.Generator, taken: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Choose up to `n_atoms` samples as k-means++ does, with the angle as distance.

    Each choice is drawn with probability proportional to the energy that the closest atom so far
    leaves of a sample, so neither near-duplicates nor faint samples crowd the start.

    Args:
        pool: Samples to choose from, shape (m, d).
        n_atoms: How many to choose; fewer come back when every sample is already an atom.
        rng: Source of randomness.
        taken: Atoms there are already, shape (t, d).

    Returns:
        Unit rows, shape (at most n_atoms, d).
    """
    directions = unit_rows(pool)
    energy = np.einsum("ij,ij->i", pool, pool, dtype=np.float64)
    closest = np.zeros(len(pool))
    for atom in taken:
        np.maximum(closest, np.square(directions @ atom), out=closest)
    chosen: list[int] = []
    while len(chosen) < n_atoms:
        left = np.where(closest < 1 - 1e-6, energy * (1 - closest), 0.0)
        total = left.sum()
        if not total > 0:
            break
        pick = int(np.searchsorted(np.cumsum(left), rng.random() * total, side="right"))
        pick = min(pick, len(pool) - 1)
        chosen.append(pick)
        np.maximum(closest, np.square(directions @ directions[pick]), out=closest)
        closest[pick] = 1.0
    return directions[chosen]


def main_directions(pool: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Up to `most` principal directions of the samples (about zero), strongest first."""
    moments = pool.astype(np.float64).T @ pool.astype(np.float64)
    energies, vectors = np.linalg.eigh(moments)
    order = np.argsort(-energies)[:most]
    order = order[energies[order] > 1e-12 * max(energies.max(), 1e-300)]
    directions = vectors[:, order].T
    # An eigenvector's sign is arbitrary: fix it, so that every machine starts alike.
    signs = np.sign(directions[np.arange(len(order)), np.abs(directions).argmax(axis=1)])
    return np.ascontiguousarray(directions * signs[:, None], np.float32)


def random_directions(n_atoms: int, d: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Directions drawn uniformly on the sphere, shape (n_atoms, d)."""
    return unit_rows(rng.standard_normal((n_atoms, d)))


def start_dictionary(
    pool: NDArray[np.float32],
    n_atoms: int,
    rng: np.random.Generator,
    init: Any = None,  # noqa: ANN401 - anything numpy can read
) -> NDArray[np.float32]:
    """Unit atoms to start from, shape (n_atoms, d).

    Args:
        pool: Samples, shape (m, d).
        n_atoms: Number of atoms.
        rng: Source of randomness.
        init: The atoms themselves, of any norm but zero; None chooses: samples, with the main
            directions first where atoms are plenty, and random directions once samples run out.

    Raises:
        ValueError: `init` has another shape, or a row that is zero or not finite.
    """
    d = pool.shape[1]
    if init is not None:
        atoms = as_dictionary(init, np.float64)
        if atoms.shape != (n_atoms, d):
            raise ValueError(f"init must have shape {(n_atoms, d)}, got {atoms.shape}")
        zero = np.flatnonzero(~atoms.any(axis=1))
        if zero.size:
            raise ValueError(f"init must not hold zero atoms, got zeros at rows {zero[:5]}")
        return unit_rows(atoms)
    # Directions of little variance are never drawn as samples; without the axes no code could
    # reach them. Where d is large, they would crowd out the samples.
    taken = main_directions(pool, d) if n_atoms >= 2 * d else np.zeros((0, d), np.float32)
    spread = spread_samples(pool, n_atoms - len(taken), rng, taken)
    missing = n_atoms - len(taken) - len(spread)
    return np.concatenate([taken, spread, random_directions(missing, d, rng)])
