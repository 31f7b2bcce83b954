"""Check, split and write: the step that makes a data set.

The artifact is one Zarr group, ``dataset.zarr``: for each split ``<split>/images`` (n, *shape),
uint8 or float32, and ``<split>/labels`` (n,), int64, where there are labels. Its attributes say
what it is. Each split's SHA-256 is that of its images' bytes, then its labels' bytes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.arrays import create_array, create_group, shard_blocks, write_array
from vaesc.config import DatasetConfig
from vaesc.datasets.base import RawImages
from vaesc.datasets.reader import DATASET
from vaesc.datasets.sources import source_of
from vaesc.datasets.splits import Selection, select_splits
from vaesc.datasets.validation import (
    Scale,
    check_shape,
    check_varied,
    decide_scale,
    survey,
    warn_if_dark,
)
from vaesc.errors import DataError
from vaesc.progress import SILENT, Listener

if TYPE_CHECKING:
    import zarr

logger = logging.getLogger(__name__)

_AXES = {1: ("feature",), 2: ("row", "column"), 3: ("channel", "row", "column")}
_BLOCK_BYTES = 64 * 1024 * 1024


def ingest(
    config: DatasetConfig, folder: Path, *, seed: int, block_size: int, listener: Listener = SILENT
) -> dict[str, Any]:
    """Write a source's images to ``folder/dataset.zarr``.

    Args:
        config: Which images, and how they are split.
        folder: An empty folder.
        seed: The run's seed.
        block_size: Images held in memory at once; it changes no byte that is written.
        listener: Hears how many images are written.

    Returns:
        The summary: counts, shape, classes, licence, range, SHA-256 per split, metrics.

    Raises:
        DataError: The images are missing, damaged, or not fit to learn from.
    """
    raw = source_of(config).load(config, seed)
    shape = check_shape(raw)
    splits = select_splits(raw, config, seed)
    row_bytes = int(np.prod(shape)) * next(iter(raw.parts.values())).images.dtype.itemsize
    block_rows = max(1, min(block_size, _BLOCK_BYTES // row_bytes))
    scale = _checked_scale(raw, splits, config, block_rows)
    group = create_group(folder / DATASET)
    digests, done, total = {}, 0, sum(len(s.rows) for s in splits.values())
    for split, selection in splits.items():
        digests[split] = _write(
            group, split, selection, scale, block_rows, (done, total), listener
        )
        done += len(selection.rows)
    attributes = _attributes(config, raw, shape, splits, scale, digests)
    group.attrs.update(attributes)
    return _summary(attributes, splits)


def _checked_scale(
    raw: RawImages, splits: Mapping[str, Selection], config: DatasetConfig, block_rows: int
) -> Scale:
    _check_classes(raw, splits)
    dtype = splits["train"].part.images.dtype
    enough = dtype == np.uint8 and config.rescale == "strict"
    facts = {name: survey(split, block_rows, enough=enough) for name, split in splits.items()}
    origins = {name: split.part.origin for name, split in splits.items()}
    check_varied(facts["train"], origins["train"])
    scale = decide_scale(facts, origins, dtype, config, raw.high)
    if not enough or config.source in ("arrays", "folder"):
        warn_if_dark(scale, facts["train"], origins["train"])
    return scale


def _check_classes(raw: RawImages, splits: Mapping[str, Selection]) -> None:
    for split in splits.values():
        labels = split.labels
        if raw.classes is None or labels is None:
            continue
        if labels.min() < 0 or labels.max() >= len(raw.classes):
            raise DataError(
                f"{split.part.origin}: labels must lie in 0..{len(raw.classes) - 1}, got values "
                f"from {labels.min()} to {labels.max()}; they belong to other images"
            )


def _write(
    group: zarr.Group, split: str, selection: Selection, scale: Scale, block_rows: int,
    progress: tuple[int, int], listener: Listener,
) -> str:  # fmt: skip
    """Write one split block by block, and return its SHA-256."""
    n, *shape = len(selection.rows), *selection.part.images.shape[1:]
    axes = ("sample", *_AXES[len(shape)])
    array = create_array(group, f"{split}/images", (n, *shape), scale.dtype, axes)
    digest = hashlib.sha256()
    done, total = progress
    for block in shard_blocks(array, block_rows):
        images = np.ascontiguousarray(scale.apply(selection.part.images[selection.rows[block]]))
        array[block] = images
        digest.update(images.data)
        listener.progress(done + block.stop, total)
    if selection.labels is not None:
        labels = np.ascontiguousarray(selection.labels)
        write_array(group, f"{split}/labels", labels, ("sample",))
        digest.update(labels.data)
    return digest.hexdigest()


def _attributes(
    config: DatasetConfig, raw: RawImages, shape: tuple[int, ...],
    splits: Mapping[str, Selection], scale: Scale, digests: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Return what the group says of itself, in a fixed order."""
    return {
        "classes": None if raw.classes is None else list(raw.classes),
        "clip": True,
        "counts": {name: len(split.rows) for name, split in splits.items()},
        "high": scale.high,
        "licence": raw.licence,
        "low": scale.low,
        "sha256": dict(digests),
        "shape": list(shape),
        "source": config.source,
    }


def _summary(attributes: Mapping[str, Any], splits: Mapping[str, Selection]) -> dict[str, Any]:
    counts = {f"n_{name}": n for name, n in attributes["counts"].items()}
    named = attributes["classes"]
    labels = [split.labels for split in splits.values() if split.labels is not None]
    n_classes = len(named) if named else len(np.unique(np.concatenate(labels))) if labels else None
    kept = {
        key: attributes[key] for key in ("source", "shape", "licence", "low", "high", "sha256")
    }
    metrics = {f"{key.removeprefix('n_')}/n_images": float(n) for key, n in counts.items()}
    logger.info("%s: %s images of shape %s", kept["source"], counts, tuple(kept["shape"]))
    return {**kept, **counts, "n_classes": n_classes, "metrics": metrics}
