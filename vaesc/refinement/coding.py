"""The two ways in which images get their codes while a level is refined, see :mod:`.fit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from vaesc.decoder_coding import Codebook
from vaesc.models import VAE
from vaesc.refinement.projection import project, supports

_ATOM_STEP = 0.3
"""Step size of the atoms over that of the branches."""
_LOOK_EVERY, _DEAD_BELOW, _FORGET = 50, 0.02, 0.99
"""Every 50 steps atoms used less than 2 % of the mean give way to badly coded latents."""
_SHORTEST = 1e-6
"""Length of the shortest residual that may become an atom."""
_RENEW_EVERY = 15
"""Gradient steps that one codebook of decoded atoms serves."""
_ENOUGH = 8
"""Latents that must be closest to an atom for its amounts to be those of its own coefficients."""
_ENDS = 0.01, 0.99
"""Quantiles of an atom's coefficients between which its amounts lie."""


@dataclass
class PursuitCoding:
    """k > 1: atoms by the pursuit, coded latents by projection on them."""

    rate: ClassVar[float] = 1.0
    """Factor of the configured learning rate."""

    vae: VAE
    atoms: Tensor
    """In latent coordinates, unit rows, shape (K, d)."""
    k: int
    selection: str
    batch_size: int
    use: Tensor = field(init=False)
    """Running number of images a batch that use each atom."""
    _last: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.atoms = torch.nn.Parameter(self.atoms / self.atoms.norm(dim=1, keepdim=True))
        share = self.batch_size * self.k / len(self.atoms)
        self.use = torch.full((len(self.atoms),), share)

    def parameters(self) -> list[tuple[list[Tensor], float]]:
        """Return the atoms."""
        return [([self.atoms], _ATOM_STEP)]

    def coded(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the projections of latents on the atoms that the pursuit chose for them."""
        self._last = supports(z, self.atoms, self.k, self.selection)
        return project(z, self.atoms, *self._last)

    @torch.no_grad()
    def after_step(self, i: int, x: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Make the atoms unit vectors again, count their uses, and now and then revive some."""
        self.atoms /= self.atoms.norm(dim=1, keepdim=True).clamp_min(_SHORTEST)
        index, counts = (part.flatten().cpu() for part in self._last)
        used = torch.bincount(index, counts, minlength=len(self.atoms))
        self.use = _FORGET * self.use + (1 - _FORGET) * used.float()
        if i % _LOOK_EVERY == _LOOK_EVERY - 1:
            self._revive(x, optimiser)

    def _revive(self, x: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Give atoms that hardly anybody uses the residuals of badly reconstructed images."""
        dead = torch.nonzero(self.use < _DEAD_BELOW * self.use.mean()).flatten()[: len(x) // 8]
        if not len(dead):
            return
        z, _ = self.vae.encode(x.reshape(-1, *self.vae.shape))
        coded = self.coded(x, z)
        missed = (self.vae.decode(coded).flatten(1) - x).square().sum(1)
        residuals = (z - coded)[missed.topk(len(dead)).indices]
        lengths = residuals.norm(dim=1, keepdim=True)
        # A latent that is coded exactly has no residual to become an atom.
        there = lengths[:, 0] > _SHORTEST
        dead, residuals, lengths = dead[there], residuals[there], lengths[there]
        self.atoms[dead] = residuals / lengths
        self.use[dead] = self.use.mean()
        optimiser.state[self.atoms]["exp_avg"][dead] = 0

    def begin(self) -> None:
        """Hear that an epoch begins."""

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the atoms and of how much they are used."""
        return {"atoms": self.atoms.detach().clone(), "use": self.use.clone()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the atoms back."""
        self.atoms.copy_(state["atoms"])
        self.use = state["use"].cpu().clone()


@dataclass
class CurveCoding:
    """k = 1: the atom and the amount of it whose decoded picture is nearest.

    The decoder learns from a few thousand pictures, as k-means does, and takes larger steps
    (Fashion-MNIST's validation error over the pixel dictionary's after 8 epochs: .907 at the rate
    of other levels, .891 at three times that).
    """

    rate: ClassVar[float] = 3.0
    """Factor of the configured learning rate."""

    vae: VAE
    atoms: Tensor
    """In latent coordinates, unit rows, shape (K, d); they stay as they are."""
    amounts: Tensor
    """Shape (K, T), increasing along rows; they stay as they are."""
    selection: str
    """Coder of levels above 1, for which the dictionary was not made."""
    k: int = 1
    _book: Codebook | None = None

    def parameters(self) -> list[tuple[list[Tensor], float]]:
        """Return nothing: the decoder alone bends the curves."""
        return []

    def coded(self, x: Tensor, z: Tensor) -> Tensor:
        """Return amount times atom."""
        if self._book is None:
            self._book = codebook(self.vae, self.atoms, self.amounts)
        atom, amount = self._book.nearest(x)
        return amount[:, None] * self.atoms[atom]

    def after_step(self, i: int, x: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Now and then let the codebook be decoded anew."""
        if i % _RENEW_EVERY == _RENEW_EVERY - 1:
            self._book = None

    def begin(self) -> None:
        """Let the codebook be decoded anew, so that an epoch depends on the weights alone."""
        self._book = None

    def state(self) -> dict[str, Tensor]:
        """Return nothing: neither atoms nor amounts change."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Forget the codebook of other weights."""
        self._book = None


def codebook(vae: VAE, atoms: Tensor, amounts: Tensor) -> Codebook:
    """Return every atom in each of its amounts, decoded by `vae`."""
    return Codebook(lambda z: vae.decode(z).flatten(1), atoms, amounts)


def amounts_of(z: Tensor, atoms: Tensor, n: int) -> Tensor:
    """Return amounts of each atom that cover the coefficients with which latents use it.

    Args:
        z: Latents of training images, shape (m, d).
        atoms: Unit rows, shape (K, d).
        n: Number of amounts, T.

    Returns:
        Shape (K, T), evenly spaced between the 1 % and the 99 % quantile of the coefficients of
        those latents that lie closest to the atom; atoms that have none take all coefficients.
    """
    products = z @ atoms.T
    atom = products.abs().argmax(1)
    coefficient = products.gather(1, atom[:, None])[:, 0].double()
    ends = torch.tensor(_ENDS, dtype=torch.float64)
    everyone = _widened(torch.quantile(coefficient[: 2**20], ends))
    rows = []
    for j in range(len(atoms)):
        own = coefficient[atom == j]
        rows.append(_widened(torch.quantile(own, ends)) if len(own) >= _ENOUGH else everyone)
    low, high = torch.stack(rows).unbind(1)
    steps = torch.linspace(0, 1, n, dtype=torch.float64)
    return (low[:, None] + (high - low)[:, None] * steps).float()


def _widened(ends: Tensor) -> Tensor:
    """Return an interval that is no point: a thousandth of its size on either side."""
    margin = 1e-3 * ends.abs().max().clamp_min(1e-3)
    return ends + torch.stack([-margin, margin])
