r"""Lasso codes by coordinate descent on the Gram matrix: slow, and hard to upset.

The fallback for samples on which the homotopy loses its way (many atoms reach the bound at once,
or the active atoms are nearly dependent). Sweeps run over the atoms in use; a sweep over all atoms
lets others in, and the row is done when the duality gap says so.

References:
    Friedman, Hastie, Tibshirani, "Regularization Paths for Generalized Linear Models via
    Coordinate Descent", 2010. https://doi.org/10.18637/jss.v033.i01
"""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

import numpy as np

from vaesc.sparse._jit import compiled, inlined


@inlined
def _shrunk(value, alpha, positive):
    """Soft threshold."""
    if value > alpha:
        return value - alpha
    if value < -alpha and not positive:
        return value + alpha
    return value - value


@inlined
def _gap(correlations, row, corr, code, ridge, alpha, positive, energy):
    """Duality gap and objective, with the residual, scaled if it must be, as the dual point.

    The ridge counts as `K` further data rows of zero, which makes the elastic net a lasso.
    """
    fit, norm, square, steepest = 0.0, 0.0, 0.0, 0.0
    for j in range(code.shape[0]):
        fit += code[j] * (2 * correlations[row, j] - (correlations[row, j] - corr[j]))
        norm += abs(code[j])
        square += code[j] * correlations[row, j]
        steepest = max(steepest, corr[j] if positive else abs(corr[j]))
    left = max(energy - fit, 0.0)
    scale = min(1.0, alpha / steepest) if steepest > 0.0 else 1.0
    objective = 0.5 * left + alpha * norm
    dual = scale * (energy - square) - 0.5 * scale * scale * left
    return objective - dual, objective


@compiled
def descend_rows(correlations, gram, ridge, alpha, positive, energy, rtol, max_sweeps, codes):
    """Improve dense `codes` (b, K) in place until the duality gap is `rtol` of the objective.

    Args:
        correlations: X D^T, shape (b, K), float64.
        gram: D D^T, shape (K, K).
        ridge: Weight of half the squared norm.
        alpha: Weight of the absolute sum, shape (b,).
        positive: Only nonnegative coefficients.
        energy: Squared norms of the samples, shape (b,).
        rtol: Relative duality gap to reach.
        max_sweeps: Most sweeps for a row.
        codes: Start and result.

    Returns:
        Largest relative gap of any row.
    """
    n_atoms = gram.shape[0]
    corr = np.zeros(n_atoms)
    worst = 0.0
    for row in range(correlations.shape[0]):
        for j in range(n_atoms):
            corr[j] = correlations[row, j]
        for i in range(n_atoms):
            value = codes[row, i]
            if value != 0.0:
                for j in range(n_atoms):
                    corr[j] -= value * gram[i, j]
                corr[i] -= ridge * value
        relative = np.inf
        for sweep in range(max_sweeps):
            everyone = sweep % 10 == 0
            if everyone:
                gap, objective = _gap(
                    correlations, row, corr, codes[row], ridge, alpha[row], positive, energy[row]
                )
                # Beside a residual of zero the gap is a difference of rounding errors.
                whole = max(objective, 1e-9 * energy[row])
                relative = gap / whole if whole > 0.0 else 0.0
                if relative <= rtol:
                    break
            for i in range(n_atoms):
                old = codes[row, i]
                weight = gram[i, i] + ridge
                if (old == 0.0 and not everyone) or weight <= 0.0:
                    continue
                new = _shrunk(corr[i] + weight * old, alpha[row], positive) / weight
                change = new - old
                if change != 0.0:
                    for j in range(n_atoms):
                        corr[j] -= change * gram[i, j]
                    corr[i] -= change * ridge
                    codes[row, i] = new
        worst = max(worst, relative)
    return worst
