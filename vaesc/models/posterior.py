r"""How much of the latent space a VAE uses, from the posteriors of a split.

- *KL per dimension*: the mean over images of each dimension's term, in nats; they sum to ``kl``.
- *Active units*: dimensions whose posterior mean varies over the images, variance > 0.01.
- *Mutual information* I(x; z) under q, estimated with n images as
  :math:`\frac1n \sum_i \log q(z_i|x_i) - \log \frac1n \sum_j q(z_i|x_j)`, which in the mean is a
  lower bound, and never above log n: with n = 1024, 6.9 nats mean "at least that".

References:
    Burda et al., "Importance Weighted Autoencoders", 2016. https://arxiv.org/abs/1509.00519
    Hoffman & Johnson, "ELBO surgery", 2016. Poole et al., "On Variational Bounds of Mutual
    Information", 2019. https://arxiv.org/abs/1905.06922
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vaesc.config import derive_seed
from vaesc.metrics import count_active
from vaesc.models.vae import kl_per_dimension


class PosteriorStatistics:
    """Hears of posteriors group by group; small sums are all it keeps, and the first group."""

    def __init__(self) -> None:
        self.n = 0
        self.sums: list[Tensor] = []
        """Of each group, shape (3, d): KL, mean and squared mean of each dimension."""
        self._first: tuple[Tensor, Tensor] | None = None

    def add(self, mean: Tensor, log_var: Tensor) -> None:
        """Hear of the posteriors of some images, shape (n, d) each."""
        self.n += len(mean)
        self.sums.append(
            torch.stack(
                [kl_per_dimension(mean, log_var).sum(0), mean.sum(0), mean.square().sum(0)]
            )
        )
        if self._first is None:
            self._first = mean, log_var

    def merge(self, n: int, sums: Iterable[Tensor]) -> None:
        """Take over what all processes heard that share a split: its images and groups' sums."""
        self.n, self.sums = n, list(sums)

    def kl_per_dimension(self) -> list[float]:
        """Return the mean KL of each dimension, in nats."""
        return [float(value) for value in self._means()[0]]

    def active_units(self) -> float:
        """Return the number of dimensions whose mean varies, see :mod:`vaesc.metrics`."""
        _, mean, square = self._means()
        return float(count_active((square - mean.square()).clamp_min(0).numpy()))

    def mutual_information(self, seed: int) -> float:
        """Return the estimate of I(x; z), in nats, from the first group heard of."""
        assert self._first is not None
        mean, log_var = (part.cpu().double() for part in self._first)
        return mutual_information(mean, log_var, seed=seed)

    def _means(self) -> Tensor:
        # One transfer for all groups; added in double precision.
        return torch.stack(self.sums).cpu().double().sum(0) / self.n


def mutual_information(mean: Tensor, log_var: Tensor, *, seed: int) -> float:
    """Estimate I(x; z) from the posteriors of n images, see the module.

    Args:
        mean: Shape (n, d).
        log_var: Shape (n, d).
        seed: The run's seed.

    Returns:
        Nats, at most log n.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "posterior/mutual-information"))
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    z = mean + noise * torch.exp(log_var / 2)
    # log q(z_i|x_j) but for a constant, through products: |z - m|^2 / v = z^2/v - 2 z m/v + m^2/v
    precision = torch.exp(-log_var)
    cross = z.square() @ precision.T - 2 * z @ (mean * precision).T
    log_q = -(cross + (mean.square() * precision + log_var).sum(1)) / 2
    marginal = torch.logsumexp(log_q, 1) - math.log(len(z))
    return float((log_q.diagonal() - marginal).mean())
