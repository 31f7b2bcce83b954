r"""Greedy sparse codes: orthogonal matching pursuit (OMP) and orthogonal least squares (OLS).

Both choose atoms one by one and refit all coefficients by least squares,

.. math:: a = \arg\min_{\operatorname{supp} a \subseteq S} \|x - D^\top a\|^2 .

OMP adds to :math:`S` the atom most correlated with the residual, OLS the atom that lowers the
residual most. OLS costs little more here and its error is lower at the same sparsity level; it is
also what SPAMS computes under the name ``omp``.

A block of correlations :math:`X D^\top` is one matrix product; the kernel of
:mod:`vaesc.sparse._greedy` then never looks at the samples again. Rows whose float32 arithmetic
would be doubtful (nearly dependent atoms, extreme scales) are coded again in float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from vaesc.sparse._blocks import DEFAULT_BLOCK_BYTES, BlockRunner
from vaesc.sparse._coder import GreedyCoder
from vaesc.sparse._validation import Selection, as_dictionary, as_samples, check_level


def orthogonal_matching_pursuit(
    X: ArrayLike,
    dictionary: ArrayLike,
    n_nonzero_coefs: int | None,
    *,
    selection: Selection = "omp",
    tol: float | None = None,
    byte_digits: int = 0,
    n_threads: int | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> csr_array:
    r"""Code each sample with at most `n_nonzero_coefs` atoms, chosen greedily.

    Args:
        X: Samples, shape (n, d). float32 and float64 are kept; small integers (8-bit images)
            become float32. May be lazy (Zarr, memory map): it is read block by block.
        dictionary: Atoms, shape (K, d). Rows of norm 1 are meant; other norms are allowed, and
            then OMP prefers long atoms, as scikit-learn's does. Zero atoms are never used.
        n_nonzero_coefs: Sparsity level, from 1 to K, or None for no limit (give `tol` then).
        selection: ``"omp"`` chooses the atom most correlated with the residual, ``"ols"`` the
            one that lowers the residual most.
        tol: Stop as soon as the squared norm of the residual is at most this, in squared units
            of X; None does not look at the residual.
        byte_digits: For `X` of dtype uint8, 2 or 3 multiply integers exactly instead of floats,
            with the dictionary rounded to so many digits of 7 bits, which is faster on CPUs with
            byte dot products: 2 moves the error by up to 1e-4 of it, 3 by less than float32
            does. 0, and any other `X`, multiplies floats.
        n_threads: Threads; None uses all cores. The codes do not depend on it.
        block_bytes: Memory for one thread's block of correlations. Apart from X and the codes,
            memory stays below a few blocks per thread. Products of other sizes may round the
            last bits of coefficients otherwise.

    Returns:
        Codes, shape (n, K), in the precision of X, column indices sorted. A row has fewer than
        `n_nonzero_coefs` entries if its residual became zero (or at most `tol`), or no atom
        outside the span of the chosen ones is left.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, or a setting is out of range.

    References:
        Pati, Rezaiifar, Krishnaprasad, "Orthogonal matching pursuit", 1993.
        https://doi.org/10.1109/ACSSC.1993.342465
    """
    atoms = as_dictionary(dictionary)
    level = check_level("n_nonzero_coefs", n_nonzero_coefs, len(atoms))
    samples = as_samples(X, atoms.shape[1])
    digits = byte_digits if samples.dtype == np.uint8 else 0
    coder = GreedyCoder(atoms, [level], selection, tol, byte_digits=digits)
    with BlockRunner(n_threads) as runner:
        return coder.code(samples, runner, block_bytes).to_csr()[0]


def pursuit_path(
    X: ArrayLike,
    dictionary: ArrayLike,
    sparsity_levels: Sequence[int],
    *,
    selection: Selection = "omp",
    n_threads: int | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> dict[int, csr_array]:
    """Code each sample at several sparsity levels in one greedy run to the largest.

    The first k choices of a greedy run are the choices of a run that stops at k, so each result
    equals :func:`orthogonal_matching_pursuit` at its level: coefficients are refitted by least
    squares on each prefix of the choices.

    Args:
        X: Samples, shape (n, d), as in :func:`orthogonal_matching_pursuit`.
        dictionary: Atoms, shape (K, d).
        sparsity_levels: Levels k from 1 to K, in any order, without repeats.
        selection: ``"omp"`` or ``"ols"``.
        n_threads: Threads; None uses all cores.
        block_bytes: Memory for one thread's block of correlations.

    Returns:
        Level -> codes, shape (n, K), in the order of `sparsity_levels`.

    Raises:
        ValueError: There is no level or one twice, or as :func:`orthogonal_matching_pursuit`.
    """
    atoms = as_dictionary(dictionary)
    wanted = [check_level("sparsity_levels", level, len(atoms)) for level in sparsity_levels]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"sparsity_levels must hold at least one level and none twice, got {wanted}"
        )
    levels = sorted(wanted)
    coder = GreedyCoder(atoms, levels, selection)
    with BlockRunner(n_threads) as runner:
        slots = coder.code(as_samples(X, atoms.shape[1]), runner, block_bytes)
    codes = dict(zip(levels, slots.to_csr(), strict=True))
    return {level: codes[level] for level in wanted}


def reconstruct(codes: csr_array, dictionary: ArrayLike) -> NDArray[Any]:
    """Return ``codes @ dictionary``, the samples that the codes stand for.

    Args:
        codes: Codes, shape (n, K).
        dictionary: Atoms, shape (K, d).

    Returns:
        Reconstructions, shape (n, d), a dense array in the units of the coded samples.

    Raises:
        ValueError: `codes` has not one column per atom.
    """
    atoms = np.asarray(dictionary)
    if codes.shape[1] != len(atoms):
        raise ValueError(
            f"codes must have one column per atom, got {codes.shape[1]} columns for {len(atoms)} "
            "atoms"
        )
    return np.asarray(codes @ atoms)
