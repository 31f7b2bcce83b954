"""The rival without a VAE: principal components of pixels, quantised and coded just as well.

The same levels worth their bits, the same model of codes with as many classes, the same range
coder and file; only the sparse code and what decodes it are not there. What ours gains over it is
what the VAE, its dictionary and the kinds of images are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import CodeModel
from vaesc.applications.compression.entropy import Writer, write_choices, write_levels
from vaesc.applications.compression.files import BLOCK, pack
from vaesc.applications.compression.layers import code_details
from vaesc.applications.compression.learning import (
    CENTRE_IMAGES,
    TABLE_IMAGES,
    fit_details,
    training_images,
)  # fmt: skip
from vaesc.applications.compression.transforms import MOST_DETAILS
from vaesc.applications.subject import Subject

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Components:
    """Mean, shape (P,), and principal components, shape (K, P), of images."""

    mean: Floats
    rows: Floats

    def project(self, flat: Floats) -> Floats:
        """Return coefficients, (n, P) -> (n, K)."""
        return np.asarray((flat - self.mean) @ self.rows.T, np.float32)


def learn_components(subject: Subject) -> Components:
    """Return the principal components of training images."""
    from sklearn.decomposition import PCA

    flat = _flat(subject, CENTRE_IMAGES)
    pca = PCA(min(MOST_DETAILS, *flat.shape), svd_solver="covariance_eigh").fit(flat)
    return Components(
        mean=np.asarray(pca.mean_, np.float32), rows=np.asarray(pca.components_, np.float32)
    )


def fit_price(subject: Subject, components: Components, price: float) -> CodeModel:
    """Return the model of codes for one lambda, as :func:`.fit_details`."""
    coefficients = components.project(_flat(subject, TABLE_IMAGES))
    return fit_details(coefficients, price, subject.rng("compression/principal"))


def coded(
    components: Components, model: CodeModel, flat: Floats, price: float, shape: tuple[int, ...]
) -> tuple[int, Floats]:
    """Return the bytes of images' file, and what it decodes to, shape (n, P).

    Args:
        components: Of training images.
        model: Of :func:`fit_price`.
        flat: Images in [0, 1], shape (n, P).
        price: Lambda.
        shape: Of one image.
    """
    blocks, made = [], np.empty_like(flat)
    for start in range(0, len(flat), BLOCK):
        rows = slice(start, start + BLOCK)
        levels, classes = code_details(components.project(flat[rows]), model, price)
        writer = Writer()
        shares: NDArray[Any] = np.broadcast_to(model.classes, (len(classes), model.n_classes))
        write_choices(writer, classes, shares)
        write_levels(writer, model, levels, classes)
        blocks.append(writer.finish())
        made[rows] = components.mean + model.values(levels).toarray() @ components.rows
    file = pack(blocks, digest=bytes(32), quality=1, shape=shape, n_images=len(flat))
    return len(file), np.clip(made, 0, 1)


def _flat(subject: Subject, most: int) -> Floats:
    parts = [unit.reshape(len(unit), -1) for unit in training_images(subject, most)]
    return np.concatenate(parts)
