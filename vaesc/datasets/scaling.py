"""From the range images come in to [0, 1], by one rule everywhere.

A pixel x becomes ``(x - low) / (high - low)``, clipped to [0, 1], where ``low`` and ``high`` are
the data set's own black and white. Two types need no range: booleans are 0 and 1, and integers of
a data set of the plain range [0, 1] are 8-bit, 0..255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaesc.errors import DataError

_WIDE = 8.0
"""From this width of the range on, floats within [0, 1] are taken for a mistake of scale."""


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
            than its width outside, or floats within [0, 1] when the range is much wider.
    """
    values = np.asarray(images)
    if values.dtype.kind not in "buif":
        raise DataError(f"images must be bool, integers or floats, got type {values.dtype}")
    if values.dtype.kind == "b" or not values.size:
        return values.astype(np.float32)
    if values.dtype.kind in "ui" and (low, high) == (0, 1):
        return _from_bytes(values)
    if values.dtype != np.uint8:
        _check_scale(values, low, high)
    return scaled(values, low, high)


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
    if values.dtype.kind == "f" and width >= _WIDE and smallest >= 0 and 0 < largest <= 1:
        raise DataError(
            f"images must lie in the range [{low:g}, {high:g}] of the data set, got floats within "
            f"[0, 1] (at most {largest:g}); scale them back to it"
        )
