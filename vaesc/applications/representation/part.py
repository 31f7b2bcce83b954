"""What a registered model needs to give features and clusters elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from vaesc.applications.representation.clusters import assigned, leading, mixture
from vaesc.applications.representation.coordinates import LocalCoder, split_signs
from vaesc.applications.threads import one_thread_everywhere
from vaesc.bundle import SparseVAE
from vaesc.config import MOST_LOCAL
from vaesc.errors import DataError
from vaesc.parts import Part, save_part
from vaesc.untrusted import MOST, is_moderate

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Kind = Literal["local", "split-local", "latents", "codes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Features and clusters of images, by a model and the part it carries; see :meth:`of`."""

    model: SparseVAE
    coder: LocalCoder
    membership: Floats
    """How much of each anchor belongs to each cluster, shape (anchors, C)."""

    @classmethod
    def of(cls, model: SparseVAE) -> Representation:
        """Return the representation that a model carries.

        Raises:
            DataError: It carries none, or one that is damaged or another model's.
        """
        part = model.part("representation")
        fault = _fault(part, model.latent_dim)
        if fault:
            raise DataError(f"the model's representation {fault}; register the model again")
        arrays = part.arrays
        coder = LocalCoder(
            mean=arrays["mean"], rotation=arrays["rotation"], anchors=arrays["anchors"],
            n_nonzero_coefs=part.facts["n_nonzero_coefs"],
        )  # fmt: skip
        return cls(model=model, coder=coder, membership=arrays["membership"])

    @property
    def n_clusters(self) -> int:
        """Number of clusters that were found in the training images."""
        return int(self.membership.shape[1])

    @one_thread_everywhere()
    def features(self, images: NDArray[Any], kind: Kind = "local") -> Floats | csr_array:
        """Return features of images.

        Args:
            images: As for :meth:`vaesc.bundle.SparseVAE.encode`.
            kind: ``local``, local codes of the latents, shape (n, number of anchors), CSR;
                ``split-local``, the same with their signs apart, twice as wide; ``latents``, shape
                (n, d), dense; ``codes``, the model's own sparse codes, shape (n, K), CSR, the
                only ones that it decodes.

        Raises:
            DataError: These are no images of the model.
        """
        if kind == "codes":
            return self.model.encode(images)
        latents = self.model.latents(images)
        if kind == "latents":
            return latents
        codes = self.coder.encode(latents)
        return codes if kind == "local" else split_signs(codes)

    @one_thread_everywhere()
    def clusters(self, images: NDArray[Any]) -> Ints:
        """Return the cluster of each image, from 0 to C - 1, shape (n,)."""
        return assigned(self.coder.encode(self.model.latents(images)), self.membership)

    @one_thread_everywhere()
    def divided(self, images: NDArray[Any], n_clusters: int) -> Ints:
        """Return clusters of these very images, by a Gaussian mixture of their latents.

        Args:
            images: As for :meth:`features`.
            n_clusters: How many, from 1 to the number of images.

        Returns:
            From 0 to `n_clusters` - 1, shape (n,).

        Raises:
            DataError: These are no images of the model, or fewer of them differ.
        """
        latents = self.model.latents(images)
        if not 1 <= n_clusters <= len(latents):
            raise DataError(
                f"n_clusters must be between 1 and the number of images, {len(latents)}, "
                f"got {n_clusters}"
            )
        if n_clusters == 1:
            return np.zeros(len(latents), np.int64)
        points = leading(self.coder.points(latents))
        # Of latents far from the mean nothing may be left in the space of the anchors.
        differ = min(len(np.unique(values, axis=0)) for values in (latents, points))
        if differ < n_clusters:
            raise DataError(
                f"n_clusters must be at most the number of images that differ, {differ}, "
                f"got {n_clusters}"
            )
        return mixture(points, n_clusters, seed=0)


def save_representation(coder: LocalCoder, membership: Floats, path: Path) -> None:
    """Write the part that :meth:`Representation.of` reads."""
    arrays = {
        "mean": coder.mean, "rotation": coder.rotation, "anchors": coder.anchors,
        "membership": membership,
    }  # fmt: skip
    facts = {"format": _FORMAT, "n_nonzero_coefs": coder.n_nonzero_coefs}
    save_part(Part(arrays=arrays, facts=facts), path)


def _fault(part: Part, latent_dim: int) -> str | None:
    """Say what is wrong with a part, which may come from any file; None if nothing is."""
    facts, arrays = part.facts, part.arrays
    if facts.get("format") != _FORMAT:
        return f"has format {facts.get('format')!r}, this vaesc reads {_FORMAT}"
    for name, n_axes in (("mean", 1), ("rotation", 2), ("anchors", 2), ("membership", 2)):
        array = arrays.get(name)
        if array is None or array.dtype != np.float32 or array.ndim != n_axes or not array.size:
            return f"must hold {name} as float32 with {n_axes} axes and not empty"
        if not is_moderate(array):
            return f"holds a number in {name} that is not finite, or beyond {MOST:g}"
    n_anchors, width = arrays["anchors"].shape
    shapes = {"mean": (latent_dim,), "rotation": (latent_dim, width)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"must hold {name} of shape {shape}, got {arrays[name].shape}"
    if len(arrays["membership"]) != n_anchors or (arrays["membership"] < 0).any():
        return f"must hold memberships of at least 0 for each of the {n_anchors} anchors"
    k = facts.get("n_nonzero_coefs")
    most = min(n_anchors, MOST_LOCAL)
    if type(k) is not int or not 1 <= k <= most:
        return f"must code with between 1 and {most} anchors, got {str(k)[:80]}"
    return None
