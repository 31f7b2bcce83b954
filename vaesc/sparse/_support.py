"""Greedy pursuit that may take atoms back or in groups: nonnegative and group OMP, in numba."""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._homotopy import _combine, _grow, _multiply, _outside, _shrink
from vaesc.sparse._jit import compiled


@compiled
def support_block(
    correlations, gram, starts, members, most_groups, positive, dependent, atoms, values, counts
):
    """Code each row of a block with groups of atoms, or with nonnegative coefficients.

    A step takes the group whose correlations with the residual have the largest sum of squares
    (positive parts only, if `positive`) and refits by least squares. If `positive`, the refit is
    Lawson and Hanson's: it walks towards the least-squares point, and the first coefficient to
    reach zero leaves, until none is negative.

    Args:
        correlations: X D^T, shape (b, K), float64.
        gram: D D^T, shape (K, K).
        starts: Where each group's atoms start in `members`, shape (n_groups + 1,).
        members: Atoms, group by group.
        most_groups: Steps at most; if `positive`, also the most atoms.
        positive: Nonnegative coefficients; groups must have one atom each.
        dependent: As in :func:`~vaesc.sparse._greedy.greedy_block`.
        atoms: Out, shape (b, cap).
        values: Out, shape (b, cap).
        counts: Out, shape (b,).
    """
    n_atoms, cap = gram.shape[0], atoms.shape[1]
    n_groups, room = starts.shape[0] - 1, cap + 17
    inverse, active = np.zeros((room, room)), np.zeros(room, np.int32)
    coefs, goal, work = np.zeros(room), np.zeros(room), np.zeros(room)
    pull, corr, fitted = np.zeros(room), np.zeros(n_atoms), np.zeros(n_atoms)
    closed = np.zeros(n_groups, np.int32)
    used = 0

    for row in range(correlations.shape[0]):
        for i in range(used):
            for m in range(used):
                inverse[i, m] = 0.0
        used, size, n_taken, top = 0, 0, 0, 0.0
        for j in range(n_atoms):
            corr[j] = correlations[row, j]
        for g in range(n_groups):
            closed[g] = 0
        for _ in range(4 * most_groups + 8):
            if n_taken == most_groups or size == cap:
                break
            best, chosen = 0.0, -1
            for g in range(n_groups):
                total = 0.0
                for m in range(starts[g], starts[g + 1]):
                    c = corr[members[m]]
                    total += c * c if c > 0.0 or not positive else 0.0
                if total > best and closed[g] == 0:
                    best, chosen = total, g
            top = max(top, best)
            if chosen < 0 or best <= 1e-26 * top:
                break
            closed[chosen] = 1
            n_taken += 1
            for m in range(starts[chosen], starts[chosen + 1]):
                atom = members[m]
                left = _outside(gram, atom, active, size, inverse, 0.0, pull, work)
                if left <= dependent * gram[atom, atom] or size == cap:
                    n_taken -= 1 if positive else 0
                    continue
                _grow(inverse, size, left, work)
                active[size], coefs[size] = atom, 0.0
                size += 1
                used = max(used, size)
            while size > 0:
                for i in range(size):
                    pull[i] = correlations[row, active[i]]
                _multiply(inverse, pull, size, goal)
                gone, step = -1, 1.0
                if positive:
                    for i in range(size):
                        if goal[i] <= 0.0:
                            reach = coefs[i] / (coefs[i] - goal[i]) if coefs[i] > 0.0 else 0.0
                            if reach < step or gone < 0:
                                gone, step = i, reach
                for i in range(size):
                    coefs[i] += step * (goal[i] - coefs[i])
                if gone < 0:
                    break
                # One atom a group here: the group of atom j is j.
                _shrink(inverse, size, gone)
                closed[active[gone]] = 0 if step > 0.0 else 1
                size -= 1
                n_taken -= 1
                active[gone], coefs[gone] = active[size], coefs[size]
            for i in range(size, size + 4):
                coefs[i], active[i] = 0.0, 0
            _combine(gram, active, coefs, size, 0.0, fitted)
            for j in range(n_atoms):
                corr[j] = correlations[row, j] - fitted[j]
        counts[row] = size
        for i in range(size):
            place = 0
            for m in range(size):
                place += active[m] < active[i]
            atoms[row, place] = active[i]
            values[row, place] = coefs[i]
