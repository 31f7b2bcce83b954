"""How long each method takes to code an image, and whether that buys anything.

Times are measured, so they are no part of an evaluation, whose bytes repeat; they are kept beside
it under the evaluation's digest (:func:`encode_seconds`), with the machine they were measured on.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.config import DictionaryConfig, EvaluationConfig
from vaesc.dictionary import SPLITS
from vaesc.evaluation.batches import ROWS, Split
from vaesc.evaluation.dictionaries import load_pixels, plan_of
from vaesc.evaluation.refined import open_refined

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

SECONDS = "seconds.json"
_ROUNDS = 3
Coder = Callable[[Any], Any]


def encode_seconds(
    config: EvaluationConfig,
    dictionary_config: DictionaryConfig,
    inputs: Mapping[str, Path],
    folder: Path,
) -> dict[str, Any]:
    """Time the methods the claim is on: from the pixels of an image to its sparse code.

    Up to 1,024 test images at once, on as many threads as there are, the median of three rounds
    after one that does not count. The VAE's encoder is in the time of every method that needs it.

    Writes ``seconds.json``: method -> seconds an image at each level.

    Args:
        config: Sparsity levels.
        dictionary_config: The model's own level.
        inputs: Folders of ``dataset``, ``vae``, ``dictionary``, ``evaluation`` and, if the run
            refines, ``refined``.
        folder: Empty folder to write into.

    Returns:
        Summary: ``n_images`` and ``threads``.
    """
    from vaesc.bundle import SparseVAE
    from vaesc.datasets.reader import open_dataset

    dataset = open_dataset(inputs["dataset"])
    images = next(Split(dataset, SPLITS[-1], ROWS).batches())[1]
    plan = plan_of(config, dictionary_config)
    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device="cpu"
    )
    refined = None
    if "refined" in inputs:
        refined = open_refined(inputs["dataset"], inputs["refined"], device="cpu")
    pixels = load_pixels(plan, inputs["refined" if refined else "evaluation"])
    found = {
        name: [_median(coder, images) / len(images) for coder in by_level]
        for name, by_level in _coders(model, refined, pixels or {}, plan.levels).items()
    }
    (folder / SECONDS).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return {"n_images": len(images), "threads": os.cpu_count()}


def _coders(
    model: SparseVAE, refined: Mapping[int, SparseVAE] | None, pixels: Mapping[int, Any],
    levels: tuple[int, ...],
) -> dict[str, list[Coder]]:  # fmt: skip
    def of(one: SparseVAE, k: int) -> Coder:
        level = min(k, one.n_atoms)
        return lambda x: one.codes_of_unit(x.reshape(-1, *one.shape), level)

    found: dict[str, list[Coder]] = {"article": [of(model, k) for k in levels]}
    if refined:
        found["refined"] = [of(refined[k], min(k, refined[k].n_nonzero_coefs)) for k in levels]
    if pixels:
        found["pixel"] = [lambda x, k=k: pixels[k].path(x, [k]) for k in levels]  # type: ignore[misc]
    return found


def _median(coder: Coder, images: Any) -> float:  # noqa: ANN401
    times = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        coder(images)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
