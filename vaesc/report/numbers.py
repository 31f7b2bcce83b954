"""The page's tables of errors: what the verdict is on first, then peers, controls, the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vaesc.report.names import MAIN, grouped, title
from vaesc.report.page import section, verdict_cell
from vaesc.report.text import NOTHING, escape, grouped_table, number

Results = Mapping[str, Any]
Cell = Callable[[str, int], str]
"""Of a method's name and a level's position."""


def error_table(results: Results) -> str:
    """Return the table of errors, the lowest of each column in bold."""
    methods, levels = results["methods"], results["levels"]
    best = [
        min((m["mse"][i] for m in methods.values() if m["mse"][i] is not None), default=None)
        for i in range(len(levels))
    ]

    def cell(name: str, i: int) -> str:
        mse = methods[name]["mse"][i]
        return f"<b>{number(mse)}</b>" if mse is not None and mse == best[i] else number(mse)

    return method_table(results, cell, results.get("vae", {}).get("mse"))


def interval_table(results: Results) -> str:
    """Return the table of the 95 % intervals of the methods that are compared."""
    methods = results["methods"]

    def cell(name: str, i: int) -> str:
        low, high = methods[name]["low"][i], methods[name]["high"][i]
        return NOTHING if low is None else f"{number(low)} to {number(high)}"

    return method_table({**results, "order": [n for n in results["order"] if n in MAIN]}, cell)


def measure_table(results: Results, measure: str, form: Callable[[float], str]) -> str:
    """Return the table of another measure, for the methods that have it."""
    order = [name for name in results["order"] if measure in results["methods"][name]]

    def cell(name: str, i: int) -> str:
        value = results["methods"][name][measure][i]
        return NOTHING if value is None else form(value)

    return method_table({**results, "order": order}, cell) if order else ""


def method_table(results: Results, cell: Cell, floor: float | None = None) -> str:
    """Return a table with one row a method, in groups, and one column a level."""
    methods, n = results["methods"], len(results["levels"])
    groups: dict[str, Sequence[Sequence[str]]] = {
        heading: [
            [escape(title(methods, name)), *(cell(name, i) for i in range(n))] for name in names
        ]
        for heading, names in grouped(results["order"])
    }
    if floor is not None:
        groups["Floor"] = [["VAE itself, nothing coded", *[number(floor)] * n]]
    return grouped_table(["", *(f"k = {k}" for k in results["levels"])], groups)


def claim_table(claims: Sequence[Mapping[str, Any]], words: str, seeds: Sequence[int] = ()) -> str:
    """Return ratios with intervals and verdicts, one row a level, with every seed's ratio.

    Args:
        claims: As under ``claim``, with or without ``by_seed``.
        words: Heading of the verdicts' column.
        seeds: The seeds that ``by_seed`` is of.
    """
    rows = [
        [
            f"k = {c['k']}",
            number(c["ratio"]),
            f"{number(c['low'])} to {number(c['high'])}",
            verdict_cell(c["verdict"]),
            *map(number, c.get("by_seed", ())),
        ]
        for c in claims
    ]
    heads = ["", "error &times;", "95 % interval", escape(words)]
    return grouped_table([*heads, *(f"seed {seed}" for seed in seeds)], {"": rows})


def random_section(results: Mapping[str, Any], seeds: Sequence[int] = ()) -> str:
    """Return the section on what learning the article's dictionary was worth.

    Args:
        results: ``learned_against_random``: level -> ``mse`` and ``fvu``, entries as of a claim.
        seeds: The seeds that ``by_seed`` is of.
    """
    against = results.get("learned_against_random")
    if not against:
        return ""
    words = (
        "<p>The article's method with its learned dictionary over the same with a random one, "
        "whose atoms point anywhere: below 1, learning was worth something. Latents that are "
        "nearly Gaussian prefer no direction, and leave little to learn.</p>"
    )
    tables = [
        f"<h3>{heading}</h3>"
        + claim_table(
            [{"k": k, **against[str(k)][name]} for k in results["levels"]], "learned is", seeds
        )
        for name, heading in (
            ("mse", "Error of the image"),
            ("fvu", "Error of the latent (FVU)"),
        )
        if name in against[str(results["levels"][0])]
    ]
    return section("Learned against random atoms", words + "".join(tables))
