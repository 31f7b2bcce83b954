"""The page of one decision: promoted or rejected, its numbers, and what became of the atoms."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.report.page import Sprite, document, section
from vaesc.report.sprites import effect_picture, save_sheet
from vaesc.report.style import DARK_THEME, LIGHT_THEME
from vaesc.report.text import escape, number, percent, table

_SHOWN = 12
"""Atoms of each kind that are drawn."""
_TITLES = {
    "mse": "mean squared error", "mse_p95": "95th percentile of the images' errors",
    "mse_worst_class": "mean squared error of the worst class",
    "l0": "nonzero coefficients an image (L0)",
    "finite": "every number finite", "active_units": "active latent dimensions",
    "dead_fraction": "share of dead atoms", "mutual_coherence": "mutual coherence of the atoms",
    "latency_ratio": "time to encode, over the champion's",
}  # fmt: skip


def render_decision(decision: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """Return the page as one self-contained HTML document.

    Args:
        decision: What :meth:`vaesc.registry.candidates.Weighed.to_json` returns.
        pictures: Effects of the ``new`` and ``old`` atoms, each (K, n_pixels), the ``old_ids`` and
            the ``shape`` of an image; empty where there was no champion.
    """
    title = f"{decision['model']}: version {decision['candidate']} {decision['outcome']}"
    with tempfile.TemporaryDirectory() as folder:
        sections = [_head(decision), _comparisons(decision), _health(decision),
                    _atoms(decision, pictures, Path(folder))]  # fmt: skip
    return document(title, sections)


def _head(decision: Mapping[str, Any]) -> str:
    against = decision["champion"]
    rival = f"version {against}, the champion" if against else "nothing: there was no champion"
    seen = decision["n_seen"]
    left_out = f"; {seen:,} more were left out, since a model was trained on them" if seen else ""
    name, version = escape(decision["model"]), decision["candidate"]
    return (
        f'<header>\n<p class="kicker">vaesc · {name}</p>\n'
        f"<h1>Version {version} was {escape(decision['outcome'])}</h1>\n"
        f'<p class="verdict">{escape(_sentence(decision["reason"]))}</p>\n'
        f'<p class="facts">Compared with {escape(rival)}, on {decision["n_images"]:,} images of '
        f"the frozen split{left_out}. Policy: {escape(decision['policy'])}.</p></header>"
    )


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."


def _comparisons(decision: Mapping[str, Any]) -> str:
    if not decision["comparisons"]:
        return ""
    rows = [
        [
            escape(_TITLES.get(c["metric"], c["metric"])), number(c["candidate"]),
            number(c["champion"]),
            f"{number(c['ratio'])} ({number(c['low'])} to {number(c['high'])})",
            number(1 + c["margin"]), _word(c["verdict"], c["verdict"] in ("better", "not worse")),
        ]
        for c in decision["comparisons"]
    ]  # fmt: skip
    heads = ["metric", "candidate", "champion", "ratio (95 % interval)", "may reach", "shown"]
    words = (
        "<p>Both models coded the same images; the intervals are from 2,000 resamples of the "
        "images, in pairs. Less is better throughout.</p>"
    )
    return section("Against the champion", words + table(heads, rows))


def _health(decision: Mapping[str, Any]) -> str:
    rows = [
        [escape(_TITLES.get(c["name"], c["name"])), number(c["value"]), f"{c['limit']:.4g}",
         _word("passes" if c["passes"] else "fails", c["passes"])]
        for c in decision["checks"]
    ]  # fmt: skip
    return section("Health", table(["check", "candidate", "limit", ""], rows))


def _word(word: str, good: bool) -> str:
    return f'<span class="{"better" if good else "worse"}">{escape(word)}</span>'


def _atoms(decision: Mapping[str, Any], pictures: Mapping[str, Any], folder: Path) -> str:
    found = decision["atoms"]
    if found is None:
        return ""
    drifted = [each["atom"] for each in found["drifted"]]
    words = (
        f"<p>Atoms are matched by what they do to images. Of the champion's, "
        f"{found['n_persisted']} persist and keep their numbers, {len(drifted)} of them changed "
        f"visibly; {len(found['died'])} died, {len(found['born'])} were born.</p>"
    )
    new = {number_: row for row, number_ in enumerate(found["ids"])}
    old = {number_: row for row, number_ in enumerate(pictures["old_ids"])}
    moved = {each["atom"]: each["drift"] for each in found["drifted"]}
    blocks = [
        _pairs("Drifted", drifted, moved, (new, old), pictures, folder),
        _singles("Born", found["born"], new, pictures["new"], pictures["shape"], folder),
        _singles("Died", found["died"], old, pictures["old"], pictures["shape"], folder),
    ]
    return section("Atoms", words + "".join(blocks))


def _pairs(
    title: str,
    numbers: Sequence[int],
    drift: Mapping[int, float],
    rows: tuple[Mapping[int, int], Mapping[int, int]],
    pictures: Mapping[str, Any],
    folder: Path,
) -> str:
    """Draw atoms before and after, side by side."""
    shown = list(numbers)[:_SHOWN]
    new, old = rows
    effects = [_aligned(pictures["old"][old[n]], pictures["new"][new[n]]) for n in shown]
    said = {n: f"before, after: drift {percent(drift[n])}" for n in shown}
    return _drawn(title, len(numbers), shown, effects, said, pictures["shape"], folder)


def _aligned(before: Any, after: Any) -> list[Any]:  # noqa: ANN401 - arrays
    """Return both effects with one sign: that of an atom is arbitrary."""
    return [before, after if np.dot(before, after) >= 0 else -after]


def _singles(
    title: str,
    numbers: Sequence[int],
    rows: Mapping[int, int],
    effects: Any,  # noqa: ANN401 - an array
    shape: tuple[int, ...],
    folder: Path,
) -> str:
    shown = list(numbers)[:_SHOWN]
    drawn = [[effects[rows[n]]] for n in shown]
    return _drawn(title, len(numbers), shown, drawn, {}, shape, folder)


def _drawn(
    title: str,
    n: int,
    shown: Sequence[int],
    effects: Sequence[Sequence[Any]],
    said: Mapping[int, str],
    shape: tuple[int, ...],
    folder: Path,
) -> str:
    """Draw a row of tiles for each atom: what it adds to images."""
    if not shown:
        return ""
    paths: dict[str, Path] = {}
    tile: dict[str, int] = {}
    for theme in (LIGHT_THEME, DARK_THEME):
        rows = [
            [effect_picture(e.reshape(shape), float(np.abs(row).max()), theme) for e in row]
            for row in effects
        ]
        name = "dark" if theme is DARK_THEME else "light"
        paths[name] = folder / f"{title}-{name}.png"
        tile = save_sheet(rows, paths[name])
    sheet = Sprite(title.lower(), paths, tile)
    cards = "".join(
        f'<article class="card"><h3>Atom {number_}</h3><div class="effect">'
        f"{sheet.cut(i, range(len(effects[i])), f'What atom {number_} adds to images')}</div>"
        f"<p><small>{escape(said.get(number_, ''))}</small></p></article>"
        for i, number_ in enumerate(shown)
    )
    more = f", the first {len(shown)}" if n > len(shown) else ""
    body = f'{sheet.embedded()}<div class="cards">{cards}</div>'
    return f"<details open><summary>{escape(f'{title}: {n}{more}')}</summary>{body}</details>"
