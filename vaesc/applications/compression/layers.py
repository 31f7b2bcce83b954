r"""An image in two layers: the sparse code of its latent, then details that it leaves over.

*How many atoms.* The pursuit is run to several numbers of atoms, and each image takes the one that
minimises :math:`D + \lambda R`, with D its squared error once quantised **and decoded**, and R the
bits of its code. A plain image so gets few atoms, and a busy one many.

*Details.* Of the residual in its kind's basis (:mod:`.transforms`) what is worth its bits
(:mod:`.quantise`) is written by a second model of codes. A decoder of a VAE has a floor of error
that no code gets below; the details go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import MOST, ONE, CodeModel
from vaesc.applications.compression.quantise import rounded, worthwhile
from vaesc.applications.compression.transforms import Transforms
from vaesc.untrusted import MOST as MOST_NUMBER

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.bundle import SparseVAE

LEVELS = (1, 2, 3, 4, 6, 8, 12)
"""Numbers of atoms that an image may have."""
_PASSES = 2

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Images with their codes at each number of atoms: the same for all qualities."""

    unit: Floats
    """In [0, 1], shape (n, *shape)."""
    codes: Sequence[csr_array]
    """One of shape (n, K) for each number of atoms."""
    errors: dict[float, NDArray[np.float64]] = field(default_factory=dict)
    """Quantiser's step -> squared error of each number of atoms, shape (n, L)."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What one quality codes with.

    Args:
        price: Lambda: squared error (of an image, pixels in [0, 1]) that a bit must save.
    """

    price: float
    base: CodeModel
    """Of the sparse codes."""
    kinds: NDArray[np.uint32]
    """How often each class of code came with each kind of image, at least 1, shape (M, T)."""
    detail: CodeModel

    @property
    def least_bits(self) -> float:
        """What an image costs at least: the cheapest of all codes, in each layer."""
        return sum(_least_bits(model) for model in (self.base, self.detail))

    @property
    def most_bits(self) -> int:
        """What no image costs more than: every decision, at the price of the least likely one.

        Classes and kind are chosen by fewer decisions than these 64.
        """
        return 16 * (64 + (self.base.n_atoms + self.detail.n_atoms) * (MOST + 1))


@dataclass(frozen=True, kw_only=True)
class Coded:
    """All that is written of some images."""

    base_classes: NDArray[np.int64]
    base: csr_array
    kinds: NDArray[np.int64]
    detail_classes: NDArray[np.int64]
    detail: csr_array


def prepare(model: SparseVAE, unit: Floats) -> Prepared:
    """Code images at each number of atoms, with the model's own pursuit."""
    from vaesc.decoder_coding import DecoderCoder

    dictionary = model.dictionary
    levels = sorted({min(k, model.n_atoms, model.latent_dim) for k in LEVELS})
    codes = list(dictionary.path(model.latents_of_unit(unit), levels).values())
    if dictionary.descent_steps:
        coder = DecoderCoder(model.vae, dictionary)
        codes = [coder.descended(unit, each) for each in codes]
    return Prepared(unit=unit, codes=codes)


def flat_images(model: SparseVAE, base: CodeModel, levels: csr_array) -> Floats:
    """Return what the levels of sparse codes decode to, (n, K) -> (n, P)."""
    made = model.unit_images(model.dictionary.decode(base.values(levels)))
    return made.reshape(levels.shape[0], -1)


def choose_atoms(
    model: SparseVAE, prepared: Prepared, base: CodeModel, price: float
) -> tuple[csr_array, NDArray[np.int64]]:
    """Return the levels of each image's best number of atoms, and the class that codes them."""
    from scipy.sparse import vstack

    every = [base.quantise(codes) for codes in prepared.codes]
    bits = [base.bits(levels) for levels in every]
    cost = decoded_errors(model, prepared, base) + price * np.stack(
        [b.min(axis=1) for b in bits], axis=1
    )
    best, rows = cost.argmin(axis=1), np.arange(len(cost))
    classes = np.stack([b.argmin(axis=1) for b in bits])[best, rows]
    return vstack(every, format="csr")[best * len(rows) + rows], classes


def decoded_errors(model: SparseVAE, prepared: Prepared, base: CodeModel) -> NDArray[np.float64]:
    """Return each image's squared error at each number of atoms, quantised, shape (n, L).

    Qualities whose quantisers have the same step share it: their amounts differ by little.
    """
    step = float(base.step[0])
    if step not in prepared.errors:
        flat = prepared.unit.reshape(len(prepared.unit), -1)
        prepared.errors[step] = np.stack(
            [
                np.square(flat - flat_images(model, base, base.quantise(codes))).sum(
                    axis=1, dtype=np.float64
                )
                for codes in prepared.codes
            ],
            axis=1,
        )
    return prepared.errors[step]


def code(model: SparseVAE, transforms: Transforms, layers: Layers, prepared: Prepared) -> Coded:
    """Return what is to be written of some images."""
    base, base_classes = choose_atoms(model, prepared, layers.base, layers.price)
    flat = prepared.unit.reshape(len(prepared.unit), -1)
    kinds = transforms.kinds(flat)
    residuals = flat - flat_images(model, layers.base, base)
    details, classes = code_details(
        transforms.project(residuals, kinds), layers.detail, layers.price
    )
    return Coded(
        base_classes=base_classes, base=base, kinds=kinds, detail=details, detail_classes=classes
    )


def code_details(
    coefficients: Floats, model: CodeModel, price: float
) -> tuple[csr_array, NDArray[np.int64]]:
    """Return levels of dense coefficients (n, K) that are worth their bits, and the classes."""
    levels = rounded(coefficients, float(model.step[0]))
    classes = model.bits(levels).argmin(axis=1)
    for _ in range(_PASSES):
        levels = worthwhile(coefficients, model, classes, price)
        classes = model.bits(levels).argmin(axis=1)
    return levels, classes


def decode(model: SparseVAE, transforms: Transforms, layers: Layers, coded: Coded) -> Floats:
    """Return the images that were written, in [0, 1], shape (n, P)."""
    details = layers.detail.values(coded.detail).toarray()
    made = flat_images(model, layers.base, coded.base)
    made = made + transforms.residuals(details, coded.kinds)
    return np.clip(made, 0, 1)


def arrays_of(layers: Layers, prefix: str) -> dict[str, NDArray[Any]]:
    """Return everything, by names that begin with `prefix`."""
    parts = {"base": layers.base.arrays(), "detail": layers.detail.arrays()}
    named = {f"{prefix}{p}/{name}": a for p, own in parts.items() for name, a in own.items()}
    return {
        **named, f"{prefix}kinds": layers.kinds, f"{prefix}price": np.array([layers.price])
    }  # fmt: skip


def layers_from(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Layers:
    """Return what :func:`arrays_of` gave.

    Raises:
        DataError: A model of codes is damaged.
        KeyError: Something is missing.
        ValueError: Something is not what it should be.
    """
    price, kinds = arrays[f"{prefix}price"], arrays[f"{prefix}kinds"]
    if price.shape != (1,) or price.dtype != np.float64 or not 1 / MOST_NUMBER <= price[0] <= 1:
        raise ValueError("a price of bits is no number above 0, and at most 1")
    base, detail = (
        CodeModel.from_arrays({n.removeprefix(p): a for n, a in arrays.items() if n.startswith(p)})
        for p in (f"{prefix}base/", f"{prefix}detail/")
    )
    if kinds.ndim != 2 or kinds.dtype != np.uint32 or len(kinds) != base.n_classes:
        raise ValueError("the kinds of images do not go with the classes of codes")
    if not kinds.all() or not kinds.size:
        raise ValueError("a kind of image has no share")
    return Layers(price=float(price[0]), base=base, kinds=kinds, detail=detail)


def _least_bits(model: CodeModel) -> float:
    likelier = np.maximum(model.used / ONE, 1 - model.used / ONE)
    return float((-np.log2(likelier)).sum(axis=1).min())
