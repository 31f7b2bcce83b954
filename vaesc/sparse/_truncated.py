r"""The lasso's path as a way to choose at most k atoms, in numba.

The homotopy of :mod:`vaesc.sparse._homotopy` is followed from the weight at which the code is zero
until one atom more than the level would be active, or until the weight is zero. The atoms active
then are the support; their coefficients are refitted by least squares, without the lasso's
shrinkage. Everything is in double precision, so there is no second look.
"""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._homotopy import (
    _advance,
    _begin,
    _combine,
    _first_smallest,
    _grow,
    _join_times,
    _leave,
    _multiply,
    _outside,
)
from vaesc.sparse._jit import compiled_without_memory, part


@part
def _refit(correlations, row, gram, inverse, active, size, final, pull, work, fitted, energy):
    """Least squares on the active atoms, refined once; return the squared residual."""
    for i in range(size):
        pull[i] = correlations[row, active[i]]
    _multiply(inverse, pull, size, final)
    for _ in range(2):
        for i in range(size, size + 4):
            final[i], active[i] = 0.0, 0
        _combine(gram, active, final, size, 0.0, fitted)
        total = 0.0
        for i in range(size):
            link = correlations[row, active[i]]
            pull[i] = link - fitted[active[i]]
            total += final[i] * (link + pull[i])
        _multiply(inverse, pull, size, work)
        for i in range(size):
            final[i] += work[i]
    return max(energy[row] - total, 0.0)


@compiled_without_memory
def truncated_block(
    correlations, gram, levels, energy, dependent, times, inverse, active, small, large,
    atoms, values, counts, residual,
):  # fmt: skip
    """Code each row of a block at every level.

    Args:
        correlations: X D^T, shape (b, K), float64.
        gram: D D^T, shape (K, K).
        levels: Sparsity levels, rising, shape (m,).
        energy: Squared norms of the samples, shape (b,).
        dependent: Fraction of an atom's squared norm left outside the active atoms' span, at or
            below which it cannot join.
        times: Scratch, shape (K,).
        inverse: Scratch of zeros, shape (k + 16, k + 16), k the largest level.
        active: Scratch of zeros, shape (k + 16,), int32.
        small: Scratch of zeros, shape (6, k + 16).
        large: Scratch of zeros, shape (4, K).
        atoms: Out, shape (b, sum of levels): atoms of each level side by side, increasing.
        values: Out, same shape: coefficients.
        counts: Out, shape (b, m): filled slots.
        residual: Out, shape (b,): squared residual at the largest level.
    """
    n_atoms, n_levels = gram.shape[0], levels.shape[0]
    most = levels[n_levels - 1]
    flat = 8.0 * np.finfo(gram.dtype).eps
    nought = np.int64(0)  # as in _homotopy.py
    signs, coefs, move = small[0], small[1], small[2]
    work, final, pull = small[3], small[4], small[5]
    corr, slope, closed, fitted = large[0], large[1], large[2], large[3]

    n_used = 0
    for row in range(correlations.shape[0]):
        atom, alpha = _begin(correlations, row, False, corr, closed, times)
        for i in range(n_used):
            for m in range(n_used):
                inverse[i, m] = 0.0
        residual[row] = energy[row]
        for m in range(n_levels):
            counts[row, m] = 0
        target, start, n_active, dropped = nought, nought, nought, nought - 1
        n_used = 0
        joining, ended, side, rounds = True, not alpha > 0.0, 1.0, 0
        while alpha > 0.0 and target < n_levels:
            rounds += 1
            full = joining and n_active == levels[target]
            if joining and not full and not ended:
                left = _outside(gram, atom, active, n_active, inverse, 0.0, pull, work)
                closed[atom] = 1.0
                if left > dependent * gram[atom, atom]:
                    _grow(inverse, n_active, left, work)
                    active[n_active] = atom
                    signs[n_active] = 1.0 if corr[atom] > 0.0 else -1.0
                    coefs[n_active] = 0.0
                    n_active += 1
                    n_used = max(n_used, n_active)
            if full or ended:
                residual[row] = _refit(
                    correlations, row, gram, inverse, active, n_active, final, pull, work, fitted,
                    energy,
                )  # fmt: skip
                for i in range(n_active):
                    place = start
                    for m in range(n_active):
                        place += active[m] < active[i]
                    atoms[row, place], values[row, place] = active[i], final[i]
                counts[row, target] = n_active
                start += levels[target]
                target += 1
                continue
            _multiply(inverse, signs, n_active, move)
            for i in range(n_active, n_active + 4):
                move[i], active[i] = 0.0, 0
            _combine(gram, active, move, n_active, 0.0, slope)
            _join_times(corr, slope, alpha, closed, False, np.inf, flat, times)
            if dropped >= 0:
                # It is still at the bound that it left; it may only come back at the other.
                away = 1.0 + side * slope[dropped]
                times[dropped] = (alpha + side * corr[dropped]) / away if away > flat else np.inf
            atom = _first_smallest(times)
            step, gone = times[atom], nought - 1
            for i in range(n_active):
                if coefs[i] * move[i] < 0.0 and -coefs[i] / move[i] < step:
                    step, gone = -coefs[i] / move[i], i
            joining = gone < 0
            ended = not step < alpha or rounds > 8 * most + 64 + n_atoms
            if ended:
                continue
            _advance(step, coefs, move, n_active, corr, slope)
            alpha -= step
            dropped = -1
            if not joining:
                dropped, side = active[gone], signs[gone]
                n_active = _leave(inverse, n_active, gone, active, signs, coefs, closed)
