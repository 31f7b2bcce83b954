"""Which images are for training, validation and test.

A source's own split is kept. What must be drawn is drawn by named random streams, so that the
test set does not change when the share of validation does. Within a split, images keep the
source's order.

A drawn split belongs to the images that were there: with one more, every image may land elsewhere,
and a model that was trained before has seen the new test images. Under ``dataset.split=content``
an image's own bytes decide, a hash of them below the share: what is added later moves nothing,
and copies of an image share a split. Shares are then met on average, not exactly.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DatasetConfig, derive_seed
from vaesc.datasets.base import SPLITS, WHOLE, Part, RawImages
from vaesc.errors import DataError

Index = NDArray[np.int64]
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Selection:
    """One split: which rows of which part of the source."""

    part: Part
    rows: Index
    """Row numbers, increasing."""

    @property
    def labels(self) -> Index | None:
        """Labels of the selected images."""
        return None if self.part.labels is None else self.part.labels[self.rows]


def select_splits(raw: RawImages, config: DatasetConfig, seed: int) -> dict[str, Selection]:
    """Decide the rows of train, validation and test.

    Args:
        raw: The images of a source.
        config: For the shares and `limit`.
        seed: The run's seed.

    Returns:
        A selection for each split, in the order train, validation, test.

    Raises:
        DataError: There are too few images for three splits, or `limit` leaves too few.
    """
    parts = dict(raw.parts)
    rows = {name: np.arange(part.images.shape[0]) for name, part in parts.items()}
    if WHOLE in parts:
        whole = parts["train"] = parts["test"] = parts.pop(WHOLE)
        rows["train"], rows["test"] = _apart(
            whole, rows.pop(WHOLE), config, config.test_fraction, seed, "test"
        )
    if "validation" not in parts:
        parts["validation"] = parts["train"]
        rows["train"], rows["validation"] = _apart(
            parts["train"], rows["train"], config, config.validation_fraction, seed, "validation"
        )
    _check_counts(rows, parts["train"], "give more images")
    rows = {split: _limited(parts[split], rows[split], split, config, seed) for split in SPLITS}
    _check_counts(rows, parts["train"], "raise dataset.limit")
    return {split: Selection(part=parts[split], rows=rows[split]) for split in SPLITS}


def _apart(
    part: Part, rows: Index, config: DatasetConfig, share: float, seed: int, split: str
) -> tuple[Index, Index]:
    """Set a share of `rows` apart, as the config says."""
    stream = derive_seed(seed, f"dataset/{split}")
    if config.split == "draw":
        return draw(rows, share, stream)
    chosen = _places(part, rows, stream) < share
    return rows[~chosen], rows[chosen]


def _places(part: Part, rows: Index, seed: int) -> NDArray[np.float64]:
    """Return a place in [0, 1) for each image, which its bytes and the seed alone decide."""
    key = seed.to_bytes(8, "big")
    places = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        images = np.ascontiguousarray(part.images[rows[start : start + _ROWS]])
        for i, image in enumerate(images):
            digest = hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest()
            places[start + i] = int.from_bytes(digest, "big") / 2**64
    return places


def draw(rows: Index, share: float, seed: int) -> tuple[Index, Index]:
    """Draw a share of `rows` (at least one), and return what is left and what was drawn.

    Both keep the order of `rows`.
    """
    count = min(len(rows), max(1, round(share * len(rows))))
    drawn = np.zeros(len(rows), bool)
    drawn[np.random.default_rng(seed).permutation(len(rows))[:count]] = True
    return rows[~drawn], rows[drawn]


def _limited(part: Part, rows: Index, split: str, config: DatasetConfig, seed: int) -> Index:
    if config.limit is None or config.limit >= len(rows):
        return rows
    stream = derive_seed(seed, f"dataset/limit/{split}")
    if config.split == "content":
        first = np.argsort(_places(part, rows, stream), kind="stable")[: config.limit]
        return rows[np.sort(first)]
    rng = np.random.default_rng(stream)
    return rows[np.sort(rng.permutation(len(rows))[: config.limit])]


def _check_counts(rows: dict[str, Index], train: Part, advice: str) -> None:
    counts = {split: len(rows[split]) for split in SPLITS}
    if counts["train"] < 2 or min(counts.values()) < 1:
        shares = ", ".join(f"{split} {n}" for split, n in counts.items())
        raise DataError(
            f"{train.origin} has too few images to split ({shares}): training needs at least 2, "
            f"validation and test 1 each; {advice}"
        )
