"""The layers of encoders and decoders, for images of any shape, without memory or weights yet.

`mlp` flattens an image; `conv` halves its sides stage by stage, then flattens, and its decoder
mirrors it to the pixel whatever the sides. With `residual`, layers whose width does not change
and a block in each convolutional stage add their input to their output. `linear-path` puts a
linear layer beside the perceptron on either side, so that it can begin as a linear code and stay
one where that is best; with `channels` its decoder ends in a few convolutions that correct the
picture the two have made.

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


class Parallel(nn.Module):
    """f(x) + g(x)."""

    def __init__(self, straight: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.straight, self.branch = straight, branch

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x) + g(x)."""
        y: Tensor = self.straight(x) + self.branch(x)
        return y


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
        ConfigError: `conv`, or `channels`, was asked for images without height and width.
    """
    if config.architecture == "linear-path":
        return _beside_linear(config, shape)
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


def _beside_linear(
    config: VAEConfig, shape: tuple[int, ...]
) -> tuple[nn.Sequential, nn.Sequential]:
    n_pixels, d = math.prod(shape), config.latent_dim
    n_encoder, n_decoder = config.hidden[0], config.hidden[-1]

    def both(n_in: int, n_hidden: int, n_out: int) -> Parallel:
        straight = nn.Linear(n_in, n_out, device="meta")
        return Parallel(straight, nn.Sequential(*_perceptron(config, n_in, n_hidden, n_out)))

    decoder = [both(d, n_decoder, n_pixels), *_correction(config, shape)]
    return nn.Sequential(both(n_pixels, n_encoder, 2 * d)), nn.Sequential(*decoder)


def _correction(config: VAEConfig, shape: tuple[int, ...]) -> list[nn.Module]:
    """Convolutions over the finished picture, added to it; at half its sides where both are even.

    A pixel's correction then sees its neighbourhood at a quarter of the cost (pixel unshuffle).

    References:
        Shi et al., "Real-time single image and video super-resolution using an efficient
        sub-pixel convolutional neural network", 2016. https://arxiv.org/abs/1609.05158
    """
    if not config.channels:
        return []
    picture = _picture(shape)
    fold = 1 if picture[1] % 2 or picture[2] % 2 else 2
    n_in = picture[0] * fold**2
    widths = [n_in, *config.channels]
    layers: list[nn.Module] = [nn.Unflatten(1, picture), nn.PixelUnshuffle(fold)]
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1, device="meta"), _bend(config)]
    last = nn.Conv2d(widths[-1], n_in, 3, padding=1, device="meta")
    return [Residual(*layers, last, nn.PixelShuffle(fold), nn.Flatten())]


def _picture(shape: tuple[int, ...]) -> Size:
    """Return channels, height and width of images of this shape."""
    if len(shape) not in (2, 3):
        raise ConfigError(
            f"convolutions need images of shape (h, w) or (c, h, w), got {shape}; set "
            "vae.architecture=mlp, or vae.channels=[] for linear-path"
        )
    return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])


def _sizes(config: VAEConfig, shape: tuple[int, ...]) -> list[Size]:
    """Return (channels, height, width) before and after every stage."""
    c, h, w = _picture(shape)
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
