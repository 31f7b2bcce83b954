"""What others make of the same images: image formats, each as one mosaic and as a file an image.

A mosaic is one picture of all images, side by side in rows; black fills the last row. It spares a
format its header for each image and lets it adapt to many, but gives access to none alone. Errors
are counted over the images' own pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILES = 256
"""Images, evenly spread, that are written as a file each; their mean stands for all."""
_LONGEST = 16_000
"""Longest side of a mosaic: WebP takes 16,383."""

Bytes = NDArray[np.uint8]
OnPoint = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """An image format as Pillow writes it."""

    name: str
    pillow: str
    """Pillow's name of it."""
    qualities: tuple[int, ...]
    """What is tried, of 0 to 100."""
    options: Mapping[str, Any]
    gray_as_rgb: bool = False
    """It knows no gray, or Pillow writes none."""
    gray_options: Mapping[str, Any] = field(default_factory=dict)


JPEG = Format(
    name="JPEG", pillow="JPEG", qualities=(2, 4, 7, 12, 20, 35, 55, 80),
    options={"optimize": True, "progressive": True},
)  # fmt: skip
WEBP = Format(
    name="WebP", pillow="WEBP", qualities=(0, 1, 5, 12, 25, 45, 70), options={"method": 6},
    gray_as_rgb=True,
)  # fmt: skip
JXL = Format(
    name="JPEG XL", pillow="JXL", qualities=(1, 12, 16, 20, 30, 50), options={"effort": 7}
)
AVIF = Format(
    name="AVIF", pillow="AVIF", qualities=(2, 8, 16, 26, 38, 52), options={"speed": 6},
    gray_options={"subsampling": "4:0:0"},
)  # fmt: skip
FORMATS = (JPEG, WEBP, JXL, AVIF)
LOSSLESS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PNG", "PNG", {"optimize": True}),
    ("WebP lossless", "WEBP", {"lossless": True, "quality": 100, "method": 6}),
    ("JPEG XL lossless", "JXL", {"lossless": True, "effort": 7}),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured point: bits a pixel, and mean squared error, pixels in [0, 1]."""

    bpp: float
    mse: float
    setting: str

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB; that of an error below 1e-12 is 120."""
        return -10 * math.log10(max(self.mse, 1e-12))


def installed(pillow_name: str) -> bool:
    """Tell whether Pillow writes a format here; JPEG XL comes by a plug-in."""
    from PIL import Image, features

    if pillow_name == "JXL":
        try:
            import_module("pillow_jxl")
        except ImportError:
            return False
    if pillow_name in ("AVIF", "WEBP") and not features.check(pillow_name.lower()):
        return False
    Image.init()
    return pillow_name in Image.SAVE


def drawable(shape: Sequence[int]) -> bool:
    """Tell whether images of a shape are pictures: (h, w), or (h, w, 3)."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)


def lossy(images: Bytes, one: Format, on_point: OnPoint = lambda: None) -> list[Point]:
    """Return the points of a format, as a mosaic or as files, whichever takes fewer bytes.

    Args:
        images: Shape (n, h, w) or (n, h, w, 3).
        one: The format.
        on_point: Called after each quality.
    """
    gray = images.ndim == 3
    options = {**one.options, **(one.gray_options if gray else {})}
    found: dict[str, list[Point]] = {}
    for quality in one.qualities:
        for layout, (bpp, mse) in _layouts(images, one, {**options, "quality": quality}):
            point = Point(bpp=bpp, mse=mse, setting=f"{layout}, {quality}")
            found.setdefault(layout, []).append(point)
        on_point()
    return hull(min(found.values(), key=lambda points: sum(p.bpp for p in points)))


def lossless(images: Bytes) -> dict[str, float]:
    """Return bits a pixel of each lossless format that is installed, the better layout of each."""
    found = {}
    for name, pillow, options in LOSSLESS:
        if installed(pillow):
            one = Format(name=name, pillow=pillow, qualities=(), options=options)
            found[name] = min(point[0] for _, point in _layouts(images, one, options))
    return found


def hull(points: Sequence[Point]) -> list[Point]:
    """Return the points that none beats in both rate and error, by increasing rate."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bpp, p.mse)):
        if not best or point.mse < best[-1].mse:
            best.append(point)
    return best


def bpp_at(points: Sequence[Point], psnr: float) -> float | None:
    """Return bits a pixel at a PSNR, between points on a straight line of their logarithm.

    None where the points do not reach so far, either way.
    """
    xs, ys = [p.psnr for p in points], [math.log(p.bpp) for p in points]
    if not xs or not xs[0] <= psnr <= xs[-1]:
        return None
    return float(math.exp(np.interp(psnr, xs, ys)))


def psnr_at(points: Sequence[Point], bpp: float) -> float | None:
    """Return the PSNR at a rate, between points as :func:`bpp_at`; None beyond them."""
    xs, ys = [math.log(p.bpp) for p in points], [p.psnr for p in points]
    if not xs or not xs[0] <= math.log(bpp) <= xs[-1]:
        return None
    return float(np.interp(math.log(bpp), xs, ys))


def _layouts(
    images: Bytes, one: Format, options: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each layout's name, and its bits a pixel and error."""
    few = images[:: max(1, len(images) // _FILES)][:_FILES]
    yield "files", _measured([(image, image) for image in few], one, options)
    mosaic = _mosaic(images)
    if max(mosaic.shape[:2]) <= _LONGEST:
        yield "mosaic", _measured([(mosaic, images)], one, options)


def _measured(
    pictures: Sequence[tuple[Bytes, Bytes]], one: Format, options: Mapping[str, Any]
) -> tuple[float, float]:
    """Return bits a pixel and error of pictures, each with the images whose pixels count."""
    size = n_pixels = n_values = 0
    error = 0.0
    for picture, images in pictures:
        data = _written(picture, one, options)
        back = _read(data, picture)
        if len(images) and images.shape != picture.shape:
            back = _cut(back, images)
        error += float(np.square(back.astype(np.float64) - images).sum())
        size += len(data)
        n_values += images.size
        n_pixels += images.size // (3 if picture.ndim == 3 else 1)
    return 8 * size / n_pixels, error / n_values / 255**2


def _written(picture: Bytes, one: Format, options: Mapping[str, Any]) -> bytes:
    from PIL import Image

    image = Image.fromarray(picture)
    if one.gray_as_rgb and image.mode == "L":
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, one.pillow, **options)
    return out.getvalue()


def _read(data: bytes, like: Bytes) -> Bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L" if like.ndim == 2 else "RGB"))


def _mosaic(images: Bytes) -> Bytes:
    """Lay images side by side, about as many rows as columns."""
    n, h, w, *colours = images.shape
    columns = math.ceil(math.sqrt(n * h / w))
    rows = -(-n // columns)
    padded = np.zeros((rows * columns, h, w, *colours), np.uint8)
    padded[:n] = images
    laid = padded.reshape(rows, columns, h, w, *colours).swapaxes(1, 2)
    return np.ascontiguousarray(laid.reshape(rows * h, columns * w, *colours))


def _cut(mosaic: Bytes, images: Bytes) -> Bytes:
    """Return the images of a mosaic."""
    n, h, w, *colours = images.shape
    rows, columns = mosaic.shape[0] // h, mosaic.shape[1] // w
    laid = mosaic.reshape(rows, h, columns, w, *colours).swapaxes(1, 2)
    return laid.reshape(rows * columns, h, w, *colours)[:n]
