"""What images must be before anything is learned from them.

Every complaint names the file, the rule, what was found and what to do about it. What is checked
block by block is checked here, once, before a byte is written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DatasetConfig
from vaesc.datasets.base import Part, RawImages
from vaesc.datasets.scaling import scaled
from vaesc.datasets.splits import Selection
from vaesc.errors import DataError

logger = logging.getLogger(__name__)

_DARK = 64


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen of the pixels of one split."""

    smallest: float
    largest: float
    varied: bool
    """Whether any image differs from the first (or, if it is alone, any pixel from another)."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How pixels are stored: as bytes, or as floats already mapped from [low, high] to [0, 1]."""

    dtype: np.dtype[Any]
    low: float
    high: float

    def apply(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images as they are stored."""
        if self.dtype == np.uint8:
            stored = images.astype(np.uint8, copy=False)
            return stored * np.uint8(255) if images.dtype.kind == "b" else stored
        return scaled(images, self.low, self.high)


_BYTES = Scale(dtype=np.dtype(np.uint8), low=0.0, high=255.0)


def check_shape(raw: RawImages) -> tuple[int, ...]:
    """Return the shape of one image.

    Raises:
        DataError: There are no images, or their shape or type is not one we take.
    """
    parts = list(raw.parts.values())
    for part in parts:
        _check_part(part)
    shape, kind = parts[0].images.shape[1:], parts[0].images.dtype.kind
    for part in parts[1:]:
        if part.images.shape[1:] != shape:
            raise DataError(
                f"{part.origin}: images have shape {part.images.shape[1:]}, but those of "
                f"{parts[0].origin} have {shape}; all splits need one shape"
            )
        if part.images.dtype.kind != kind:
            raise DataError(
                f"{part.origin}: pixels are {part.images.dtype}, but those of {parts[0].origin} "
                f"are {parts[0].images.dtype}; save all splits in one type"
            )
    return tuple(int(s) for s in shape)


def _check_part(part: Part) -> None:
    shape, dtype = part.images.shape, part.images.dtype
    if not 2 <= len(shape) <= 4:
        raise DataError(
            f"{part.origin}: images must have shape (n, d), (n, h, w) or (n, c, h, w), got "
            f"{shape}; reshape them"
        )
    if 0 in shape:
        raise DataError(f"{part.origin} is empty: its shape is {shape}; give at least one image")
    if dtype.kind not in "buif":
        raise DataError(
            f"{part.origin}: pixels must be bool, integers or floats, got {dtype}; convert them"
        )
    if len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) > 4:
        raise DataError(
            f"{part.origin}: images have shape {shape} with the channels last; save them as "
            "(n, c, h, w), with numpy.moveaxis(images, -1, 1)"
        )


def survey(selection: Selection, block_rows: int, *, enough: bool) -> Facts:
    """Look at the pixels of one split.

    Args:
        selection: The split.
        block_rows: Images read at once.
        enough: Stop as soon as images are seen to differ and to be more than 0 and 1: bytes have
            no range to find out.

    Raises:
        DataError: A pixel is NaN or infinite.
    """
    smallest, largest, varied = np.inf, -np.inf, False
    first: NDArray[Any] | None = None
    for start in range(0, len(selection.rows), block_rows):
        rows = selection.rows[start : start + block_rows]
        images = selection.part.images[rows]
        _check_finite(images, rows, selection.part.origin)
        first = images[:1].copy() if first is None else first
        smallest, largest = min(smallest, float(images.min())), max(largest, float(images.max()))
        varied = varied or bool((images != first).any())
        if enough and varied and largest > 1:
            break
    alone = len(selection.rows) == 1
    return Facts(
        smallest=smallest, largest=largest, varied=smallest < largest if alone else varied
    )


def _check_finite(images: NDArray[Any], rows: NDArray[np.int64], origin: str) -> None:
    if images.dtype.kind != "f":
        return
    finite = np.isfinite(images.reshape(len(images), -1)).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{origin}: image {rows[int(np.argmin(finite))]} holds NaN or infinity; every pixel "
            "must be finite, so remove or repair the image"
        )


def check_varied(facts: Facts, origin: str) -> None:
    """Refuse training images with nothing to learn.

    Raises:
        DataError: They are all the same.
    """
    if not facts.varied:
        raise DataError(
            f"{origin}: the training images are constant, all equal to the first (values "
            f"{facts.smallest:g} to {facts.largest:g}); give images that differ"
        )


def decide_scale(
    facts: Mapping[str, Facts], origins: Mapping[str, str], dtype: np.dtype[Any],
    config: DatasetConfig, high: float,
) -> Scale:  # fmt: skip
    """Decide how pixels are stored, from the range they were seen to have.

    With ``rescale=minmax`` the range is that of the training images alone: the test split must
    not choose its own scale, and what lies outside is clipped.

    Args:
        facts: What was seen of each split.
        origins: Where each split comes from.
        dtype: Type of a pixel in the source.
        config: For `rescale`.
        high: White in a source of floats.

    Raises:
        DataError: A value is outside the range and `rescale` is `strict`.
    """
    if dtype.kind == "b":
        return _BYTES
    whole = dtype.kind in "ui"
    if whole and config.source == "arrays":
        _check_not_binary(facts, origins)
    top = 255.0 if whole else high
    inside = all(seen.smallest >= 0 and seen.largest <= top for seen in facts.values())
    train = facts["train"]
    full = train.smallest == 0 and train.largest == 255
    if config.rescale == "minmax" and not (inside and (full or not whole)):
        return _minmax(train, origins["train"])
    if not inside:
        _refuse_range(facts, origins, whole=whole, top=top)
    if not whole:
        return Scale(dtype=np.dtype(np.float32), low=0.0, high=high)
    return _BYTES


def _minmax(train: Facts, origin: str) -> Scale:
    if not np.isfinite(train.largest - train.smallest):
        raise DataError(
            f"{origin}: values from {train.smallest:g} to {train.largest:g} are too far apart to "
            "rescale; remove the outliers"
        )
    return Scale(dtype=np.dtype(np.float32), low=train.smallest, high=train.largest)


def _refuse_range(
    facts: Mapping[str, Facts], origins: Mapping[str, str], *, whole: bool, top: float
) -> None:
    split = next(s for s, seen in facts.items() if seen.smallest < 0 or seen.largest > top)
    rule = "integers must lie in 0..255" if whole else f"floats must lie in [0, {top:g}]"
    raise DataError(
        f"{origins[split]}: {rule}, got values from {facts[split].smallest:g} to "
        f"{facts[split].largest:g}; {'' if whole else 'divide by 255, or '}set "
        "dataset.rescale=minmax"
    )


def _check_not_binary(facts: Mapping[str, Facts], origins: Mapping[str, str]) -> None:
    """Refuse integers that are only 0 and 1: read as 0..255 they would all be black."""
    largest = max(seen.largest for seen in facts.values())
    if largest <= 1 and min(seen.smallest for seen in facts.values()) >= 0:
        raise DataError(
            f"{origins['train']}: integers are read as 0..255, but these are only 0 and 1; save "
            "them as bool or float"
        )


def warn_if_dark(scale: Scale, facts: Facts, origin: str) -> None:
    """Say so if bytes use little of their range; it is legal, but seldom meant."""
    if scale.dtype == np.uint8 and 1 < facts.largest < _DARK:
        logger.warning(
            "%s: no pixel seen is above %g of 255; dataset.rescale=minmax uses the full range",
            origin, facts.largest,
        )  # fmt: skip
