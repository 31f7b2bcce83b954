"""What is evaluated, and what is told of it beside the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vaesc.bundle import SparseVAE
from vaesc.config import EvaluationConfig
from vaesc.evaluation.comparison import Measured
from vaesc.latent_rows import LatentRows, moments

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset
    from vaesc.latents import LatentStore


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    model: SparseVAE
    dataset: ImageDataset
    latents: LatentStore
    refined: Mapping[int, SparseVAE] | None


def facts_of(subject: Subject) -> dict[str, Any]:
    """Return what was compared: data, sizes and settings."""
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
        "test_sha256": dataset.sha256["test"],
        "parameters": parameters_of(subject),
    }


def parameters_of(subject: Subject) -> dict[str, list[int]]:
    """Numbers that networks and dictionaries hold, which an image's own k numbers do not count.

    One list entry for each distinct model: the article's VAE serves every k, all else is
    learned for each.
    """
    model = subject.model

    def count(one: SparseVAE) -> int:
        return sum(w.numel() for w in one.vae.parameters()) + one.dictionary.dictionary.size

    refined = {id(m): m for m in (subject.refined or {}).values()}
    return {
        "article": [count(model)],
        "pixel": [model.n_atoms * math.prod(model.shape)],
        "refined": [count(m) for m in refined.values()],
    }


def model_metrics(
    config: EvaluationConfig,
    subject: Subject,
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
        "test/active_units": metrics.count_active(moments(LatentRows(subject.latents, "test"))[1]),
        "test/dead_fraction": float((measured.usage == 0).mean()),
        "train/mutual_coherence": metrics.mutual_coherence(subject.model.dictionary.dictionary),
    }


def bounds_of(
    config: EvaluationConfig, subject: Subject, *, seed: int, block_size: int
) -> list[dict[str, Any]]:
    """Importance-weighted bounds on the negative log-likelihood, each with what it is taken on."""
    from vaesc.models import evaluate_iwae

    n_test = subject.dataset.n("test")
    return [
        {
            "samples": n_samples,
            "images": min(n_images, n_test),
            "nats": evaluate_iwae(
                subject.model.vae, subject.dataset, "test", n_samples=n_samples,
                n_images=n_images, seed=seed, block_size=block_size,
            ),
        }
        for n_samples, n_images in zip(config.iwae_samples, config.iwae_images, strict=True)
    ]  # fmt: skip
