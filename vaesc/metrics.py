r"""Scores: arrays in, floats out, one definition per name.

Images lie in [0, 1]. A latent :math:`z \in \mathbb{R}^d` is written :math:`z \approx D^\top a`,
with :math:`D \in \mathbb{R}^{K \times d}` the dictionary, whose rows are the atoms, and
:math:`a \in \mathbb{R}^K` the code. In shapes, ``n`` counts samples. Sums run in double
precision whatever the input's type. Codes may be dense or a scipy CSR array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

ACTIVE_VARIANCE = 0.01
"""A latent dimension is active if its mean varies more than this (Burda et al. 2016)."""


def mse(images: Array, reconstructions: Array) -> float:
    """Mean squared error per pixel, over all pixels of all images.

    Args:
        images: Shape (n, ...).
        reconstructions: Same shape.

    Returns:
        At least 0; at most 1 for images in [0, 1].

    Raises:
        ValueError: The shapes differ, or there is nothing to compare.
    """
    _check_pair("mse", images, reconstructions)
    return float(np.mean(_squared_error(images, reconstructions)))


def psnr_db(images: Array, reconstructions: Array) -> float:
    """Peak signal-to-noise ratio in dB for images in [0, 1], from the mean error of all images.

    It is -10 log10(mse): the PSNR of the mean, not the mean of each image's PSNR, so that rows
    of a table that agree in one agree in the other.

    Args:
        images: Shape (n, ...), in [0, 1].
        reconstructions: Same shape.

    Returns:
        Decibels; infinite for a perfect reconstruction.

    Raises:
        ValueError: The shapes differ, or there is nothing to compare.
    """
    return mse_to_psnr_db(mse(images, reconstructions))


def mse_to_psnr_db(error: float) -> float:
    """Convert a mean squared error of images in [0, 1] to dB: -10 log10(error)."""
    return -10 * math.log10(error) if error > 0 else math.inf


def fvu(latents: Array, reconstructions: Array) -> float:
    r"""Fraction of variance unexplained: a ratio of sums over the whole split.

    .. math:: \sum_i \|z_i - \hat z_i\|^2 \,/\, \sum_i \|z_i - \bar z\|^2

    Not the mean of each sample's ratio, which weighs small samples most.

    Args:
        latents: Shape (n, d).
        reconstructions: Same shape.

    Returns:
        0 for a perfect reconstruction, 1 for the mean of the split, more for worse.

    Raises:
        ValueError: The shapes differ, or the latents do not vary at all.
    """
    _check_pair("fvu", latents, reconstructions)
    variation = float(_squared_error(latents, latents.mean(axis=0, dtype=np.float64)).sum())
    if variation == 0:
        raise ValueError(f"fvu needs latents that vary, got {len(latents)} equal rows")
    return float(_squared_error(latents, reconstructions).sum()) / variation


def explained_variance(latents: Array, reconstructions: Array) -> float:
    """Return 1 - FVU, see :func:`fvu`."""
    return 1 - fvu(latents, reconstructions)


def l0(codes: Array | scipy.sparse.csr_array) -> float:
    """Mean number of nonzero coefficients of a code.

    Args:
        codes: Shape (n, K).

    Returns:
        Between 0 and K.

    Raises:
        ValueError: There is no code.
    """
    n = _check_codes("l0", codes)[0]
    return float(_uses(codes).sum()) / n


def dead_fraction(codes: Array | scipy.sparse.csr_array) -> float:
    """Share of atoms that no sample uses.

    Args:
        codes: Array | scipy.sparse.csr_array of the whole evaluated split, shape (n, K).

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: There is no code.
    """
    _check_codes("dead_fraction", codes)
    return float(np.mean(_uses(codes) == 0))


def mutual_coherence(dictionary: Array) -> float:
    r"""Largest absolute cosine between two different atoms.

    .. math:: \max_{i \neq j} |\langle d_i, d_j \rangle| / (\|d_i\| \, \|d_j\|)

    Orthogonal matching pursuit recovers every noise-free code with fewer than
    :math:`(1 + 1/\mu) / 2` nonzero coefficients exactly. No K atoms in d < K dimensions go below
    the Welch bound :math:`\sqrt{(K - d) / (d (K - 1))}`.

    Args:
        dictionary: One atom per row, of any norm but zero, shape (K, d).

    Returns:
        0 for orthogonal atoms, 1 for parallel ones.

    Raises:
        ValueError: There are fewer than two atoms, or one of them is zero.

    References:
        Tropp, "Greed is Good: Algorithmic Results for Sparse Approximation", 2004.
        https://doi.org/10.1109/TIT.2004.834793
    """
    if len(dictionary) < 2:
        raise ValueError(f"mutual_coherence needs at least 2 atoms, got {len(dictionary)}")
    atoms = np.asarray(dictionary, dtype=np.float64)
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    if not norms.all():
        rows = np.flatnonzero(norms == 0).tolist()
        raise ValueError(f"mutual_coherence is undefined for zero atoms, got zeros at rows {rows}")
    cosines = np.abs(atoms / norms @ (atoms / norms).T)
    np.fill_diagonal(cosines, 0)
    return min(float(cosines.max()), 1.0)


def active_units(latents: Array) -> float:
    """Count the latent dimensions whose posterior mean depends on the image.

    Args:
        latents: Posterior means, shape (n, d).

    Returns:
        Number of dimensions whose variance over the images exceeds 0.01, between 0 and d.

    Raises:
        ValueError: There is no latent.

    References:
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016.
        https://arxiv.org/abs/1509.00519
    """
    if len(latents) == 0:
        raise ValueError(f"active_units needs latents of shape (n, d), got {latents.shape}")
    return count_active(latents.var(axis=0, dtype=np.float64))


def count_active(variance: Array) -> float:
    """Count the active dimensions, given each one's variance, shape (d,); see `active_units`."""
    return float(np.count_nonzero(variance > ACTIVE_VARIANCE))


def _squared_error(a: Array, b: Array) -> Array:
    error = np.subtract(a, b, dtype=np.float64)
    return np.square(error, out=error)


def _check_pair(name: str, a: Array, b: Array) -> None:
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"{name} needs two arrays of one shape, got {a.shape} and {b.shape}")


def _check_codes(name: str, codes: Array | scipy.sparse.csr_array) -> tuple[int, int]:
    if len(codes.shape) != 2 or 0 in codes.shape:
        raise ValueError(f"{name} needs codes of shape (n, K), got {tuple(codes.shape)}")
    n, n_atoms = codes.shape
    return n, n_atoms


def _uses(codes: Array | scipy.sparse.csr_array) -> Array:
    """Count the samples that use each atom; a stored zero is no use."""
    if isinstance(codes, np.ndarray):
        return np.asarray(np.count_nonzero(codes, axis=0))
    return np.asarray(np.bincount(codes.indices[codes.data != 0], minlength=codes.shape[1]))
