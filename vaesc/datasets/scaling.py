"""From the range images come in to [0, 1] and back, by one rule everywhere.

A pixel x becomes ``(x - low) / (high - low)``, clipped to [0, 1], where ``low`` and ``high`` are
the data set's own black and white. Two types need no range: booleans are 0 and 1, and integers of
a data set of the plain range [0, 1] are 8-bit, 0..255.

Where the range is an integer one (0..255, 0..16: from 0 to a whole number of at least 8), floats
may also be in [0, 1] already, as torch users keep them: a batch of floats whose largest value is
at most 1 is taken as it is, any other is in the data set's own range. That is safe, because in
its own range such a batch would show nothing but the two darkest of at least nine grays: images
that are all but black. Whoever really has those passes them as integers, which are always in the
data set's own range. In any other range, floats are always in the data set's own.

The way back (:func:`from_unit`) gives what :func:`to_unit` takes for the same image: [0, 1] for
the range [0, 1] and for integer ranges, the data set's own range for any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaesc.errors import DataError

_GRAYS = 8
"""An integer range reaches from 0 to at least this: below, an image in its own range could well
hold nothing above 1."""


_WIDE = 64
"""In a range this wide, floats that end just above 1 are [0, 1] overshot, not nearly black."""


def to_unit(images: ArrayLike, *, low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    """Turn stored or user images into floats in [0, 1].

    Args:
        images: Any shape; bool, integers or floats. Stored images need no `low` and `high`.
        low: Value of a black pixel (:attr:`ImageDataset.low <vaesc.datasets.ImageDataset>`).
        high: Value of a white pixel.

    Returns:
        float32 of the same shape, in [0, 1]. Pixels a little outside the range are clipped.

    Raises:
        DataError: Not numbers, not finite, or plainly on another scale than [low, high]: more
            than its width outside, or floats that overshoot [0, 1] for a range of bytes.
    """
    values = np.asarray(images)
    if values.dtype.kind not in "buif":
        raise DataError(f"images must be bool, integers or floats, got type {values.dtype}")
    if values.dtype.kind == "b" or not values.size:
        return values.astype(np.float32)
    if values.dtype.kind in "ui" and (low, high) == (0, 1):
        return _from_bytes(values)
    if values.dtype.kind == "f" and is_integer_range(low, high) and values.max() <= 1:
        low, high = 0.0, 1.0
    if values.dtype.kind == "f" and high - low >= _WIDE and 1 < values.max() < 2:
        raise DataError(
            f"float images must lie in [0, 1] or in [{low:g}, {high:g}], got {values.max():g} as "
            "the largest value, which is neither; clip them to [0, 1], or scale them"
        )
    if values.dtype != np.uint8 or (low, high) != (0, 255):
        _check_scale(values, low, high)
    return scaled(values, low, high)


def from_unit(unit: NDArray[np.float32], *, low: float, high: float) -> NDArray[np.float32]:
    """Return images in a form that :func:`to_unit` takes for the same ones.

    Args:
        unit: Images in [0, 1], any shape.
        low: Value of a black pixel of the data set.
        high: Value of a white pixel.

    Returns:
        `unit` itself where [low, high] is [0, 1] or an integer range; else the images in
        [low, high], float32.
    """
    if (low, high) == (0, 1) or is_integer_range(low, high):
        return unit
    return np.asarray(low + unit.astype(np.float64) * (high - low), np.float32)


def is_integer_range(low: float, high: float) -> bool:
    """Tell whether [low, high] is one of whole gray levels, such as 0..255 or 0..16."""
    return low == 0 and high >= _GRAYS and float(high).is_integer()


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Map [low, high] to [0, 1] and clip, without asking whether that is sensible."""
    if (low, high) == (0, 1):
        unit: NDArray[np.float32] = np.clip(values, 0, 1).astype(np.float32)
        return unit
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return _from_bytes(values)
    # In float64, so that the largest value maps to exactly 1 and float32 rounds once.
    mapped: NDArray[np.float64] = (values.astype(np.float64) - low) / (high - low)
    clipped: NDArray[np.float64] = np.clip(mapped, 0, 1)
    return clipped.astype(np.float32)


def _from_bytes(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 255):
        raise DataError(
            f"integer images must lie in 0..255, got values from {values.min()} to "
            f"{values.max()}; scale them"
        )
    unit: NDArray[np.float32] = np.divide(values, np.float32(255), dtype=np.float32)
    return unit


def _check_scale(values: NDArray[Any], low: float, high: float) -> None:
    smallest, largest, width = float(values.min()), float(values.max()), high - low
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise DataError("images must be finite, got NaN or infinity; remove or replace it")
    if smallest < low - width or largest > high + width:
        raise DataError(
            f"images must lie in the range [{low:g}, {high:g}] of the data set, got values from "
            f"{smallest:g} to {largest:g}; scale them to it"
        )
