"""The rivals without a VAE: pixels in bases of their kinds, through the very same coder.

*Kinds and details without the VAE* is the codec with its sparse codes left out: the same kinds of
images, each with its mean and its Karhunen-Loève basis, now of pixels instead of what codes leave
over. *PCA* is the same with one kind for all. Both are learned from the training images that ours
is learned from, write the levels that are worth their bits with a model of codes of as many
classes, in the same file, and round to the same gray levels. What ours gains over the first is
what the VAE and its dictionary are worth; what that gains over the second, what kinds are.
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
    TRANSFORM_IMAGES,
    fit_details,
    learn_kinds,
    training_images,
)  # fmt: skip
from vaesc.applications.compression.transforms import Residuals, Transforms
from vaesc.applications.subject import Subject

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Coder:
    """One quality of a codec of pixels."""

    price: float
    """Lambda, as in :class:`.Layers`."""
    transforms: Transforms
    detail: CodeModel
    kinds: NDArray[np.uint32]
    """How often each class of details came with each kind of image, from 1, shape (M, T)."""

    @property
    def n_bytes(self) -> int:
        """What it takes beside the transforms, which all qualities share."""
        return self.kinds.nbytes + sum(array.nbytes for array in self.detail.arrays().values())

    def coded(self, flat: Floats, shape: tuple[int, ...]) -> tuple[int, Floats]:
        """Return the bytes of images' file, and what it decodes to, in [0, 1], shape (n, P).

        Args:
            flat: Images in [0, 1], shape (n, P).
            shape: Of one image.
        """
        blocks, made = [], np.empty_like(flat)
        for start in range(0, len(flat), BLOCK):
            rows = slice(start, start + BLOCK)
            kinds = self.transforms.kinds(flat[rows])
            details = self.transforms.project(flat[rows], kinds)
            levels, classes = code_details(details, self.detail, self.price)
            writer = Writer()
            shares: NDArray[Any] = np.broadcast_to(
                self.detail.classes, (len(classes), self.detail.n_classes)
            )
            write_choices(writer, classes, shares)
            write_choices(writer, kinds, self.kinds[classes])
            write_levels(writer, self.detail, levels, classes)
            blocks.append(writer.finish())
            values = self.detail.values(levels).toarray()
            made[rows] = self.transforms.residuals(values, kinds)
        file = pack(blocks, digest=bytes(32), quality=1, shape=shape, n_images=len(flat))
        return len(file), np.clip(made, 0, 1)


def learn_transforms(subject: Subject, *, of_kinds: bool) -> Transforms:
    """Return bases of training images: of each kind, or one of all."""
    if of_kinds:
        centres = learn_kinds(subject)
    else:
        centres = _flat(subject, CENTRE_IMAGES).mean(axis=0, keepdims=True)
    moments = Residuals(centres)
    for unit in training_images(subject, TRANSFORM_IMAGES):
        flat = unit.reshape(len(unit), -1)
        moments.add(flat, flat)
    return moments.transforms()


def fit_coder(subject: Subject, transforms: Transforms, price: float) -> Coder:
    """Return the coder for one lambda, as :func:`.fit_details` finds what is worth its bits."""
    flat = _flat(subject, TABLE_IMAGES)
    kinds = transforms.kinds(flat)
    details = transforms.project(flat, kinds)
    detail = fit_details(details, price, subject.rng("compression/pixels"))
    _, classes = code_details(details, detail, price)
    counts = np.ones((detail.n_classes, transforms.n_kinds), np.uint32)
    np.add.at(counts, (classes, kinds), 1)
    return Coder(price=price, transforms=transforms, detail=detail, kinds=counts)


def _flat(subject: Subject, most: int) -> Floats:
    parts = [unit.reshape(len(unit), -1) for unit in training_images(subject, most)]
    return np.concatenate(parts)
