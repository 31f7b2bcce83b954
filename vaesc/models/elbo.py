"""The negative ELBO of a whole split: streamed, in nats per image, the same numbers every time.

Images pass through the network in groups of `GROUP`, however many are read at once: the last bit
of a matrix product depends on its size, and a memory setting must never change a result. Each
group draws its noise from a stream of its own name, so a split has one noise, whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaesc.config import derive_seed
from vaesc.errors import DataError
from vaesc.models.vae import VAE, kl_divergence

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

GROUP = 1024
"""Images per pass through the network, outside training."""


def evaluate_elbo(
    vae: VAE, dataset: ImageDataset, split: str, *, n_samples: int = 1, seed: int, block_size: int
) -> dict[str, float]:
    """Return the negative ELBO of a split and its two terms.

    Args:
        vae: The model, on any device.
        dataset: Its images.
        split: ``train``, ``validation`` or ``test``.
        n_samples: Latent samples per image; more lower the noise of the estimate, not its mean.
        seed: The run's seed; with one sample, the validation split gives what training reported.
        block_size: Images in memory at once; no part of the result.

    Returns:
        ``negative_elbo`` (distortion + beta * kl), ``distortion``, ``kl``: means, nats per image.

    Raises:
        DataError: The split is empty.
    """
    images = group_images(dataset, split, slice(0, dataset.n(split)), block_size)
    return mean_elbo(vae, images, n_samples=n_samples, seed=seed, stream=f"elbo/{split}")


def mean_elbo(
    vae: VAE,
    groups: Iterable[Tensor],
    *,
    n_samples: int = 1,
    seed: int,
    stream: str,
    on_posterior: Callable[[Tensor, Tensor], None] | None = None,
) -> dict[str, float]:
    """Return the mean negative ELBO and its terms over groups of images, see `evaluate_elbo`.

    Args:
        vae: The model.
        groups: Images in [0, 1], shape (at most `GROUP`, *shape) each, on any device.
        n_samples: Latent samples per image.
        seed: The run's seed.
        stream: Name of the noise.
        on_posterior: Hears of each group's posteriors, mean and log-variance.
    """
    sums, n_images = sum_groups(
        vae, groups, n_samples=n_samples, seed=seed, stream=stream, on_posterior=on_posterior
    )
    if not n_images:
        raise DataError(f"the negative ELBO needs at least one image, got none ({stream})")
    return mean_terms(torch.stack(sums), n_images, vae.config.beta)


def sum_groups(
    vae: VAE,
    groups: Iterable[Tensor],
    *,
    n_samples: int = 1,
    seed: int,
    stream: str,
    first: int = 0,
    on_posterior: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[list[Tensor], int]:
    """Return each group's sums of distortion and kl, shape (2,) each, and the number of images.

    Args:
        vae: The model.
        groups: See :func:`mean_elbo`.
        n_samples: Latent samples per image.
        seed: The run's seed.
        stream: Name of the noise.
        first: Number of the first group in its split, after which its noise is named.
        on_posterior: Hears of each group's posteriors, mean and log-variance.
    """
    sums, n_images = [], 0
    with torch.no_grad():
        for i, x in enumerate(groups, first):
            noise = group_noise((n_samples, len(x), vae.latent_dim), seed, f"{stream}/{i}")
            x, noise = x.to(vae.device), noise.to(vae.device)
            mean, log_var = vae.encode(x)
            sums.append(_sum_terms(vae, x, mean, log_var, noise))
            if on_posterior:
                on_posterior(mean, log_var)
            n_images += len(x)
    return sums, n_images


def mean_terms(sums: Tensor, n_images: int, beta: float) -> dict[str, float]:
    """Return the negative ELBO and its terms, given every group's sums, shape (n_groups, 2)."""
    # One transfer for all groups; added in double precision, as a split may hold millions.
    distortion, kl = (sums.cpu().double().sum(0) / n_images).tolist()
    return {"negative_elbo": distortion + beta * kl, "distortion": distortion, "kl": kl}


def group_images(
    dataset: ImageDataset, split: str, rows: slice, block_size: int
) -> Iterator[Tensor]:
    """Yield the images of `rows` in [0, 1], `GROUP` at a time from the first row on.

    The next block is read and scaled while this one is used: two are in memory at most.

    Args:
        dataset: Where from.
        split: ``train``, ``validation`` or ``test``.
        rows: Start and stop; no step.
        block_size: About how many are read at once.
    """
    step = max(1, block_size // GROUP) * GROUP
    blocks = [slice(i, min(i + step, rows.stop)) for i in range(rows.start, rows.stop, step)]
    if not blocks:
        return
    with ThreadPoolExecutor(1, "vaesc-read") as reader:
        ahead = reader.submit(dataset.floats, split, blocks[0])
        for following in [*blocks[1:], None]:
            block = ahead.result()
            if following:
                ahead = reader.submit(dataset.floats, split, following)
            yield from torch.split(torch.from_numpy(block), GROUP)


def group_noise(shape: tuple[int, ...], seed: int, stream: str) -> Tensor:
    """Return a group's standard normal numbers, on the CPU, from a stream of its own name."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stream))
    return torch.randn(shape, generator=generator)


def _sum_terms(vae: VAE, x: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Return the sums of distortion (mean over samples) and kl over the images, shape (2,)."""
    std = torch.exp(log_var / 2)
    distortions = [vae.distortion(x, mean + std * sample).sum() for sample in noise]
    return torch.stack([torch.stack(distortions).mean(), kl_divergence(mean, log_var).sum()])
