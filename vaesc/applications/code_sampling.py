r"""Draw sparse codes from their model (:mod:`.code_model`), with atoms switched off and on.

A support of exactly n atoms is drawn from a class's independent decisions, given that they come to
n: atom by atom, with r atoms still to be used,

.. math:: P(s_j = 1 \mid r) = p_j \frac{P(s_{j+1} + \dots + s_K = r - 1)}
                                       {P(s_j + \dots + s_K = r)} .

References:
    Chen, Dempster and Liu, "Weighted Finite Population Sampling to Maximize Entropy", 1994.
    https://doi.org/10.1093/biomet/81.3.457
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import MOST, ONE, CodeModel
from vaesc.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]


def sample(
    model: CodeModel,
    n: int,
    rng: np.random.Generator,
    *,
    banned: Sequence[int] = (),
    forced: Sequence[int] = (),
) -> csr_array:
    """Draw codes, shape (n, K); see :meth:`.CodeModel.sample`."""
    from scipy.sparse import csr_array as csr

    _check(model, banned, forced)
    banned, forced = sorted(set(banned)), sorted(set(forced))  # twice asked for is asked for once
    free = np.setdiff1d(np.arange(model.n_atoms), [*banned, *forced])
    classes = _classes(model, n, rng, banned, forced)
    shares = model.counts / model.counts.sum()
    n_used = rng.choice(len(shares), n, p=shares) - len(forced)
    n_used = np.clip(n_used, 0, len(free))

    used = np.zeros((n, model.n_atoms), bool)
    used[:, list(forced)] = True
    for c in np.unique(classes):
        mine = np.flatnonzero(classes == c)
        used[np.ix_(mine, free)] = supports(model.used[c, free] / ONE, n_used[mine], rng)
    rows, atoms = np.nonzero(used)
    sizes = _sizes(model, classes[rows], atoms, rng)
    negative = rng.random(len(atoms)) < model.negative[classes[rows], atoms] / ONE
    values = np.where(negative, -sizes, sizes) * model.step[atoms]
    indptr = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32)
    return csr((values.astype(np.float32), atoms.astype(np.int32), indptr), shape=used.shape)


def supports(
    probability: NDArray[Any], n_used: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw independent decisions, given how many of them are yes.

    Args:
        probability: Of each decision, in (0, 1), shape (K,).
        n_used: Number of yes of each draw, at most K, shape (n,).
        rng: Where chance comes from.

    Returns:
        Shape (n, K), the sum of row i being ``n_used[i]``.
    """
    k, most = len(probability), int(n_used.max(initial=0))
    # after[j, r]: probability that decisions j, j + 1, ... come to r.
    after = np.zeros((k + 1, most + 1))
    after[k, 0] = 1
    for j in reversed(range(k)):
        p = probability[j]
        after[j] = after[j + 1] * (1 - p)
        after[j, 1:] += after[j + 1, :-1] * p
    left = n_used.astype(np.int64)
    found = np.zeros((len(left), k), bool)
    for j, p in enumerate(probability):
        chance = p * after[j + 1, np.maximum(left - 1, 0)] / np.maximum(after[j, left], 1e-300)
        # With as many to use as are left there is no choice, whatever rounding makes of it.
        yes = (left > 0) & ((rng.random(len(left)) < chance) | (left >= k - j))
        found[:, j] = yes
        left = left - yes
    return found


def _classes(
    model: CodeModel,
    n: int,
    rng: np.random.Generator,
    banned: Sequence[int],
    forced: Sequence[int],
) -> NDArray[np.int64]:
    """Draw a class for each code, by how well it goes with what is switched, shape (n,)."""
    log_share = np.log(model.classes / ONE)
    log_share = log_share + np.log(model.used[:, list(forced)] / ONE).sum(axis=1)
    log_share = log_share + np.log(1 - model.used[:, list(banned)] / ONE).sum(axis=1)
    share = np.exp(log_share - log_share.max())
    return rng.choice(model.n_classes, n, p=share / share.sum())


def _sizes(
    model: CodeModel, classes: NDArray[Any], atoms: NDArray[Any], rng: np.random.Generator
) -> Floats:
    """Draw sizes of coefficients in steps, uniformly within the cells of their levels."""
    levels = np.ones(len(atoms), np.int64)
    grows = np.ones(len(atoms), bool)
    for t in range(1, MOST):
        chance = model.larger[min(t, len(model.larger)) - 1, classes[grows], atoms[grows]] / ONE
        grows[grows] = rng.random(len(chance)) < chance
        if not grows.any():
            break
        levels[grows] = t + 1
    return levels + rng.uniform(-0.5, 0.5, len(levels))


def _check(model: CodeModel, banned: Sequence[int], forced: Sequence[int]) -> None:
    for atom in (*banned, *forced):
        if not 0 <= atom < model.n_atoms:
            raise DataError(f"atoms are numbered from 0 to {model.n_atoms - 1}, got {atom}")
    if both := set(banned) & set(forced):
        raise DataError(f"an atom is switched both on and off: {min(both)}")
    if len(set(banned)) == model.n_atoms:
        raise DataError("all atoms are switched off; leave at least one on")
