r"""Gaussian mixtures with full covariances, fitted to latents.

.. math:: p(z) = \sum_c \pi_c \, N(z; m_c, L_c L_c^\top)

A refined model has a few hundred latent dimensions, most of the variance in a few dozen of them.
So who belongs to which component is decided by expectation maximisation on the leading principal
coordinates; one further M step then gives every component its mean and its full covariance in all
dimensions. Covariances are pulled towards the mean one within components, with the weight of a
latent for each dimension (the posterior mode under an inverse Wishart prior), and that one towards
the covariance of all latents in the same way, so that a component of few latents, or a dimension
that does not vary in one, still has a covariance.

References:
    Ghosh, Sajjadi, Vergari, Black, Schölkopf, "From Variational to Deterministic Autoencoders"
    (density estimation after training), 2020. https://arxiv.org/abs/1903.12436
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.errors import DataError
from vaesc.untrusted import MOST, is_moderate

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_LEADING = 48
"""Principal coordinates that decide who belongs to which component."""
_PER_DIMENSION = 2
"""Latents that each component should have for every dimension."""
_FLOOR = 1e-6
"""Share of the mean variance added to every variance: a collapsed dimension has none."""
_MAX_STEPS = 60
_MOST_FITTED = 20_000
"""Latents that expectation maximisation looks at; all of them enter the last M step."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of C Gaussians in d dimensions.

    Raises:
        DataError: Shapes contradict each other, or numbers are not finite or no weights.
    """

    weights: Floats
    """Shares of the components, shape (C,): at least 0, summing to 1."""
    means: Floats
    """Shape (C, d)."""
    factors: Floats
    """Lower triangles of the covariances' Cholesky factors, row by row, (C, d (d + 1) / 2)."""

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise DataError(f"a mixture of latents {fault}; register the model again")

    @property
    def latent_dim(self) -> int:
        """Number of dimensions, d."""
        return int(self.means.shape[1])

    def factor(self, c: int) -> Floats:
        """Return the Cholesky factor of one component's covariance, shape (d, d)."""
        full = np.zeros((self.latent_dim, self.latent_dim), np.float32)
        full[np.tril_indices(self.latent_dim)] = self.factors[c]
        return full

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Return `n` independent latents, float32, shape (n, d)."""
        shares = self.weights.astype(np.float64)
        chosen = rng.choice(len(shares), size=n, p=shares / shares.sum())
        noise = rng.standard_normal((n, self.latent_dim), np.float32)
        for c in np.unique(chosen):
            mine = chosen == c
            noise[mine] = self.means[c] + noise[mine] @ self.factor(c).T
        return noise

    def log_density(self, latents: NDArray[Any]) -> Doubles:
        """Return log p(z) of each latent, in nats, shape (n,)."""
        from scipy.linalg import solve_triangular
        from scipy.special import logsumexp

        found = np.empty((len(self.weights), len(latents)))
        for c, weight in enumerate(self.weights):
            factor = self.factor(c).astype(np.float64)
            whitened = solve_triangular(factor, (latents - self.means[c]).T, lower=True)
            half_log_det = np.log(np.diag(factor)).sum()
            with np.errstate(divide="ignore"):
                found[c] = np.log(weight) - half_log_det - np.square(whitened).sum(axis=0) / 2
        constant = self.latent_dim * np.log(2 * np.pi) / 2
        return np.asarray(logsumexp(found, axis=0) - constant, np.float64)

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a model's part, their names behind `prefix`."""
        return {f"{prefix}/{name}": getattr(self, name) for name in _NAMES}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Mixture:
        """Return what :meth:`arrays` wrote.

        Raises:
            DataError: It is not there, or is no mixture.
        """
        try:
            return cls(**{name: arrays[f"{prefix}/{name}"] for name in _NAMES})
        except KeyError as error:
            raise DataError(f"the model holds no array {error}; register it again") from error


_NAMES = ("weights", "means", "factors")


def fit_mixture(
    latents: Floats, n_components: int, *, seed: int, pooled_from: Floats | None = None
) -> Mixture:
    """Fit a mixture to latents.

    Args:
        latents: Shape (n, d).
        n_components: Most components; fewer where each would have too few latents.
        seed: Seed of the start of expectation maximisation.
        pooled_from: Latents whose covariance components are pulled towards; default: `latents`.

    Raises:
        DataError: There is no latent.
    """
    n, d = latents.shape
    if not n:
        raise DataError("a mixture needs at least one latent, got none")
    centre = latents.mean(axis=0, dtype=np.float64)
    everyone = latents if pooled_from is None else pooled_from
    pooled = _covariance(everyone - everyone.mean(axis=0, dtype=np.float64))
    n_components = max(1, min(n_components, n // (_PER_DIMENSION * d)))
    shares = _memberships(latents - centre, pooled, n_components, seed)
    total = shares.sum(axis=0)
    there = total >= 1  # the last few of a component that died are no component
    return _of_memberships(latents, shares[:, there], total[there], pooled)


def _memberships(centred: Doubles, pooled: Doubles, n_components: int, seed: int) -> Doubles:
    """Return the share of each component in each latent, shape (n, C)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if n_components == 1:
        return np.ones((len(centred), 1))
    directions = np.linalg.eigh(pooled)[1][:, ::-1][:, :_LEADING]
    leading = np.asarray(centred @ directions, np.float32)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(leading), min(len(leading), _MOST_FITTED), replace=False))
    spread = float(leading.var(axis=0).mean()) or 1.0
    model = GaussianMixture(
        n_components, covariance_type="full", tol=1e-3, max_iter=_MAX_STEPS,
        reg_covar=1e-4 * spread, random_state=seed % 2**32,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # enough is enough
        model.fit(leading[rows])
    return np.asarray(model.predict_proba(leading), np.float64)


def _of_memberships(latents: Floats, shares: Doubles, total: Doubles, pooled: Doubles) -> Mixture:
    """Return the M step in all dimensions."""
    d = latents.shape[1]
    means = shares.T @ latents / total[:, None]
    own = np.empty((len(total), d, d))
    for c, mean in enumerate(means):
        mine = shares[:, c] > 1e-6
        own[c] = _covariance(latents[mine] - mean, shares[mine, c])
    within = (np.tensordot(total, own, 1) + d * pooled) / (total.sum() + d)
    mixed = (total[:, None, None] * own + d * within) / (total[:, None, None] + d)
    factors = np.asarray(np.linalg.cholesky(mixed)[:, *np.tril_indices(d)], np.float32)
    weights = np.asarray(total / total.sum(), np.float32)
    return Mixture(weights=weights, means=np.asarray(means, np.float32), factors=factors)


def _covariance(centred: Doubles, shares: Doubles | None = None) -> Doubles:
    """Return the covariance of centred latents, each counted by its share, shape (d, d)."""
    weighted = centred if shares is None else centred * shares[:, None]
    found = weighted.T @ centred / (len(centred) if shares is None else shares.sum())
    ridge = _FLOOR * (float(np.trace(found)) / len(found) or 1.0)
    return np.asarray(found + ridge * np.eye(len(found)))


def _fault(found: Mixture) -> str | None:
    """Say what is wrong with a mixture, which may come from any file; None if nothing is."""
    arrays = [getattr(found, name) for name in _NAMES]
    if any(a.dtype != np.float32 for a in arrays):
        return f"must be float32, got {', '.join(str(a.dtype) for a in arrays)}"
    c, d = found.means.shape if found.means.ndim == 2 else (0, 0)
    if c < 1 or d < 1 or found.weights.shape != (c,):
        return f"must have a mean a weight, got {found.means.shape} and {found.weights.shape}"
    if found.factors.shape != (c, d * (d + 1) // 2):
        return f"must have a triangle of {d} rows for each mean, got {found.factors.shape}"
    if not all(is_moderate(a) for a in arrays):
        return f"must be finite, and no number beyond {MOST:g}"
    if (found.weights < 0).any() or abs(float(found.weights.sum()) - 1) > 1e-3:
        return "must have weights of at least 0 that sum to 1"
    return None
