"""A batch of images that are checked against a model, and what the model makes of them.

Blocks are whole groups of the network's, each is computed on one thread, and several are computed
side by side: the bytes depend neither on the block size nor on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.bucket import is_remote
from vaesc.bundle import GROUP, SparseVAE, squared_errors
from vaesc.config import DatasetConfig, expanded
from vaesc.datasets.base import WHOLE, Part, RawImages
from vaesc.datasets.files import digest_of_arrays
from vaesc.datasets.scaling import is_integer_range, scaled, to_unit
from vaesc.datasets.sources import source_of
from vaesc.datasets.validation import check_shape
from vaesc.datasets.zarr_rows import is_zarr
from vaesc.drift import Reference, Statistics
from vaesc.errors import DataError
from vaesc.shards import in_order, spans

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Images = Path | str | NDArray[Any]
"""A folder of image files; a .npy, .npz, .zarr or IDX file; the URL of Zarr in a bucket
(``s3://...``); or an array, shape (n, ...)."""


@dataclass(frozen=True)
class Block:
    """What a model makes of a few images."""

    codes: csr_array
    mse: NDArray[np.float32]
    p_values: NDArray[np.float32]
    statistics: Statistics


@dataclass(frozen=True)
class Span:
    """Consecutive images of one part, and the black and white of all of its floats."""

    part: int
    rows: range
    limits: tuple[float, float] | None


class Batch:
    """Images that are checked against a model, and what it makes of them."""

    def __init__(self, model: SparseVAE, reference: Reference, parts: list[Part]) -> None:
        self.model, self.reference, self.parts = model, reference, parts
        shape, wanted = parts[0].images.shape[1:], model.shape
        if shape not in (wanted, (math.prod(wanted),)):
            raise DataError(
                f"{parts[0].origin}: an image has shape {shape}, but the model takes {wanted} or "
                f"({math.prod(wanted)},); give it images like those it was trained on"
            )
        self.shape = shape
        self.n = sum(part.images.shape[0] for part in parts)

    def spans(self, size: int, block_size: int | None = None) -> list[Span]:
        """Return all images in spans of about `size`, whole groups of the network's.

        Args:
            size: Images of a span.
            block_size: Images in memory at once while pixels are looked at; default: `size`.

        Raises:
            DataError: A pixel is not finite, or far outside the model's range.
        """
        looked_at = whole_groups(block_size or size)
        ranges = [_range_of(part, looked_at, self.model) for part in self.parts]
        return [
            Span(i, rows, limits)
            for i, (part, limits) in enumerate(zip(self.parts, ranges, strict=True))
            for rows in spans(part.images.shape[0], whole_groups(size))
        ]

    def blocks(self, wanted: Iterable[Span], workers: int | None) -> Iterator[Block]:
        """Yield what the model makes of each span, in order; a few are computed ahead."""
        from vaesc.sparse._blocks import resolve_threads
        from vaesc.training.threads import one_thread

        n_workers = resolve_threads(workers) if self.model.vae.device.type == "cpu" else 1
        # What is made at the first call is made once, not by all workers at the same time.
        self.model.unit_reconstructions(np.zeros((1, *self.model.shape), np.float32))
        with one_thread():
            yield from in_order(self._scored, wanted, n_workers)

    def _scored(self, span: Span) -> Block:
        model, part, rows, limits = self.model, self.parts[span.part], span.rows, span.limits
        block = part.images[np.arange(rows.start, rows.stop)]
        unit = self._unit(block, part, rows.start, limits).reshape(len(block), *model.shape)
        codes = model.codes_of_unit(unit)
        mse = squared_errors(unit, model.unit_images(model.dictionary.decode(codes)))
        p_values = self.reference.p_values(mse)
        return Block(codes, mse, p_values, Statistics.of(self.reference, codes, mse))

    def _unit(
        self, block: NDArray[Any], part: Part, start: int, limits: tuple[float, float] | None
    ) -> NDArray[np.float32]:
        """Return a block in [0, 1]; a complaint names the image."""
        if limits is not None:
            return scaled(block, *limits)
        try:
            return to_unit(block, low=self.model.low, high=self.model.high)
        except DataError:
            for i, image in enumerate(block):
                try:
                    to_unit(image, low=self.model.low, high=self.model.high)
                except DataError as error:
                    raise DataError(f"{part.origin}: image {start + i}: {error}") from error
            raise


def open_parts(images: Path | str) -> list[Part]:
    """Return the parts that hold the images of a path."""
    config = source_config(images)
    raw = source_of(config).load(config, seed=0)
    check_shape(raw)
    return list(raw.parts.values())


def whole_groups(size: int) -> int:
    """Return about `size`, in whole groups of the network's."""
    return max(1, size // GROUP) * GROUP


def images_of(images: Images) -> tuple[list[Part], str]:
    """Return the parts that hold the images, and the SHA-256 of their files."""
    if isinstance(images, np.ndarray):
        raw = RawImages(parts={WHOLE: Part(images=images, origin="the array")}, licence="")
        check_shape(raw)
        return list(raw.parts.values()), digest_of_arrays(images)
    config = source_config(images)
    return open_parts(images), source_of(config).fingerprint(config)


def source_config(images: Path | str) -> DatasetConfig:
    """Return the settings of the data source that reads a path."""
    if is_remote(images):
        return DatasetConfig(source="arrays", path=str(images))
    path = expanded(images)
    is_folder = path.is_dir() and not is_zarr(path)
    return DatasetConfig(source="folder" if is_folder else "arrays", path=str(path))


def _range_of(part: Part, size: int, model: SparseVAE) -> tuple[float, float] | None:
    """Return the black and the white of floats, in the light of all of them; None for integers.

    Floats of at most 1 may be in [0, 1] although the model's range is one of integers: that is
    a question to all images of a file, never to a block of them.

    Raises:
        DataError: A pixel is not finite, or far outside the range.
    """
    if part.images.dtype.kind != "f":
        return None
    ends = [(math.inf, 0), (-math.inf, 0)]
    for rows in spans(part.images.shape[0], size):
        block = part.images[np.arange(rows.start, rows.stop)].reshape(rows.stop - rows.start, -1)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{part.origin}: image {rows.start + int(np.argmin(finite))} holds NaN or "
                "infinity; every pixel must be finite, so remove or repair the image"
            )
        small, large = block.min(axis=1), block.max(axis=1)
        ends[0] = min(ends[0], (float(small.min()), rows.start + int(small.argmin())))
        ends[1] = max(
            ends[1], (float(large.max()), rows.start + int(large.argmax())), key=lambda e: e[0]
        )
    (smallest, low_at), (largest, high_at) = ends
    try:
        to_unit(np.array([smallest, largest]), low=model.low, high=model.high)
    except DataError as error:
        raise DataError(
            f"{part.origin}: {error} (image {low_at} has the smallest value, image {high_at} the "
            "largest)"
        ) from error
    if is_integer_range(model.low, model.high) and largest <= 1:
        return 0.0, 1.0
    return model.low, model.high
