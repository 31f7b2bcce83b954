"""What is exported, each as one network: a function of one tensor with any number of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vaesc.dictionary import LatentDictionary
    from vaesc.models import VAE


class Encoder(nn.Module):
    """Images in [0, 1] to posterior means and log-variances."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, shape (n, d) each, of images of shape (n, *shape)."""
        return self.vae.encode(images)


class Decoder(nn.Module):
    """Latents to images in [0, 1]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        """Return images, shape (n, *shape), of latents of shape (n, d)."""
        return self.vae.decode(latents)


class Codes(nn.Module):
    """Dense codes to images in [0, 1], through the dictionary."""

    def __init__(self, vae: VAE, dictionary: LatentDictionary) -> None:
        super().__init__()
        self.vae = vae
        for name in ("dictionary", "mean", "scale"):
            self.register_buffer(name, torch.from_numpy(getattr(dictionary, name).copy()))

    def forward(self, codes: Tensor) -> Tensor:
        """Return images, shape (n, *shape), of codes of shape (n, K)."""
        dictionary, mean, scale = (
            self.get_buffer(name) for name in ("dictionary", "mean", "scale")
        )
        return self.vae.decode(mean + scale * (codes @ dictionary))
