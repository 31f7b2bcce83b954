r"""Lasso codes by homotopy (LARS with the lasso modification), in numba.

For :math:`\min_z \tfrac12 \|x - D^\top z\|^2 + \alpha \|z\|_1 + \tfrac{\lambda}{2} \|z\|^2` the
minimiser is piecewise linear in :math:`\alpha`. From :math:`\alpha = \max_j |d_j^\top x|`, where
it is zero, a row follows it down to the wanted :math:`\alpha`, from one event to the next: an atom
joins the active set when its correlation reaches :math:`\alpha`, and leaves when its coefficient
reaches zero. The inverse of the active Gram matrix is bordered at each join and deflated at each
drop. Its rounding errors do not last: at the end the optimality condition
:math:`|D r - \lambda z|_j \le \alpha` is checked for every atom, from the Gram matrix and not from
what was carried along, and the coefficients are refined until it holds.

References:
    Osborne, Presnell, Turlach, "A new approach to variable selection in least squares problems",
    2000. https://doi.org/10.1093/imanum/20.3.389
    Efron, Hastie, Johnstone, Tibshirani, "Least angle regression", 2004.
    https://doi.org/10.1214/009053604000000067
"""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._greedy import _first_equal
from vaesc.sparse._greedy_range import DONE, HIGHEST, LOWEST, RETRY
from vaesc.sparse._jit import compiled_without_memory, float_bits, part


@part
def _combine(gram, active, weights, size, ridge, out):
    """Set `out` to the `weights`-sum of the active rows of the Gram matrix plus ridge.

    Rows are taken four at a time; `active` and `weights` are padded with zeros.
    """
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    a, b, c, d = active[0], active[1], active[2], active[3]
    for j in range(out.shape[0]):
        out[j] = w0 * gram[a, j] + w1 * gram[b, j] + w2 * gram[c, j] + w3 * gram[d, j]
    for i in range(4, size, 4):
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        a, b, c, d = active[i], active[i + 1], active[i + 2], active[i + 3]
        for j in range(out.shape[0]):
            out[j] += w0 * gram[a, j] + w1 * gram[b, j] + w2 * gram[c, j] + w3 * gram[d, j]
    for i in range(size):
        out[active[i]] += ridge * weights[i]


@part
def _join_times(corr, slope, alpha, closed, positive, never, flat, times):
    """How far alpha can fall until each atom joins; `never` for closed and parallel atoms."""
    one, zero = slope.dtype.type(1.0), slope.dtype.type(0.0)
    for j in range(corr.shape[0]):
        up, down = one - slope[j], one + slope[j]
        rise = alpha - corr[j] if up > flat else never
        fall = alpha + corr[j] if down > flat and not positive else never
        up = up if up > flat else one
        down = down if down > flat else one
        # The smaller of two fractions, compared crosswise: one division instead of two.
        sooner = rise * down < fall * up
        first = (rise if sooner else fall) / (up if sooner else down)
        first = first if first > zero else zero
        times[j] = first if closed[j] == zero else never


@part
def _multiply(inverse, vector, size, out):
    """Set `out` to the active inverse times a vector, by columns, four at a time.

    Lengths are rounded up to whole registers: the inverse is zero outside the active part.
    """
    wide = (size + 15) // 16 * 16
    zero = inverse.dtype.type(0.0)
    for i in range(wide):
        out[i] = zero
    for m in range(0, size, 4):
        b, c, d = min(m + 1, size - 1), min(m + 2, size - 1), min(m + 3, size - 1)
        v0 = vector[m]
        v1 = vector[b] if b == m + 1 else zero
        v2 = vector[c] if c == m + 2 else zero
        v3 = vector[d] if d == m + 3 else zero
        for i in range(wide):
            out[i] += (
                inverse[m, i] * v0 + inverse[b, i] * v1 + inverse[c, i] * v2 + inverse[d, i] * v3
            )


@part
def _outside(gram, atom, active, size, inverse, ridge, pull, work):
    """What is left of an atom's squared norm (plus ridge) outside the active atoms' span.

    Sets `work` to the active inverse times the atom's products with the active ones.
    """
    left = gram[atom, atom] + ridge
    for i in range(size):
        pull[i] = gram[atom, active[i]]
    _multiply(inverse, pull, size, work)
    for i in range(size):
        left -= work[i] * pull[i]
    return left


@part
def _advance(step, coefs, move, size, corr, slope):
    """Let alpha fall by `step`: the active coefficients and all correlations follow."""
    for i in range(size):
        coefs[i] += step * move[i]
    for j in range(corr.shape[0]):
        corr[j] -= step * slope[j]


@part
def _grow(inverse, size, left, work):
    """Border the inverse by an atom with `left` of its squared norm outside the active span."""
    wide = (size + 15) // 16 * 16
    scale = 1 / left
    for i in range(size):
        factor = work[i] * scale
        for m in range(wide):
            inverse[i, m] += factor * work[m]
        inverse[i, size] = -factor
        inverse[size, i] = -factor
    inverse[size, size] = scale


@part
def _shrink(inverse, size, gone):
    """Take row and column `gone` out of the inverse; the last one moves into its place."""
    scale = 1 / inverse[gone, gone]
    last = size - 1
    for i in range(size):
        if i != gone:
            factor = inverse[i, gone] * scale
            for m in range(size):
                if m != gone:
                    inverse[i, m] -= factor * inverse[gone, m]
    for i in range(size):
        inverse[i, gone] = inverse[i, last]
    for i in range(size):
        inverse[gone, i] = inverse[last, i]
    if gone != last:
        inverse[gone, gone] = inverse[last, last]
    for i in range(size):
        inverse[last, i] = 0
        inverse[i, last] = 0


@part
def _leave(inverse, size, gone, active, signs, coefs, closed):
    """Take active atom `gone` out; the last one moves into its place. Returns the new size."""
    _shrink(inverse, size, gone)
    last = size - 1
    active[gone], signs[gone], coefs[gone] = active[last], signs[last], coefs[last]
    # Atoms that depended on the active ones may not any more.
    for j in range(closed.shape[0]):
        closed[j] = 0
    for i in range(last):
        closed[active[i]] = 1
    return last


@part
def _first_smallest(times):
    """Index of the first smallest of nonnegative floats, which order as their bits do."""
    best = float_bits(times[0])
    for j in range(times.shape[0]):
        best = min(best, float_bits(times[j]))
    return _first_equal(times, best)


@part
def _first_largest(times):
    """Index of the first largest of nonnegative floats."""
    best = float_bits(times[0])
    for j in range(times.shape[0]):
        best = max(best, float_bits(times[j]))
    return _first_equal(times, best)


@part
def _check(
    correlations, row, slope, active, size, coefs, signs, goal, energy, positive, times
):  # fmt: skip
    """Largest violation of optimality, and the objective (sums in double precision).

    A coefficient of the wrong sign counts as a violation of any size.
    """
    zero = slope.dtype.type(0.0)
    for j in range(slope.shape[0]):
        left = correlations[row, j] - slope[j]
        times[j] = (left if left > zero else zero) if positive else abs(left)
    worst = max(np.float64(times[_first_largest(times)]) - goal, 0.0)
    fit, norm = 0.0, 0.0
    for i in range(size):
        atom, value = active[i], coefs[i]
        link = np.float64(correlations[row, atom])
        fit += value * (link + (link - slope[atom]))
        norm += abs(np.float64(value))
        lag = abs(np.float64(correlations[row, atom] - slope[atom]) - goal * signs[i])
        worst = lag if lag > worst else worst
        if value * signs[i] < zero:
            worst = np.inf
    return worst, 0.5 * max(energy[row] - fit, 0.0) + goal * norm


@part
def _begin(correlations, row, positive, corr, closed, times):
    """State of a row before its first event: the first atom, and the largest correlation."""
    zero = corr.dtype.type(0.0)
    for j in range(corr.shape[0]):
        corr[j] = correlations[row, j]
        closed[j] = zero
        times[j] = abs(corr[j])
    atom = _first_largest(times)
    peak = times[atom]
    if positive:
        for j in range(corr.shape[0]):
            times[j] = corr[j] if corr[j] > zero else zero
        atom = _first_largest(times)
    return atom, peak


@part
def _write(active, final, size, row, target, atoms, values, counts):
    """Write a code, in increasing atom order."""
    for i in range(size):
        place = 0
        for m in range(size):
            place += active[m] < active[i]
        atoms[row, target, place] = active[i]
        values[row, target, place] = final[i]
    counts[row, target] = size


@compiled_without_memory
def homotopy_block(
    correlations, gram, ridge, alphas, positive, energy, limits, times, inverse, active,
    small, large, atoms, values, counts, status,
):  # fmt: skip
    """Code each row of a block at every alpha.

    Args:
        correlations: X D^T, shape (b, K).
        gram: D D^T, shape (K, K).
        ridge: Weight of the squared norm of the code (elastic net), of the type of `gram`.
        alphas: Weights of the absolute sum, decreasing, positive, shape (m,).
        positive: Only nonnegative coefficients.
        energy: Squared norms of the samples, shape (b,), float64.
        limits: Three numbers of the type of `gram`: the fraction of an atom's squared norm left
            outside the active atoms' span at or below which it cannot join; the fraction at or
            below which the row is handed back; the largest relative error of the objective.
        times: Scratch, shape (K,), of the precision of `gram`.
        inverse: Scratch of zeros, shape (cap + 16, cap + 16), of the precision of `gram`.
        active: Scratch of zeros, shape (cap + 16,), int32.
        small: Scratch of zeros, shape (6, cap + 16). (See :mod:`._workspace`.)
        large: Scratch of zeros, shape (4, K).
        atoms: Out, shape (b, m, cap): active atoms; cap is the largest size of the active set.
        values: Out, same shape: coefficients.
        counts: Out, shape (b, m): filled slots.
        status: Out, shape (b,): DONE or RETRY.
    """
    cap = atoms.shape[2]
    kind = gram.dtype.type
    zero, one, never = kind(0.0), kind(1.0), kind(np.inf)
    flat = kind(8.0) * np.finfo(gram.dtype).eps
    nought = np.int64(0)  # a literal 0 would have every part compiled twice, for it and for int64
    dependent, doubtful, precision = limits[0], limits[1], limits[2]
    signs, coefs, move = small[0], small[1], small[2]
    work, final, pull = small[3], small[4], small[5]
    corr, slope, closed, fitted = large[0], large[1], large[2], large[3]

    n_used = 0
    for row in range(correlations.shape[0]):
        atom, peak = _begin(correlations, row, positive, corr, closed, times)
        status[row] = DONE if peak > LOWEST and peak < HIGHEST else RETRY
        alpha = times[atom]
        target, n_active, dropped = nought, nought, nought - 1
        for m in range(alphas.shape[0]):
            counts[row, m] = 0
            target += alphas[m] >= alpha
        for i in range(n_used):
            for m in range(n_used):
                inverse[i, m] = zero
        n_used = 0
        least, side = one, one
        joining = True
        rounds = 0
        while status[row] == DONE and target < alphas.shape[0]:
            rounds += 1
            if rounds > 8 * cap + 64:
                status[row] = RETRY
                break
            if joining:
                whole = gram[atom, atom] + ridge
                left = _outside(gram, atom, active, n_active, inverse, ridge, pull, work)
                if left <= dependent * whole:
                    closed[atom] = one
                elif n_active == cap or left <= doubtful * whole:
                    status[row] = RETRY
                    break
                else:
                    _grow(inverse, n_active, left, work)
                    active[n_active] = atom
                    signs[n_active] = one if corr[atom] > zero else -one
                    coefs[n_active] = zero
                    closed[atom] = one
                    least = min(least, left)
                    n_active += 1
                    n_used = max(n_used, n_active)
            _multiply(inverse, signs, n_active, move)
            for i in range(n_active, n_active + 4):
                move[i], final[i], active[i] = zero, zero, 0
            _combine(gram, active, move, n_active, ridge, slope)
            _join_times(corr, slope, alpha, closed, positive, never, flat, times)
            if dropped >= 0:
                # It is still at the bound that it left; it may only come back at the other.
                away = one + side * slope[dropped]
                back = alpha + side * corr[dropped]
                times[dropped] = back / away if away > flat and not positive else never
            atom = _first_smallest(times)
            step = times[atom]
            joining, gone = True, nought - 1
            for i in range(n_active):
                if coefs[i] * move[i] < zero and -coefs[i] / move[i] < step:
                    step = -coefs[i] / move[i]
                    joining, gone = False, i
            while target < alphas.shape[0] and alpha - step <= alphas[target]:
                goal = alphas[target]
                for i in range(n_active):
                    final[i] = coefs[i] + (alpha - goal) * move[i]
                done = False
                for _ in range(3):
                    _combine(gram, active, final, n_active, ridge, fitted)
                    worst, objective = _check(
                        correlations, row, fitted, active, n_active, final, signs, goal, energy,
                        positive, times,
                    )  # fmt: skip
                    for i in range(n_active):
                        pull[i] = (
                            correlations[row, active[i]] - goal * signs[i] - fitted[active[i]]
                        )
                    _multiply(inverse, pull, n_active, work)
                    # Twice what moving the coefficients to their minimum would gain.
                    gain = zero
                    for i in range(n_active):
                        gain += pull[i] * work[i]
                    done = worst * worst <= precision * objective * least
                    done = done and gain <= precision * objective
                    if done:
                        break
                    for i in range(n_active):
                        final[i] += work[i]
                if not done:
                    status[row] = RETRY
                    break
                _write(active, final, n_active, row, target, atoms, values, counts)
                target += 1
            if not step < never:
                status[row] = DONE if target == alphas.shape[0] else RETRY
                break
            _advance(step, coefs, move, n_active, corr, slope)
            alpha -= step
            dropped = -1
            if not joining:
                dropped, side = active[gone], signs[gone]
                n_active = _leave(inverse, n_active, gone, active, signs, coefs, closed)
