"""Fit every method on the training split."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.bundle import SparseVAE
from vaesc.config import EvaluationConfig, derive_seed
from vaesc.dictionary import LatentDictionary
from vaesc.evaluation.baselines import LiteralFit
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.contenders import (
    DescendedPixels,
    article_method,
    descended_method,
    lasso_method,
    literal_method,
    pixel_lasso_method,
    pixel_method,
    refined_method,
)
from vaesc.evaluation.control_methods import (
    largest_method,
    pca_methods,
    random_method,
    shuffled_method,
)
from vaesc.evaluation.controls import random_dictionary
from vaesc.evaluation.dictionaries import Dictionaries
from vaesc.evaluation.methods import Method, batches_of, network_size
from vaesc.evaluation.peers import topk_latents_method, topk_pixels_method, vq_method
from vaesc.evaluation.refined import RefinedCodes
from vaesc.latent_rows import LatentRows

if TYPE_CHECKING:
    from vaesc.latents import LatentStore


def fit_methods(
    config: EvaluationConfig,
    model: SparseVAE,
    splits: Mapping[str, Split],
    latents: LatentStore,
    learned: Dictionaries,
    shuffled: Mapping[int, LatentDictionary],
    folder: Path,
    *,
    seed: int,
    on_rows: Callable[[int], None],
    refined: RefinedCodes | None = None,
    rival: DescendedPixels | None = None,
) -> list[Method]:
    """Fit every method on the training split, in the order in which they are shown.

    Args:
        config: Says how long TopK autoencoders train.
        model: VAE, and the dictionary which the controls take their size and scaling from.
        splits: Images of ``train`` and ``validation``.
        latents: Latents of every split.
        learned: Dictionaries of latents and of pixels for every compared level.
        shuffled: Dictionaries of shuffled latents (:mod:`vaesc.evaluation.controls`).
        folder: Where a temporary file of images may lie while methods are fitted.
        seed: The run's seed.
        on_rows: Hears how many more training images have been used, see :func:`n_passes`.
        refined: The refined models, if the run has any.
        rival: The pixel dictionaries with descent, which stand beside them.
    """
    levels, mean = list(learned.pixels), next(iter(learned.pixels.values())).mean
    registered, n_vae = model.dictionary, network_size(model)
    fitted = _literal(splits["train"], latents, learned, mean, on_rows)
    random = random_dictionary(registered, seed=derive_seed(seed, "evaluate/random-dictionary"))
    # Under the coder lasso these two are the methods above them.
    by_lasso = registered.coder != "lasso"
    return [
        *([refined_method(refined)] if refined else []),
        article_method(learned.latents, registered, n_vae),
        *([lasso_method(learned.latents, registered, n_vae)] if by_lasso else []),
        pixel_method(learned.pixels),
        *([descended_method(rival)] if rival else []),
        *([pixel_lasso_method(learned.pixels)] if by_lasso else []),
        literal_method(fitted, mean, registered, n_vae),
        random_method(random, levels, n_vae),
        shuffled_method(shuffled, n_vae),
        largest_method(registered, levels, n_vae),
        *pca_methods(splits["train"], LatentRows(latents, "train"), levels, n_vae, seed=seed),
        *_peers(config, model, splits, latents, levels, folder, seed=seed, on_rows=on_rows),
    ]


def n_passes(config: EvaluationConfig, n_levels: int) -> int:
    """Return how often :func:`fit_methods` passes over the training images, as `on_rows` hears."""
    return 1 + 2 * n_levels * config.topk_epochs


def _literal(
    train: Split,
    latents: LatentStore,
    learned: Dictionaries,
    mean: Floats,
    on_rows: Callable[[int], None],
) -> dict[int, Floats]:
    n_atoms = next(iter(learned.latents.values())).n_atoms
    literal = LiteralFit(list(learned.pixels), n_atoms, mean)
    for batch in batches_of(train, latents, learned.latents):
        literal.add(batch.codes, batch.images)
        on_rows(len(batch.images))
    return literal.solve()


def _peers(
    config: EvaluationConfig,
    model: SparseVAE,
    splits: Mapping[str, Split],
    latents: LatentStore,
    levels: list[int],
    folder: Path,
    *,
    seed: int,
    on_rows: Callable[[int], None],
) -> list[Method]:
    """TopK autoencoders of latents and of pixels, and the codebook where k = 1 is compared."""
    methods, n_vae = [], network_size(model)

    def add_topk(fit: Callable[..., Method], *data: Any) -> None:  # noqa: ANN401
        if config.topk_epochs:
            method = fit(*data, epochs=config.topk_epochs, seed=seed, on_rows=on_rows)
            methods.append(method)

    z = (LatentRows(latents, split) for split in ("train", "validation"))
    add_topk(topk_latents_method, *z, model.dictionary, levels, n_vae)
    # Images lie in a file while they are learned from, temporary or the data set's own.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        images = [splits[split].samples(Path(scratch)) for split in ("train", "validation")]
        add_topk(topk_pixels_method, *images, levels, model.n_atoms)
        if 1 in levels:
            methods.append(vq_method(images[0], model.n_atoms, seed=seed))
    return methods
