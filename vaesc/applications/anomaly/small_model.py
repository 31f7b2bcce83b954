"""A small VAE and a dictionary of its latents, trained on the images of one class alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from vaesc.bundle import GROUP, SparseVAE
from vaesc.config import VAEConfig, derive_seed
from vaesc.dictionary import LatentDictionary, fit_scaling
from vaesc.models import VAE
from vaesc.training.determinism import deterministic, stream

STEPS = 800
_BATCH = 128
_RATE = 2e-3
_CONFIG = VAEConfig(hidden=(256,), latent_dim=16)
_ATOMS, _LEVEL = 64, 4

Floats = NDArray[np.float32]


def fit_small_model(unit: Floats, *, seed: int, steps: int = STEPS) -> SparseVAE:
    """Train on images alone, from random weights: it has seen no others.

    Args:
        unit: Images in [0, 1], shape (n, *shape).
        seed: Where chance comes from.
        steps: Gradient steps on batches of 128.

    Returns:
        A model of 16 latents and 64 atoms, 4 of them for an image, on the CPU.

    Raises:
        DataError: The images have all the same latent.
    """
    from vaesc.sparse import learn_dictionary

    with deterministic():
        vae = _trained(unit, seed, steps)
        with torch.inference_mode():
            groups = (torch.from_numpy(unit[i : i + GROUP]) for i in range(0, len(unit), GROUP))
            latents = np.concatenate([vae.encode(x)[0].numpy() for x in groups])
    mean, scale = fit_scaling(latents, "global")
    learned = learn_dictionary(
        (latents - mean) / scale, n_atoms=_ATOMS, n_nonzero_coefs=_LEVEL,
        seed=derive_seed(seed, "dictionary"), max_epochs=5,
    )  # fmt: skip
    dictionary = LatentDictionary(
        dictionary=learned.dictionary, mean=mean, scale=scale, coder="ols",
        n_nonzero_coefs=_LEVEL, vae_sha256={},
    )  # fmt: skip
    return SparseVAE(vae, dictionary)


def _trained(unit: Floats, seed: int, steps: int) -> VAE:
    images = torch.from_numpy(np.ascontiguousarray(unit))
    vae = VAE(_CONFIG, tuple(unit.shape[1:]), generator=stream(seed, "init"))
    adam = torch.optim.Adam(vae.parameters(), lr=_RATE)
    draws, noise = stream(seed, "order"), stream(seed, "noise")
    for step in range(steps):
        adam.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / steps)) / 2
        x = images[torch.randint(len(images), (_BATCH,), generator=draws)]
        epsilon = torch.randn(_BATCH, _CONFIG.latent_dim, generator=noise)
        loss = vae.negative_elbo(x, epsilon).negative_elbo(_CONFIG.beta).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return vae
