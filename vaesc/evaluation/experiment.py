"""The step *evaluate*: fit every method, measure it on the test split, and write it down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.bundle import SparseVAE
from vaesc.config import DictionaryConfig, EvaluationConfig, derive_seed
from vaesc.evaluation import results
from vaesc.evaluation.baselines import PIXELS, learn_pixel_dictionary, load_pixel_dictionary
from vaesc.evaluation.batches import Split
from vaesc.evaluation.comparison import Measured, measure
from vaesc.evaluation.methods import fit_methods
from vaesc.progress import Listener

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset
    from vaesc.latents import LatentStore


def evaluate(
    config: EvaluationConfig,
    dictionary_config: DictionaryConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    seed: int,
    device: str,
    block_size: int,
    listener: Listener,
) -> dict[str, Any]:
    """Compare all methods on the test split, at equal k and K.

    Writes ``results.json``, ``table.csv``, ``errors.safetensors`` (each image's squared error by
    method and k), ``pixel_dictionary.safetensors`` and the figures (see
    :mod:`vaesc.report.figures`).

    Args:
        config: Sparsity levels and sizes of samples.
        dictionary_config: Settings the pixel dictionary shares with the latent one.
        inputs: Folders of the artifacts ``dataset``, ``vae``, ``latents`` and ``dictionary``;
            optionally ``pixel_dictionary``, a folder that holds one already.
        folder: Empty folder to write into.
        seed: The run's seed.
        device: Where torch computes.
        block_size: Images held in memory at once; no result depends on it.
        listener: Hears of progress and of the pixel dictionary's epochs.

    Returns:
        Summary: ``n_test``, ``metrics``, ``verdict`` (a sentence) and ``crossover``.

    Raises:
        DataError: The dictionary was learned on another VAE's latents, or an artifact is damaged.
    """
    subject = _open(inputs, device)
    levels = sorted({*config.sparsity_levels, subject.model.n_nonzero_coefs})
    splits = [Split(subject.dataset, name, block_size) for name in ("train", "test")]
    pixels = inputs.get("pixel_dictionary", folder)
    learns = not (pixels / PIXELS).exists()
    heard = _Progress(listener, splits, dictionary_config.max_epochs if learns else 0)
    if learns:
        learn_pixel_dictionary(
            dictionary_config, inputs["dataset"], folder, seed=seed, block_size=block_size,
            listener=heard,
        )  # fmt: skip
    measured, written = _compare(subject, splits, pixels, levels, seed=seed, on_rows=heard.add)
    written["metrics"] |= _model_metrics(
        config, subject, measured, seed=seed, block_size=block_size
    )
    results.write(written, measured, folder)
    _draw(config, subject, splits[1], measured, written, pixels, inputs, folder)
    return {
        "n_test": written["n_test"],
        "metrics": written["metrics"],
        "verdict": written["verdict"],
        "crossover": written["crossover"],
    }


@dataclass(frozen=True)
class _Subject:
    """What is evaluated."""

    model: SparseVAE
    dataset: ImageDataset
    latents: LatentStore


def _open(inputs: Mapping[str, Path], device: str) -> _Subject:
    from vaesc.datasets.reader import open_dataset
    from vaesc.latents import open_latents

    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device=device
    )
    return _Subject(model, open_dataset(inputs["dataset"]), open_latents(inputs["latents"]))


def _compare(
    subject: _Subject,
    splits: list[Split],
    pixels: Path,
    levels: list[int],
    *,
    seed: int,
    on_rows: Callable[[int], None],
) -> tuple[Measured, dict[str, Any]]:
    """Fit on the training split, measure on the test split."""
    train, test = splits
    methods = fit_methods(
        train, subject.latents, subject.model.dictionary, load_pixel_dictionary(pixels), levels,
        seed=seed, on_rows=on_rows,
    )  # fmt: skip
    measured = measure(subject.model, methods, test, subject.latents, levels, on_rows=on_rows)
    stream = derive_seed(seed, "evaluate/bootstrap")
    written = results.assemble(measured, methods, _facts(subject), seed=stream)
    return measured, {**written, "metrics": results.metrics_of(written)}


def _facts(subject: _Subject) -> dict[str, Any]:
    model, dataset = subject.model, subject.dataset
    return {
        "source": dataset.source,
        "shape": list(dataset.shape),
        "n_train": dataset.n("train"),
        "n_test": dataset.n("test"),
        "latent_dim": model.latent_dim,
        "n_atoms": model.n_atoms,
        "n_nonzero_coefs": model.n_nonzero_coefs,
        "coder": model.dictionary.coder,
    }


def _model_metrics(
    config: EvaluationConfig,
    subject: _Subject,
    measured: Measured,
    *,
    seed: int,
    block_size: int,
) -> dict[str, float]:
    """Metrics of the VAE and of the dictionary that are no part of a curve."""
    from vaesc import metrics
    from vaesc.models import evaluate_elbo

    elbo = evaluate_elbo(
        subject.model.vae, subject.dataset, "test", n_samples=config.elbo_samples, seed=seed,
        block_size=block_size,
    )  # fmt: skip
    return {
        **{f"test/{name}": value for name, value in elbo.items()},
        "test/active_units": metrics.active_units(subject.latents.latents("test")),
        "test/dead_fraction": float((measured.atoms.share == 0).mean()),
        "dictionary/mutual_coherence": metrics.mutual_coherence(
            subject.model.dictionary.dictionary
        ),
    }


class _Progress(Listener):
    """Counts passes over images, so that learning, fitting and measuring share one scale."""

    def __init__(self, listener: Listener, splits: list[Split], epochs: int) -> None:
        self.listener, self.done = listener, 0
        self.n_train = len(splits[0])
        self.total = self.n_train * (epochs + 1) + len(splits[1])

    def add(self, n: int) -> None:
        """Hear that `n` more images were passed over."""
        self.done += n
        self.listener.progress(self.done, self.total)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Pass on an epoch of the pixel dictionary."""
        self.listener.epoch(epoch, metrics)

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Hear that the learner has passed over all training images once more."""
        self.add(self.n_train)


def _draw(
    config: EvaluationConfig,
    subject: _Subject,
    test: Split,
    measured: Measured,
    written: Mapping[str, Any],
    pixels: Path,
    inputs: Mapping[str, Path],
    folder: Path,
) -> None:
    from vaesc.evaluation.examples import atom_sheet, reconstructions
    from vaesc.report.figures import (
        draw_atoms,
        draw_curve,
        draw_history,
        draw_reconstructions,
    )

    draw_curve(written, folder)
    dictionary = load_pixel_dictionary(pixels)
    rows = reconstructions(config, subject.model, test, subject.latents, dictionary, written)
    draw_reconstructions(rows, folder)
    draw_atoms(atom_sheet(subject.model, measured.atoms), folder)
    history = inputs["vae"] / "history.json"
    if history.exists():
        draw_history(json.loads(history.read_bytes()), folder)
