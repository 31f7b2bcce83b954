"""Read a data set that ingestion wrote, whole or block by block.

Images are kept as bytes or as floats; :meth:`ImageDataset.floats` gives what models see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.arrays import open_group
from vaesc.datasets.scaling import to_unit
from vaesc.errors import DataError

if TYPE_CHECKING:
    import zarr

DATASET = "dataset.zarr"
_ALL = slice(None)


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images split into train, validation and test; open one with :func:`open_dataset`."""

    source: str
    licence: str
    shape: tuple[int, ...]
    """Shape of one image."""
    low: float
    """Value of a black pixel in the source; see :func:`vaesc.datasets.to_unit`."""
    high: float
    """Value of a white pixel in the source."""
    classes: tuple[str, ...] | None
    counts: Mapping[str, int]
    sha256: Mapping[str, str]
    """Of each split: its images' bytes, then its labels' bytes."""
    group: zarr.Group = field(repr=False, compare=False)

    def n(self, split: str) -> int:
        """Return the number of images of a split."""
        if split not in self.counts:
            raise DataError(f"split must be one of {', '.join(self.counts)}, got {split!r}")
        return self.counts[split]

    def images(self, split: str, rows: slice = _ALL) -> NDArray[Any]:
        """Return images as stored: uint8 in 0..255 or float32 in [0, 1], (n, *shape)."""
        return self._read(split, "images", rows)

    def floats(self, split: str, rows: slice = _ALL) -> NDArray[np.float32]:
        """Return images as models see them: float32 in [0, 1], (n, *shape)."""
        images = self.images(split, rows)
        return images if images.dtype == np.float32 else to_unit(images)

    def labels(self, split: str, rows: slice = _ALL) -> NDArray[np.int64] | None:
        """Return the labels of a split or of some rows, (n,), or None if there are none."""
        self.n(split)
        return self._read(split, "labels", rows) if f"{split}/labels" in self.group else None

    def blocks(self, split: str, n_rows: int) -> Iterator[slice]:
        """Yield row slices that cover a split in order.

        Args:
            split: The split.
            n_rows: Most rows of a block; it is lowered to whole chunks, which read quickest.
        """
        n = self.n(split)
        chunk = int(self.group[f"{split}/images"].chunks[0])
        step = max(1, n_rows // chunk * chunk if n_rows > chunk else n_rows)
        for start in range(0, n, step):
            yield slice(start, min(start + step, n))

    def _read(self, split: str, name: str, rows: slice) -> NDArray[Any]:
        self.n(split)
        try:
            return np.asarray(self.group[f"{split}/{name}"][rows])
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the data set's {split}/{name} cannot be read ({error}); run vaesc verify"
            ) from error


def open_dataset(folder: Path) -> ImageDataset:
    """Open the data set in an artifact's folder.

    Raises:
        DataError: There is none, or it is damaged.
    """
    path = Path(folder) / DATASET
    try:
        group = open_group(path)
        facts = dict(group.attrs)
        classes = facts["classes"]
        return ImageDataset(
            source=facts["source"], licence=facts["licence"], shape=tuple(facts["shape"]),
            low=facts["low"], high=facts["high"], counts=facts["counts"], sha256=facts["sha256"],
            classes=None if classes is None else tuple(classes), group=group,
        )  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a data set of vaesc ({error}); ingest it again") from error
