"""A folder of image files; its subfolders, if it has any, are the classes.

``DIR/*.png`` has no labels; ``DIR/cat/*.png, DIR/dog/*.png`` has two classes; with ``DIR/train``
and ``DIR/test``, each laid out in one of these ways, the split is kept. Names are sorted, so that
the order does not depend on the file system. Images become grey, shape (h, w), if every one of
them is, else RGB, shape (3, h, w); transparency is dropped. All must have one size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.bucket import is_remote
from vaesc.config import DatasetConfig, expanded
from vaesc.datasets.base import WHOLE, ImageSource, Part, RawImages
from vaesc.datasets.files import absent, digest_of, reading
from vaesc.errors import DataError
from vaesc.untrusted import check_all_inside

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
)
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM")
_MOST_PIXELS = 2**24
"""Pixels of one image: 4096x4096, at most 200 MB while it is decoded, whatever the file's size."""
_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


@dataclass(frozen=True)
class FileRows:
    """Image files seen as rows."""

    files: tuple[Path, ...]
    size: tuple[int, int]
    """Width and height."""
    mode: str
    """``L`` or ``RGB``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Full shape, (n, h, w) or (n, 3, h, w)."""
        width, height = self.size
        return (len(self.files), *((3,) if self.mode == "RGB" else ()), height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel: bytes."""
        return np.dtype(np.uint8)

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """Decode the files with these row numbers."""
        return np.stack([self._decode(self.files[row]) for row in rows])

    def _decode(self, path: Path) -> NDArray[Any]:
        with _opened(path) as image:
            pixels = np.asarray(image.convert(self.mode))
        return pixels if self.mode == "L" else np.moveaxis(pixels, -1, 0)


class ImageFolder(ImageSource):
    """The folder at ``dataset.path``."""

    def check(self, config: DatasetConfig) -> None:
        """Refuse a path that is no folder."""
        _root(config)

    def is_present(self, config: DatasetConfig) -> bool:
        """Return whether there is anything at the path."""
        return expanded(config.path or "").exists()

    def download(self, config: DatasetConfig) -> None:
        """Say that nothing can be fetched if the folder is not there."""
        _root(config)

    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of the image files and their names relative to the folder."""
        root = _root(config)
        files = sorted(f for part in _folders(root).values() for f, _ in _listed(part))
        return digest_of((f.relative_to(root).as_posix(), f) for f in files)

    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """List the files and check their sizes; pixels are decoded block by block later."""
        listed = {name: _listed(folder) for name, folder in _folders(_root(config)).items()}
        size, mode = _common(path for files in listed.values() for path, _ in files)
        names = {name for files in listed.values() for _, name in files}
        if None in names and len(names) > 1:
            raise DataError(f"{config.path}: train and test must both have classes, or neither")
        classes = tuple(sorted(name for name in names if name is not None))
        number = {name: i for i, name in enumerate(classes)}
        parts = {}
        for part, files in listed.items():
            labels = np.array([number[name] for _, name in files if name is not None], np.int64)
            images = FileRows(tuple(path for path, _ in files), size, mode)
            parts[part] = Part(
                images=images, labels=labels if classes else None, origin=str(_root(config))
            )
        return RawImages(parts=parts, licence="the user's own", classes=classes or None)


def _root(config: DatasetConfig) -> Path:
    if is_remote(config.path):
        raise DataError(
            f"{config.path} cannot be read as a folder of image files: only Zarr is read from a "
            "bucket, with dataset.source=arrays; copy the folder to this machine"
        )
    root = expanded(config.path or "")
    if not root.exists():
        raise absent(root)
    if not root.is_dir():
        raise DataError(
            f"{root} is a file, but dataset.source=folder needs a folder; for an array file set "
            "dataset.source=arrays"
        )
    with reading(root, "a folder of images"):
        check_all_inside(root)
    return root


def _folders(root: Path) -> dict[str, Path]:
    own = {split: root / split for split in ("train", "test")}
    return own if all(folder.is_dir() for folder in own.values()) else {WHOLE: root}


def _listed(folder: Path) -> list[tuple[Path, str | None]]:
    """Return each image file with the name of its class, sorted by class and name."""
    direct = _images_in(folder)
    classes = sorted(
        p for p in folder.iterdir() if not p.name.startswith(".") and _is(Path.is_dir, p)
    )
    nested = [(path, sub.name) for sub in classes for path in _images_in(sub)]
    if direct and nested:
        raise DataError(
            f"{folder} has images both beside its subfolders ({direct[0].name}) and in them "
            f"({nested[0][0].relative_to(folder)}); put them either all in subfolders, one a "
            "class, or in none"
        )
    if not direct and not nested:
        raise DataError(
            f"{folder} is empty: it holds no image files ({', '.join(sorted(EXTENSIONS))}), also "
            "one level down; name the folder that does"
        )
    return [(path, None) for path in direct] or list(nested)


def _images_in(folder: Path) -> list[Path]:
    files = [
        p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and _is(Path.is_file, p)
    ]
    images = [p for p in files if p.suffix.lower() in EXTENSIONS]
    if len(images) < len(files):
        logger.info("%s: passed over %d other files", folder, len(files) - len(images))
    return images


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except OSError as error:  # a link to a name that is too long, or in a circle
        raise DataError(
            f"{path} cannot be looked at ({error.strerror}); remove it or move it away"
        ) from error


def _common(paths: Iterable[Path]) -> tuple[tuple[int, int], str]:
    """Return the one size of all images, and ``L`` or ``RGB``; reads headers only."""
    size: tuple[int, int] | None = None
    first, mode = Path(), "L"
    for path in paths:
        with _opened(path) as image:
            if image.mode not in _GREY | _COLOUR:
                raise DataError(
                    f"{path} has mode {image.mode}, but only 8-bit images are read; convert it, "
                    "or save the values as .npy and set dataset.source=arrays"
                )
            if size is None:
                size, first = image.size, path
            if image.size != size:
                raise DataError(
                    f"{path} is {image.size[0]}x{image.size[1]} pixels, but {first.name} is "
                    f"{size[0]}x{size[1]}; all images must have one size, so resize or crop them"
                )
            mode = mode if image.mode in _GREY else "RGB"
    if size is None:
        raise DataError("there are no images")
    return size, mode


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    with reading(path, "an image"):
        try:
            # Only these: what pillow takes for PostScript, for one, it gives to Ghostscript.
            with Image.open(path, formats=_FORMATS) as image:
                if math.prod(image.size) > _MOST_PIXELS:
                    width, height = image.size
                    raise DataError(
                        f"{path} claims {width}x{height} pixels, more than the {_MOST_PIXELS} "
                        "that are decoded; crop or shrink it"
                    )
                yield image
        except UnidentifiedImageError as error:
            raise DataError(
                f"{path} is not an image, whatever its name says; remove or fetch it again"
            ) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(f"{path} is too large to decode safely ({error}); crop it") from error
