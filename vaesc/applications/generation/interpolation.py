r"""From one latent to another, in equal steps.

*Linear*: :math:`z_t = (1 - t) z_0 + t z_1`. *Spherical*: seen from a centre, the direction turns
evenly along the great circle and the length changes evenly,

.. math:: u_t = \frac{\sin((1 - t)\omega)}{\sin\omega} u_0 + \frac{\sin(t\omega)}{\sin\omega} u_1,
          \qquad r_t = (1 - t) r_0 + t r_1 ,

with unit directions u and :math:`\cos\omega = u_0 \cdot u_1`. In many dimensions latents lie near
a shell, and the straight way leads through its inside, where the decoder has seen nothing.

References:
    White, "Sampling Generative Networks", 2016. https://arxiv.org/abs/1609.04468
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_PARALLEL = 1e-6
"""Below this sine of the angle, no great circle is defined (or needed): the way is straight."""


def linear(start: NDArray[Any], end: NDArray[Any], n: int) -> Floats:
    """Return `n` points from `start` to `end`, shape (d,) each, both included: shape (n, d)."""
    t = np.linspace(0, 1, n)[:, None]
    return np.asarray((1 - t) * start + t * end, np.float32)


def spherical(
    start: NDArray[Any], end: NDArray[Any], n: int, centre: NDArray[Any] | None = None
) -> Floats:
    """Return `n` points around `centre` (default: the origin), both ends included: shape (n, d).

    Points in line with the centre are joined by a straight line.
    """
    middle = np.zeros(len(start)) if centre is None else np.asarray(centre, np.float64)
    ends = np.stack([start, end]).astype(np.float64) - middle
    lengths = np.linalg.norm(ends, axis=1)
    if not lengths.all():
        return linear(start, end, n)
    first, last = ends / lengths[:, None]
    angle = np.arccos(np.clip(first @ last, -1, 1))
    if np.sin(angle) < _PARALLEL:
        return linear(start, end, n)
    t = np.linspace(0, 1, n)[:, None]
    direction = (np.sin((1 - t) * angle) * first + np.sin(t * angle) * last) / np.sin(angle)
    length = (1 - t) * lengths[0] + t * lengths[1]
    return np.asarray(middle + length * direction, np.float32)
