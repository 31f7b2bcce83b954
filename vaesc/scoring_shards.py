"""Scores of a batch of images by many workers: each scores a few thousand, one adds them up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.bucket import place
from vaesc.bundle import SparseVAE
from vaesc.csr_parts import read_csr_part, write_csr_part
from vaesc.datasets.sources import source_of
from vaesc.drift import Statistics
from vaesc.errors import DataError
from vaesc.processes import surroundings
from vaesc.scoring_batch import Batch, Block, Span, open_parts, source_config, whole_groups
from vaesc.shards import Runner, Shard, held, name_of, parts_folder

ROWS = 65_536
"""Images of a shard: seconds of work for the quickest model, so that handing it over costs a few
hundredths of it; its part is a few MB."""
_ARRAYS = ("mse", "p_values")


def score_by_shards(
    runner: Runner,
    batch: Batch,
    images: Path | str,
    fingerprint: str,
    block_size: int,
    folder: Path,
    take: Callable[[Block], None],
) -> None:
    """Let `runner` score all images of a batch, and hand over what comes of it, in order.

    Args:
        runner: Who scores.
        batch: The images and the model.
        images: Where every worker finds the same images; each machine reads them to see that.
        fingerprint: What they are.
        block_size: Images in memory at once.
        folder: Folder for what is handed over; nothing stays there.
        take: Gets each shard's block.

    Raises:
        DataError: A worker finds other images there, or none.
    """
    spans = batch.spans(ROWS, block_size)
    reference = batch.reference

    def passed_on(shard: Shard, found: dict[str, Any]) -> None:
        codes = read_csr_part(shard.part, "codes")
        mse, p_values = (np.load(shard.part / f"{a}.npy", allow_pickle=False) for a in _ARRAYS)
        # Sums of statistics are exact: those of all images are those of any parts, added.
        take(Block(codes, mse, p_values, Statistics.of(reference, codes, mse)))

    with parts_folder(None, folder / "scores") as parts:
        batch.model.save(parts / "model")
        _note(parts).write_text(fingerprint, encoding="utf-8")
        where = images if isinstance(images, str) else str(images.expanduser().resolve())
        common = {
            "model": str(parts / "model"), "images": where,
            "fingerprint": fingerprint,
        }  # fmt: skip
        how = {"device": str(batch.model.vae.device), "block_size": block_size}
        runner.map([_shard(i, s, parts, common, how) for i, s in enumerate(spans)], passed_on)


def score_shard(
    folder: Path,
    *,
    model: str,
    images: str,
    fingerprint: str,
    span: list[Any],
    device: str,
    block_size: int,
) -> dict[str, Any]:
    """Score one span of images: codes, errors and p-values."""
    number, start, stop, limits = span
    from scipy.sparse import vstack

    batch = _opened(model, images, fingerprint, device)
    size = whole_groups(block_size)
    spans = [
        Span(number, range(i, min(i + size, stop)), tuple(limits) if limits else None)
        for i in range(start, stop, size)
    ]
    blocks = list(batch.blocks(spans, None))
    write_csr_part(folder, "codes", vstack([b.codes for b in blocks], format="csr"))
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", np.concatenate([getattr(b, name) for b in blocks]))
    return {"n": stop - start}


def _shard(
    number: int, span: Span, parts: Path, common: dict[str, Any], how: dict[str, Any]
) -> Shard:
    name = f"score {number}"
    where = [span.part, span.rows.start, span.rows.stop, span.limits and list(span.limits)]
    return Shard(
        name=name, function=f"{__name__}:score_shard", part=parts / name_of(name),
        arguments={**common, "span": where}, how=how,
    )  # fmt: skip


@held
def _opened(model: str, images: str, fingerprint: str, device: str) -> Batch:
    """Open model and images, once for all shards of a batch that this process computes.

    Raises:
        DataError: They are not the images of the process that leads, or not there.
    """
    _require_same(Path(model).parent, images, fingerprint)
    loaded = SparseVAE.load(Path(model), device)
    assert loaded.reference is not None  # the batch was refused without
    return Batch(loaded, loaded.reference, open_parts(place(images)))


def _require_same(parts: Path, images: str, fingerprint: str) -> None:
    """Read all images once on each machine but the leader's: are they those of the batch?

    The first process there does it while the others wait, and notes it beside the parts.

    Raises:
        DataError: They are others, or not there.
    """
    with _note(parts).open("a+", encoding="utf-8") as note:
        with suppress(OSError, ImportError):  # without locks each looks for itself
            import fcntl

            fcntl.flock(note, fcntl.LOCK_EX)
        note.seek(0)
        if note.read():
            return
        config = source_config(place(images))
        if source_of(config).fingerprint(config) != fingerprint:
            raise DataError(
                f"{images} holds other images for a worker than for the process that leads: "
                "every machine must see the same ones there, and nobody may alter them meanwhile"
            )
        note.write(fingerprint)


def _note(parts: Path) -> Path:
    return parts / f"images.{surroundings()}"
