"""The layers of encoders and decoders, for images of any shape, without memory or weights yet.

`mlp` flattens an image; `conv` halves its sides stage by stage, then flattens, and its decoder
mirrors it to the pixel whatever the sides. With `residual`, layers whose width does not change
and a block in each convolutional stage add their input to their output.

References:
    He et al., "Deep Residual Learning for Image Recognition", 2016.
    https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from vaesc.config import VAEConfig
from vaesc.errors import ConfigError

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
_SMALLEST_SIDE = 4
"""Stages are added while the smaller side is at least twice this."""


Size = tuple[int, int, int]
"""Channels, height, width."""


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x), of x's shape."""
        y: Tensor = x + self.inner(x)
        return y


def build_networks(
    config: VAEConfig, shape: tuple[int, ...]
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return encoder and decoder on the meta device: their weights are to be drawn.

    Args:
        config: Architecture, widths, latent dimension.
        shape: Shape of one image; for `conv`, (h, w) or (c, h, w).

    Returns:
        Encoder, from (n, *shape) or (n, P) to (n, 2 d); decoder, from (n, d) to (n, P).

    Raises:
        ConfigError: `conv` was asked for images without height and width.
    """
    is_mlp = config.architecture == "mlp"
    sizes = [] if is_mlp else _sizes(config, shape)
    n_features, d = math.prod(shape if is_mlp else sizes[-1]), config.latent_dim
    encoder = _perceptron(config, n_features, *config.hidden, 2 * d)
    decoder = _perceptron(config, d, *config.hidden[::-1], n_features)
    if is_mlp:
        return nn.Sequential(*encoder), nn.Sequential(*decoder)
    down = [layer for a, b in itertools.pairwise(sizes) for layer in _down(config, a, b)]
    up = [layer for a, b in itertools.pairwise(sizes[::-1]) for layer in _up(config, a, b)]
    return (
        nn.Sequential(nn.Unflatten(1, sizes[0]), *down, nn.Flatten(), *encoder),
        nn.Sequential(*decoder, _bend(config), nn.Unflatten(1, sizes[-1]), *up[:-1], nn.Flatten()),
    )


def _sizes(config: VAEConfig, shape: tuple[int, ...]) -> list[Size]:
    """Return (channels, height, width) before and after every stage."""
    if len(shape) not in (2, 3):
        raise ConfigError(
            f"vae.architecture=conv needs images of shape (h, w) or (c, h, w), got {shape}; "
            "set vae.architecture=mlp"
        )
    c, h, w = (1, *shape) if len(shape) == 2 else shape
    sizes = [(c, h, w)]
    for channels in config.channels or _derived_channels(min(h, w)):
        h, w = math.ceil(h / 2), math.ceil(w / 2)
        sizes.append((channels, h, w))
    return sizes


def _derived_channels(side: int) -> tuple[int, ...]:
    """Return 32, 64, 128, 256, 256, ... while the side stays at least `_SMALLEST_SIDE`."""
    n_stages = max(1, int(math.log2(max(side, 2) / _SMALLEST_SIDE)))
    return tuple(min(32 * 2**stage, 256) for stage in range(n_stages))


def _down(config: VAEConfig, a: Size, b: Size) -> list[nn.Module]:
    halve = nn.Conv2d(a[0], b[0], 3, stride=2, padding=1, device="meta")
    return [halve, _bend(config), *_block(config, b[0])]


def _up(config: VAEConfig, a: Size, b: Size) -> list[nn.Module]:
    # A stage takes n pixels to 2 n - 1, or one more.
    extra = (b[1] - 2 * a[1] + 1, b[2] - 2 * a[2] + 1)
    double = nn.ConvTranspose2d(
        a[0], b[0], 3, stride=2, padding=1, output_padding=extra, device="meta"
    )
    return [*_block(config, a[0]), double, _bend(config)]


def _block(config: VAEConfig, channels: int) -> list[nn.Module]:
    if not config.residual:
        return []
    first, second = (nn.Conv2d(channels, channels, 3, padding=1, device="meta") for _ in range(2))
    return [Residual(first, _bend(config), second), _bend(config)]


def _perceptron(config: VAEConfig, *widths: int) -> list[nn.Module]:
    """Linear layers, bent between; weights without memory yet, and so never drawn."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        layer = [nn.Linear(n_in, n_out, device="meta"), _bend(config)]
        layers += [Residual(*layer)] if config.residual and n_in == n_out else layer
    return [*layers, nn.Linear(widths[-2], widths[-1], device="meta")]


def _bend(config: VAEConfig) -> nn.Module:
    return _ACTIVATIONS[config.activation]()
