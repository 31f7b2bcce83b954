"""What a source of images is, and what it hands to ingestion.

A source hands over *rows that can be read*, not an array: a memory map, a Zarr array or a folder
of files are read block by block, so that a data set need not fit in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DatasetConfig
from vaesc.errors import DataError

SPLITS = ("train", "validation", "test")
WHOLE = "all"
"""Name of the one part of a source that has no split of its own."""


class Rows(Protocol):
    """Images that can be read by row number; every numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Full shape, (n, *image)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """Read the images with these row numbers, in increasing order."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that belong together, and their labels."""

    images: Rows
    origin: str
    """The file or folder they come from, named in every complaint about them."""
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class RawImages:
    """All images of a source, as it has them."""

    parts: Mapping[str, Part]
    """Either ``all``, or ``train`` and ``test`` and possibly ``validation``."""
    licence: str
    classes: tuple[str, ...] | None = None
    """Name of each class; labels count from 0."""
    high: float = 1.0
    """Value of a white pixel if pixels are floats; black is 0."""


class ImageSource(ABC):
    """One source of images. By default it needs nothing that could be missing."""

    def check(self, config: DatasetConfig) -> None:  # noqa: B027 - nothing to check is fine
        """Refuse files of the user that are not there, without reading any.

        Raises:
            DataError: What the config names is not there, or is not of the kind that is needed.
        """

    def is_present(self, config: DatasetConfig) -> bool:
        """Return whether the images are on this machine."""
        return True

    def download(self, config: DatasetConfig) -> None:
        """Fetch the images, if they can be fetched; called only if they are not present."""
        raise DataError(f"dataset.source={config.source} has nothing to download")

    @abstractmethod
    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of what the source's files hold, whatever folder they lie in."""

    @abstractmethod
    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """Open the images; what is large is read later, block by block."""


def checked_labels(labels: Rows, n_images: int, origin: str) -> NDArray[np.int64]:
    """Read labels as int64 (n_images,); their number is checked before any is read.

    Raises:
        DataError: Their number is not that of the images, or one is not an integer.
    """
    if labels.shape not in ((n_images,), (n_images, 1)):
        raise DataError(
            f"{origin}: labels have shape {labels.shape}, but there are {n_images} images; "
            "give one label per image"
        )
    if not n_images:
        return np.empty(0, np.int64)
    values = labels[np.arange(n_images)].reshape(n_images)
    if values.dtype.kind not in "buif":
        raise DataError(f"{origin}: labels must be integers, got type {values.dtype}; number them")
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        bad = int(np.flatnonzero(whole != values)[0])
        raise DataError(
            f"{origin}: labels must be integers, got {values[bad]} at row {bad}; number the "
            "classes"
        )
    return whole
