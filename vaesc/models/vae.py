r"""The article's variational autoencoder (VAE).

An encoder gives :math:`q(z|x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))`, a decoder gives
:math:`p(x|z)`, the prior is :math:`N(0, I)`. For one image,

.. math::
    -\log p(x) \le \underbrace{E_{q(z|x)}[-\log p(x|z)]}_{\text{distortion}}
                 + \underbrace{KL(q(z|x) \,\|\, p(z))}_{\text{kl}},

with :math:`z = \mu + \sigma \epsilon` and the noise :math:`\epsilon \sim N(0, I)` handed in by
the caller, so that nothing here is random. The objective is *distortion + beta kl*, always in
nats per image (summed over pixels and latent dimensions), in training and evaluation alike.

References:
    Kingma & Welling, "Auto-Encoding Variational Bayes", 2014. https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaesc.config import VAEConfig
from vaesc.models.likelihoods import likelihood_of, optimal_gaussian_nll
from vaesc.models.networks import build_networks

_LOG_VAR_BOUND = 20.0
"""Log-variances lie in (-20, 20), standard deviations in (5e-5, 2e4): far from overflow."""


class Terms(NamedTuple):
    """The two terms of the negative ELBO of each image, in nats, shape (n,) each."""

    distortion: Tensor
    kl: Tensor

    def negative_elbo(self, beta: float) -> Tensor:
        """Return distortion + beta * kl, shape (n,)."""
        return self.distortion + beta * self.kl


class VAE(nn.Module):
    """An encoder and a decoder that mirrors it, see :mod:`vaesc.models.networks`.

    Args:
        config: Architecture, widths, latent dimension, likelihood, beta.
        shape: Shape of one image; any number of axes (two or three for `conv`).
        generator: Source of the initial weights (on the CPU); default: one with seed 0. The
            global random state is neither read nor changed.
    """

    def __init__(
        self,
        config: VAEConfig,
        shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.shape = tuple(shape)
        # One head for mean and log-variance: one product instead of two.
        self.encoder, self.decoder = build_networks(config, self.shape)
        self._likelihood = likelihood_of(config)
        self.to_empty(device="cpu")
        free = config.likelihood == "gaussian" and config.variance != "fixed"
        start = torch.tensor(math.log(config.observation_std))
        self.log_std = nn.Parameter(start) if free else None
        _initialise(self, generator or torch.Generator().manual_seed(0))
        if config.architecture == "linear-path":
            # Its few narrow convolutions are a third faster so (a step in bf16: 41 ms, 27 ms).
            self.to(memory_format=torch.channels_last)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions, d."""
        return self.config.latent_dim

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x).

        Args:
            x: Images in [0, 1], shape (n, *shape).

        Returns:
            Two tensors of shape (n, d); the log-variance lies in (-20, 20).

        Raises:
            ValueError: The images have another shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"images must have shape (n, *{self.shape}), got {tuple(x.shape)}")
        mean, raw = _at_least_single(self.encoder(x.flatten(1))).chunk(2, dim=1)
        # Smooth, so that the gradient never vanishes at the bound as it would with a clamp.
        return mean, _LOG_VAR_BOUND * torch.tanh(raw / _LOG_VAR_BOUND)

    def decode_logits(self, z: Tensor) -> Tensor:
        """Return the parameter of p(x|z): logits (of either bernoulli) or means (gaussian).

        Args:
            z: Latents, shape (n, d).

        Returns:
            Unbounded, shape (n, *shape).
        """
        return _at_least_single(self.decoder(z)).reshape(z.shape[0], *self.shape)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images that latents stand for: the mean of p(x|z), in [0, 1].

        Args:
            z: Latents, shape (n, d).

        Returns:
            Shape (n, *shape). A gaussian's mean is clipped to [0, 1].
        """
        return self._likelihood.image(self.decode_logits(z))

    def distortion(self, x: Tensor, z: Tensor, *, variance: Tensor | None = None) -> Tensor:
        """Return -log p(x|z) of each image, in nats, shape (n,).

        Args:
            x: Images in [0, 1], shape (n, *shape).
            z: One latent for each, shape (n, d).
            variance: With ``vae.variance=optimal``, the mean squared error of the batch that these
                images are a part of; default: of these.
        """
        if variance is not None:
            assert self.log_std is not None
            y = _at_least_single(self.decoder(z))
            return optimal_gaussian_nll(y, x.flatten(1), self.log_std, variance)
        return self._likelihood.nll(_at_least_single(self.decoder(z)), x.flatten(1), self.log_std)

    def squared_error(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the sum of squares of a gaussian likelihood's errors, over images and pixels.

        Args:
            x: Images in [0, 1], shape (n, *shape).
            z: One latent for each, shape (n, d).
        """
        return (x.flatten(1) - _at_least_single(self.decoder(z))).square().sum()

    def negative_elbo(self, x: Tensor, noise: Tensor) -> Terms:
        """Estimate both terms of the negative ELBO with one latent sample per image.

        Args:
            x: Images in [0, 1], shape (n, *shape).
            noise: Standard normal numbers, shape (n, d).

        Returns:
            Distortion (at the sample) and KL (exact), shape (n,) each, in nats.
        """
        mean, log_var = self.encode(x)
        z = mean + noise * torch.exp(log_var / 2)
        return Terms(self.distortion(x, z), kl_divergence(mean, log_var))


def kl_divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    r"""KL divergence of diagonal Gaussians from the standard normal.

    .. math:: \tfrac12 \sum_j \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1

    Args:
        mean: Shape (n, d).
        log_var: Logarithm of the variances, shape (n, d).

    Returns:
        Nats, at least 0 up to rounding, shape (n,).
    """
    return kl_per_dimension(mean, log_var).sum(1)


def kl_per_dimension(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the terms of :func:`kl_divergence` of each dimension, in nats, shape (n, d)."""
    # expm1 keeps the digits of the many dimensions whose variance is almost 1.
    return (mean.square() + torch.expm1(log_var) - log_var) / 2


def _at_least_single(values: Tensor) -> Tensor:
    """Return the output of bf16 products in float32: what follows is no product."""
    return values.float() if values.dtype == torch.bfloat16 else values


def _initialise(vae: VAE, generator: torch.Generator) -> None:
    """Draw weights and biases from U(-1/sqrt(n_in), 1/sqrt(n_in)), torch's own default."""
    for layer in vae.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert layer.bias is not None
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
