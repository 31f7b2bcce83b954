"""Fit every prior to the training latents of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import CodeModel
from vaesc.applications.generation.mixtures import Mixture, fit_mixture
from vaesc.applications.generation.sampler import Priors
from vaesc.applications.groups import groups, rows_within, some_rows
from vaesc.config import GenerationConfig, derive_seed

if TYPE_CHECKING:
    from vaesc.applications.subject import Subject
    from vaesc.bundle import SparseVAE

Floats = NDArray[np.float32]

_MOST_BYTES = 2**28
"""Latents in memory at once: 262,144 of 256 dimensions; beyond, as many are drawn."""
_N_CODED = 20_000
"""Codes that their model is fitted to."""
_STEPS_PER_STD = 2.0
"""Cells of a coefficient's quantiser to its standard deviation. Finer ones would ask a geometric
tail for what is a distribution of its own."""


def fit_priors(config: GenerationConfig, subject: Subject) -> Priors:
    """Return all priors of the subject's model, fitted to its training latents."""
    rows = training_rows(subject)
    means, stds = posteriors(subject.model, subject, rows)
    seed = derive_seed(subject.seed, "generation/mixture")
    kept = np.sort(
        subject.rng("generation/aggregated").choice(
            len(means), min(len(means), config.n_references), replace=False
        )
    )
    return Priors(
        mixture=fit_mixture(means, config.n_components, seed=seed),
        by_class=_by_class(config, subject, rows, means),
        means=means[kept],
        stds=stds[kept],
        codes=_code_model(config, subject, means),
    )


def training_rows(subject: Subject) -> NDArray[np.int64]:
    """Return the training images whose latents are fitted: all, unless they are too many."""
    n = subject.dataset.n("train")
    most = max(1, _MOST_BYTES // (4 * subject.model.latent_dim))
    return some_rows(n, most, subject.rng("generation/rows"))


def posteriors(
    model: SparseVAE, subject: Subject, rows: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return posterior means and standard deviations of training images, (n, d) each.

    Raises:
        DataError: The encoder gives latents that are not finite.
    """
    blocks = list(_posteriors(model, subject, rows))
    means, stds = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return means, stds


def _posteriors(
    model: SparseVAE, subject: Subject, rows: NDArray[np.int64]
) -> Iterator[tuple[Floats, Floats]]:
    import torch

    for block, images in groups(subject.dataset, "train", subject.block_size):
        mine = rows_within(rows, block)
        with torch.inference_mode():
            x = torch.from_numpy(images).to(model.vae.device)
            mean, log_var = model.vae.encode(x)
            std = torch.exp(log_var / 2)
        yield mean.cpu().numpy()[mine], std.cpu().numpy()[mine]


def _by_class(
    config: GenerationConfig, subject: Subject, rows: NDArray[np.int64], means: Floats
) -> Mapping[str, Mixture]:
    """Return a mixture for each class that has training images."""
    labels = subject.dataset.labels("train")
    if labels is None:
        return {}
    labels = labels[rows]
    return {
        class_name(subject.dataset.classes, label): fit_mixture(
            means[labels == label], config.class_components,
            seed=derive_seed(subject.seed, f"generation/class/{label}"), pooled_from=means,
        )
        for label in np.unique(labels)
    }  # fmt: skip


def class_name(classes: tuple[str, ...] | None, label: Any) -> str:  # noqa: ANN401
    """Return the name of a label: its number where the data set has no name for it."""
    named = classes is not None and 0 <= int(label) < len(classes)
    return classes[int(label)] if named and classes else str(int(label))


def _code_model(config: GenerationConfig, subject: Subject, means: Floats) -> CodeModel:
    """Return the model of the codes that the pursuit gives to training latents.

    The pursuit alone, without the descent that encoding adds: its codes are what the decoder
    learned from, and they come a hundred times as fast.
    """
    rng = subject.rng("generation/codes")
    chosen = np.sort(rng.choice(len(means), min(len(means), _N_CODED), replace=False))
    codes = subject.model.dictionary.encode(means[chosen])
    energy = np.bincount(codes.indices, weights=np.square(codes.data), minlength=codes.shape[1])
    uses = np.bincount(codes.indices, minlength=codes.shape[1])
    everyone = float(energy.sum() / max(uses.sum(), 1)) or 1.0
    spread = np.sqrt((energy + everyone) / (uses + 1))
    return CodeModel.fit(
        codes, step=spread / _STEPS_PER_STD, n_classes=config.code_classes, rng=rng
    )
