r"""What speaks for an image being anomalous: the terms of the score, and how they are combined.

=================== ======== =====================================================================
term                weight   what it is of an image x
=================== ======== =====================================================================
stroke_neighbours   1        log mean distance to the three nearest usual images, of strokes
stroke_sparse       1        log squared error of its strokes, sparsely coded in usual ones' atoms
pixel_neighbours    1/4      log mean distance to the three nearest usual images, of pixels
reconstruction      1/16     log squared error of decoder(D a)
negative_elbo       1/16     distortion at the posterior mean + KL, nats
latent_residual     1/16     log \|z - D a\|^2, in scaled latents
code                1/16     -log p(a), nats (:mod:`.atoms`)
=================== ======== =====================================================================

Each term is standardised by its mean and standard deviation over usual images that nothing was
fitted to, and the score is the weighted mean of what that gives: no anomaly is needed for it. In
the mean usual images have the score 0, and anomalies more.

The weights were chosen once, on *validation* images of MNIST and Fashion-MNIST in the one-class
protocol, with 1,600 usual images a class (the weights over five of the ten classes): terms of the
VAE alone order images worse than distances do, and cost more the more they weigh; they are here
for what they explain. The test splits had no say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.views import has_strokes, pixels, strokes
from vaesc.bundle import SparseVAE
from vaesc.errors import DataError
from vaesc.untrusted import is_moderate

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WEIGHTS = {
    "stroke_neighbours": 1.0,
    "stroke_sparse": 1.0,
    "pixel_neighbours": 0.25,
    "reconstruction": 0.0625,
    "negative_elbo": 0.0625,
    "latent_residual": 0.0625,
    "code": 0.0625,
}
OF_MODEL = ("reconstruction", "negative_elbo", "latent_residual", "code")
"""Terms that the VAE and its dictionary make."""
IN_NATS = ("negative_elbo", "code")
"""Terms that are logarithms already."""
NEIGHBOURS = 3
_LEAST = 1e-3
"""Share of the median below which a distance is no smaller: a copy is not endlessly usual."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def term_names(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the terms that images of this shape have, in their order."""
    return tuple(n for n in WEIGHTS if has_strokes(shape) or not n.startswith("stroke"))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Images, and what is compared of them."""

    unit: Floats
    """In [0, 1], shape (n, *shape)."""
    pixels: Floats
    strokes: Floats | None

    @classmethod
    def of(cls, unit: Floats) -> Seen:
        """Look at images in [0, 1]."""
        there = has_strokes(unit.shape[1:])
        return cls(unit=unit, pixels=pixels(unit), strokes=strokes(unit) if there else None)


@dataclass(frozen=True, kw_only=True)
class Coded:
    """What a model makes of images."""

    latents: Floats
    codes: csr_array
    rebuilt: Floats
    """decoder(D a), in [0, 1], shape (n, *shape)."""
    negative_elbo: Doubles
    latent_residual: Doubles

    @classmethod
    def of(cls, model: SparseVAE, unit: Floats) -> Coded:
        """Code images by pursuit on their latents; a refined model's descent is left out.

        The descent is a hundred times slower than all the rest, and mends the very errors that
        mark an anomaly.
        """
        latents, nats = _posterior(model, unit)
        dictionary = model.dictionary
        codes = dictionary.encode(latents, model.n_nonzero_coefs)
        near = dictionary.decode(codes)
        left = (latents - near) / dictionary.scale
        return cls(
            latents=latents, codes=codes, rebuilt=model.unit_images(near), negative_elbo=nats,
            latent_residual=np.square(left, dtype=np.float64).sum(axis=1),
        )  # fmt: skip


def negative_elbo(model: SparseVAE, unit: Floats) -> Doubles:
    """Return distortion at the posterior mean + KL of each image, in nats, shape (n,).

    Without noise it is a function of the image: the same image has the same score always.
    """
    return _posterior(model, unit)[1]


def _posterior(model: SparseVAE, unit: Floats) -> tuple[Floats, Doubles]:
    import torch

    from vaesc.models.vae import kl_divergence

    vae = model.vae
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(unit)).to(vae.device)
        mean, log_var = vae.encode(x)
        nats = vae.distortion(x, mean) + kl_divergence(mean, log_var)
        found = mean.cpu().numpy(), nats.cpu().double().numpy()
    if not all(is_moderate(values) for values in found):
        raise DataError(
            "the model gives latents or likelihoods that are not finite, or absurdly large: its "
            "weights are damaged, or it was never trained; fetch it again"
        )
    return found


def logarithm(value: Doubles, least: float) -> Doubles:
    """Return the logarithm of distances, none below `least`."""
    return np.asarray(np.log(np.maximum(value, least)), np.float64)


def least_of(values: Doubles) -> float:
    """Return the floor of a term's logarithm, given its values for usual images."""
    return float(max(_LEAST * np.median(values), 1e-12))
