"""Figures made of images: the grid of reconstructions, and the sheet of decoded atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.report.style import DPI, Theme, save_themed

if TYPE_CHECKING:
    from vaesc.evaluation.examples import AtomPictures, Row

_WIDTH = 6.6
"""Width of a figure in inches."""
_GAP = 0.06
"""Space between two images, as a share of an image's width."""
_COLUMNS = 8
"""Atoms side by side in the sheet."""


def as_picture(image: NDArray[Any]) -> NDArray[np.float32]:
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


def draw_reconstructions(rows: Sequence[Row], folder: Path) -> None:
    """Draw ``reconstructions``: originals above what each method makes of them."""
    save_themed(lambda theme: _grid(rows, theme), folder, "reconstructions")


def _grid(rows: Sequence[Row], theme: Theme) -> Any:  # noqa: ANN401
    pictures = [[as_picture(image) for image in row.images] for row in rows]
    height, width = pictures[0][0].shape[:2]
    left, right, head = 1.55, 0.82, 0.28  # inches: titles, errors, the errors' heading
    side = (_WIDTH - left - right) / (len(pictures[0]) * (1 + _GAP))
    tall = side * height / width
    tops = [head + top * tall for top in _row_tops(rows)]
    sheet = Sheet(tops[-1] + tall + 0.04, theme)
    edge = _WIDTH - right + 0.08
    sheet.write(edge, 0.12, "test MSE", color=theme.faint, fontsize=8.5, va="center")
    for row, line, top in zip(rows, pictures, tops, strict=True):
        for i, picture in enumerate(line):
            sheet.paste(picture, left + i * side * (1 + _GAP), top, side, tall)
        style = {"color": theme.colours.get(row.group, theme.ink), "fontsize": 9.5}
        middle = top + tall / 2
        sheet.write(left - 0.1, middle, row.title, ha="right", va="center", **style)
        if row.mse is not None:
            sheet.write(edge, middle, f"{row.mse:.4f}", va="center", **style)
    return sheet.figure()


def _row_tops(rows: Sequence[Row]) -> list[float]:
    """Return each row's distance from the top, in image heights; pairs of one k stay together."""
    tops, top = [], 0.0
    for i, row in enumerate(rows):
        if i:
            top += 1 + (_GAP if row.group == "pixel" else 0.28)
        tops.append(top)
    return tops


def draw_atoms(atoms: AtomPictures, folder: Path) -> None:
    """Draw ``atoms``: atoms decoded to images, those that carry most energy first."""
    save_themed(lambda theme: _sheet(atoms, theme), folder, "atoms")


def _sheet(atoms: AtomPictures, theme: Theme) -> Any:  # noqa: ANN401
    pictures = [as_picture(atoms.mean), *(as_picture(image) for image in atoms.images)]
    labels = ["mean", *(_percent(share) for share in atoms.share)]
    height, width = pictures[0].shape[:2]
    margin, label = 0.05, 0.2
    pitch = (_WIDTH - 2 * margin) / _COLUMNS
    side = pitch * (1 - _GAP)
    tall = side * height / width
    sheet = Sheet(2 * margin + -(-len(pictures) // _COLUMNS) * (tall + label), theme)
    for i, (picture, text) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(i, _COLUMNS)
        x, y = margin + column * pitch, margin + row * (tall + label)
        sheet.paste(picture, x, y, side, tall)
        colour = theme.ink if i == 0 else theme.faint
        sheet.write(
            x + side / 2, y + tall + 0.03, text, ha="center", va="top", fontsize=8, color=colour
        )
    return sheet.figure()


class Sheet:
    """A page on which images are pasted and words written, in inches from the top left corner.

    Images are painted into one array: a hundred small axes would take matplotlib seconds.
    """

    def __init__(self, height: float, theme: Theme) -> None:
        self.height, self.words = height, list[tuple[float, float, str, dict[str, Any]]]()
        background = [int(theme.background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        size = round(height * DPI), round(_WIDTH * DPI), 3
        self.pixels = np.full(size, background, np.float32)

    def paste(
        self, picture: NDArray[np.float32], x: float, y: float, width: float, height: float
    ) -> None:
        """Paste a picture, (h, w) or (h, w, 3) in [0, 1]; NaN lets the page show through."""
        top, left, bottom, right = (
            round(inches * DPI) for inches in (y, x, y + height, x + width)
        )
        rows = np.arange(bottom - top) * picture.shape[0] // (bottom - top)
        columns = np.arange(right - left) * picture.shape[1] // (right - left)
        enlarged = picture[rows[:, None], columns]
        if enlarged.ndim == 2:
            enlarged = np.repeat(enlarged[:, :, None], 3, axis=2)
        page = self.pixels[top:bottom, left:right]
        np.copyto(page, np.clip(enlarged, 0, 1), where=np.isfinite(enlarged))

    def write(self, x: float, y: float, text: str, **style: Any) -> None:  # noqa: ANN401
        """Write `text` at a place, with matplotlib's text properties."""
        self.words.append((x, y, text, style))

    def figure(self) -> Any:  # noqa: ANN401
        """Return the page as a matplotlib figure."""
        from matplotlib.figure import Figure

        size = self.pixels.shape[1] / DPI, self.pixels.shape[0] / DPI
        figure = Figure(figsize=size, dpi=DPI)
        figure.figimage(self.pixels, resize=False, origin="upper")
        for x, y, text, style in self.words:
            figure.text(x / size[0], 1 - y / size[1], text, **style)
        return figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
