r"""Kernels of the dictionary update: sufficient statistics and blocked coordinate descent.

With codes :math:`Z` of samples :math:`X`, the squared error is, up to a constant,
:math:`\operatorname{tr}(D^\top A D) - 2 \operatorname{tr}(D^\top B)`, where
:math:`A = Z^\top Z` and :math:`B = Z^\top X` are all that the update needs to know. Minimising
over one atom at a time and putting it back on the sphere is

.. math:: u_j = B_j - \sum_{i \ne j} A_{ji} d_i, \qquad d_j \leftarrow u_j / \|u_j\| .
"""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._jit import compiled


@compiled
def add_products(atoms, values, counts, samples, first, last, products):
    """Add Z^T X to `products` (K, d), columns `first` to `last` only, in the order of samples."""
    for row in range(samples.shape[0]):
        for s in range(counts[row, 0]):
            atom, value = atoms[row, s], values[row, s]
            for j in range(first, last):
                products[atom, j] += value * samples[row, j]


@compiled
def add_gram(atoms, values, counts, gram, usage):
    """Add Z^T Z to `gram` (K, K), and to `usage` (K,) how many samples used each atom."""
    for row in range(atoms.shape[0]):
        for s in range(counts[row, 0]):
            atom, value = atoms[row, s], values[row, s]
            usage[atom] += 1.0
            for t in range(counts[row, 0]):
                gram[atom, atoms[row, t]] += value * values[row, t]


@compiled
def descend_block(first, gram, pull, dictionary, moved, in_ball, positive):
    """Update the atoms ``first, first + 1, ...`` one after the other.

    Args:
        first: Number of the block's first atom.
        gram: A, shape (K, K).
        pull: B - A D for the block's atoms, shape (m, d), D before the block; overwritten.
        dictionary: D, shape (K, d), updated in place.
        moved: Scratch, shape (m, d): by how much each atom of the block moved.
        in_ball: Atoms may be shorter than 1 (the lasso's convention), instead of on the sphere.
        positive: Atoms have no negative entry.
    """
    size, d = pull.shape
    kind = dictionary.dtype.type
    lanes = np.zeros(16, np.float64)
    for b in range(size):
        atom = first + b
        weight = gram[atom, atom]
        if weight <= kind(0.0):
            for j in range(d):
                moved[b, j] = kind(0.0)
            continue
        for j in range(d):
            pull[b, j] += weight * dictionary[atom, j]
        for i in range(b):
            factor = gram[atom, first + i]
            if factor != kind(0.0):
                for j in range(d):
                    pull[b, j] -= factor * moved[i, j]
        if positive:
            for j in range(d):
                pull[b, j] = max(pull[b, j], kind(0.0))
        # Partial sums, because one running sum would not vectorise.
        lanes[:] = 0.0
        for start in range(0, d - 15, 16):
            for lane in range(16):
                lanes[lane] += np.float64(pull[b, start + lane]) ** 2
        total = 0.0
        for lane in range(16):
            total += lanes[lane]
        for j in range(d - d % 16, d):
            total += np.float64(pull[b, j]) ** 2
        length = np.sqrt(total)
        if in_ball:
            length = max(length, np.float64(weight))
        inverse = kind(1.0 / length) if length > 0.0 else kind(0.0)
        keep = length == 0.0
        for j in range(d):
            new = dictionary[atom, j] if keep else pull[b, j] * inverse
            moved[b, j] = new - dictionary[atom, j]
            dictionary[atom, j] = new


@compiled
def refit_atoms(order, starts, values, slots, dictionary, residual, n_powers, moved):
    r"""K-SVD: refit each atom and its coefficients to the residual without it, one by one.

    For atom j and the samples that use it, :math:`E = R + z d_j^T` is replaced by the best
    rank-one matrix, found by `n_powers` power steps
    :math:`d \leftarrow E^T z / \|E^T z\|, z \leftarrow E d` from the present pair. One step is
    Rubinstein et al.'s approximate K-SVD.

    Args:
        order: Positions in the flat `values`, atom by atom, samples increasing.
        starts: Where each atom's positions start in `order`, shape (K + 1,).
        values: Coefficients, shape (n, k), updated in place.
        slots: Number of slots a sample has, k.
        dictionary: D, shape (K, d), updated in place.
        residual: X - Z D, shape (n, d), updated in place.
        n_powers: Power steps.
        moved: Scratch, shape (d,), float64.
    """
    n_atoms, d = dictionary.shape
    kind = dictionary.dtype.type
    old = np.zeros(d, dictionary.dtype)
    flat = values.reshape(-1)
    lanes = np.zeros(16, np.float64)
    for atom in range(n_atoms):
        first, last = starts[atom], starts[atom + 1]
        if first == last:
            continue
        for _ in range(n_powers):
            for j in range(d):
                old[j] = dictionary[atom, j]
                moved[j] = 0.0
            weight = 0.0
            for position in range(first, last):
                row, value = order[position] // slots, flat[order[position]]
                weight += np.float64(value) * value
                for j in range(d):
                    moved[j] += value * residual[row, j]
            total = 0.0
            for j in range(d):
                moved[j] += weight * old[j]
                total += moved[j] * moved[j]
            if not total > 0.0:
                break
            link = 0.0
            for j in range(d):
                dictionary[atom, j] = kind(moved[j] / np.sqrt(total))
                link += np.float64(dictionary[atom, j]) * old[j]
            for position in range(first, last):
                row, value = order[position] // slots, flat[order[position]]
                lanes[:] = 0.0
                for start in range(0, d - 15, 16):
                    for lane in range(16):
                        lanes[lane] += residual[row, start + lane] * dictionary[atom, start + lane]
                fit = value * link
                for lane in range(16):
                    fit += lanes[lane]
                for j in range(d - d % 16, d):
                    fit += residual[row, j] * dictionary[atom, j]
                new = kind(fit)
                flat[order[position]] = new
                for j in range(d):
                    residual[row, j] += value * old[j] - new * dictionary[atom, j]
