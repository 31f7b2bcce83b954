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
:math:`h_j = \|d_j\|^2 - \sum_i W_{ij}^2` the squared norm left of atom :math:`j`.

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
from vaesc.sparse._jit import compiled, inlined


@inlined
def _first_largest(as_int):
    """Index of the first largest of nonnegative floats, given through their integer view.

    Nonnegative floats order as the integers of the same bits, and, unlike float maxima, integer
    maxima vectorise. A NaN counts as larger than any number.
    """
    size = np.int32(as_int.shape[0])
    largest = as_int[0]
    for j in range(size):
        largest = max(largest, as_int[j])
    first = size
    for j in range(size):
        first = min(first, np.int32(j) if as_int[j] == largest else size)
    return first


@inlined
def _orthogonalise(gram, atom, basis, factor, new):
    """Set row `new` of `basis` to Gram row `atom` less the part in the rows before.

    Rows are taken four at a time. Where fewer are left the spare last row stands in with weight
    zero: reading row `new` itself would overlap with writing it, and not vectorise.
    """
    size, spare = gram.shape[1], basis.shape[0] - 1
    for i in range(0, max(new, 1), 4):
        w0, w1, w2, w3 = factor[new, i], factor[new, i + 1], factor[new, i + 2], factor[new, i + 3]
        a = i if i < new else spare
        b = i + 1 if i + 1 < new else spare
        c = i + 2 if i + 2 < new else spare
        d = i + 3 if i + 3 < new else spare
        if i == 0:
            for j in range(size):
                basis[new, j] = (
                    gram[atom, j]
                    - w0 * basis[a, j]
                    - w1 * basis[b, j]
                    - w2 * basis[c, j]
                    - w3 * basis[d, j]
                )
        else:
            for j in range(size):
                basis[new, j] = (
                    basis[new, j]
                    - w0 * basis[a, j]
                    - w1 * basis[b, j]
                    - w2 * basis[c, j]
                    - w3 * basis[d, j]
                )


@inlined
def _deflate_omp(basis, new, inverse_norm, coef, corr, open_atoms, score):
    """Normalise the new basis row and take its part out of the correlations; score by OMP."""
    for j in range(corr.shape[0]):
        w = basis[new, j] * inverse_norm
        left = corr[j] - coef * w
        basis[new, j] = w
        corr[j] = left
        score[j] = abs(left) * open_atoms[j]


@inlined
def _deflate_ols(basis, new, inverse_norm, coef, corr, norm_sq, bar, score):
    """The same for OLS, which also follows what is left of every atom's squared norm."""
    zero = coef - coef
    for j in range(corr.shape[0]):
        w = basis[new, j] * inverse_norm
        left = corr[j] - coef * w
        rest = norm_sq[j] - w * w
        basis[new, j] = w
        corr[j] = left
        norm_sq[j] = rest
        score[j] = left * left / rest if rest > bar[j] else zero


@inlined
def _start(correlations, row, diagonal, dependent, ols, corr, norm_sq, bar, score):
    """State and scores before the first step. A zero atom scores zero."""
    zero = diagonal.dtype.type(0.0)
    one = diagonal.dtype.type(1.0)
    if ols:
        for j in range(corr.shape[0]):
            a, size = correlations[row, j], diagonal[j]
            corr[j] = a
            norm_sq[j] = size
            bar[j] = size * dependent
            score[j] = a * a / size if size > zero else zero
    else:
        for j in range(corr.shape[0]):
            a = correlations[row, j]
            corr[j] = a
            bar[j] = one if diagonal[j] > zero else zero
            score[j] = abs(a) * bar[j]


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


@compiled
def greedy_block(
    correlations,
    gram,
    dependent,
    doubtful,
    ols,
    levels,
    energy,
    tol,
    score,
    as_int,
    atoms,
    values,
    counts,
    status,
):
    """Code each row of a block greedily, with the codes of every sparsity level on the way.

    Args:
        correlations: X D^T, shape (b, K).
        gram: D D^T, shape (K, K).
        dependent: An atom of which at most this fraction of its squared norm is left outside
            the span of the chosen atoms is never chosen.
        doubtful: At or below this fraction the row is handed back, to be coded in float64; a
            negative fraction only marks the row, whose coefficients need a second look.
        ols: Choose by OLS instead of OMP.
        levels: Sparsity levels, increasing, shape (m,); all at most K.
        energy: In: squared norms of the samples, shape (b,), float64. Out: of their residuals.
        tol: Stop when the squared norm of the residual is at most this; negative: never.
        score: Scratch, shape (K,), of the precision of `gram`.
        as_int: The same memory as signed integers.
        atoms: Out, shape (b, sum(levels)): chosen atoms, the levels side by side.
        values: Out, same shape: coefficients.
        counts: Out, shape (b, m): how many of each level's slots are filled.
        status: Out, shape (b,): DONE or RETRY.
    """
    n_atoms, most = gram.shape[0], levels[-1]
    kind = gram.dtype.type
    zero, one = kind(0.0), kind(1.0)
    basis = np.zeros((most + 1, n_atoms), gram.dtype)
    factor = np.zeros((most, most + 4), gram.dtype)
    inverses, coefs = np.zeros(most, gram.dtype), np.zeros(most, gram.dtype)
    scratch, chosen = np.zeros(most, gram.dtype), np.zeros(most, np.int32)
    corr, norm_sq = np.zeros(n_atoms, gram.dtype), np.zeros(n_atoms, gram.dtype)
    diagonal, bar = np.zeros(n_atoms, gram.dtype), np.zeros(n_atoms, gram.dtype)
    for j in range(n_atoms):
        diagonal[j] = gram[j, j]
    smallest = kind(16.0) * np.finfo(gram.dtype).eps
    closed = kind(np.inf) if ols else zero

    for row in range(correlations.shape[0]):
        _start(correlations, row, diagonal, dependent, ols, corr, norm_sq, bar, score)
        atom = _first_largest(as_int)
        top = score[atom]
        peak = np.sqrt(top) if ols else top
        usable = peak > LOWEST and peak < HIGHEST
        status[row] = DONE if usable else RETRY
        negligible = top * smallest * smallest if ols else top * smallest
        left = energy[row]
        n_chosen = 0
        while usable and n_chosen < most and score[atom] > negligible:
            if tol >= 0.0 and left <= tol:
                break
            pivot = diagonal[atom]
            for i in range(n_chosen):
                w = basis[i, atom]
                factor[n_chosen, i] = w
                pivot -= w * w
            bar[atom] = closed
            if pivot <= dependent * diagonal[atom]:
                score[atom] = zero
                atom = _first_largest(as_int)
                continue
            if pivot <= abs(doubtful) * diagonal[atom]:
                status[row] = RETRY
                if doubtful > zero:
                    break
            inverse = one / np.sqrt(pivot)
            coef = corr[atom] * inverse
            _orthogonalise(gram, atom, basis, factor, n_chosen)
            if ols:
                _deflate_ols(basis, n_chosen, inverse, coef, corr, norm_sq, bar, score)
            else:
                _deflate_omp(basis, n_chosen, inverse, coef, corr, bar, score)
            inverses[n_chosen] = inverse
            coefs[n_chosen] = coef
            chosen[n_chosen] = atom
            n_chosen += 1
            left -= np.float64(coef) * np.float64(coef)
            if n_chosen < most:
                atom = _first_largest(as_int)
        energy[row] = max(left, 0.0)
        start = 0
        for m in range(levels.shape[0]):
            size = min(n_chosen, levels[m])
            counts[row, m] = size
            _write_level(factor, inverses, coefs, chosen, size, row, start, scratch, atoms, values)
            start += levels[m]
