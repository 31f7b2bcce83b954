"""Run a model over new images, however many: codes, errors, anomaly scores, and the drift of all.

Images are read, coded and written block by block, so that memory does not grow with their number.
What is written is a folder that is whole or absent::

    OUT/
      scores.zarr   codes      CSR in the layout of anndata, shape (n, K), float32
                    mse        each image's squared error, pixels in [0, 1], shape (n,), float32
                    p_value    how unusual that error is, shape (n,), float32
      summary.json  means, the model's digest, the images' fingerprint, the verdict on drift

Who computes the blocks (:mod:`vaesc.scoring_batch`) is one process's threads, or workers
(:mod:`vaesc.scoring_shards`): the bytes depend neither on that nor on the size of a block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.arrays import Appender, CsrAppender, create_array, create_group, open_group, read_csr
from vaesc.bundle import SparseVAE
from vaesc.datasets.sources import source_of
from vaesc.drift import ALPHA, Drift, Statistics, compare
from vaesc.drift.null import rank_of
from vaesc.errors import ConfigError, DataError
from vaesc.progress import SILENT, Listener
from vaesc.scoring_batch import Batch, Block, Images, images_of, source_config
from vaesc.scoring_shards import score_by_shards
from vaesc.shards import HERE, Runner
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
        workers: Blocks computed at once by threads of this process; default: one a core. Each
            needs memory of its own, a few hundred MB where images are coded by descent. No part
            of the result. Another `runner` has a number of its own.
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
        ConfigError: A setting is out of its range or of no effect, or images in memory are to be
            scored elsewhere.
    """
    elsewhere = runner is not HERE
    if elsewhere and isinstance(images, np.ndarray):
        raise ConfigError(
            "images in memory cannot be scored by other processes; save them as .npy and give "
            "the path, or score with threads"
        )
    if elsewhere and workers is not None:
        raise ConfigError(
            f"workers={workers} has no effect with a runner, which has its own; leave it out"
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
        parts, fingerprint = images_of(images)
        batch = Batch(model, model.reference, parts)
        written = _Written(batch, made / SCORES, listener)
        if isinstance(images, np.ndarray) or not elsewhere:
            for block in batch.blocks(batch.spans(block_size), workers):
                written.take(block)
        else:
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
    config = source_config(images)
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
        from vaesc.bundle import whole_csr

        with _readable("codes"):
            return whole_csr(read_csr(self.group, "codes"))

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
