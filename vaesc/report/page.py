"""A page and its pieces: one HTML file that needs nothing else, neither network nor script.

A content security policy in the file itself forbids it to load anything. Pictures are embedded:
figures as images, sheets of small pictures once, to be cut up by the page (:class:`Sprite`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaesc.report.stylesheet import CSS
from vaesc.report.text import escape, number

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SHORT = {"better": "better", "worse": "worse", "no difference shown": "no difference"}
_DARK = "(prefers-color-scheme: dark)"
_NARROW = "(max-width: 30rem)"


def document(title: str, sections: Sequence[str]) -> str:
    """Return a whole page; empty sections are left out."""
    body = "\n".join(filter(None, sections))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"</main>\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """Return a section with its heading; `content` is HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def details(summary: str, content: str) -> str:
    """Return content that is folded away."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def head(
    kicker: str, sentence: str, claims: Sequence[Mapping[str, Any]], facts: Sequence[str]
) -> str:
    """Return a page's head: the verdict, its outcome at every level, what it was found on."""
    chips = "".join(_chip(claim) for claim in claims)
    lines = "".join(f'<p class="facts">{fact}</p>\n' for fact in facts)
    return (
        f'<header>\n<p class="kicker">{escape(kicker)}</p>\n{_verdict(sentence)}\n'
        f'<ul class="chips">{chips}</ul>\n{lines}</header>'
    )


def _verdict(sentence: str) -> str:
    """Return the verdict, its first clause as the page's heading; no break inside ``k = 8``."""
    opening, _, rest = sentence.partition(": ")
    words = (
        escape(rest[:1].upper() + rest[1:])
        .replace("k = ", "k&nbsp;=&nbsp;")
        .replace(" %", "&nbsp;%")
    )
    return f'<h1>{escape(opening)}</h1>\n<p class="verdict">{words}</p>'


def _chip(claim: Mapping[str, Any]) -> str:
    """One sparsity level: its verdict, the ratio of errors and its interval."""
    word = claim["verdict"]
    return (
        f'<li class="{escape(_SHORT[word]).split()[0]}"><b>k = {claim["k"]}</b> '
        f"<span>{escape(_SHORT[word])}</span> "
        f"<small>error &times; {number(claim['ratio'])}</small> "
        f"<small>({number(claim['low'])} to {number(claim['high'])})</small></li>"
    )


def verdict_cell(word: str) -> str:
    """Return a verdict as a table's cell, in the colour of the side it is for."""
    return f'<span class="{escape(_SHORT[word]).split()[0]}">{escape(_SHORT[word])}</span>'


def figure(folder: Path, name: str, alt: str, caption: str = "") -> str:
    """Return a figure in every theme and width it was drawn for; '' if it was not drawn.

    Printing and browsers without themes take the light one.
    """
    light = folder / f"{name}.png"
    if not light.exists():
        return ""
    width, height = png_size(light)
    variants = {
        "-narrow-dark": f"screen and {_DARK} and {_NARROW}",
        "-narrow": f"screen and {_NARROW}",
        "-dark": f"screen and {_DARK}",
    }
    sources = "".join(
        f'<source media="{media}" srcset="{_data(path)}"'
        f' width="{png_size(path)[0]}" height="{png_size(path)[1]}">'
        for end, media in variants.items()
        if (path := folder / f"{name}{end}.png").exists()
    )
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><picture>{sources}<img src="{_data(light)}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}"></picture>{words}</figure>'
    )


@dataclass(frozen=True)
class Sprite:
    """A sheet of pictures that is embedded once, and cut up wherever it is shown."""

    name: str
    paths: Mapping[str, Path]
    """Theme -> file; one under ``any`` serves both ``light`` and ``dark``."""
    tile: Mapping[str, int]
    """``width``, ``height`` and ``gap`` of its tiles, in pixels."""

    def embedded(self) -> str:
        """Return the sheet itself, to stand anywhere on the page; it shows nothing there."""
        images = ""
        for theme, path in self.paths.items():
            width, height = png_size(path)
            images += (
                f'<image id="{self.name}-{theme}" width="{width}" height="{height}" '
                f'href="{_data(path)}"></image>'
            )
        hidden = 'class="sheet" width="0" height="0" aria-hidden="true"'
        return f"<svg {hidden}><defs>{images}</defs></svg>"

    def cut(self, row: int, columns: range, alt: str) -> str:
        """Return neighbouring tiles of one row as a picture."""
        step_x, step_y = (self.tile[side] + self.tile["gap"] for side in ("width", "height"))
        x, y = columns.start * step_x, row * step_y
        width, height = len(columns) * step_x - self.tile["gap"], self.tile["height"]
        uses = "".join(
            f'<use class="{theme}" href="#{self.name}-{theme}"></use>' for theme in self.paths
        )
        return (
            f'<svg class="cut" viewBox="{x} {y} {width} {height}" role="img" '
            f'aria-label="{escape(alt)}">{uses}</svg>'
        )


def png_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a PNG, from its header."""
    with path.open("rb") as file:
        start = file.read(24)
    return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")


def _data(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
