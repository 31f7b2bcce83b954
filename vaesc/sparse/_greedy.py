r"""Greedy pursuit kernels (orthogonal matching pursuit and orthogonal least squares) in numba.

The residual never appears. With :math:`q_1, ..., q_l` the Gram-Schmidt basis of the atoms chosen
so far, a step keeps, for every atom :math:`j`, its correlation :math:`a_j = d_j^\top r` with the
residual and the rows :math:`W_{lj} = d_j^\top q_l`. Choosing atom :math:`p` then takes

.. math::
    \nu^2 = G_{pp} - \sum_{i<l} W_{ip}^2, \quad
    W_l = \Big(G_p - \sum_{i<l} W_{ip} W_i\Big) / \nu, \quad
    a \leftarrow a - c_l W_l \ \text{with}\ c_l = a_p / \nu,

and the Cholesky factor of the chosen Gram matrix is read off as :math:`L_{li} = W_{i p_l}`: one
triangular solve at the end gives the coefficients, for any prefix of the steps. OMP chooses the
largest :math:`|a_j|`; OLS the largest drop of the residual, :math:`a_j^2 / h_j` with
:math:`h_j = \|d_j\|^2 - \sum_i W_{ij}^2` the squared norm left of atom :math:`j`. A chosen
atom has no correlation left; if rounding makes it best all the same, nothing is left of its norm,
and it is closed then.

References:
    Rubinstein, Zibulevsky, Elad, "Efficient Implementation of the K-SVD Algorithm using Batch
    Orthogonal Matching Pursuit", 2008. Chen, Billings, Luo, "Orthogonal least squares methods",
    1989. https://doi.org/10.1080/00207178908953472
"""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._greedy_range import DONE, HIGHEST, LOWEST, RETRY
from vaesc.sparse._jit import compiled_without_memory, float_bits, inlined


@inlined
def _first_equal(score, largest):
    """Index of the first score whose bits are `largest`; the last if there is none (NaNs)."""
    size, last = np.int32(score.shape[0]), np.int32(score.shape[0] - 1)
    first = last
    for j in range(size):
        first = min(first, np.int32(j) if float_bits(score[j]) == largest else last)
    return first


@inlined
def _first_largest(score):
    """Index of the first largest of nonnegative scores.

    Nonnegative floats order as the integers of the same bits, and, unlike float maxima, integer
    maxima vectorise. A positive NaN counts as larger than any number, a negative one as smaller.
    """
    largest = float_bits(score[0])
    for j in range(score.shape[0]):
        largest = max(largest, float_bits(score[j]))
    return _first_equal(score, largest)


@inlined
def _orthogonalise(gram, atom, basis, factor, new, begun):
    """Begin a basis row: Gram row `atom` less its part in whole fours of the `new` rows before.

    Returns the number of rows taken out. The last one to four are left to :func:`_deflate`,
    which passes over the row anyway. `begun` is written if any were.
    """
    done = 0
    while done + 4 < new:
        w0, w1 = factor[new, done], factor[new, done + 1]
        w2, w3 = factor[new, done + 2], factor[new, done + 3]
        a, b, c, d = done, done + 1, done + 2, done + 3
        if done == 0:
            for j in range(begun.shape[0]):
                begun[j] = (
                    gram[atom, j]
                    - w0 * basis[a, j]
                    - w1 * basis[b, j]
                    - w2 * basis[c, j]
                    - w3 * basis[d, j]
                )
        else:
            for j in range(begun.shape[0]):
                begun[j] = (
                    begun[j]
                    - w0 * basis[a, j]
                    - w1 * basis[b, j]
                    - w2 * basis[c, j]
                    - w3 * basis[d, j]
                )
        done += 4
    return done


@inlined
def _deflate(begun, basis, factor, done, new, inverse_norm, coef, ols, corr, norm_sq, bar, score):
    """Finish the basis row, take its part out of the correlations, and score every atom.

    Fewer than four rows may be left to take out: the spare last row stands in with weight zero.
    OLS also follows what is left of every atom's squared norm. Returns the best atom.
    """
    spare = basis.shape[0] - 1
    w0, w1 = factor[new, done], factor[new, done + 1]
    w2, w3 = factor[new, done + 2], factor[new, done + 3]
    a = done if done < new else spare
    b = done + 1 if done + 1 < new else spare
    c = done + 2 if done + 2 < new else spare
    d = done + 3 if done + 3 < new else spare
    zero = bar.dtype.type(0.0)
    largest = float_bits(zero)
    if ols:
        for j in range(corr.shape[0]):
            w = inverse_norm * (
                begun[j]
                - w0 * basis[a, j]
                - w1 * basis[b, j]
                - w2 * basis[c, j]
                - w3 * basis[d, j]
            )
            left = corr[j] - coef * w
            rest = norm_sq[j] - w * w
            least = bar[j]
            gain = left * left / (rest if rest > least else least)
            basis[new, j], corr[j], norm_sq[j], score[j] = w, left, rest, gain
            largest = max(largest, float_bits(gain))
    else:
        for j in range(corr.shape[0]):
            w = inverse_norm * (
                begun[j]
                - w0 * basis[a, j]
                - w1 * basis[b, j]
                - w2 * basis[c, j]
                - w3 * basis[d, j]
            )
            left = corr[j] - coef * w
            gain = abs(left) * bar[j]
            basis[new, j], corr[j], score[j] = w, left, gain
            largest = max(largest, float_bits(gain))
    return _first_equal(score, largest)


@inlined
def _start(correlations, row, diagonal, dependent, ols, corr, norm_sq, bar, score):
    """State and scores before the first step, and the best atom. A zero atom scores zero."""
    zero = diagonal.dtype.type(0.0)
    one = diagonal.dtype.type(1.0)
    never = diagonal.dtype.type(np.inf)
    largest = float_bits(zero)
    if ols:
        for j in range(corr.shape[0]):
            a, size = correlations[row, j], diagonal[j]
            lives = size > zero
            gain = a * a / size if lives else zero
            corr[j], norm_sq[j], score[j] = a, size, gain
            bar[j] = size * dependent if lives else never
            largest = max(largest, float_bits(gain))
    else:
        for j in range(corr.shape[0]):
            a = correlations[row, j]
            usable = one if diagonal[j] > zero else zero
            gain = abs(a) * usable
            corr[j], bar[j], score[j] = a, usable, gain
            largest = max(largest, float_bits(gain))
    return _first_equal(score, largest)


@inlined
def _write_level(factor, inverses, coefs, chosen, size, row, start, left, atoms, values):
    """Write least-squares coefficients on the first `size` chosen atoms, sorted by atom."""
    for i in range(size):
        left[i] = coefs[i]
    for i in range(size - 1, -1, -1):
        value = left[i] * inverses[i]
        for m in range(i):
            left[m] -= factor[i, m] * value
        left[i] = value
    for i in range(size):
        place = start
        for m in range(size):
            place += chosen[m] < chosen[i]
        atoms[row, place] = chosen[i]
        values[row, place] = left[i]


@compiled_without_memory
def greedy_block(
    correlations,
    gram,
    diagonal,
    dependent,
    doubtful,
    ols,
    levels,
    energy,
    tol,
    workspace,
    atoms,
    values,
    counts,
    status,
):
    """Code each row of a block greedily, with the codes of every sparsity level on the way.

    Args:
        correlations: X D^T, shape (b, K).
        gram: D D^T, shape (K, K).
        diagonal: Its diagonal, shape (K,).
        dependent: An atom of which at most this fraction of its squared norm is left outside
            the span of the chosen atoms is never chosen.
        doubtful: At or below this fraction the row is handed back, to be coded in float64, as it
            is if `tol` is too near to tell; a negative fraction only marks the row, whose
            coefficients need a second look.
        ols: Choose by OLS instead of OMP.
        levels: Sparsity levels, increasing, shape (m,); all at most K.
        energy: In: squared norms of the samples, shape (b,), float64. Out: of their residuals.
        tol: Stop when the squared norm of the residual is at most this; negative: never.
        workspace: Scratch memory of the precision of `gram`.
        atoms: Out, shape (b, sum(levels)): chosen atoms, the levels side by side.
        values: Out, same shape: coefficients.
        counts: Out, shape (b, m): how many of each level's slots are filled.
        status: Out, shape (b,): DONE or RETRY.
    """
    most, kind = levels[-1], gram.dtype.type
    zero, one = kind(0.0), kind(1.0)
    (basis, factor, partial, corr, norm_sq, bar, score, inverses, coefs, solved, chosen) = (
        workspace
    )
    smallest = kind(16.0) * np.finfo(gram.dtype).eps
    closed = kind(np.inf) if ols else zero

    for row in range(correlations.shape[0]):
        atom = _start(correlations, row, diagonal, dependent, ols, corr, norm_sq, bar, score)
        top = score[atom]
        peak = np.sqrt(top) if ols else top
        usable = peak > LOWEST and peak < HIGHEST
        status[row] = DONE if usable else RETRY
        negligible = top * smallest * smallest if ols else top * smallest
        left = energy[row]
        # What is left is a difference of sums: so little of the whole is rounding.
        haze = 64.0 * np.finfo(gram.dtype).eps * left
        n_chosen = 0
        while usable and n_chosen < most and score[atom] > negligible:
            if tol >= 0.0:
                if doubtful > zero and abs(left - tol) <= haze:
                    status[row] = RETRY
                    break
                if left <= tol:
                    break
            pivot = diagonal[atom]
            for i in range(n_chosen):
                w = basis[i, atom]
                factor[n_chosen, i] = w
                pivot -= w * w
            if pivot <= dependent * diagonal[atom]:
                known = False
                for i in range(n_chosen):
                    known = known or chosen[i] == atom
                if doubtful > zero and not known:
                    status[row] = RETRY
                    break
                bar[atom] = closed
                score[atom] = zero
                atom = _first_largest(score)
                continue
            if pivot <= abs(doubtful) * diagonal[atom]:
                status[row] = RETRY
                if doubtful > zero:
                    break
            inverse = one / np.sqrt(pivot)
            coef = corr[atom] * inverse
            inverses[n_chosen] = inverse
            coefs[n_chosen] = coef
            chosen[n_chosen] = atom
            left -= np.float64(coef) * np.float64(coef)
            n_chosen += 1
            if n_chosen == most:  # nothing is chosen after this: spare a quarter of k = 4
                break
            new = n_chosen - 1
            done = _orthogonalise(gram, atom, basis, factor, new, partial)
            begun = partial if done else gram[atom]
            atom = _deflate(
                begun, basis, factor, done, new, inverse, coef, ols, corr, norm_sq, bar, score
            )
        energy[row] = max(left, 0.0)
        start = 0
        for m in range(levels.shape[0]):
            size = min(n_chosen, levels[m])
            counts[row, m] = size
            _write_level(factor, inverses, coefs, chosen, size, row, start, solved, atoms, values)
            start += levels[m]
