r"""Sparse codes chosen by the error of what they decode to, not by that of the latent.

A pursuit makes :math:`\|z - D^\top a\|` small. What counts is the picture,

.. math:: E(a) = \| x - \mathrm{clip}\, g(m + s\, D^\top a) \|^2 ,

with g the decoder, and equal errors of the latent are seldom equally visible. Two ways to lower E,
both bounded in time and memory and free of chance:

- :func:`descend` keeps the atoms that a pursuit chose and moves their coefficients: a quasi-Newton
  descent that takes the atoms' Gram matrix for the curvature (exact where the decoder is an
  isometry) and never accepts a step that raises an image's error.
- :func:`nearest` codes with a single atom, where a pursuit's choice is worst: every atom in every
  one of some amounts is decoded once, the nearest picture wins, and the amount is then
  interpolated. It is vector quantisation with a codebook of curves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from vaesc.dictionary import LatentDictionary
    from vaesc.models import VAE

Decode = Callable[[Tensor], Tensor]
"""Scaled latents D^T a, shape (n, d) -> flat pictures, shape (n, n_pixels), not clipped yet."""

_RIDGE = 1e-5
"""Added to the diagonal of the chosen atoms' Gram matrix: nearly parallel atoms stay solvable."""
_LONGER, _SHORTER = 1.4, 0.4
"""Factors of an image's step after one that helped, and after one that did not."""
_GROUP = 1024
"""Images, or entries of a codebook, decoded at a time."""


def descend(decode: Decode, x: Tensor, chosen: Tensor, coefficients: Tensor, steps: int) -> Tensor:
    """Return coefficients of lower decoded error, for atoms that stay chosen.

    Args:
        decode: Maps scaled latents to pictures.
        x: Flat images in [0, 1], shape (n, n_pixels).
        chosen: The atoms of each image, rows of zeros where there are fewer, shape (n, k, d).
        coefficients: Where the descent starts, shape (n, k).
        steps: Number of steps; each costs a pass through the decoder and back.

    Returns:
        Shape (n, k). No image's error is larger than at the start.
    """
    if steps == 0 or chosen.shape[1] == 0:
        return coefficients
    factor = torch.linalg.cholesky(gram_of(chosen))
    current, rate = coefficients.clone(), torch.ones(len(x), 1, device=x.device)
    least, slope = _error_and_slope(decode, x, chosen, current)
    for step in range(steps):
        move = torch.cholesky_solve(slope[..., None], factor)[..., 0]
        trial = current - rate * move
        last = step == steps - 1
        error, found = _error_and_slope(decode, x, chosen, trial, error_only=last)
        better = (error < least)[:, None]
        current = torch.where(better, trial, current)
        slope = torch.where(better, found, slope)
        least = torch.minimum(error, least)
        rate = rate * torch.where(better, _LONGER, _SHORTER)
    return current


def gram_of(chosen: Tensor) -> Tensor:
    """Return the chosen atoms' Gram matrices, shape (n, k, k), with a small ridge."""
    eye = torch.eye(chosen.shape[1], dtype=chosen.dtype, device=chosen.device)
    return chosen @ chosen.transpose(1, 2) + _RIDGE * eye


def _error_and_slope(
    decode: Decode, x: Tensor, chosen: Tensor, coefficients: Tensor, *, error_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Return half of each image's squared error and its gradient by the coefficients."""
    z = torch.einsum("nk,nkd->nd", coefficients, chosen)
    with torch.set_grad_enabled(not error_only):
        z.requires_grad_(not error_only)
        error = (decode(z).clamp(0, 1) - x).square().sum(1) / 2
    if error_only:
        return error, torch.zeros_like(coefficients)
    (by_latent,) = torch.autograd.grad(error.sum(), z)
    return error.detach(), torch.einsum("nkd,nd->nk", chosen, by_latent)


class Codebook:
    """Every atom in each of some amounts, decoded.

    Args:
        decode: Maps scaled latents to pictures.
        atoms: Shape (K, d).
        amounts: Increasing along rows, shape (K, T).
    """

    def __init__(self, decode: Decode, atoms: Tensor, amounts: Tensor) -> None:
        self.n_amounts = amounts.shape[1]
        self.amounts = amounts.flatten()
        latents = (amounts[..., None] * atoms[:, None]).flatten(0, 1)
        with torch.no_grad():
            self.pictures = torch.cat(
                [decode(z).clamp(0, 1) for z in torch.split(latents, _GROUP)]
            )
        self.energy = self.pictures.square().sum(1)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the atom and the amount of it that come closest to each image.

        Between neighbouring amounts of an atom its pictures are taken to lie on a straight line;
        of the two lines that end at the nearest entry the nearer one decides the amount.

        Args:
            x: Flat images in [0, 1], shape (n, n_pixels).

        Returns:
            Atoms, shape (n,), and amounts, shape (n,).
        """
        entry = (self.energy - 2 * x @ self.pictures.T).argmin(1)
        picture, amount = self.pictures[entry], self.amounts[entry]
        missed = x - picture
        least, found = missed.square().sum(1), amount
        position = entry % self.n_amounts
        for side in (-1, 1):
            inside = (position + side >= 0) & (position + side < self.n_amounts)
            other = torch.where(inside, entry + side, entry)
            line = self.pictures[other] - picture
            length = line.square().sum(1)
            share = ((missed * line).sum(1) / length.clamp_min(1e-9)).clamp(0, 1)
            error = (missed - share[:, None] * line).square().sum(1)
            better = error < least
            least = torch.minimum(error, least)
            found = torch.where(better, amount + share * (self.amounts[other] - amount), found)
        return entry // self.n_amounts, found


def descended_codes(
    decode: Decode, atoms: Tensor, unit: NDArray[np.float32], codes: csr_array, steps: int
) -> csr_array:
    """Return `codes` after :func:`descend`: the same atoms, other coefficients.

    Args:
        decode: Maps scaled latents to pictures.
        atoms: Shape (K, d), on the device where `decode` computes.
        unit: Images in [0, 1], shape (n, ...).
        codes: Where the descent starts, shape (n, K).
        steps: See :func:`descend`.
    """
    from scipy.sparse import csr_array as csr

    used = np.diff(codes.indptr)
    there = np.arange(used.max(initial=0))[None] < used[:, None]
    index, values = np.zeros(there.shape, np.int64), np.zeros(there.shape, np.float32)
    index[there], values[there] = codes.indices, codes.data

    def on_device(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(atoms.device)

    # Also inside a caller's inference mode: a descent needs gradients.
    with torch.inference_mode(False):
        for start in range(0, len(values), _GROUP):
            rows = slice(start, start + _GROUP)
            mask = on_device(there[rows].astype(np.float32))
            chosen = atoms[on_device(index[rows])] * mask[..., None]
            x = on_device(unit[rows]).flatten(1)
            found = descend(decode, x, chosen, on_device(values[rows]), steps)
            values[rows] = found.cpu().numpy()
    return csr((values[there], codes.indices, codes.indptr), shape=codes.shape)


class DecoderCoder:
    """Codes images in a dictionary with the decoder it was refined with.

    Args:
        vae: The VAE, on the device where it is to compute.
        dictionary: Atoms, scaling, ``descent_steps`` and ``amounts``.
    """

    def __init__(self, vae: VAE, dictionary: LatentDictionary) -> None:
        self.vae, self.steps = vae, dictionary.descent_steps
        # Also inside a caller's inference mode: a descent needs gradients.
        with torch.inference_mode(False):
            self.atoms, self.mean, self.scale = (
                torch.from_numpy(array).to(vae.device)
                for array in (dictionary.dictionary, dictionary.mean, dictionary.scale)
            )
        self.amounts = dictionary.amounts
        self._book: Codebook | None = None

    def descended(self, unit: NDArray[np.float32], codes: csr_array) -> csr_array:
        """Return `codes` with coefficients of lower decoded error.

        Args:
            unit: Images in [0, 1], shape (n, *shape).
            codes: Where the descent starts, shape (n, K).
        """
        return descended_codes(self._decode, self.atoms, unit, codes, self.steps)

    def nearest(self, unit: NDArray[np.float32]) -> csr_array:
        """Return codes with one atom each: the one whose decoded picture is nearest.

        Args:
            unit: Images in [0, 1], shape (n, *shape).
        """
        from scipy.sparse import csr_array as csr

        assert self.amounts is not None
        n = len(unit)
        atom, amount = np.zeros(n, np.int32), np.zeros(n, np.float32)
        if self._book is None:
            self._book = Codebook(self._decode, self.atoms, self._on_device(self.amounts))
        for start in range(0, n, _GROUP):
            rows = slice(start, start + _GROUP)
            found = self._book.nearest(self._on_device(unit[rows]).flatten(1))
            atom[rows], amount[rows] = (part.cpu().numpy() for part in found)
        codes = csr((amount, atom, np.arange(n + 1, dtype=np.int32)), shape=(n, len(self.atoms)))
        return self.descended(unit, codes)

    def _decode(self, scaled: Tensor) -> Tensor:
        return self.vae.decode(self.mean + self.scale * scaled).flatten(1)

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.vae.device)
