"""Rate and distortion of the codec and of others, on test images as one set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.compression import peers, pixels
from vaesc.applications.compression.bound import byte_images, lossless_bits
from vaesc.applications.compression.codec import Codec
from vaesc.applications.compression.files import BLOCK
from vaesc.applications.compression.learning import learn_codec, prices
from vaesc.applications.compression.peers import Point
from vaesc.applications.compression.telling import (
    NOTES,
    RATES,
    Curves,
    Sizes,
    break_even,
    figures_of,
    sentence_of,
    tables_of,
)  # fmt: skip
from vaesc.applications.compression.transforms import MOST_PIXELS
from vaesc.applications.findings import Findings, Picture
from vaesc.applications.subject import Subject
from vaesc.config import CompressionConfig
from vaesc.parts import PART, save_part
from vaesc.report.compression import CONTROL, OURS, PCA, draw_curves, draw_strip
from vaesc.shapes import n_pixels

_SHOWN = 12
_STRIP = (1, 3, 5, 7, 9)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the codec made of the test images."""

    points: list[Point]
    rows: list[list[float]]
    """Of each quality: bytes, bits a pixel, PSNR, atoms and details an image."""
    strip: list[tuple[str, NDArray[np.float32]]]


def evaluate(config: CompressionConfig, subject: Subject) -> Findings:
    """Learn the codec, keep it for the registered model, and measure it beside others."""
    if math.prod(subject.model.shape) > MOST_PIXELS:
        return _left_out(subject)
    codec = learn_codec(subject)
    save_part(codec.part(), subject.folder / PART)
    n = min(config.n_images, subject.dataset.n("test"))
    found = _measured(codec, subject, n)
    sizes = Sizes(n_pixels=n_pixels(subject.model.shape), of={OURS: _model_bytes(codec, subject)})
    curves: dict[str, Sequence[Point]] = {OURS: found.points}
    for name, of_kinds in ((CONTROL, True), (PCA, False)):
        curves[name], sizes.of[name] = _without_vae(codec, subject, n, of_kinds=of_kinds)
    images = byte_images(subject, "test", n)
    notes: list[str] = []
    lossless: dict[str, float] = {}
    if peers.drawable(subject.model.shape):
        curves |= _formats(images, subject, notes)
        lossless = peers.lossless(images)
    else:
        notes.append(
            "The images are no pictures, (h, w), (1, h, w) or (3, h, w): no image format takes "
            "them."
        )
    lossless["negative ELBO, by bits back (a bound)"] = lossless_bits(subject, images)
    _draw(curves, found, subject)
    figures = figures_of(curves, n)
    more = [*_more(found, lossless), ("test/compression_model_bytes", sizes.of[OURS])]
    if pays := break_even(curves, sizes, OURS, RATES[0]):
        more.append((f"test/compression_break_even_images_at_{RATES[0]:g}_bpp", pays))
    return Findings(
        title="Compression",
        sentence=sentence_of(curves, figures, n, sizes),
        figures=figures,
        tables=tables_of(found.rows, curves, lossless, sizes),
        pictures=_pictures(n, peers.drawable(subject.model.shape)),
        notes=[*notes, *NOTES],
        more=more,
    )


def _left_out(subject: Subject) -> Findings:
    n = math.prod(subject.model.shape)
    return Findings(
        title="Compression", figures=(),
        sentence=f"Left out: images of {n} values are too large for the codec's transforms, whose "
        f"covariances take room for {MOST_PIXELS} at most.",
    )  # fmt: skip


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
    shape = subject.model.shape
    all_pixels, n_values = n_pixels(shape) * n, math.prod(shape) * n
    points = [
        Point(bpp=8 * size / all_pixels, mse=float(error) / n_values, setting=f"quality {q + 1}")
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


def _without_vae(
    codec: Codec, subject: Subject, n: int, *, of_kinds: bool
) -> tuple[list[Point], int]:
    """Return the points of :mod:`.pixels`, and the bytes that decoding takes beside a file."""
    transforms = pixels.learn_transforms(subject, of_kinds=of_kinds)
    shape = subject.model.shape
    flat = subject.dataset.floats("test", slice(0, n)).reshape(n, -1)
    found, n_bytes = [], sum(array.nbytes for array in transforms.arrays().values())
    for q, price in enumerate(prices()):
        coder = pixels.fit_coder(subject, transforms, price)
        size, made = coder.coded(flat, shape)
        back = codec.model.to_unit(codec.in_range(made.reshape(n, *shape))).reshape(n, -1)
        mse = float(np.square(flat - back).mean(dtype=np.float64))
        found.append(
            Point(bpp=8 * size / (n * n_pixels(shape)), mse=mse, setting=f"quality {q + 1}")
        )
        n_bytes += coder.n_bytes
        subject.listener.progress(q + 1, len(prices()))
    return peers.hull(found), n_bytes


def _model_bytes(codec: Codec, subject: Subject) -> int:
    """Return what whoever compresses and decompresses must have: VAE, dictionary, part."""
    model = codec.model
    tensors = sum(t.nbytes for t in model.vae.state_dict().values())
    arrays = (model.dictionary.dictionary, model.dictionary.mean, model.dictionary.scale)
    kept = sum(np.asarray(array).nbytes for array in arrays)
    return int(tensors + kept) + (subject.folder / PART).stat().st_size


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
    if not peers.has_mosaic(images):
        notes.append(
            "The images are too many for one mosaic (WebP takes 16,383 pixels a side): formats "
            "are measured as one file an image only."
        )
    return found


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
