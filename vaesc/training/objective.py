r"""What training descends on: the negative ELBO, shaped where the config asks for it.

==================== ==================================================================
objective            loss, in nats per image (mean over the batch)
==================== ==================================================================
plain                distortion + beta_t kl, with beta_t constant, warmed up or cyclical
free bits            distortion + beta_t :math:`\sum_j \max(\lambda, kl_j)`
capacity             distortion + beta :math:`|kl - C_t|`, C_t rising to C over the run
importance-weighted  :math:`-\log \frac1k \sum_i p(x|z_i) p(z_i)^\beta / q(z_i|x)^\beta`
==================== ==================================================================

What is *reported* is the same for all of them, the two terms of the plain bound.

References:
    Bowman et al., "Generating Sentences from a Continuous Space" (warm-up), 2016.
    https://arxiv.org/abs/1511.06349
    Fu et al., "Cyclical Annealing Schedule", 2019. https://arxiv.org/abs/1903.10145
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow" (free bits),
    2016. https://arxiv.org/abs/1606.04934
    Burgess et al., "Understanding disentangling in beta-VAE" (capacity), 2018.
    https://arxiv.org/abs/1804.03599
    Burda et al., "Importance Weighted Autoencoders", 2016. https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaesc.config import TrainingConfig
from vaesc.models import VAE
from vaesc.models.vae import kl_per_dimension
from vaesc.training.resident import to_unit


class Objective(nn.Module):
    """The loss as a function of stored images, noise and the two numbers that change in time.

    Args:
        vae: The model.
        config: The shape of the objective.
        bf16: Whether matrix products (and convolutions) round their factors to bfloat16; sums,
            losses and weights stay in float32.
    """

    def __init__(self, vae: VAE, config: TrainingConfig, *, bf16: bool = False) -> None:
        super().__init__()
        self.vae, self.config, self.bf16 = vae, config, bf16
        self._device_type = vae.device.type

    def forward(self, images: Tensor, noise: Tensor, knobs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the batch's sums of distortion and kl.

        Args:
            images: As stored, uint8 or float32, shape (n, *shape).
            noise: Standard normal numbers, shape (k, n, d).
            knobs: beta_t and C_t, see :func:`knobs_at`.

        Returns:
            A scalar, nats per image; and shape (2,), nats.
        """
        x = to_unit(images)
        # A cache of rounded weights would outlive the gradient that they belong to.
        with torch.autocast(
            self._device_type, torch.bfloat16, enabled=self.bf16, cache_enabled=False
        ):
            mean, log_var = self.vae.encode(x)
            z = mean + noise * torch.exp(log_var / 2)
            copies = x if len(z) == 1 else x.repeat(len(z), *[1] * (x.dim() - 1))
            distortion = self.vae.distortion(copies, z.flatten(0, 1)).view(len(z), len(x))
        kl = kl_per_dimension(mean, log_var)
        sums = torch.stack([distortion.mean(0).sum(), kl.sum()]).detach()
        if len(z) == 1:
            return distortion.mean() + self._penalty(kl, knobs), sums
        return _importance_weighted(distortion, z, noise, log_var, knobs[0]), sums

    def _penalty(self, kl: Tensor, knobs: Tensor) -> Tensor:
        """Return what the KL of each image and dimension, shape (n, d), costs."""
        if self.config.free_bits:
            return knobs[0] * kl.mean(0).clamp_min(self.config.free_bits).sum()
        total = kl.sum(1).mean()
        if self.config.capacity:
            return knobs[0] * (total - knobs[1]).abs()
        return knobs[0] * total


def _importance_weighted(
    distortion: Tensor, z: Tensor, noise: Tensor, log_var: Tensor, beta: Tensor
) -> Tensor:
    # log q(z|x) - log p(z): the constants cancel.
    log_ratio = (z.square() - noise.square() - log_var).sum(2) / 2
    log_weights = -distortion - beta * log_ratio
    return math.log(len(z)) - torch.logsumexp(log_weights, 0).mean()


def knobs_at(
    config: TrainingConfig, beta: float, step: int, n_batches: int
) -> tuple[float, float]:
    """Return the KL's weight beta_t and target C_t of one gradient step.

    Args:
        config: `beta_schedule`, `beta_epochs`, `capacity`.
        beta: The weight that `beta_schedule` leads to.
        step: Number of the gradient step, from 0.
        n_batches: Gradient steps of an epoch.
    """
    position = step / (config.beta_epochs * n_batches)
    share = 1.0
    if config.beta_schedule == "warm-up":
        share = min(1.0, position)
    elif config.beta_schedule == "cyclical":
        share = min(1.0, 2 * (position % 1))
    return beta * share, config.capacity * min(1.0, step / max(1, config.epochs * n_batches - 1))
