"""What is killed: trainings of a VAE, and dictionary learning, each with its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.faults.victims import Told
from tests.imagesets import write_digits
from vaesc.config import TrainingConfig, VAEConfig
from vaesc.sparse import learn_dictionary
from vaesc.training import train
from vaesc.training.run import Run

_VAE = VAEConfig(hidden=(96,), latent_dim=8)
_TRAINING = TrainingConfig(
    epochs=40, batch_size=32, learning_rate=6e-3, schedule="cosine", warmup_epochs=1.5,
    gradient_clip=40.0, weight_average=0.95, patience=2,
)  # fmt: skip
_BASE, _DATA = "digits", "samples.npy"

Go = Callable[[Path, Path, Path | None, Told], None]
"""(where the data lies, where to write, where checkpoints go or None for none, told)"""


@dataclass(frozen=True)
class Work:
    """One way of learning; those with the same `same_as` have the same outcome."""

    name: str
    step: str
    same_as: str
    run: Go


def prepare(folder: Path) -> None:
    """Write the data, and compile what is compiled at first use: children are forks of us."""
    torch.set_num_threads(1)
    write_digits(folder / _BASE)
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(48, 24))
    codes = rng.laplace(size=(20_000, 48)) * (rng.random((20_000, 48)) < 0.07)
    np.save(folder / _DATA, (codes @ atoms).astype(np.float32))
    _dictionary(np.load(folder / _DATA)[:64], 1)


def _train(
    precision: str, batches: int, seconds: float,
    data: Path, made: Path, kept: Path | None, told: Told,
) -> None:  # fmt: skip
    fit, after = Run.fit, Run._after_batch

    def counted_fit(self: Run) -> None:
        told.begun()
        fit(self)

    def counted_after(self: Run, n_batches: int) -> None:
        told.at(self.state.steps)
        after(self, n_batches)

    Run.fit, Run._after_batch = counted_fit, counted_after  # type: ignore[method-assign]
    summary = train(
        _VAE, replace(_TRAINING, precision=precision), data / _BASE, made, seed=3, device="cpu",
        checkpoints=kept, checkpoint_batches=batches, checkpoint_seconds=seconds,
    )  # fmt: skip
    (made / "summary.json").write_text(json.dumps(summary, sort_keys=True))


def _learn(data: Path, made: Path, kept: Path | None, told: Told) -> None:
    samples = np.load(data / _DATA)
    if kept:
        kept.mkdir(exist_ok=True)
    file = kept / "learning.npz" if kept else None
    told.begun()
    _dictionary(samples, 40, told, file, made)
    if file:
        file.unlink()  # as a step would: what else is there then was left behind


def _dictionary(
    samples: np.ndarray, epochs: int, told: Told | None = None, file: Path | None = None,
    made: Path | None = None,
) -> None:  # fmt: skip
    learned = learn_dictionary(
        samples[:-20], n_atoms=96, n_nonzero_coefs=4, seed=5, max_epochs=epochs, patience=6,
        batch_size=256, X_validation=samples[-500:], checkpoint=file, n_threads=1,
        on_epoch=lambda n, _: told.at(n) if told else None,
    )  # fmt: skip
    if made:
        np.save(made / "dictionary.npy", learned.dictionary)
        rest = [learned.history, learned.n_revived, learned.best_epoch]
        (made / "history.json").write_text(json.dumps(rest))


WORKS = [
    *(
        Work(f"{precision} {how}", "train", precision, partial(_train, precision, *often))
        for how, often in (
            ("7 batches", (7, 0.0)), ("0.05 s", (0, 0.05)), ("each batch", (1, 0.0)),
        )
        for precision in ("float32", "bf16")
    ),
    Work("dictionary", "learn", "dictionary", _learn),
]  # fmt: skip
"""Precisions alternate, and so does how often a checkpoint is written."""
