r"""What an image costs in bits: its support, and k coefficients of q bits each.

.. math:: R(k, q) = k (\log_2 K + q)

Equal k is one budget; bits are the other, and the fairer one where coefficients of one method need
more precision than another's. Coefficients are quantised uniformly (:func:`quantise`), with no
entropy coder after it: every method could save about as much by one. Decoding is what it always
is, of the quantised codes.

The range of the quantiser is fixed for each method, k and q, before any test image is seen. A
narrow range has fine steps but clips large coefficients, which few bits can afford and many need
not. Candidates are quantiles of the magnitude of coefficients of *training* images; of these, that
with the least pixel error on *validation* images is kept. A rule on the coefficients' own error
would be blind to what the decoder does with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vaesc.bundle import SparseVAE, squared_errors
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.contenders import DescendedPixels
from vaesc.evaluation.dictionaries import Dictionaries, code_levels
from vaesc.evaluation.methods import Batch, batches_of
from vaesc.evaluation.pool import Pool
from vaesc.evaluation.refined import RefinedCodes

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.latents import LatentStore

COEFFICIENT_BITS = (2, 3, 4, 5, 6, 8)
"""Bits of a coefficient, its sign among them."""
QUANTILES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Of the magnitudes of training coefficients: candidates for the range."""
_CALIBRATION, CHOOSING, _RANGING = 1024, 2048, 256
"""Training images that the candidates come from; validation images that choose the best point of
each budget; of these, those that choose the range (all, where there are fewer)."""


def quantise(codes: csr_array, limit: float, bits: int) -> csr_array:
    """Round the stored coefficients of `codes` to the middles of 2^bits equal cells.

    The cells cover [-limit, limit], half of them on either side of zero, which is an edge and no
    middle: the support is paid for separately, so no value is spent on saying "nothing here".
    What lies outside goes to the outermost cell.

    Args:
        codes: Sparse codes, shape (n, K).
        limit: Positive.
        bits: At least 1.

    Returns:
        Codes of the same support; within the range no coefficient moved by more than half a cell,
        ``limit / 2**bits``.
    """
    step = 2 * limit / 2**bits
    cells = np.minimum(np.floor(np.abs(codes.data.astype(np.float64)) / step), 2 ** (bits - 1) - 1)
    rounded = codes.copy()
    rounded.data = (np.sign(codes.data) * (cells + 0.5) * step).astype(codes.dtype)
    return rounded


def rate(k: int, n_atoms: int, coefficient_bits: int) -> float:
    """Return the bits of an image's code: k supports and k coefficients."""
    return k * (math.log2(n_atoms) + coefficient_bits)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A method as coder and decoder."""

    name: str
    n_atoms: int
    spent: Mapping[int, int]
    """Compared level -> coefficients an image really gets there, at most."""
    code: Callable[[Batch], Mapping[int, csr_array]]
    decode: Callable[[int, csr_array], Floats]
    """From a level and codes to flat images in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What quantised codes of one method cost and yield; axes are levels and COEFFICIENT_BITS."""

    bits: NDArray[np.float64]
    """Bits an image, shape (m, q)."""
    validation: NDArray[np.float64]
    """Mean squared error on the validation split, shape (m, q)."""
    errors: Floats
    """Mean squared error of each test image, or of pools of them (:mod:`vaesc.evaluation.pool`),
    shape (n, m, q)."""


def codecs_of(
    model: SparseVAE,
    learned: Dictionaries,
    refined: RefinedCodes | None,
    rival: DescendedPixels | None,
) -> list[Codec]:
    """Return the article's method, the pixel dictionaries and, if there are, refined and rival."""
    latent, pixel = learned.latents, learned.pixels
    codecs = [
        Codec(
            name="article", n_atoms=model.n_atoms,
            spent={k: min(k, *d.dictionary.shape) for k, d in latent.items()},
            code=lambda batch: batch.codes,
            decode=lambda k, codes: _flat(model.unit_images(latent[k].decode(codes))),
        ),
        Codec(
            name="pixel", n_atoms=model.n_atoms,
            spent={k: min(k, *d.dictionary.shape) for k, d in pixel.items()},
            code=lambda batch: code_levels(pixel, batch.images),
            decode=lambda k, codes: pixel[k].decode(codes),
        ),
    ]  # fmt: skip
    if refined:
        codecs.insert(0, _refined(refined))
    if rival:
        pixels = next(codec for codec in codecs if codec.name == "pixel")
        codecs.append(replace(pixels, name="pixel_descended", code=rival.of))
    return codecs


def _refined(refined: RefinedCodes) -> Codec:
    models = refined.models
    return Codec(
        name="refined", n_atoms=next(iter(models.values())).n_atoms,
        spent={k: min(k, m.n_atoms, math.prod(m.shape)) for k, m in models.items()},
        code=lambda batch: {k: refined.of(batch, k) for k in models},
        decode=lambda k, codes: _flat(models[k].unit_images(models[k].dictionary.decode(codes))),
    )  # fmt: skip


def _flat(images: Floats) -> Floats:
    return images.reshape(len(images), -1)


class Record(Protocol):
    """Hears each test image's errors as they are measured."""

    def begin(self, rates: Mapping[str, Rates], n: int) -> None:
        """Hear what every codec costs and yields on validation images; n test images follow."""

    def add(self, codec: str, rows: slice, errors: Floats) -> None:
        """Hear of consecutive test images, shape (m, levels, bits)."""


Limits = Mapping[str, NDArray[np.float64]]
"""Codec -> range of its quantiser at each level and number of bits, shape (m, q)."""
Take = Callable[[slice, Mapping[str, Floats]], None]
"""Hears of consecutive test images: by codec the errors of each, shape (rows, m, q)."""
OnTest = Callable[[Limits, Take], None]
"""Measures all test images, in order, elsewhere perhaps."""


def measure_rates(
    codecs: list[Codec],
    splits: Mapping[str, Split],
    latents: LatentStore,
    learned: Dictionaries,
    *,
    on_rows: Callable[[int], None],
    record: Record | None = None,
    on_test: OnTest | None = None,
) -> dict[str, Rates]:
    """Quantise, decode and measure every codec at every level and number of bits.

    Ranges come from training and validation images; the test split is passed over once.

    Args:
        codecs: The methods.
        splits: Images of all splits.
        latents: Latents of all splits.
        learned: Gives the latents' codes.
        on_rows: Hears how many more images of ``validation`` and ``test`` are done.
        record: Hears each test image's errors, of which only a pool may be returned.
        on_test: Measures the test split (:mod:`vaesc.evaluation.rate_shards`); default: here.
    """
    candidates = _candidates(codecs, splits["train"], latents, learned)
    limits: dict[str, NDArray[np.float64]] = {}
    few: dict[str, list[Floats]] = {c.name: [] for c in codecs}
    for batch in batches_of(splits["validation"], latents, learned.latents):
        for codec in codecs:
            codes = codec.code(batch)
            if codec.name not in limits:  # the first validation images choose the range
                limits[codec.name] = _limits(codec, codes, batch, candidates[codec.name])
            few[codec.name].append(_errors(codec, codes, batch, limits[codec.name]))
        on_rows(len(batch.images))
        if batch.rows.stop >= CHOOSING:
            break
    rates = {c.name: _costs(c, few[c.name]) for c in codecs}
    test = splits["test"]
    if record:
        record.begin(rates, len(test))
    pools = {c.name: Pool(len(test), rates[c.name].bits.size) for c in codecs}

    def here(limits: Limits, take: Take) -> None:
        for batch in batches_of(test, latents, learned.latents):
            take(batch.rows, errors_of(codecs, batch, limits))

    def take(rows: slice, errors: Mapping[str, Floats]) -> None:
        for name, values in errors.items():
            for column, each in enumerate(values.reshape(len(values), -1).T):
                pools[name].add(rows, column, each)
            if record:
                record.add(name, rows, values)
        on_rows(rows.stop - rows.start)

    (on_test or here)(limits, take)
    return {
        name: replace(r, errors=pools[name].rows().reshape(-1, *r.bits.shape))
        for name, r in rates.items()
    }


def errors_of(codecs: list[Codec], batch: Batch, limits: Limits) -> dict[str, Floats]:
    """Return by codec each image's squared error at every level and number of bits."""
    return {c.name: _errors(c, c.code(batch), batch, limits[c.name]) for c in codecs}


def _costs(codec: Codec, validation: list[Floats]) -> Rates:
    """Return what a codec costs and yields on validation images, without test images."""
    bits = [[rate(k, codec.n_atoms, q) for q in COEFFICIENT_BITS] for k in codec.spent.values()]
    return Rates(
        bits=np.array(bits),
        validation=np.concatenate(validation).mean(axis=0, dtype=np.float64),
        errors=np.empty((0, len(codec.spent), len(COEFFICIENT_BITS)), np.float32),
    )


def _candidates(
    codecs: list[Codec], train: Split, latents: LatentStore, learned: Dictionaries
) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Codec -> level -> candidates for the range, shape (len(QUANTILES),), from training codes."""
    sizes: dict[str, dict[int, list[Floats]]] = {c.name: {k: [] for k in c.spent} for c in codecs}
    for batch in batches_of(train, latents, learned.latents):
        for codec in codecs:
            for k, codes in codec.code(batch).items():
                sizes[codec.name][k].append(np.abs(codes.data[codes.data != 0]))
        if batch.rows.stop >= _CALIBRATION:
            break
    return {
        name: {k: _quantiles(np.concatenate(found)) for k, found in by_level.items()}
        for name, by_level in sizes.items()
    }


def _quantiles(sizes: Floats) -> NDArray[np.float64]:
    """Return candidates; where no training image uses an atom there is nothing to quantise."""
    return np.quantile(sizes, QUANTILES) if sizes.size else np.ones(len(QUANTILES))


def _limits(
    codec: Codec,
    codes: Mapping[int, csr_array],
    batch: Batch,
    candidates: Mapping[int, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the range of least pixel error on a batch for each level and bits, shape (m, q)."""
    few = replace(batch, images=batch.images[:_RANGING])
    some = {k: code[: len(few.images)] for k, code in codes.items()}
    tried = [
        _errors(codec, some, few, _everywhere(candidates, i)).mean(axis=0, dtype=np.float64)
        for i in range(len(QUANTILES))
    ]
    best = np.argmin(tried, axis=0)
    return np.take_along_axis(np.stack([candidates[k] for k in codec.spent]), best, axis=1)


def _everywhere(candidates: Mapping[int, NDArray[np.float64]], index: int) -> NDArray[np.float64]:
    """Return one candidate of each level for every number of bits, shape (m, q)."""
    chosen = [limits[index] for limits in candidates.values()]
    return np.repeat(np.array(chosen)[:, None], len(COEFFICIENT_BITS), axis=1)


def _errors(
    codec: Codec, codes: Mapping[int, csr_array], batch: Batch, limits: NDArray[np.float64]
) -> Floats:
    """Each image's squared error at every level and number of bits, shape (len(batch), m, q)."""
    errors = np.empty((len(batch.images), *limits.shape), np.float32)
    for i, k in enumerate(codec.spent):
        for j, bits in enumerate(COEFFICIENT_BITS):
            rebuilt = codec.decode(k, quantise(codes[k], float(limits[i, j]), bits))
            errors[:, i, j] = squared_errors(batch.images, rebuilt)
    return errors
