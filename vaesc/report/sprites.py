"""Sheets of small pictures without words: a page cuts them up and writes beside them.

Words belong in the page, where they have the reader's size and can be searched and read aloud. A
sheet has one row of tiles for each card or reconstruction, with transparent gaps, so that it suits
every background; :func:`save_sheet` says how large the tiles are, which is all a page needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.report.style import DARK_THEME, LIGHT_THEME, Theme

GAP = 4
"""Pixels between tiles."""
_SIDE = 56
"""Pixels that a tile has at least: enlarged here by whole numbers, it stays sharp on any page."""
_LARGEST = {2: 64, 3: 40}
"""Pixels of the longer side above which a picture is shrunk, grey and colour: a report is one file
that people send each other."""

Picture = NDArray[np.float32]


def as_picture(image: NDArray[Any]) -> Picture:
    """Return one image in a form that can be shown: (h, w) grey or (h, w, 3) colour.

    Args:
        image: In [0, 1]: (h, w); (c, h, w), where three channels are colours and others stand
            side by side; or (d,), folded into a near-square whose rest is empty (NaN).
    """
    image = np.asarray(image, np.float32)
    if image.ndim == 2:
        return image
    if image.ndim == 1:
        side = int(np.ceil(np.sqrt(image.size)))
        folded = np.full(side * -(-image.size // side), np.nan, np.float32)
        folded[: image.size] = image
        return folded.reshape(-1, side)
    channels = image.reshape(-1, *image.shape[-2:])
    return np.moveaxis(channels, 0, -1) if len(channels) == 3 else np.hstack(list(channels))


def save_sheet(rows: Sequence[Sequence[Picture]], path: Path | IO[bytes]) -> dict[str, int]:
    """Save pictures of one size as a PNG, one row a line; NaN lets the page show through.

    Args:
        rows: Pictures of each row; rows may be shorter than the longest.
        path: Where to, or an open file.

    Returns:
        ``width`` and ``height`` of a tile and of the ``gap`` between tiles, in pixels.
    """
    from PIL import Image

    tiles = [[_tile(picture) for picture in row] for row in rows]
    height, width = tiles[0][0].shape[:2]
    columns = max(len(row) for row in tiles)
    size = len(tiles) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4
    sheet = np.zeros(size, np.uint8)
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            y, x = i * (height + GAP), j * (width + GAP)
            sheet[y : y + height, x : x + width] = tile
    Image.fromarray(sheet).save(path, format="PNG")
    return {"width": width, "height": height, "gap": GAP}


def effect_picture(effect: NDArray[Any], limit: float, theme: Theme) -> Picture:
    """Return a signed difference of images as colours, 0 in the middle of -limit to limit.

    Differences of grey images go from orange (darker) over the page's colour to blue (brighter),
    which the colour-blind tell apart. Those of colour images are drawn around mid-grey in their
    own colours.
    """
    picture = as_picture(effect)
    scaled = np.clip(picture / (limit or 1.0), -1, 1)
    if picture.ndim == 3:
        return np.asarray(0.5 + 0.5 * scaled, np.float32)
    zero = _rgb("#f2f3f5" if theme is LIGHT_THEME else "#23272e")
    ends = _rgb(theme.colours["pixel"]), _rgb(theme.colours["article"])
    amount = np.abs(scaled)[..., None]
    end = np.where(scaled[..., None] < 0, *ends)
    return np.asarray(zero * (1 - amount) + end * amount, np.float32)


def draw_cards(
    effects: NDArray[Any], users: Sequence[NDArray[Any]], folder: Path
) -> dict[str, Any]:
    """Draw ``card-effects`` (+t and -t of each atom) and ``card-images`` (those that use it most).

    Args:
        effects: Shape (n, 2, *shape); each atom has colours of its own range, symmetric about 0.
        users: For each atom images of shape (m, *shape).
        folder: Where to write.

    Returns:
        The tiles of both sheets, as :func:`save_sheet` says.
    """
    tiles: dict[str, Any] = {}
    for theme in (LIGHT_THEME, DARK_THEME):
        limits = [float(np.abs(pair).max()) for pair in effects]
        rows = [
            [effect_picture(effect, limit, theme) for effect in pair]
            for pair, limit in zip(effects, limits, strict=True)
        ]
        tiles["effects"] = save_sheet(rows, folder / f"card-effects{theme.suffix}.png")
    pictures = [[as_picture(image) for image in images] for images in users]
    tiles["images"] = save_sheet(pictures, folder / "card-images.png")
    return tiles


def _rgb(colour: str) -> Picture:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


def _tile(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture as bytes, (h, w, 4), enlarged or shrunk to a tile's size."""
    colours = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    longer, largest = max(colours.shape[:2]), _LARGEST[picture.ndim]
    if longer > largest:
        colours = _shrunk(colours, -(-longer // largest))
    else:
        times = -(-_SIDE // longer)
        colours = colours.repeat(times, axis=0).repeat(times, axis=1)
    seen = np.isfinite(colours).all(axis=2, keepdims=True)
    values = np.concatenate([np.where(seen, np.clip(colours, 0, 1), 0), seen], axis=2)
    return np.asarray(np.round(255 * values), np.uint8)


def _shrunk(colours: Picture, by: int) -> Picture:
    """Average squares of `by` x `by` pixels; a rest at the right and the bottom is cut off."""
    height, width = (max(1, n // by) for n in colours.shape[:2])
    part = colours[: height * by, : width * by]
    if min(part.shape[:2]) < by:  # a strip thinner than one square
        return np.asarray(colours[::by, ::by], np.float32)
    return np.asarray(part.reshape(height, by, width, by, 3).mean(axis=(1, 3)), np.float32)
