"""Latents that labels spread over: of the VAE that was trained for its bound.

A VAE that was refined through its dictionary reconstructs better, and tells classes apart worse:
refinement hardly asks its latents to be near the prior, which is what draws like images together.
So if the registered model is refined, its part for this application is the encoder that the VAE
had before; of any other model the encoder is its own, and it needs no part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaesc.bundle import GROUP, SparseVAE
from vaesc.config import Application, VAEConfig, settings
from vaesc.config_files import config_from_mapping
from vaesc.errors import ConfigError, DataError
from vaesc.models import VAE
from vaesc.models.networks import build_networks
from vaesc.parts import Part
from vaesc.untrusted import is_moderate

Floats = NDArray[np.float32]
NAME: Application = "semi_supervised"
_MOST_LAYERS = 1000


def part_of(vae: VAE) -> Part:
    """Return the part that keeps the encoder of `vae`."""
    arrays = {name: value.cpu().numpy() for name, value in vae.encoder.state_dict().items()}
    return Part(arrays=arrays, facts={"vae": settings(vae.config), "shape": list(vae.shape)})


class Features:
    """An encoder, as images see it.

    Args:
        encoder: Gives mean and raw log-variance, as that of :class:`vaesc.models.VAE`.
        shape: Shape of one image.
    """

    def __init__(self, encoder: nn.Module, shape: tuple[int, ...]) -> None:
        self._encoder, self.shape = encoder, shape

    @classmethod
    def of(cls, model: SparseVAE) -> Features:
        """Return the features of a registered model: of its part, or its own where it has none.

        Raises:
            DataError: The part is damaged, or is of images of another shape.
        """
        if NAME not in model.parts:
            return cls(model.vae.encoder, model.shape)
        return cls(_encoder(model.part(NAME), model.shape).to(model.vae.device), model.shape)

    def posterior(self, unit: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of q(z|x) of images in [0, 1], shape (n, d) each."""
        raw: list[Tensor] = []
        device = next(self._encoder.parameters()).device
        with torch.inference_mode():
            for first in range(0, len(unit), GROUP):
                x = torch.from_numpy(np.ascontiguousarray(unit[first : first + GROUP]))
                raw.append(self._encoder(x.to(device).flatten(1)).cpu())
        mean, spread = torch.cat(raw).chunk(2, dim=1)
        # The bound of :meth:`vaesc.models.VAE.encode`, halved: of a standard deviation.
        std = (10 * torch.tanh(spread / 20)).exp()
        found = np.ascontiguousarray(mean.numpy()), np.ascontiguousarray(std.numpy())
        if not all(is_moderate(values) for values in found):
            raise DataError(
                "the encoder gives latents that are not finite, or absurdly large; fetch the "
                "model again"
            )
        return found


def _encoder(part: Part, shape: tuple[int, ...]) -> nn.Module:
    try:
        config = _config(part.facts)
        if part.facts["shape"] != list(shape):
            raise ValueError(f"it is of images of shape {part.facts['shape']}, not {list(shape)}")
        encoder, _ = build_networks(config, shape)  # without memory
        _check(part, encoder)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, ConfigError) as error:
        raise DataError(
            f"the model's part {NAME} is no encoder ({error}); fetch the model again"
        ) from error
    weights = {name: torch.from_numpy(np.array(value)) for name, value in part.arrays.items()}
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False)


def _config(facts: Any) -> VAEConfig:  # noqa: ANN401 - JSON of a file
    config = config_from_mapping({"vae": facts["vae"]}).vae
    if len(config.hidden) + len(config.channels) > _MOST_LAYERS:
        raise ValueError(f"it has more than {_MOST_LAYERS} layers")
    return config


def _check(part: Part, encoder: nn.Module) -> None:
    """Refuse arrays that are not exactly the encoder's."""
    wanted = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    given = {name: value.shape for name, value in part.arrays.items()}
    if given != wanted:
        wrong = sorted(n for n in given.keys() | wanted.keys() if given.get(n) != wanted.get(n))
        raise ValueError(f"its arrays do not fit its description: {', '.join(wrong[:3])}")
    for name, value in part.arrays.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise ValueError(f"{name} must hold finite float32 numbers")
