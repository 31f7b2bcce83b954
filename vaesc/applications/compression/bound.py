r"""What a lossless coder would need that gets its bits back, with the article's VAE as its model.

Bits-back coding writes an image with its latent at the cost of the negative ELBO,

.. math:: -\log_2 p(x) \le E_{q(z|x)}[-\log_2 p(x \mid z)] + D_{KL}(q(z|x) \,\|\, p(z)) ,

as long as p(x|z) is a distribution over what is really stored: 256 gray levels. The likelihood
that the VAE was trained with is none (a cross-entropy of grays in [0, 1] is no code length). So
the decoder's mean is taken for what it predicts, and the distribution of the gray level given the
mean is counted on training images, in `_BINS` cells of the mean: any such table is an honest
distribution, and the sum is a bound whatever it was counted on.

References:
    Hinton and van Camp, "Keeping the Neural Networks Simple by Minimizing the Description Length
    of the Weights", 1993. https://doi.org/10.1145/168304.168306
    Townsend, Bird and Barber, "Practical Lossless Compression with Latent Variables Using Bits
    Back Coding", 2019. https://arxiv.org/abs/1901.04866
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.subject import Subject
from vaesc.shapes import n_pixels

if TYPE_CHECKING:
    from vaesc.models import VAE

_BINS = 64
_IMAGES = 4096
"""Training images that the table is counted on, and test images that are measured, at most."""
_GROUP = 1024


def lossless_bits(subject: Subject, images: NDArray[np.uint8]) -> float:
    """Return the bound in bits a pixel, of all its channels together.

    Args:
        subject: Its `article` is the model.
        images: Test images as bytes, shape (n, *shape).
    """
    rng, vae = subject.rng("compression/bound"), subject.article.vae
    n_train = min(subject.dataset.n("train"), _IMAGES)
    train = byte_images(subject, "train", n_train)
    table = np.full((_BINS, 256), 0.5)
    for start in range(0, len(train), _GROUP):
        here = train[start : start + _GROUP]
        means, _ = _passed(vae, here, rng)
        np.add.at(table, (_bin(means), here.ravel()), 1)
    bits = -np.log2(table / table.sum(axis=1, keepdims=True))
    total, some = 0.0, images[:_IMAGES]
    for start in range(0, len(some), _GROUP):
        here = some[start : start + _GROUP]
        means, kl = _passed(vae, here, rng)
        total += float(bits[_bin(means), here.ravel()].sum()) + kl / np.log(2)
    return total / (len(some) * n_pixels(some.shape[1:]))


def byte_images(subject: Subject, split: str, n: int) -> NDArray[np.uint8]:
    """Return the first images of a split as bytes, shape (n, *shape): what files can hold."""
    images = subject.dataset.images(split, slice(0, n))
    if images.dtype == np.uint8:
        return images
    return np.rint(images * np.float32(255)).astype(np.uint8)


def _passed(
    vae: VAE, images: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[Any], float]:
    """Return the decoder's means of one latent each, flat, and the sum of the KL in nats."""
    import torch

    from vaesc.models.vae import kl_divergence

    with torch.inference_mode():
        x = torch.from_numpy(images.astype(np.float32) / 255).to(vae.device)
        mean, log_var = vae.encode(x)
        noise = torch.from_numpy(rng.standard_normal(tuple(mean.shape), np.float32))
        z = mean + (log_var / 2).exp() * noise.to(vae.device)
        return vae.decode(z).cpu().numpy().ravel(), float(kl_divergence(mean, log_var).sum())


def _bin(means: NDArray[Any]) -> NDArray[np.int64]:
    return np.minimum((means * _BINS).astype(np.int64), _BINS - 1)
