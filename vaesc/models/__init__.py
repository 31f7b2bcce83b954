"""The variational autoencoder: network, likelihoods, objective, files.

Everything that turns images into latents, latents into images, or either into nats.
:mod:`vaesc.training` fits it; nothing here learns.
"""

from __future__ import annotations

from vaesc.models.devices import resolve_device, same_everywhere
from vaesc.models.elbo import evaluate_elbo, mean_elbo
from vaesc.models.files import load_vae, save_vae
from vaesc.models.iwae import evaluate_iwae
from vaesc.models.posterior import PosteriorStatistics
from vaesc.models.vae import VAE, Terms, kl_divergence

__all__ = [
    "VAE", "PosteriorStatistics", "Terms", "evaluate_elbo", "evaluate_iwae", "kl_divergence",
    "load_vae", "mean_elbo", "resolve_device", "same_everywhere", "save_vae",
]  # fmt: skip
