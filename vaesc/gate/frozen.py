"""The frozen split: the images on which champion and candidate are compared, now and in a year.

It is the test split of one dataset artifact, the one that the first champion was evaluated on,
named for a registered model and kept until somebody names another by hand. Data that is appended
later is split anew, and may put a frozen image into training; a model that has seen an image in
training would win on it for nothing. So images that either model was trained or chosen on are
left out, recognised by their pixels, and the decision says how many were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.errors import DataError

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

_ROWS = 8192
_SEEN = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class FrozenSplit:
    """Images that no model under comparison was trained on."""

    images: NDArray[np.float32]
    """Shape (n, *shape), in [0, 1]."""
    labels: NDArray[np.int64] | None
    """Shape (n,)."""
    n_seen: int
    """Images left out, since a model has seen them in training."""
    address: str
    """Address of the dataset that it is the test split of."""


def open_frozen(
    folder: Path, seen: Sequence[Path], shape: tuple[int, ...], limit: int
) -> FrozenSplit:
    """Open the frozen split without the images that were trained on.

    Args:
        folder: Folder of the frozen dataset's artifact.
        seen: Folders of the datasets that the models, and those whose weights they started from,
            were trained on; `folder` among them counts for nothing, since its splits are apart.
        shape: Shape of one image, as both models take it.
        limit: Largest number of images kept: those that a hash of their pixels puts first, so
            that an order by class does no harm.

    Raises:
        DataError: The split's images have another shape or range, or a dataset cannot be read.
    """
    from vaesc.datasets.reader import open_dataset

    dataset = open_dataset(folder)
    if dataset.shape != tuple(shape):
        raise DataError(
            f"the models take images of shape {tuple(shape)}, those of the frozen split are "
            f"{dataset.shape}; register models of another shape under another name "
            "(registry.model_name)"
        )
    images = dataset.floats("test")
    labels = dataset.labels("test")
    marks = _marks(images)
    known: set[bytes] = set()
    for each in sorted({Path(each).resolve() for each in seen} - {Path(folder).resolve()}):
        other = open_dataset(each)
        _check_range(dataset, other)
        known |= _trained_on(other)
    fresh = np.array([mark not in known for mark in marks])
    kept = np.sort(sorted(np.flatnonzero(fresh), key=marks.__getitem__)[:limit]).astype(np.int64)
    return FrozenSplit(
        images=images[kept], labels=None if labels is None else labels[kept],
        n_seen=int(len(fresh) - fresh.sum()), address=Path(folder).name,
    )  # fmt: skip


def _check_range(frozen: ImageDataset, other: ImageDataset) -> None:
    """Refuse data of which another brightness is 1: neither pixels nor errors compare."""
    if (frozen.low, frozen.high) != (other.low, other.high):
        raise DataError(
            f"a model's data runs from {other.low:g} to {other.high:g}, the frozen split's from "
            f"{frozen.low:g} to {frozen.high:g} (dataset.rescale=minmax follows the data); scale "
            "your images to [0, 1] yourself, or register under another name (registry.model_name)"
        )


def _trained_on(dataset: ImageDataset) -> set[bytes]:
    return {
        mark
        for split in _SEEN
        for rows in dataset.blocks(split, _ROWS)
        for mark in _marks(dataset.floats(split, rows))
    }


def _marks(images: NDArray[np.float32]) -> list[bytes]:
    """Return a digest of each image's pixels as bytes: equal ones are one image to a model."""
    pixels = np.round(images.reshape(len(images), -1) * 255).astype(np.uint8)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in pixels]
