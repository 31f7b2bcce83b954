r"""Null controls: what a method of the same form reaches without learning what it claims to learn.

The KL term drives latents towards an isotropic Gaussian, which prefers no direction; on such data
a random dictionary is nearly as good as a learned one. A result of the article's method therefore
means little until these stand beside it:

- a *random dictionary*: unit vectors drawn from the sphere, same K, same scaling, same coder;
- a dictionary *learned on shuffled latents*: every coordinate permuted across images by itself,
  which keeps each one's distribution and destroys how they depend on each other. What the learned
  dictionary gains over this is what it owes to structure between coordinates;
- the *k largest coordinates*: every latent keeps the k coordinates farthest from their mean;
- *PCA of latents* (:func:`vaesc.evaluation.baselines.fit_pca` on latents).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaesc import windows
from vaesc.config import DictionaryConfig, derive_seed
from vaesc.dictionary import History, LatentDictionary, checkpoint_of, exact, learn_atoms
from vaesc.evaluation.batches import Floats
from vaesc.evaluation.dictionaries import Plan
from vaesc.latent_rows import LatentRows
from vaesc.progress import Listener

if TYPE_CHECKING:
    from vaesc.latents import LatentStore


def random_dictionary(learned: LatentDictionary, *, seed: int) -> LatentDictionary:
    """Return `learned` with its atoms replaced by as many random directions, coded exactly.

    Args:
        learned: Gives shape, scaling and coder.
        seed: Seed of the directions.
    """
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal(learned.dictionary.shape)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    random = replace(learned, dictionary=atoms.astype(np.float32))
    return replace(random, coder=exact(learned.coder), network=None)


def shuffled(samples: Floats, *, seed: int) -> Floats:
    """Return `samples`, shape (n, D), with every column permuted by itself: an independent copy.

    Args:
        samples: Kept as they are.
        seed: Seed of the permutations.
    """
    return np.random.default_rng(seed).permuted(samples, axis=0)


def learn_shuffled(
    config: DictionaryConfig,
    plan: Plan,
    registered: LatentDictionary,
    latents: LatentStore,
    *,
    seed: int,
    listener: Listener,
    checkpoints: Path | None = None,
) -> tuple[dict[int, LatentDictionary], list[History]]:
    """Learn dictionaries of shuffled latents, as those of latents are learned.

    Mean and scale are the registered dictionary's: shuffling changes neither. The validation
    latents that choose the epoch are shuffled too, so nothing of the real ones' structure leaks.
    Permuting a column takes all of it: of more latents than a window holds, one window is drawn
    at random by pages (:func:`vaesc.windows.sample`; by default a million), and learned from.

    Args:
        config: Settings of the learner.
        plan: Which level is served by what.
        registered: Gives scaling and size.
        latents: Latents of every split.
        seed: The run's seed.
        listener: Hears of every epoch of every dictionary.
        checkpoints: Folder that a killed call's successor goes on from; default: none.

    Returns:
        Compared level -> dictionary, coded exactly, and the histories of all.
    """
    train, validation = (
        shuffled(
            windows.sample(
                LatentRows(latents, split, registered.mean, registered.scale),
                derive_seed(seed, f"evaluate/shuffle/{split}/sample"),
            ),
            seed=derive_seed(seed, f"evaluate/shuffle/{split}"),
        )
        for split in ("train", "validation")
    )
    learned_at, learned, told = plan.learned_at(min(registered.dictionary.shape)), {}, []
    for k in sorted(set(learned_at.values())):
        atoms, history = learn_atoms(
            config, train, validation, n_nonzero_coefs=k,
            seed=derive_seed(seed, f"evaluate/shuffled-dictionary/{k}"),
            listener=listener, prefix=f"shuffled_k{k}_",
            checkpoint=checkpoint_of(checkpoints, f"shuffled_k{k}"),
        )  # fmt: skip
        learned[k] = replace(
            registered, dictionary=atoms, coder=exact(config.coder), n_nonzero_coefs=k,
            network=None,
        )  # fmt: skip
        told.append(history)
    return {k: learned[at] for k, at in learned_at.items()}, told


def keep_largest(latents: Floats, mean: Floats, k: int) -> Floats:
    """Return `latents` with all but the k coordinates farthest from `mean` set to it.

    Args:
        latents: Shape (m, d).
        mean: Mean latent, shape (d,).
        k: Coordinates kept in each latent; d or more keep them all.
    """
    if k >= latents.shape[1]:
        return latents
    centred = latents - mean
    dropped = np.argsort(-np.abs(centred), axis=1, kind="stable")[:, k:]
    np.put_along_axis(centred, dropped, 0.0, axis=1)
    return centred + mean
