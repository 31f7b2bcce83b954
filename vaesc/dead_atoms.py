"""Atoms that no training latent uses: found, named, and given work, as the policy says.

The learner itself gives atoms that are hardly used to badly coded samples as it goes
(:func:`vaesc.sparse.learn_dictionary`). What is still dead at its end was lost in the last
batches, or there are more atoms than the latents have directions: then no mending helps, and the
sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows
from vaesc.config import DictionaryConfig, derive_seed
from vaesc.errors import TrainingError

_MOST_MENDINGS = 3

Floats = NDArray[np.float32]
Code = Callable[[Floats, Floats], Any]
"""Samples of shape (m, d), and atoms -> the samples' codes, CSR of shape (m, K)."""
Learn = Callable[[Floats, int], Floats]
"""Atoms to start from, and a seed -> atoms that were learned on from there."""


def mend_dead_atoms(
    config: DictionaryConfig, atoms: Floats, train: windows.Rows, code: Code, learn: Learn,
    seed: int,
) -> tuple[Floats, list[str]]:  # fmt: skip
    """Return the atoms to keep, and a sentence if too many of them were dead.

    Args:
        config: ``max_dead_fraction`` and ``on_dead_atoms``.
        atoms: Unit rows, shape (K, d).
        train: Scaled training latents, shape (n, d), an array or lazy. They are passed over once
            to count dead atoms, and if there are too many, once more for each try.
        code: Codes latents in given atoms.
        learn: Learns on from given atoms.
        seed: Of the learning.

    Raises:
        TrainingError: Too many atoms are dead, and the policy is to fail.
    """
    first = int((_uses(train, atoms, code) == 0).sum())
    most = config.max_dead_fraction * len(atoms)
    if first <= most:
        return atoms, []
    told = (
        f"{first} of {len(atoms)} atoms are used by no training latent, more than "
        f"dictionary.max_dead_fraction={config.max_dead_fraction:g} allows"
    )
    if config.on_dead_atoms == "fail":
        raise TrainingError(f"{told}; lower dictionary.n_atoms (dictionary.on_dead_atoms=fail)")
    if config.on_dead_atoms == "continue":
        return atoms, [told]
    found = _look(train, atoms, code)
    for attempt in range(_MOST_MENDINGS):
        again = learn(found.with_work(atoms), derive_seed(seed, f"mend/{attempt}"))
        others = _look(train, again, code)
        if others.n_dead >= found.n_dead or others.error > found.error:
            break
        atoms, found = again, others
        if found.n_dead <= most:
            break
    n_dead = found.n_dead
    end = "mended" if n_dead <= most else "lower dictionary.n_atoms"
    return atoms, [f"{told}; after learning on from the worst-coded latents, {n_dead}: {end}"]


@dataclass
class _Look:
    """What the codes of all training latents are like."""

    uses: NDArray[np.int64]
    """Latents that use each atom, shape (K,)."""
    error: float
    """Sum of squared errors."""
    energy: float
    """Largest squared norm of a latent."""
    missed: Floats
    """What is left of the worst-coded latents, K at most, the worst first, shape (m, d)."""
    errors: Floats
    """Their squared errors, shape (m,)."""

    @property
    def n_dead(self) -> int:
        """How many atoms no latent uses."""
        return int((self.uses == 0).sum())

    def with_work(self, atoms: Floats) -> Floats:
        """Return the atoms with dead ones replaced by directions of the worst-coded latents."""
        dead = np.flatnonzero(self.uses == 0)
        worst = self.errors[: len(dead)] > 1e-12 * max(self.energy, 1e-30)
        missed, errors = self.missed[: len(dead)][worst], self.errors[: len(dead)][worst]
        given = atoms.copy()
        given[dead[: len(missed)]] = missed / np.sqrt(errors)[:, None]
        return given


def _uses(train: windows.Rows, atoms: Floats, code: Code) -> NDArray[np.int64]:
    """Return how many latents use each atom, shape (K,)."""
    uses = np.zeros(len(atoms), np.int64)
    for samples in windows.blocks(train):
        uses += _counted(code(samples, atoms))
    return uses


def _counted(codes: Any) -> NDArray[np.int64]:  # noqa: ANN401 - a CSR array
    return np.bincount(codes.indices[codes.data != 0], minlength=codes.shape[1])


def _look(train: windows.Rows, atoms: Floats, code: Code) -> _Look:
    """Code all training latents, and see what is left of them."""
    uses, error, energy = np.zeros(len(atoms), np.int64), 0.0, 0.0
    missed, errors = np.zeros((0, atoms.shape[1]), np.float32), np.zeros(0, np.float32)
    for samples in windows.blocks(train):
        codes = code(samples, atoms)
        uses += _counted(codes)
        left = samples - codes @ atoms
        squares = np.square(left).sum(axis=1)
        error += float(np.square(left).sum(dtype=np.float64))
        energy = max(energy, float(np.square(samples).sum(axis=1).max()))
        worst = np.argsort(-squares, kind="stable")[: len(atoms)]
        missed, errors = np.concatenate([missed, left[worst]]), np.append(errors, squares[worst])
        worst = np.argsort(-errors, kind="stable")[: len(atoms)]
        missed, errors = missed[worst], errors[worst]
    return _Look(uses, error, energy, missed, errors)
