"""What others make of the same images: image formats, as one mosaic and as a file an image.

A mosaic is one picture of all images, side by side in rows; black fills the last row. It spares a
format its header for each image and lets it adapt to many, but gives access to none alone. Errors
are counted over the images' own pixels.

Images come as everywhere, channels first, shape (n, h, w), (n, 1, h, w) or (n, 3, h, w). Pictures
are what formats take: bytes of shape (h, w), or (h, w, 3), the channels last.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.shapes import n_channels

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
    """What is tried, of 0 to 100, from the lowest that differs on; more of them around our rates.
    (JPEG's 0 is its 1.)"""
    options: Mapping[str, Any]
    gray_as_rgb: bool = False
    """It knows no gray, or Pillow writes none."""
    gray_options: Mapping[str, Any] = field(default_factory=dict)


JPEG = Format(
    name="JPEG", pillow="JPEG", qualities=(1, 2, 3, 4, 5, 7, 9, 12, 16, 20, 27, 35, 55, 80),
    options={"optimize": True, "progressive": True},
)  # fmt: skip
WEBP = Format(
    name="WebP", pillow="WEBP", qualities=(0, 1, 2, 3, 5, 8, 12, 18, 25, 35, 45, 70),
    options={"method": 6}, gray_as_rgb=True,
)  # fmt: skip
JXL = Format(
    name="JPEG XL", pillow="JXL", qualities=(0, 1, 12, 18, 20, 25, 30, 40, 50),
    options={"effort": 7, "num_threads": 0},
)  # fmt: skip
AVIF = Format(
    name="AVIF", pillow="AVIF", qualities=(0, 4, 8, 16, 26, 38, 52),
    options={"speed": 6}, gray_options={"subsampling": "4:0:0"},
)  # fmt: skip
FORMATS = (JPEG, WEBP, JXL, AVIF)
LOSSLESS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PNG", "PNG", {"optimize": True}),
    ("WebP lossless", "WEBP", {"lossless": True, "quality": 100, "method": 6}),
    ("JPEG XL lossless", "JXL", {"lossless": True, "effort": 9, "num_threads": 0}),
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


def versions() -> str:
    """Return which formats are measured here, each with the version of what writes it."""
    import PIL
    from PIL import features

    libraries = {"JPEG": "libjpeg_turbo", "WEBP": "webp", "AVIF": "avif"}
    found = [f"Pillow {PIL.__version__}", f"PNG {features.version('zlib')}"]
    for one in FORMATS:
        if not installed(one.pillow):
            continue
        if one.pillow == "JXL":
            version: str | None = metadata.version("pillow-jxl-plugin")
        else:
            version = features.version(libraries[one.pillow]) or features.version("jpg")
        found.append(f"{one.name} {version}")
    return ", ".join(found)


def has_mosaic(images: Bytes) -> bool:
    """Tell whether images, shape (n, h, w) or (n, c, h, w), fit in one mosaic."""
    return _fits(len(images), *images.shape[-2:])


def drawable(shape: Sequence[int]) -> bool:
    """Tell whether an image of a shape is a picture: (h, w), (1, h, w) or (3, h, w)."""
    return len(shape) == 2 or (len(shape) == 3 and n_channels(shape) in (1, 3))


def pictures_of(images: Bytes) -> Bytes:
    """Return drawable images as pictures, shape (n, h, w) or (n, h, w, 3)."""
    if n_channels(images.shape[1:]) == 1:
        return images.reshape(len(images), *images.shape[-2:])
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def lossy(images: Bytes, one: Format, on_point: OnPoint = lambda: None) -> list[Point]:
    """Return the points of a format that none of its others beats, as a mosaic or as files.

    Args:
        images: Drawable ones, shape (n, h, w) or (n, c, h, w).
        one: The format.
        on_point: Called after each quality.
    """
    pictures = pictures_of(images)
    gray = pictures.ndim == 3
    options = {**one.options, **(one.gray_options if gray else {})}
    found: list[Point] = []
    for quality in one.qualities:
        for layout, (bpp, mse) in _layouts(pictures, one, {**options, "quality": quality}):
            found.append(Point(bpp=bpp, mse=mse, setting=f"{layout}, {quality}"))
        on_point()
    return hull(found)


def lossless(images: Bytes) -> dict[str, float]:
    """Return bits a pixel of each lossless format that is installed, the better layout of each.

    Args:
        images: Drawable ones, shape (n, h, w) or (n, c, h, w).
    """
    pictures, found = pictures_of(images), {}
    for name, pillow, options in LOSSLESS:
        if installed(pillow):
            one = Format(name=name, pillow=pillow, qualities=(), options=options)
            found[name] = min(point[0] for _, point in _layouts(pictures, one, options))
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
    pictures: Bytes, one: Format, options: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each layout's name, and its bits a pixel and error."""
    few = pictures[:: max(1, len(pictures) // _FILES)][:_FILES]
    yield "files", _measured([(picture, picture) for picture in few], one, options)
    if _fits(*pictures.shape[:3]):
        yield "mosaic", _measured([(_mosaic(pictures), pictures)], one, options)


def _measured(
    files: Sequence[tuple[Bytes, Bytes]], one: Format, options: Mapping[str, Any]
) -> tuple[float, float]:
    """Return bits a pixel and error of files' pictures, each with those whose pixels count."""
    size = n_pixels = n_values = 0
    error = 0.0
    for picture, parts in files:
        data = _written(picture, one, options)
        back = _read(data, picture)
        if len(parts) and parts.shape != picture.shape:
            back = _cut(back, parts)
        error += float(np.square(back.astype(np.float64) - parts).sum())
        size += len(data)
        n_values += parts.size
        n_pixels += parts.size // (3 if picture.ndim == 3 else 1)
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


def _mosaic(pictures: Bytes) -> Bytes:
    """Lay pictures side by side, about as many rows as columns."""
    n, h, w, *colours = pictures.shape
    columns = _columns(n, h, w)
    rows = -(-n // columns)
    padded = np.zeros((rows * columns, h, w, *colours), np.uint8)
    padded[:n] = pictures
    laid = padded.reshape(rows, columns, h, w, *colours).swapaxes(1, 2)
    return np.ascontiguousarray(laid.reshape(rows * h, columns * w, *colours))


def _fits(n: int, h: int, w: int) -> bool:
    columns = _columns(n, h, w)
    return max(columns * w, -(-n // columns) * h) <= _LONGEST


def _columns(n: int, h: int, w: int) -> int:
    return math.ceil(math.sqrt(n * h / w))


def _cut(mosaic: Bytes, pictures: Bytes) -> Bytes:
    """Return the pictures of a mosaic."""
    n, h, w, *colours = pictures.shape
    rows, columns = mosaic.shape[0] // h, mosaic.shape[1] // w
    laid = mosaic.reshape(rows, h, columns, w, *colours).swapaxes(1, 2)
    return laid.reshape(rows * columns, h, w, *colours)[:n]
