"""Views of an image that leave its class alone: moved, turned, sheared, bent; or blurred by noise.

Vectors have no geometry: of those some numbers are left out, and others disturbed.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

MILD = 0.5
"""Strength of the views that a prediction is averaged over; training's is 1."""
_TURN, _SCALE, _STRETCH, _SHEAR, _SHIFT, _BEND = math.radians(15), 0.15, 0.075, 0.2, 0.2, 0.08
"""Largest angle; logarithms of scale and aspect; shear; shift and (std) bending in half-widths."""
_KNOTS = 5
"""Of the grid, along each side, whose knots are moved to bend an image."""
_DROPPED, _NOISE = 0.15, 0.1


def view(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Return a random view of each image.

    Args:
        images: In [0, 1], shape (n, c, h, w), or vectors, shape (n, d).
        generator: Source of the randomness.
        strength: From 0, which changes nothing, up.

    Returns:
        As `images`.
    """
    n = len(images)
    if images.ndim == 2:
        noise = torch.randn(images.shape, generator=generator) * (strength * _NOISE)
        stays = torch.rand(images.shape, generator=generator) >= strength * _DROPPED
        return (images + noise).clamp(0, 1) * stays
    height, width = images.shape[2:]
    affine = _affine(n, generator, strength)
    bend = torch.randn(n, 2, _KNOTS**2, generator=generator) * (strength * _BEND)
    fields = torch.cat([affine, bend], dim=2).reshape(2 * n, -1) @ _basis(height, width)
    grid = fields.reshape(n, 2, height, width).permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, align_corners=False)


@functools.lru_cache(maxsize=4)
def _basis(height: int, width: int) -> Tensor:
    """Return what a map's fields are sums of, shape (3 + knots, pixels): x, y, 1, and the bends.

    Both parts of a map are linear in what is drawn, so that all maps are one matrix product:
    seven times as fast as making each (28x28 pixels, 256 images).
    """
    size = (height, width)
    same = torch.eye(2, 3)[None]
    plane = functional.affine_grid(same, [1, 1, *size], align_corners=False).flatten(0, 2).T
    knots = torch.eye(_KNOTS**2).reshape(-1, 1, _KNOTS, _KNOTS)
    bends = functional.interpolate(knots, size=size, mode="bicubic", align_corners=True)
    return torch.cat([plane, torch.ones(1, plane.shape[1]), bends.flatten(1)])


def _affine(n: int, generator: torch.Generator, strength: float) -> Tensor:
    """Return random maps of the plane, shape (n, 2, 3)."""

    def within(largest: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * (strength * largest)

    angle, scale, stretch = within(_TURN), within(_SCALE).exp(), within(_STRETCH).exp()
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack([cos * scale * stretch, within(_SHEAR) - sin * scale, within(_SHIFT)], dim=1),
        torch.stack([sin * scale, cos * scale / stretch, within(_SHIFT)], dim=1),
    )
    return torch.stack(rows, dim=1)
