r"""What the decoder's output means: p(x|z) for one image of P pixels.

============ ================================================== =========================
likelihood   negative log-likelihood, in nats                    image shown for output y
============ ================================================== =========================
bernoulli    :math:`\sum_p \log(1 + e^{y_p}) - x_p y_p`          sigmoid(y)
gaussian     :math:`\sum_p (x_p - y_p)^2 / 2 s^2 + P \log(s\sqrt{2\pi})`  y clipped to [0, 1]
============ ================================================== =========================

The first is the cross-entropy on logits, the usual objective for grey images in [0, 1], which
treats a grey value as the probability of a white pixel. It is a density only for binary images:
its values compare with published ones, not with a gaussian's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vaesc.config import VAEConfig


class Likelihood(NamedTuple):
    """One p(x|z), as two functions of the decoder's output y of shape (n, P)."""

    nll: Callable[[Tensor, Tensor], Tensor]
    """(y, x) -> negative log-likelihood of each image, in nats, shape (n,)."""
    image: Callable[[Tensor], Tensor]
    """y -> the image to show, in [0, 1], of y's shape."""


def likelihood_of(config: VAEConfig) -> Likelihood:
    """Return the likelihood that `config` names."""
    if config.likelihood == "bernoulli":
        return Likelihood(nll=bernoulli_nll, image=torch.sigmoid)
    std = config.observation_std
    return Likelihood(
        nll=lambda y, x: gaussian_nll(y, x, std=std), image=lambda y: y.clamp(0.0, 1.0)
    )


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy of images under independent Bernoulli pixels, from logits: no overflow.

    Args:
        logits: Shape (n, P).
        x: Images in [0, 1], shape (n, P).

    Returns:
        Nats per image, shape (n,); at least 0.
    """
    return functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)


def gaussian_nll(mean: Tensor, x: Tensor, *, std: float) -> Tensor:
    """Negative log-density of images under independent Gaussian pixels, constants included.

    Args:
        mean: Shape (n, P).
        x: Images in [0, 1], shape (n, P).
        std: Standard deviation of every pixel, positive.

    Returns:
        Nats per image, shape (n,); may be negative, as a density may exceed 1.
    """
    constant = x.shape[1] * math.log(std * math.sqrt(2 * math.pi))
    return (x - mean).div(std).square().sum(1) / 2 + constant
