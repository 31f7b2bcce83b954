r"""What the decoder's output y means: p(x|z) for one image of P pixels.

==================== ================================================== ===================
likelihood           negative log-likelihood, in nats                    image shown for y
==================== ================================================== ===================
bernoulli            :math:`\sum_p \log(1 + e^{y_p}) - x_p y_p`          sigmoid(y)
continuous-bernoulli the same, less :math:`\sum_p \log C(y_p)`           the density's mean
gaussian             :math:`\sum_p (x_p - y_p)^2 / 2 s^2 + P \log(s\sqrt{2\pi})`  y in [0, 1]
==================== ================================================== ===================

The first is the cross-entropy on logits, the usual objective for grey images in [0, 1], which
treats a grey value as the probability of a white pixel. It is a density only for binary images:
its values compare with published ones, not with those of the two densities. The second makes it
one, with :math:`C(y) = y / \tanh(y / 2)` (in terms of the logit), and the mean
:math:`1 / (1 - e^{-y}) - 1 / y`.

The gaussian's s is fixed, learned as one more weight, or optimal: the gradient of the network is
that for s = the batch's root mean squared error, which is where s would go, while the stored s
follows it and gives the reported numbers, so that these stay those of one fixed density.

References:
    Loaiza-Ganem & Cunningham, "The continuous Bernoulli", 2019. https://arxiv.org/abs/1907.06845
    Rybkin, Daniilidis & Levine, "Simple and Effective VAE Training with Calibrated Decoders"
    (sigma-VAE), 2021. https://arxiv.org/abs/2006.13202
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaesc.config import VAEConfig

LEAST_STD = 1 / 510
"""Half a grey level of 8 bits: no learned standard deviation goes below."""


class Likelihood(NamedTuple):
    """One p(x|z), as functions of the decoder's output y of shape (n, P)."""

    nll: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(y, x, log_std) -> negative log-likelihood of each image, in nats, shape (n,)."""
    image: Callable[[Tensor], Tensor]
    """y -> the image to show, in [0, 1], of y's shape."""


def likelihood_of(config: VAEConfig) -> Likelihood:
    """Return the likelihood that `config` names."""
    if config.likelihood == "bernoulli":
        return Likelihood(nll=lambda y, x, _: bernoulli_nll(y, x), image=torch.sigmoid)
    if config.likelihood == "continuous-bernoulli":
        return Likelihood(
            nll=lambda y, x, _: continuous_bernoulli_nll(y, x), image=continuous_bernoulli_mean
        )
    return Likelihood(nll=_gaussian(config), image=lambda y: y.clamp(0.0, 1.0))


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy of images under independent Bernoulli pixels, from logits: no overflow.

    Args:
        logits: Shape (n, P).
        x: Images in [0, 1], shape (n, P).

    Returns:
        Nats per image, shape (n,); at least 0.
    """
    nll: Tensor = _CrossEntropy.apply(logits, x)
    return nll


class _CrossEntropy(torch.autograd.Function):
    """The cross-entropy with one logarithm for many pixels, not one each.

    The logarithm takes most of the time of the plain form, and no gradient needs it.
    """

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        return (logits.relu() - x * logits).sum(1) + _log_product(1 + torch.exp(-logits.abs()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
        logits, x = ctx.saved_tensors
        to_x = -logits * gradient[:, None] if ctx.needs_input_grad[1] else None
        return (torch.sigmoid(logits) - x) * gradient[:, None], to_x


def _log_product(factors: Tensor) -> Tensor:
    """Sum of the logarithms of factors in [1, 2] over the columns, shape (n,).

    Products of 64 stay below 2^64, far from overflow.
    """
    for _ in range(6):
        half, odd = divmod(factors.shape[1], 2)
        if half < 1 or odd:
            break
        factors = factors[:, :half] * factors[:, half:]
    return factors.log().sum(1)


def continuous_bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Negative log-density of images under independent continuous Bernoulli pixels.

    Args:
        logits: Shape (n, P).
        x: Images in [0, 1], shape (n, P).

    Returns:
        Nats per image, shape (n,); may be negative, as a density may exceed 1.
    """
    return bernoulli_nll(logits, x) - _log_normaliser(logits).sum(1)


def _log_normaliser(logits: Tensor) -> Tensor:
    r"""Return log C = log(y / tanh(y / 2)), by the series of C close to 0."""
    near = logits.abs() < 0.5
    y = torch.where(near, torch.ones_like(logits), logits)
    small = torch.where(near, logits, torch.zeros_like(logits)).square()
    series = math.log(2) + torch.log1p(small / 12 - small.square() / 720 + small**3 / 30240)
    return torch.where(near, series, torch.log(y / torch.tanh(y / 2)))


def continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """Mean of continuous Bernoulli pixels, in [0, 1], of the logits' shape."""
    near = logits.abs() < 0.1
    y = torch.where(near, torch.ones_like(logits), logits)
    return torch.where(near, 0.5 + logits / 12 - logits**3 / 720, -1 / torch.expm1(-y) - 1 / y)


def _gaussian(config: VAEConfig) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return the gaussian likelihood with the variance that `config` names."""

    def fixed(y: Tensor, x: Tensor, log_std: Tensor | None) -> Tensor:
        return gaussian_nll(y, x, std=config.observation_std)

    def learned(y: Tensor, x: Tensor, log_std: Tensor | None) -> Tensor:
        assert log_std is not None
        return gaussian_nll(y, x, std=_bounded_std(log_std))

    def optimal(y: Tensor, x: Tensor, log_std: Tensor | None) -> Tensor:
        assert log_std is not None
        return optimal_gaussian_nll(y, x, log_std)

    return {"fixed": fixed, "learned": learned, "optimal": optimal}[config.variance]


def optimal_gaussian_nll(
    mean: Tensor, x: Tensor, log_std: Tensor, variance: Tensor | None = None
) -> Tensor:
    """Negative log-density under the stored std, with the gradient of the optimal one.

    Args:
        mean: Shape (n, P).
        x: Images in [0, 1], shape (n, P).
        log_std: Logarithm of the stored standard deviation, unbounded.
        variance: Mean squared error of the batch that these images are a part of; default: theirs.

    Returns:
        Nats per image, shape (n,).
    """
    error = (x - mean).square()
    if variance is None:
        variance = error.detach().mean()
    towards = (error - error.detach()).sum(1) / (2 * variance.clamp_min(LEAST_STD**2))
    return gaussian_nll(mean.detach(), x, std=_bounded_std(log_std)) + towards


def _bounded_std(log_std: Tensor) -> Tensor:
    """Standard deviation for a free weight: smooth, and above `LEAST_STD`."""
    return LEAST_STD + torch.exp(log_std.clamp(-20, 20))


def gaussian_nll(mean: Tensor, x: Tensor, *, std: float | Tensor) -> Tensor:
    """Negative log-density of images under independent Gaussian pixels, constants included.

    Args:
        mean: Shape (n, P).
        x: Images in [0, 1], shape (n, P).
        std: Standard deviation of every pixel, positive.

    Returns:
        Nats per image, shape (n,); may be negative, as a density may exceed 1.
    """
    log_std = torch.log(std) if isinstance(std, Tensor) else math.log(std)
    constant = x.shape[1] * (log_std + math.log(2 * math.pi) / 2)
    return (x - mean).div(std).square().sum(1) / 2 + constant
