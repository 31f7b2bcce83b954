"""Views of an image that leave its class alone: moved, turned, sheared, bent; or blurred by noise.

Vectors have no geometry: of those some numbers are left out, and others disturbed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MILD = 0.5
"""Strength of the views that a prediction is averaged over; training's is 1."""
_TURN, _SCALE, _STRETCH, _SHEAR, _SHIFT, _BEND = math.radians(15), 0.15, 0.075, 0.2, 0.2, 0.08
"""Largest angle; logarithms of scale and aspect; shear; shift and (std) bending in half-widths."""
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
    size = images.shape[2:]
    grid = functional.affine_grid(
        _affine(n, generator, strength), [n, 1, *size], align_corners=False
    )
    bend = torch.randn(n, 2, 5, 5, generator=generator) * (strength * _BEND)
    field = functional.interpolate(bend, size=size, mode="bicubic", align_corners=True)
    return functional.grid_sample(images, grid + field.permute(0, 2, 3, 1), align_corners=False)


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
