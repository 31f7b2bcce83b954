"""Sparse codes of latents by many workers: each codes some hundred thousand rows of a split.

A product's last bits depend on its size, so a coder works in blocks of fixed length; a shard is
whole blocks of the split's. Codes are thus those that :meth:`LatentDictionary.encode` gives for
the split at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.csr_parts import read_csr_part, write_csr_part
from vaesc.dictionary import LatentDictionary
from vaesc.dictionary_files import load_dictionary
from vaesc.latents import open_latents
from vaesc.shards import Runner, Shard, name_of, parts_folder, spans

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ROWS = 262_144
"""About so many latents of 32 dimensions to a shard: seconds of work, and a part of some 25 MB; of
longer ones as many as take the same memory."""


def code_by_shards(
    runner: Runner,
    dictionary_folder: Path,
    latents_folder: Path,
    split: str,
    take: Callable[[csr_array], None],
    *,
    checkpoints: Path | None = None,
) -> None:
    """Code a split and hand over its codes, in order, some hundred thousand rows at a time.

    Args:
        runner: Who codes.
        dictionary_folder: Where :func:`vaesc.dictionary.save_dictionary` wrote the dictionary;
            every worker must see it.
        latents_folder: Artifact of :func:`vaesc.latents.extract`.
        split: ``train``, ``validation`` or ``test``.
        take: Gets the codes of the next rows, shape (m, K).
        checkpoints: Keeps parts for a killed call's successor; default: none.
    """
    dictionary, latents = load_dictionary(dictionary_folder), open_latents(latents_folder)
    rows = rows_per_shard(dictionary)
    digest = _digest(dictionary_folder)

    def passed_on(shard: Shard, found: dict[str, Any]) -> None:
        take(read_csr_part(shard.part, "codes"))

    with parts_folder(checkpoints, dictionary_folder) as parts:
        shards = [
            Shard(
                name=(name := f"code {split}/{number}"), function=f"{__name__}:code_shard",
                part=parts / name_of(name),
                arguments={
                    "dictionary_sha256": digest, "latents": str(latents_folder.resolve()),
                    "split": split, "start": span.start, "stop": span.stop,
                },
                how={"dictionary": str(dictionary_folder.resolve())},
            )
            for number, span in enumerate(spans(latents.n(split), rows))
        ]  # fmt: skip
        runner.map(shards, passed_on)


def code_shard(
    folder: Path,
    *,
    dictionary: str,
    dictionary_sha256: str,
    latents: str,
    split: str,
    start: int,
    stop: int,
) -> dict[str, Any]:
    """Code some rows of a split."""
    from vaesc.sparse._blocks import single_threaded_blas
    from vaesc.training.threads import one_thread

    loaded = load_dictionary(Path(dictionary))
    rows = open_latents(Path(latents)).latents(split, slice(start, stop))
    with one_thread(), single_threaded_blas():
        codes = loaded.encode(rows)
    write_csr_part(folder, "codes", codes)
    return {"n": stop - start, "nnz": int(codes.nnz)}


def rows_per_shard(dictionary: LatentDictionary) -> int:
    """Return how many latents a shard codes: whole blocks of the coder's."""
    block, d = block_rows_of(dictionary), int(dictionary.dictionary.shape[1])
    return max(1, ROWS * 32 // max(d, 32) // block) * block


def block_rows_of(dictionary: LatentDictionary) -> int:
    """Return how many samples the dictionary's coder takes at once."""
    from vaesc.sparse import rows_coded_together

    rows: int = rows_coded_together(dictionary.coder, *dictionary.dictionary.shape)
    return rows


def _digest(folder: Path) -> str:
    from hashlib import sha256

    from vaesc.dictionary_files import SETTINGS, WEIGHTS

    return sha256(
        b"".join((folder / name).read_bytes() for name in (WEIGHTS, SETTINGS))
    ).hexdigest()
