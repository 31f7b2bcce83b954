"""The page's answer to what a latent's atoms mean: a card for each of the most used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from vaesc.report.names import label
from vaesc.report.page import Sprite, section
from vaesc.report.text import escape, number, percent, signed


def cards_section(folder: Path, more: str = "") -> str:
    """Return the section of atom cards; '' if the evaluation wrote none.

    Args:
        folder: Artifact of the evaluation.
        more: HTML that stands below what is said of all cards.
    """
    path = folder / "cards.json"
    facts = json.loads(path.read_bytes()) if path.exists() else {"cards": []}
    if not facts["cards"]:
        return ""
    effects, images = _sprites(folder, facts)
    cards = "".join(_card(i, facts, effects, images) for i in range(len(facts["cards"])))
    content = (
        f"{_summary(facts)}{more}{_legend(facts)}{effects.embedded()}{images.embedded()}"
        f'<div class="cards">{cards}</div>'
    )
    return section("What atoms mean", content)


def _sprites(folder: Path, facts: Mapping[str, Any]) -> tuple[Sprite, Sprite]:
    themed = {
        "light": folder / "card-effects.png",
        "dark": folder / "card-effects-dark.png",
    }
    return (
        Sprite("effects", themed, facts["tiles"]["effects"]),
        Sprite("users", {"any": folder / "card-images.png"}, facts["tiles"]["images"]),
    )


def _summary(facts: Mapping[str, Any]) -> str:
    cards, n = facts["cards"], len(facts["cards"])
    carried = sum(card["energy_share"] for card in cards)
    losses = [c["ablation"]["percent"] for c in cards if c["ablation"]["percent"] is not None]
    words = (
        f"Model: {label(facts['method'])} at k = {facts['k']}. Of its {facts['n_atoms']:,} atoms, "
        f"{facts['n_used']:,} are used by some test image; the {n} shown carry "
        f"{percent(carried)} of the codes' energy."
    )
    if losses:
        words += (
            f" Without one of them, the error of an image that uses it grows by "
            f"{number(median(losses))} % (median of the {n})."
        )
    if "purity" in cards[0]:
        pure = sum(card["purity"] >= 0.5 for card in cards)
        words += (
            f" {pure} of the {n} spend at least half of their energy on a single class: "
            f"{percent(median(c['purity'] for c in cards))} in the median, where the class makes "
            f"up {percent(median(c['base_rate'] for c in cards))} of the images, and shuffled "
            f"labels give {percent(median(c['chance'] for c in cards))}."
        )
    return f"<p>{escape(words)}</p>"


def _legend(facts: Mapping[str, Any]) -> str:
    colours = (
        "around mid-grey, in the colours that are added and taken"
        if len(facts["shape"]) == 3 and facts["shape"][0] == 3
        else 'where it makes them <b class="better">brighter</b> and '
        '<b class="worse">darker</b>, each card on a range of its own'
    )
    purity = (
        "<dt>class</dt><dd>the one that most of the atom's energy (the sum of its squared "
        "coefficients) falls on, and how much of it; "
        "base is the class's share of all test images, chance (the tick) "
        "what is found with shuffled labels, more than any class's share since the "
        "class is picked after looking</dd>"
        if "purity" in facts["cards"][0]
        else ""
    )
    return (
        '<details class="print" open><summary>How to read a card</summary><dl class="legend">'
        "<dt>+ and \N{MINUS SIGN}</dt><dd>decoder(z + t d) \N{MINUS SIGN} decoder(z): what the "
        "atom adds to images, and what it takes away with the opposite sign, averaged over the "
        f"coded latents z of images that use it, t their mean absolute coefficient; {colours}</dd>"
        "<dt>used by</dt><dd>share of the test images whose code holds the atom; <b>size</b>: "
        "their mean absolute coefficient t, and how many of the coefficients are positive</dd>"
        "<dt>images</dt><dd>the test images with the largest coefficients, largest first, "
        "underlined in the colour of the sign</dd>"
        f"{purity}<dt>without it</dt><dd>the increase of the squared error per pixel, averaged "
        "over the images that use the atom, when its coefficient is set to 0 and all others stay; "
        "and as a share of the error that these images have</dd></dl></details>"
    )


def _card(i: int, facts: Mapping[str, Any], effects: Sprite, images: Sprite) -> str:
    card = facts["cards"][i]
    name = f"atom {card['atom']}"
    effect = "".join(
        f"<div><small>{sign}</small>{effects.cut(i, range(j, j + 1), f'What {name} {verb}')}</div>"
        for j, (sign, verb) in enumerate(
            (("+", "adds to an image"), ("\N{MINUS SIGN}", "takes away with the opposite sign"))
        )
    )
    users = "".join(
        f'<div class="{"better" if value >= 0 else "worse"}">'
        + images.cut(i, range(j, j + 1), f"Test image with coefficient {number(value)} of {name}")
        + "</div>"
        for j, value in enumerate(card["coefficients"])
    )
    return (
        f'<article class="card"><h3>Atom {card["atom"]}<small>'
        f"{percent(card['energy_share'])} of energy</small></h3>"
        f'<div class="does"><div class="effect">{effect}</div><dl>{_rows(card, facts)}</dl></div>'
        f'<div class="users">{users}</div></article>'
    )


def _rows(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    positive = card["positive_share"]
    rows = {
        "used by": percent(card["usage"]),
        "size": f"{number(card['coefficient'])}<small> {_signs(positive)}</small>",
    }
    if "purity" in card:
        rows[f"class <b>{escape(_class(card, facts))}</b> has"] = (
            f"{percent(card['purity'])}"
            f'<span class="bar" style="--p:{100 * card["purity"]:.1f}%;'
            f'--b:{100 * card["chance"]:.1f}%" title="by chance {percent(card["chance"])}">'
            "</span>"
            f"<small>chance {percent(card['chance'])},</small> "
            f"<small>base {percent(card['base_rate'])}</small>"
        )
    ablation = card["ablation"]
    relative = ablation["percent"]
    share = "" if relative is None else f"<small> ({signed(relative)} %)</small>"
    rows["without it"] = f"{signed(ablation['increase'])}{share}"
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows.items())


def _signs(positive: float) -> str:
    if positive in (0.0, 1.0):
        return "always +" if positive else "always \N{MINUS SIGN}"
    return f"{100 * positive:.0f} % +"


def _class(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    classes = facts["classes"]
    return str(classes[card["label"]]) if classes else str(card["label"])
