r"""The sparse code as a differentiable layer: projection on the chosen atoms.

A greedy pursuit refits all coefficients by least squares, so with the support S it chose,

.. math:: \hat z = D_S^\top (D_S D_S^\top)^{-1} D_S\, z = P_S z .

The choice of S is piecewise constant and has no gradient; given S, :math:`\hat z` is a smooth
function of z and of the atoms, and :math:`\partial \hat z / \partial z = P_S`. That is the exact
derivative almost everywhere, where a straight-through estimate would put the identity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaesc.decoder_coding import gram_of


def supports(z: Tensor, atoms: Tensor, k: int, selection: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the atoms that a pursuit chooses.

    Args:
        z: Latents, shape (n, d).
        atoms: Unit rows, shape (K, d).
        k: Sparsity level, at most min(K, d).
        selection: ``ols`` or ``omp``.

    Returns:
        Indices of atoms, shape (n, k), and which of them count (1.0 or 0.0), same shape: a latent
        that fewer atoms reconstruct exactly uses fewer.
    """
    from vaesc.sparse import orthogonal_matching_pursuit

    codes = orthogonal_matching_pursuit(
        z.detach().float().cpu().numpy(),
        atoms.detach().cpu().numpy(),
        k,
        selection=selection,
        n_threads=1,
    )
    used = np.diff(codes.indptr)
    counts = np.arange(k)[None] < used[:, None]
    index = np.zeros((len(used), k), np.int64)
    index[counts] = codes.indices
    there = torch.from_numpy(counts.astype(np.float32))
    return torch.from_numpy(index).to(z.device), there.to(z.device)


def project(z: Tensor, atoms: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """Return each latent's orthogonal projection on its chosen atoms, shape (n, d).

    Args:
        z: Latents, shape (n, d).
        atoms: Unit rows, shape (K, d).
        index: Chosen atoms of each latent, shape (n, k).
        counts: 0.0 where an index is a placeholder, else 1.0, shape (n, k).
    """
    chosen = atoms[index] * counts[..., None]
    gram = gram_of(chosen)
    right = chosen @ z[..., None].to(chosen.dtype)
    if index.shape[1] == 1:
        coefficients = right / gram
    else:
        coefficients = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    return (coefficients * chosen).sum(1)
