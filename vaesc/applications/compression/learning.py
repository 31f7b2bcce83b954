"""Learn a codec from training images: transforms, and for each quality two models of codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_fit import fit_codes, fit_levels, mean_amounts
from vaesc.applications.code_model import CodeModel
from vaesc.applications.compression.codec import QUALITIES, Codec
from vaesc.applications.compression.files import BLOCK
from vaesc.applications.compression.layers import (
    Layers,
    Prepared,
    choose_atoms,
    flat_images,
    prepare,
)  # fmt: skip
from vaesc.applications.compression.quantise import rounded, step_of, worthwhile
from vaesc.applications.compression.transforms import Residuals, Transforms, learn_centres

if TYPE_CHECKING:
    from vaesc.applications.subject import Subject
    from vaesc.bundle import SparseVAE

HIGHEST_PRICE = 0.2
"""Lambda of quality 1: squared error of an image, pixels in [0, 1], that a bit must save."""
_RATIO = 2**-0.8
"""Of the prices of one quality and the one before."""
_FINEST = 0.4
"""Step of the sparse codes' quantiser, in the error it makes, below which details take over."""
TRANSFORM_IMAGES, CENTRE_IMAGES, TABLE_IMAGES = 60_000, 20_000, 8_000
"""Training images, from the first on, that transforms, kinds and models of codes come from."""
_CLASSES = 32
_ROUNDS = 3

Floats = NDArray[np.float32]


def prices() -> list[float]:
    """Return lambda of each quality."""
    return [HIGHEST_PRICE * _RATIO**q for q in range(QUALITIES)]


def learn_codec(subject: Subject) -> Codec:
    """Return the codec of a run's model, learned from its training images."""
    model = subject.model
    prepared = _prepared(subject)
    sensitivity = _sensitivity(model, prepared)
    transforms = _transforms(subject, sensitivity)
    qualities: list[Layers] = []
    for price in prices():
        base = _fit_base(model, prepared, price, sensitivity, subject.rng("compression/base"))
        qualities.append(
            _fit_layers(
                model, transforms, prepared, base, price, subject.rng("compression/detail")
            )
        )
        subject.listener.progress(len(qualities), QUALITIES)
    return Codec(model, transforms, tuple(qualities))


def fit_details(
    coefficients: Floats, price: float, rng: np.random.Generator, n_classes: int = _CLASSES
) -> CodeModel:
    """Fit a model of codes to dense coefficients (n, K), of which it decides what is worth bits.

    Levels and model depend on each other: each is found given the other, in turn.
    """
    step = step_of(price)
    steps = np.full(coefficients.shape[1], step, np.float32)
    levels, model = rounded(coefficients, step), None
    for _ in range(_ROUNDS):
        rows, atoms = levels.nonzero()
        sizes = np.abs(coefficients[rows, atoms]) / step
        amount = mean_amounts(sizes, np.abs(levels.data.astype(np.int64)))
        model = fit_levels(
            levels, step=steps, amount=amount, n_classes=n_classes, rng=rng, start=model,
            passes=12 if model is None else 3,
        )  # fmt: skip
        classes = model.bits(levels).argmin(axis=1)
        levels = worthwhile(coefficients, model, classes, price)
    assert model is not None
    return fit_levels(
        levels, step=steps, amount=model.amount, n_classes=n_classes, rng=rng, start=model,
        passes=2,
    )  # fmt: skip


def training_images(subject: Subject, most: int) -> Iterator[Floats]:
    """Yield the first training images in [0, 1], in blocks."""
    for rows in subject.dataset.blocks("train", min(subject.block_size, 8 * BLOCK)):
        if rows.start >= most:
            break
        yield subject.dataset.floats("train", rows)[: most - rows.start]


def learn_kinds(subject: Subject) -> Floats:
    """Return the mean image of each kind of training images, shape (T, P)."""
    some = np.concatenate([_flat(unit) for unit in training_images(subject, CENTRE_IMAGES)])
    n = min(TRANSFORM_IMAGES, subject.dataset.n("train"))
    seed = int(subject.rng("compression/kinds").integers(2**31))
    return learn_centres(some, n, seed=seed)


def _prepared(subject: Subject) -> Prepared:
    from scipy.sparse import vstack

    parts = []
    for unit in training_images(subject, TABLE_IMAGES):
        for start in range(0, len(unit), BLOCK):
            parts.append(prepare(subject.model, unit[start : start + BLOCK]))
    return Prepared(
        unit=np.concatenate([p.unit for p in parts]),
        codes=[
            vstack(level, format="csr") for level in zip(*(p.codes for p in parts), strict=True)
        ],
    )


def _sensitivity(model: SparseVAE, prepared: Prepared) -> float:
    """Return the squared error of an image that an error of 1 in a coefficient makes.

    Measured by quantising: what is decoded errs more by the quantiser's error, which is
    independent of it.
    """
    codes = prepared.codes[len(prepared.codes) // 2]
    step = 0.5 * float(np.median(np.abs(codes.data)) if codes.nnz else 1)
    quantiser = fit_codes(codes, step=step, n_classes=1, rng=np.random.default_rng(0))
    levels = quantiser.quantise(codes)
    flat = prepared.unit.reshape(len(prepared.unit), -1)
    exact = model.unit_images(model.dictionary.decode(codes)).reshape(flat.shape)
    more = np.square(flat - flat_images(model, quantiser, levels)).sum(dtype=np.float64)
    more -= np.square(flat - exact).sum(dtype=np.float64)
    moved = float((codes - quantiser.values(levels)).power(2).sum())
    return float(np.clip(more / max(moved, 1e-9), 1e-3, 1e3))


def _base_step(price: float, sensitivity: float) -> float:
    return max(step_of(price), _FINEST) / float(np.sqrt(sensitivity))


def _fit_base(
    model: SparseVAE,
    prepared: Prepared,
    price: float,
    sensitivity: float,
    rng: np.random.Generator,
) -> CodeModel:
    """Fit the model of sparse codes to the numbers of atoms that it makes images choose."""
    from scipy.sparse import vstack

    step = _base_step(price, sensitivity)
    base = fit_codes(vstack(prepared.codes, format="csr"), step=step, n_classes=1, rng=rng)
    for n_classes in (1, _CLASSES):
        levels, _ = choose_atoms(model, prepared, base, price)
        base = fit_levels(
            levels, step=base.step, amount=base.amount, n_classes=n_classes, rng=rng, passes=20
        )
    return base


def _transforms(subject: Subject, sensitivity: float) -> Transforms:
    """Learn the transforms from what codes of the model's own sparsity level leave over."""
    model = subject.model
    step = _base_step(prices()[QUALITIES // 2], sensitivity)
    residuals = Residuals(learn_kinds(subject))
    quantiser: CodeModel | None = None
    for unit in training_images(subject, TRANSFORM_IMAGES):
        codes = model.dictionary.encode(model.latents_of_unit(unit))
        if quantiser is None:
            quantiser = fit_codes(codes, step=step, n_classes=1, rng=np.random.default_rng(0))
        flat = _flat(unit)
        residuals.add(flat, flat - flat_images(model, quantiser, quantiser.quantise(codes)))
    return residuals.transforms()


def _fit_layers(
    model: SparseVAE,
    transforms: Transforms,
    prepared: Prepared,
    base: CodeModel,
    price: float,
    rng: np.random.Generator,
) -> Layers:
    levels, classes = choose_atoms(model, prepared, base, price)
    flat = prepared.unit.reshape(len(prepared.unit), -1)
    kinds = transforms.kinds(flat)
    residuals = flat - flat_images(model, base, levels)
    detail = fit_details(transforms.project(residuals, kinds), price, rng)
    return Layers(
        price=price, base=base, kinds=_together(base, classes, transforms, kinds), detail=detail
    )


def _together(
    base: CodeModel, classes: NDArray[Any], transforms: Transforms, kinds: NDArray[Any]
) -> NDArray[np.uint32]:
    """Count how often each class of code comes with each kind of image, from 1, shape (M, T)."""
    counts = np.ones((base.n_classes, transforms.n_kinds), np.uint32)
    np.add.at(counts, (classes, kinds), 1)
    return counts


def _flat(unit: Floats) -> Floats:
    return unit.reshape(len(unit), -1)
