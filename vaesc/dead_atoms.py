"""Atoms that no training latent uses: found, named, and given work, as the policy says.

The learner itself gives atoms that are hardly used to badly coded samples as it goes
(:func:`vaesc.sparse.learn_dictionary`). What is still dead at its end was lost in the last
batches, or there are more atoms than the latents have directions: then no mending helps, and the
sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DictionaryConfig, derive_seed
from vaesc.errors import TrainingError

_MOST_MENDINGS = 3

Floats = NDArray[np.float32]
Code = Callable[[Floats], Any]
"""Atoms -> codes of the training latents, CSR of shape (n, K)."""
Learn = Callable[[Floats, int], Floats]
"""Atoms to start from, and a seed -> atoms that were learned on from there."""


def mend_dead_atoms(
    config: DictionaryConfig, atoms: Floats, train: Floats, code: Code, learn: Learn, seed: int
) -> tuple[Floats, list[str]]:
    """Return the atoms to keep, and a sentence if too many of them were dead.

    Args:
        config: ``max_dead_fraction`` and ``on_dead_atoms``.
        atoms: Unit rows, shape (K, d).
        train: Scaled training latents, shape (n, d).
        code: Codes the training latents in given atoms.
        learn: Learns on from given atoms.
        seed: Of the learning.

    Raises:
        TrainingError: Too many atoms are dead, and the policy is to fail.
    """
    codes = code(atoms)
    first = n_dead = _n_dead(codes)
    most = config.max_dead_fraction * len(atoms)
    if n_dead <= most:
        return atoms, []
    found = (
        f"{first} of {len(atoms)} atoms are used by no training latent, more than "
        f"dictionary.max_dead_fraction={config.max_dead_fraction:g} allows"
    )
    if config.on_dead_atoms == "fail":
        raise TrainingError(f"{found}; lower dictionary.n_atoms (dictionary.on_dead_atoms=fail)")
    if config.on_dead_atoms == "continue":
        return atoms, [found]
    error = _error(train, atoms, codes)
    for attempt in range(_MOST_MENDINGS):
        given = _with_work(atoms, train, codes)
        again = learn(given, derive_seed(seed, f"mend/{attempt}"))
        others = code(again)
        if _n_dead(others) >= n_dead or _error(train, again, others) > error:
            break
        atoms, codes, n_dead = again, others, _n_dead(others)
        error = _error(train, atoms, codes)
        if n_dead <= most:
            break
    end = "mended" if n_dead <= most else "lower dictionary.n_atoms"
    return atoms, [f"{found}; after learning on from the worst-coded latents, {n_dead}: {end}"]


def _error(train: Floats, atoms: Floats, codes: Any) -> float:  # noqa: ANN401
    return float(np.square(train - codes @ atoms).mean(dtype=np.float64))


def _n_dead(codes: Any) -> int:  # noqa: ANN401 - a CSR array
    uses = np.bincount(codes.indices[codes.data != 0], minlength=codes.shape[1])
    return int((uses == 0).sum())


def _with_work(atoms: Floats, train: Floats, codes: Any) -> Floats:  # noqa: ANN401
    """Return the atoms with dead ones replaced by directions of the worst-coded latents."""
    uses = np.bincount(codes.indices[codes.data != 0], minlength=len(atoms))
    dead = np.flatnonzero(uses == 0)
    missed = train - codes @ atoms
    errors = np.square(missed).sum(axis=1)
    worst = np.argsort(-errors, kind="stable")[: len(dead)]
    worst = worst[errors[worst] > 1e-12 * max(float(np.square(train).sum(axis=1).max()), 1e-30)]
    given = atoms.copy()
    given[dead[: len(worst)]] = missed[worst] / np.sqrt(errors[worst])[:, None]
    return given
