r"""The importance-weighted bound on the log-likelihood, for evaluation.

.. math::
    \log p(x) \ge L_k = E\left[\log \tfrac1k \textstyle\sum_{i=1}^k p(x, z_i) / q(z_i|x)\right],

which rises with k from the ELBO (at beta = 1) to log p(x). Reported is -L_k, in nats per image:
an upper bound on the negative log-likelihood, so lower is better, as everywhere.

References:
    Burda et al., "Importance Weighted Autoencoders", 2016. https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaesc.errors import DataError
from vaesc.models.elbo import GROUP, group_images, group_noise
from vaesc.models.vae import VAE

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

_AT_ONCE = 8192
"""Latent samples decoded at once, over images and samples."""


def evaluate_iwae(
    vae: VAE,
    dataset: ImageDataset,
    split: str,
    *,
    n_samples: int,
    n_images: int | None = None,
    seed: int,
    block_size: int,
) -> float:
    """Return -L_k of a split, or of its first `n_images` images, in nats per image.

    Images are streamed, and samples taken a few at a time: memory does not grow with either.

    Args:
        vae: The model, on any device.
        dataset: Its images.
        split: ``train``, ``validation`` or ``test``.
        n_samples: Latent samples per image, k.
        n_images: How many images, from the first on; default: all of them.
        seed: The run's seed.
        block_size: Images in memory at once; no part of the result.

    Raises:
        DataError: There is no image.
    """
    n = min(dataset.n(split), n_images or dataset.n(split))
    if not n:
        raise DataError(
            f"the importance-weighted bound needs at least one {split} image, got none"
        )
    total = 0.0
    for i, x in enumerate(group_images(dataset, split, slice(0, n), block_size)):
        name = f"iwae/{split}/{i}"
        bounds = image_bounds(vae, x.to(vae.device), n_samples, seed=seed, stream=name)
        total += float(bounds.cpu().double().sum())
    return total / n


@torch.no_grad()
def image_bounds(vae: VAE, x: Tensor, n_samples: int, *, seed: int, stream: str) -> Tensor:
    """Return -L_k of each image, in nats, shape (n,).

    Args:
        vae: The model.
        x: Images in [0, 1], on its device, shape (n, *shape); all pass through it at once.
        n_samples: Latent samples per image, k.
        seed: The run's seed.
        stream: Name of the noise.
    """
    mean, log_var = vae.encode(x)
    std = torch.exp(log_var / 2)
    step = max(1, _AT_ONCE // GROUP)
    total = torch.full((len(x),), -math.inf, device=x.device)
    for start in range(0, n_samples, step):
        k = min(step, n_samples - start)
        noise = group_noise((k, *mean.shape), seed, f"{stream}/{start}").to(x.device)
        for sample in noise:
            z = mean + std * sample
            log_ratio = (z.square() - sample.square() - log_var).sum(1) / 2
            total = torch.logaddexp(total, -vae.distortion(x, z) - log_ratio)
    return math.log(n_samples) - total
