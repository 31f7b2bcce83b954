"""Run a model over new images, however many: codes, errors, anomaly scores, and the drift of all.

Images are read, coded and written block by block, so that memory does not grow with their number.
What is written is a folder that is whole or absent::

    OUT/
      scores.zarr   codes      CSR in the layout of anndata, shape (n, K), float32
                    mse        each image's squared error, pixels in [0, 1], shape (n,), float32
                    p_value    how unusual that error is, shape (n,), float32
      summary.json  means, the model's digest, the images' fingerprint, the verdict on drift

Blocks are whole groups of the network's, each is computed on one thread, and several are computed
side by side: the bytes depend neither on the block size nor on the number of threads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.arrays import Appender, CsrAppender, create_array, create_group, open_group, read_csr
from vaesc.bucket import is_remote
from vaesc.bundle import GROUP, SparseVAE, squared_errors
from vaesc.config import DatasetConfig, expanded
from vaesc.datasets.base import WHOLE, Part, RawImages
from vaesc.datasets.files import digest_of_arrays
from vaesc.datasets.scaling import is_integer_range, scaled, to_unit
from vaesc.datasets.sources import source_of
from vaesc.datasets.validation import check_shape
from vaesc.datasets.zarr_rows import is_zarr
from vaesc.drift import ALPHA, Drift, Reference, Statistics, compare
from vaesc.drift.null import rank_of
from vaesc.errors import ConfigError, DataError
from vaesc.progress import SILENT, Listener
from vaesc.shards import HERE, Runner, in_order, spans
from vaesc.store import check_absent, whole_or_absent
from vaesc.untrusted import check_all_inside, read_json

if TYPE_CHECKING:
    import zarr
    from scipy.sparse import csr_array

SCORES = "scores.zarr"
SUMMARY = "summary.json"
UNUSUAL = 0.01
"""P-value up to which an image counts as unusual; of the model's own at most this share does."""
_FORMAT = 1

Images = Path | str | NDArray[Any]
"""A folder of image files; a .npy, .npz, .zarr or IDX file; the URL of Zarr in a bucket
(``s3://...``); or an array, shape (n, ...)."""


def score_images(
    model: SparseVAE,
    images: Images,
    folder: Path,
    *,
    block_size: int = 8192,
    workers: int | None = None,
    alpha: float = ALPHA,
    listener: Listener = SILENT,
    runner: Runner = HERE,
) -> dict[str, Any]:
    """Score images and write what comes of it to `folder`.

    Args:
        model: The model, with its reference.
        images: What to score. All parts of a file that has a split are scored: train, validation,
            test, in this order.
        folder: Where to write; must not exist.
        block_size: Images in memory at once, for each worker; no part of the result.
        workers: Blocks computed side by side; default: one a core. Each needs memory of its own,
            a few hundred MB where images are coded by descent. No part of the result.
        alpha: Largest probability that drift is seen where there is none.
        listener: Hears of progress.
        runner: Who scores: threads of this process, or workers, to whom the images must be a
            path that they see too. No part of the result.

    Returns:
        What ``summary.json`` holds.

    Raises:
        DataError: The model has no reference; or an image cannot be read, or has a shape or range
            that is not the model's. Nothing is written then.
        StoreError: `folder` exists, or cannot be written.
        ConfigError: A setting is out of its range, or images in memory are to be scored elsewhere.
    """
    elsewhere = runner is not HERE
    if elsewhere and isinstance(images, np.ndarray):
        raise ConfigError(
            "images in memory cannot be scored by other processes; save them as .npy and give "
            "the path, or score with threads"
        )
    for name, value in (("block_size", block_size), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    rank_of(alpha)
    if model.reference is None:
        raise DataError(
            "the model knows nothing of its own data (it has no reference.json), so neither "
            "anomalies nor drift can be seen; run the pipeline again, which registers it with one"
        )
    with whole_or_absent(Path(folder)) as made:
        parts, fingerprint = _opened(images)
        batch = Batch(model, model.reference, parts)
        written = _Written(batch, made / SCORES, listener)
        if isinstance(images, np.ndarray) or not elsewhere:
            for block in batch.blocks(batch.spans(block_size), workers):
                written.take(block)
        else:
            from vaesc.scoring_shards import score_by_shards

            score_by_shards(runner, batch, images, fingerprint, block_size, made, written.take)
        statistics = written.close()
        drift = compare(model.reference, statistics, alpha=alpha)
        summary = _summary(batch, statistics, written.n_unusual, drift, fingerprint)
        text = json.dumps(summary, indent=1, sort_keys=True, allow_nan=False)
        (made / SUMMARY).write_text(text + "\n", encoding="utf-8")
    return summary


def check_paths(images: Path | str, folder: Path) -> None:
    """Refuse images that are not there and a folder that is, before a model is loaded.

    Raises:
        DataError: There are no such images.
        StoreError: `folder` exists.
    """
    config = _config(images)
    source_of(config).check(config)
    check_absent(folder)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Say that scores are damaged, whatever Zarr says of it."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise DataError(f"the scores' {name} cannot be read ({error}); score again") from error


@dataclass(frozen=True)
class Scores:
    """What :func:`score_images` wrote, read on demand."""

    group: zarr.Group
    summary: dict[str, Any]

    def codes(self) -> csr_array:
        """Return the codes, shape (n, K)."""
        with _readable("codes"):
            return read_csr(self.group, "codes")

    def mse(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return each image's squared error, pixels in [0, 1], shape (n,)."""
        with _readable("mse"):
            return np.asarray(self.group["mse"][rows])

    def p_values(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return how unusual each error is, see :meth:`Reference.p_values`, shape (n,)."""
        with _readable("p_value"):
            return np.asarray(self.group["p_value"][rows])


def open_scores(folder: Path) -> Scores:
    """Open what :func:`score_images` wrote.

    Raises:
        DataError: There is nothing of the kind.
    """
    try:
        check_all_inside(Path(folder))
        summary = read_json(Path(folder) / SUMMARY)
        group = open_group(Path(folder) / SCORES)
        if missing := {"codes", "mse", "p_value"} - set(group):
            raise ValueError(f"{min(missing)} is missing")
        return Scores(group, summary)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise DataError(f"{folder} holds no scores of vaesc: {error}") from error


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


class _Written:
    """Writes codes, errors and p-values as they come, and adds up their statistics."""

    def __init__(self, batch: Batch, path: Path, listener: Listener) -> None:
        model = batch.model
        group = create_group(path, {"format": _FORMAT, "model": model.digest or ""})
        most = batch.n * min(model.n_nonzero_coefs, model.n_atoms)
        self._codes = CsrAppender(group, "codes", (batch.n, model.n_atoms), most, np.float32)
        self._mse, self._p_values = (
            Appender(create_array(group, name, (batch.n,), np.float32, ("sample",)))
            for name in ("mse", "p_value")
        )
        self._n, self._listener = batch.n, listener
        self._found: Statistics | None = None
        self.n_unusual = 0

    def take(self, block: Block) -> None:
        """Write the next images' block."""
        self._codes.append(block.codes)
        self._mse.append(block.mse)
        self._p_values.append(block.p_values)
        self.n_unusual += int(np.count_nonzero(block.p_values <= UNUSUAL))
        self._found = block.statistics if self._found is None else self._found + block.statistics
        self._listener.progress(self._found.n_images, self._n)

    def close(self) -> Statistics:
        """Write what is held back, and return the statistics of all images."""
        for appender in (self._codes, self._mse, self._p_values):
            appender.close()
        assert self._found is not None  # an empty source was refused
        return self._found


def open_parts(images: Path | str) -> list[Part]:
    """Return the parts that hold the images of a path."""
    config = _config(images)
    raw = source_of(config).load(config, seed=0)
    check_shape(raw)
    return list(raw.parts.values())


def whole_groups(size: int) -> int:
    """Return about `size`, in whole groups of the network's."""
    return max(1, size // GROUP) * GROUP


def _opened(images: Images) -> tuple[list[Part], str]:
    """Return the parts that hold the images, and the SHA-256 of their files."""
    if isinstance(images, np.ndarray):
        raw = RawImages(parts={WHOLE: Part(images=images, origin="the array")}, licence="")
        check_shape(raw)
        return list(raw.parts.values()), digest_of_arrays(images)
    config = _config(images)
    return open_parts(images), source_of(config).fingerprint(config)


def _config(images: Path | str) -> DatasetConfig:
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


def _summary(
    batch: Batch, statistics: Statistics, n_unusual: int, drift: Drift, fingerprint: str
) -> dict[str, Any]:
    """Return what there is to say of a batch; nothing of when, where and how fast."""
    model, reference = batch.model, batch.reference
    return {
        "format": _FORMAT,
        "n_images": statistics.n_images,
        "mse": statistics.mse,
        "l0": statistics.l0,
        "unusual_fraction": n_unusual / statistics.n_images,
        "drift": drift.to_json(),
        "model": {
            "digest": model.digest,
            "n_atoms": model.n_atoms,
            "n_nonzero_coefs": model.n_nonzero_coefs,
            "reference": {
                "n_images": reference.n_images,
                "mse": float(np.mean(reference.mse)),
                "l0": float(np.mean(reference.l0)),
            },
        },
        "source": {"fingerprint": fingerprint, "shape": [batch.n, *batch.shape]},
    }
