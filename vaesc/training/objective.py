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
        distortion, z, log_var, kl = self._terms(images, noise)
        sums = torch.stack([distortion.mean(0).sum(), kl.sum()]).detach()
        if len(z) == 1:
            return distortion.mean() + self._penalty(kl, knobs), sums
        return _importance_weighted(distortion, z, noise, log_var, knobs[0]).mean(), sums

    def part(
        self, images: Tensor, noise: Tensor, slopes: Tensor, variance: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what some images of a batch add to its loss's gradient, and to its two sums.

        The gradients of all parts of a batch add up to that of :meth:`forward`.

        Args:
            images: As stored, shape (n, *shape).
            noise: Theirs, shape (k, n, d).
            slopes: How the loss grows with the batch's mean KL of each dimension, shape (d,), see
                :meth:`slopes`.
            variance: The batch's mean squared error; any but with ``vae.variance=optimal``.
            share: One image's share in the mean over the batch.

        Returns:
            A scalar whose gradient it is; and shape (2,), nats.
        """
        distortion, z, log_var, kl = self._terms(
            images, noise, variance if self._is_optimal else None
        )
        sums = torch.stack([distortion.mean(0).sum(), kl.sum()]).detach()
        if len(z) == 1:
            return (distortion.sum() + (kl.sum(0) * slopes).sum()) * share, sums
        each = _importance_weighted(distortion, z, noise, log_var, slopes[0])
        return each.sum() * share, sums

    def slopes(self, kl: Tensor, knobs: Tensor) -> Tensor:
        """Return how the loss grows with the batch's mean KL of each dimension, shape (d,).

        Free bits and a capacity ask for the KL of the whole batch, which no part of it knows; the
        importance-weighted bound asks for beta_t alone.

        Args:
            kl: Mean of each dimension over the whole batch, shape (d,); any if neither is asked
                for.
            knobs: As for :meth:`forward`.
        """
        if self.config.free_bits:
            return knobs[0] * (kl >= self.config.free_bits)
        if self.config.capacity:
            return (knobs[0] * (kl.sum() - knobs[1]).sign()).expand(len(kl))
        return knobs[0].expand(len(kl))

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the gradient of an image depends on the other images of its batch."""
        return bool(self.config.free_bits or self.config.capacity or self._is_optimal)

    def whole_batch(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return what some images add to what their whole batch must know, shape (d + 1,).

        Returns:
            Sums over the images of each dimension's KL, in nats; and of squared errors, a mean
            over pixels and samples, if they are asked for.
        """
        x = to_unit(images)
        with self._products():
            mean, log_var = self.vae.encode(x)
            error = mean.new_zeros(())
            if self._is_optimal:
                z, copies = self._drawn(x, mean, log_var, noise)
                error = self.vae.squared_error(copies, z.flatten(0, 1)) / (len(z) * x[0].numel())
        return torch.cat([kl_per_dimension(mean, log_var).sum(0), error[None]])

    @property
    def _is_optimal(self) -> bool:
        config = self.vae.config
        return config.likelihood == "gaussian" and config.variance == "optimal"

    def _products(self) -> torch.autocast:
        # A cache of rounded weights would outlive the gradient that they belong to.
        return torch.autocast(
            self._device_type, torch.bfloat16, enabled=self.bf16, cache_enabled=False
        )

    def _terms(
        self, images: Tensor, noise: Tensor, variance: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return distortion (k, n), latents (k, n, d), log-variance and KL (n, d)."""
        x = to_unit(images)
        with self._products():
            mean, log_var = self.vae.encode(x)
            z, copies = self._drawn(x, mean, log_var, noise)
            distortion = self.vae.distortion(copies, z.flatten(0, 1), variance=variance)
            distortion = distortion.view(len(z), len(x))
        return distortion, z, log_var, kl_per_dimension(mean, log_var)

    @staticmethod
    def _drawn(x: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents, shape (k, n, d), and an image for each, shape (k * n, *shape)."""
        z = mean + noise * torch.exp(log_var / 2)
        return z, x if len(z) == 1 else x.repeat(len(z), *[1] * (x.dim() - 1))

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
    """Return what each image loses, shape (n,)."""
    # log q(z|x) - log p(z): the constants cancel.
    log_ratio = (z.square() - noise.square() - log_var).sum(2) / 2
    log_weights = -distortion - beta * log_ratio
    return math.log(len(z)) - torch.logsumexp(log_weights, 0)


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
