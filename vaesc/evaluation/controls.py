r"""Null controls: what a method of the same form reaches without learning what it claims to learn.

The KL term drives latents towards an isotropic Gaussian, which prefers no direction; on such data
a random dictionary is nearly as good as a learned one. A result of the article's method therefore
means little until these stand beside it:

- a *random dictionary*: unit vectors drawn from the sphere, same K, same scaling, same coder;
- the *k largest coordinates*: every latent keeps the k coordinates farthest from their mean;
- *PCA of latents* (:func:`vaesc.evaluation.baselines.fit_pca` on latents).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vaesc.dictionary import LatentDictionary, exact
from vaesc.evaluation.batches import Floats


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
