r"""Greedy pursuit in a metric of each sample's own, in numba.

With :math:`\|r\|_M^2 = r^\top M r` in place of the squared norm, the Gram matrix
:math:`D M D^\top` differs from sample to sample. It is never formed: a step needs one row of it,
:math:`D (M d_p)`, and its diagonal once.
"""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._greedy import (
    _deflate,
    _first_largest,
    _orthogonalise,
    _start,
    _write_level,
)
from vaesc.sparse._jit import compiled, inlined


@inlined
def _lower(vector, weights, metrics, row, full, out):
    """Set `out` to M times a vector."""
    d = out.shape[0]
    if full:
        for i in range(d):
            out[i] = 0
        for t in range(d):
            value = vector[t]
            for i in range(d):
                out[i] += value * metrics[row, t, i]
    else:
        for i in range(d):
            out[i] = vector[i] * weights[row, i]


@inlined
def _project(columns, vector, out):
    """Set row 0 of `out` to D times a vector, given D's columns."""
    for j in range(out.shape[1]):
        out[0, j] = 0
    for t in range(columns.shape[0]):
        value = vector[t]
        for j in range(out.shape[1]):
            out[0, j] += value * columns[t, j]


@compiled
def metric_block(
    samples, columns, weights, metrics, full, ols, dependent, levels, workspace, atoms, values,
    counts,
):  # fmt: skip
    """Code each sample greedily in its own metric.

    Args:
        samples: X, shape (b, d), float64.
        columns: D^T, shape (d, K).
        weights: Diagonals of the metrics, shape (b, d); read unless `full`.
        metrics: Metrics, symmetric, shape (b, d, d); read if `full`.
        full: Which of the two to read.
        ols: Choose by OLS instead of OMP.
        dependent: As in :func:`~vaesc.sparse._greedy.greedy_block`.
        levels: The sparsity level, shape (1,).
        workspace: Scratch memory, float64.
        atoms: Out, shape (b, k).
        values: Out, shape (b, k).
        counts: Out, shape (b, 1).
    """
    d, n_atoms = columns.shape
    most = levels[0]
    (basis, factor, partial, corr, norm_sq, bar, score, inverses, coefs, solved, chosen) = (
        workspace
    )
    unit, diagonal, lengths = np.ones(n_atoms), np.zeros(n_atoms), np.zeros(n_atoms)
    seen, line, atom_row = np.zeros((1, n_atoms)), np.zeros((1, n_atoms)), np.zeros(d)
    lowered = np.zeros(d)

    for row in range(samples.shape[0]):
        # Squared lengths of the atoms in this metric; each is scaled to length one.
        for j in range(n_atoms):
            diagonal[j] = 0.0
        for t in range(d):
            if full:
                for j in range(n_atoms):
                    line[0, j] = 0.0
                for i in range(d):
                    value = metrics[row, t, i]
                    for j in range(n_atoms):
                        line[0, j] += value * columns[i, j]
                for j in range(n_atoms):
                    diagonal[j] += line[0, j] * columns[t, j]
            else:
                value = weights[row, t]
                for j in range(n_atoms):
                    diagonal[j] += value * columns[t, j] * columns[t, j]
        longest = 0.0
        for j in range(n_atoms):
            longest = max(longest, diagonal[j])
        for j in range(n_atoms):
            visible = diagonal[j] > 1e-20 * longest
            lengths[j] = 1.0 / np.sqrt(diagonal[j]) if visible else 0.0
            unit[j] = 1.0 if visible else 0.0
        _lower(samples[row], weights, metrics, row, full, lowered)
        _project(columns, lowered, seen)
        for j in range(n_atoms):
            seen[0, j] *= lengths[j]
        atom = _start(seen, 0, unit, dependent, ols, corr, norm_sq, bar, score)
        top = score[atom]
        n_chosen = 0
        negligible = top * (1e-26 if ols else 1e-13)
        while n_chosen < most and score[atom] > negligible:
            for t in range(d):
                atom_row[t] = columns[t, atom]
            _lower(atom_row, weights, metrics, row, full, lowered)
            _project(columns, lowered, line)
            for j in range(n_atoms):
                line[0, j] *= lengths[j] * lengths[atom]
            pivot = 1.0
            for i in range(n_chosen):
                w = basis[i, atom]
                factor[n_chosen, i] = w
                pivot -= w * w
            if pivot <= dependent:
                bar[atom] = np.inf if ols else 0.0
                score[atom] = 0.0
                atom = _first_largest(score)
                continue
            inverse = 1.0 / np.sqrt(pivot)
            coef = corr[atom] * inverse
            done = _orthogonalise(line, 0, basis, factor, n_chosen, partial)
            begun = partial if done else line[0]
            inverses[n_chosen], coefs[n_chosen], chosen[n_chosen] = inverse, coef, atom
            atom = _deflate(
                begun, basis, factor, done, n_chosen, inverse, coef, ols, corr, norm_sq, bar, score
            )
            n_chosen += 1
        counts[row, 0] = n_chosen
        _write_level(factor, inverses, coefs, chosen, n_chosen, row, 0, solved, atoms, values)
        for i in range(n_chosen):
            values[row, i] *= lengths[atoms[row, i]]
