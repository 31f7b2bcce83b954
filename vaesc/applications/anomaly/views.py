r"""What of an image is compared with usual images: its strokes, and its blurred pixels.

*Strokes* are a histogram of oriented gradients. The gradient of the grey image at every pixel has
a length and a direction; the lengths are shared among eight directions and summed over the cells
of a 5x5 grid whose Gaussian windows overlap. Of the sums the square root is taken. Two images
whose strokes run the same way at about the same place are near each other so, however the pixels
fall: a distance between pixels takes a line that moved by one pixel for another line.

*Pixels* are blurred into the cells of a grid of at most 14x14 windows.

Flat images, shape (d,), have no neighbourhoods: no strokes, and their pixels as they are.

References:
    Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005.
    https://doi.org/10.1109/CVPR.2005.177
    Arandjelović and Zisserman (the square root: "RootSIFT"), "Three things everyone should know
    to improve object retrieval", 2012. https://doi.org/10.1109/CVPR.2012.6248018
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 8
STROKE_CELLS = 5
"""Cells along each side of the grid of strokes."""
PIXEL_CELLS = 14
"""Most cells along each side of the grid of pixels."""

Floats = NDArray[np.float32]


def has_strokes(shape: tuple[int, ...]) -> bool:
    """Tell whether images of this shape have height and width, of at least 3 pixels each."""
    return len(shape) in (2, 3) and min(shape[-2:]) >= 3


def strokes(unit: Floats) -> Floats:
    """Return the strokes of images, shape (n, 8 * 5 * 5).

    Args:
        unit: Images in [0, 1], shape (n, h, w), or (n, c, h, w), whose channels are averaged.
    """
    grey = unit if unit.ndim == 3 else unit.mean(axis=1)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    length = np.hypot(across, down)
    turn = np.arctan2(down, across) * np.float32(DIRECTIONS / (2 * np.pi))
    rows, columns = stroke_windows(grey.shape[1:])
    found = np.empty((len(grey), DIRECTIONS, STROKE_CELLS, STROKE_CELLS), np.float32)
    for direction in range(DIRECTIONS):
        # Steps round the circle from here: a gradient is shared by the two directions beside it.
        away = np.abs((turn - direction + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2)
        found[:, direction] = rows @ (length * np.maximum(1 - away, 0)) @ columns.T
    return np.asarray(np.sqrt(found), np.float32).reshape(len(grey), -1)


def pixels(unit: Floats) -> Floats:
    """Return the blurred pixels of images, (n, at most channels * 14 * 14); flat ones: (n, d).

    Args:
        unit: Images in [0, 1], shape (n, h, w), (n, c, h, w), or flat, (n, d).
    """
    if not has_strokes(unit.shape[1:]):
        return unit.reshape(len(unit), -1)
    rows, columns = pixel_windows(unit.shape[-2:])
    return np.asarray(rows @ unit @ columns.T, np.float32).reshape(len(unit), -1)


def stroke_windows(sides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return the windows of strokes over rows, shape (5, h), and over columns, (5, w)."""
    return _windows(sides[0], STROKE_CELLS), _windows(sides[1], STROKE_CELLS)


def pixel_windows(sides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return the windows of pixels over rows and over columns, see :func:`stroke_windows`."""
    return _windows(sides[0], min(PIXEL_CELLS, sides[0])), _windows(
        sides[1], min(PIXEL_CELLS, sides[1])
    )


@cache
def _windows(side: int, cells: int) -> Floats:
    """Gaussian windows at the middles of equal cells, half a cell wide; rows sum to 1."""
    width = side / cells
    middles = (np.arange(cells)[:, None] + 0.5) * width
    window = np.exp(-0.5 * np.square((np.arange(side) + 0.5 - middles) / (width / 2)))
    return np.asarray(window / window.sum(axis=1, keepdims=True), np.float32)
