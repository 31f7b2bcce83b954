"""Rate and distortion of the codec and of others, on test images as one set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.compression import peers, principal
from vaesc.applications.compression.bound import lossless_bits
from vaesc.applications.compression.codec import Codec
from vaesc.applications.compression.files import BLOCK
from vaesc.applications.compression.learning import learn_codec, prices
from vaesc.applications.compression.peers import Point, bpp_at, psnr_at
from vaesc.applications.findings import Figure, Findings, Picture, Table
from vaesc.applications.subject import Subject
from vaesc.config import CompressionConfig
from vaesc.parts import PART, save_part
from vaesc.report.compression import OURS, draw_curves, draw_strip

RIVALS = ("JPEG", "WebP", "JPEG XL")
"""Formats of the goal."""
PCA = "PCA, coded as well"
RATES = (0.1, 0.2, 0.3, 0.5)
"""Bits a pixel at which ours is held against the rivals."""
GOAL = 3.0
_SHOWN = 12
_STRIP = (1, 3, 5, 7, 9)

Curves = Mapping[str, Sequence[Point]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the codec made of the test images."""

    points: list[Point]
    rows: list[list[float]]
    """Of each quality: bytes, bits a pixel, PSNR, atoms and details an image."""
    strip: list[tuple[str, NDArray[np.float32]]]


def evaluate(config: CompressionConfig, subject: Subject) -> Findings:
    """Learn the codec, keep it for the registered model, and measure it beside others."""
    codec = learn_codec(subject)
    save_part(codec.part(), subject.folder / PART)
    n = min(config.n_images, subject.dataset.n("test"))
    found = _measured(codec, subject, n)
    curves: dict[str, Sequence[Point]] = {OURS: found.points, PCA: _principal(subject, n)}
    images = _bytes(subject, n)
    notes: list[str] = []
    lossless: dict[str, float] = {}
    if peers.drawable(subject.model.shape):
        curves |= _formats(images, subject, notes)
        lossless = peers.lossless(images)
    else:
        notes.append("The images are no pictures (h, w) or (h, w, 3): no image format takes them.")
    lossless["negative ELBO, by bits back (a bound)"] = lossless_bits(subject, images)
    _draw(curves, found, subject)
    figures = _figures(curves, n)
    return Findings(
        title="Compression",
        sentence=_sentence(curves, figures, n),
        figures=figures,
        tables=_tables(found, curves, lossless),
        pictures=_pictures(n, peers.drawable(subject.model.shape)),
        notes=[*notes, *_NOTES],
        more=_more(found, lossless),
    )


def _measured(codec: Codec, subject: Subject, n: int) -> Measured:
    """Write and read the test images at each quality, block by block."""
    qualities = codec.qualities
    blocks: list[list[bytes]] = [[] for _ in qualities]
    errors, atoms, details = (np.zeros(len(qualities)) for _ in range(3))
    strip: list[tuple[str, NDArray[np.float32]]] = []
    for start in range(0, n, BLOCK):
        unit = subject.dataset.floats("test", slice(start, min(start + BLOCK, n)))
        prepared = codec.prepare(unit)
        if not start:
            strip.append(("original", unit[:_SHOWN]))
        for q, layers in enumerate(qualities):
            coded = codec.coded(prepared, layers)
            blocks[q].append(codec.written(coded, layers))
            made = codec.model.to_unit(codec.decoded(blocks[q][-1], layers, len(unit)))
            errors[q] += np.square(unit - made).sum(dtype=np.float64)
            atoms[q] += coded.base.nnz
            details[q] += coded.detail.nnz
            if not start and q + 1 in _STRIP:
                strip.append((str(q + 1), made[:_SHOWN]))
        subject.listener.progress(min(start + BLOCK, n), n)
    sizes = [len(codec.packed(b, q + 1, n)) for q, b in enumerate(blocks)]
    n_pixels, n_values = _pixels(subject.model.shape) * n, math.prod(subject.model.shape) * n
    points = [
        Point(bpp=8 * size / n_pixels, mse=float(error) / n_values, setting=f"quality {q + 1}")
        for q, (size, error) in enumerate(zip(sizes, errors, strict=True))
    ]
    rows = [
        [float(size), p.bpp, p.psnr, float(a) / n, float(d) / n]
        for size, p, a, d in zip(sizes, points, atoms, details, strict=True)
    ]
    return Measured(points=points, rows=rows, strip=_worded(strip, points))


def _worded(
    strip: list[tuple[str, NDArray[np.float32]]], points: Sequence[Point]
) -> list[tuple[str, NDArray[np.float32]]]:
    return [
        (words if words == "original" else f"{points[int(words) - 1].bpp:.2f} bpp", images)
        for words, images in strip
    ]


def _principal(subject: Subject, n: int) -> list[Point]:
    components = principal.learn_components(subject)
    shape = subject.model.shape
    flat = subject.dataset.floats("test", slice(0, n)).reshape(n, -1)
    found = []
    for q, price in enumerate(prices()):
        model = principal.fit_price(subject, components, price)
        size, made = principal.coded(components, model, flat, price, shape)
        mse = float(np.square(flat - made).mean(dtype=np.float64))
        found.append(
            Point(bpp=8 * size / (n * _pixels(shape)), mse=mse, setting=f"quality {q + 1}")
        )
    return peers.hull(found)


def _formats(
    images: NDArray[np.uint8], subject: Subject, notes: list[str]
) -> dict[str, Sequence[Point]]:
    """Measure the formats that are installed, and note those that are not."""
    found: dict[str, Sequence[Point]] = {}
    for one in peers.FORMATS:
        if peers.installed(one.pillow):
            found[one.name] = peers.lossy(images, one)
            subject.listener.progress(len(found), len(peers.FORMATS))
        else:
            notes.append(f"{one.name} is left out: Pillow has no support for it here.")
    return found


def _bytes(subject: Subject, n: int) -> NDArray[np.uint8]:
    """Return the test images as bytes, which is what image formats take."""
    images = subject.dataset.images("test", slice(0, n))
    if images.dtype == np.uint8:
        return images
    return np.rint(images * np.float32(255)).astype(np.uint8)


def _pixels(shape: Sequence[int]) -> int:
    """Return the pixels of an image; its colours are of one pixel."""
    return math.prod(shape[:2]) if len(shape) == 3 else math.prod(shape)


def best_rival(curves: Curves, psnr: float) -> tuple[float, str] | None:
    """Return the fewest bits a pixel at which a format reaches a PSNR, and which one does.

    A format whose smallest file is better still is taken with that file.
    """
    found = []
    for name in RIVALS:
        points = curves.get(name, ())
        if points and psnr < points[0].psnr:
            found.append((points[0].bpp, name))
        elif (bpp := bpp_at(points, psnr)) is not None:
            found.append((bpp, name))
    return min(found, default=None)


def _figures(curves: Curves, n: int) -> list[Figure]:
    found = []
    if (at_20 := bpp_at(curves[OURS], 20)) is not None:
        rival = best_rival(curves, 20)
        found.append(
            Figure(
                key="test/bits_per_pixel_at_20db", ours=at_20, better="lower",
                what=f"bits per pixel at 20 dB, {n} test images as one file",
                method="sparse codes and details",
                baseline=rival[0] if rival else bpp_at(curves[PCA], 20),
                baseline_name=rival[1] if rival else PCA,
            )
        )  # fmt: skip
    for rate in RATES:
        psnr = psnr_at(curves[OURS], rate)
        rival = best_rival(curves, psnr) if psnr is not None else None
        if psnr is None or rival is None:
            continue
        pca = bpp_at(curves[PCA], psnr)
        gain = rival[0] / rate
        found.append(
            Figure(
                key=f"test/compression_gain_at_{rate:g}_bpp", ours=gain, better="higher",
                what=f"times fewer bytes than {rival[1]}, the best of JPEG, WebP and JPEG XL, at "
                f"equal PSNR ({psnr:.1f} dB), ours at {rate:g} bits per pixel",
                method="sparse codes and details",
                baseline=rival[0] / pca if pca else None, baseline_name=PCA if pca else "",
                goal=GOAL, shortfall="" if gain >= GOAL else _SHORTFALL.format(rate=rate, gain=gain),
            )
        )  # fmt: skip
    return found


_SHORTFALL = (
    "At {rate:g} bits per pixel the gain is {gain:.2f}, not 3: at such rates most bits go to "
    "details of single images, which a model of the whole set predicts little better than a "
    "format does. Tried on validation images: one transform for all (worse by 0.6 to 1.1 dB), "
    "clusters by coding cost (worse), 24, 32 and 64 kinds (no better), up to 16 atoms (no better)."
)
_NOTES = (
    "All bytes are counted: header, index and checksums of ours, every header of the formats'. "
    "The model itself is not: whoever decodes has it, as they have a JPEG decoder.",
    "Each format is the better of one mosaic of all images and one file an image (256 of them, "
    "evenly spread, stand for all); only ours gives access to 1,024 images without the rest.",
    "PSNR is that of the mean squared error over all pixels of the set.",
    "The bound for lossless coding is the negative ELBO of the article's VAE with the "
    "distribution of gray levels given its mean counted on training images: the likelihood it was "
    "trained with is no distribution over 256 gray levels.",
)


def _sentence(curves: Curves, figures: Sequence[Figure], n: int) -> str:
    at = bpp_at(curves[OURS], 20)
    ours = curves[OURS]
    reach = (
        f"{n} test images need {at:.3f} bits per pixel at 20 dB"
        if at is not None
        else f"{n} test images take {ours[0].bpp:.2f} to {ours[-1].bpp:.2f} bits per pixel at "
        f"{ours[0].psnr:.1f} to {ours[-1].psnr:.1f} dB (20 dB lies outside)"
    )
    gains = [f for f in figures if "gain" in f.key]
    if not gains:
        return f"{reach}; no image format could be held against it at {RATES[0]:g} to 0.5."
    told = ", ".join(f"{f.ours:.2f}" for f in gains)
    rates = ", ".join(f.key.removeprefix("test/compression_gain_at_")[:3] for f in gains)
    missed = [f for f in gains if not f.met]
    goal = f"; the goal of 3 is missed at {len(missed)} of {len(gains)} rates" if missed else ""
    lost = "; ours loses where it is below 1" if any(f.ours < 1 for f in gains) else ""
    return (
        f"{reach}; at {rates} bits per pixel the best of JPEG, WebP and JPEG XL takes {told} times "
        f"the bytes at equal PSNR{goal}{lost}."
    )


def _tables(
    found: Measured, curves: Curves, lossless: Mapping[str, float]
) -> list[Table]:
    levels = [20, 22, 24, 26, 28]
    return [
        Table(
            title="The codec at each quality",
            head=("quality", "bytes", "bits per pixel", "PSNR, dB", "atoms", "details"),
            rows=[[str(q + 1), *row] for q, row in enumerate(found.rows)],
        ),
        Table(
            title="Bits per pixel at equal PSNR (none: not within what was measured)",
            head=("", *(f"{level} dB" for level in levels)),
            rows=[[name, *(bpp_at(p, level) for level in levels)] for name, p in curves.items()],
        ),
        Table(
            title="Every measured point",
            head=("", "setting", "bits per pixel", "PSNR, dB"),
            rows=[[name, p.setting, p.bpp, p.psnr] for name, ps in curves.items() for p in ps],
        ),
        Table(
            title="Lossless, bits per pixel", head=("", "bits per pixel"),
            rows=[[name, bpp] for name, bpp in lossless.items()],
        ),
    ]  # fmt: skip


def _more(found: Measured, lossless: Mapping[str, float]) -> list[tuple[str, float]]:
    more = []
    for q, point in enumerate(found.points):
        more.append((f"test/compression_bits_per_pixel_q{q + 1}", point.bpp))
        more.append((f"test/compression_psnr_db_q{q + 1}", point.psnr))
    if "PNG" in lossless:
        more.append(("test/png_bits_per_pixel", lossless["PNG"]))
    return more


def _draw(curves: Curves, found: Measured, subject: Subject) -> None:
    plain: dict[str, Any] = {n: [(p.bpp, p.psnr) for p in ps] for n, ps in curves.items()}
    draw_curves(plain, subject.folder, "compression")
    if peers.drawable(subject.model.shape):
        draw_strip(found.strip, subject.folder, "compression-images")


def _pictures(n: int, is_picture: bool) -> list[Picture]:
    curves = Picture(
        name="compression", alt="PSNR against bits per pixel of the codec and of others",
        caption=f"{n} test images as one set; further left and higher is better.",
    )  # fmt: skip
    strip = Picture(
        name="compression-images", alt="Test images, and what comes back at five qualities",
        caption="The first test images, and what comes back of them at five rates.",
    )  # fmt: skip
    return [curves, strip] if is_picture else [curves]
