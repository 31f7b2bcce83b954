"""Small pieces of HTML: escaped text, numbers, tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "\N{EN DASH}"
"""Stands where nothing was measured."""
Rows = Sequence[Sequence[str]]


def escape(text: Any) -> str:  # noqa: ANN401
    """Return `text` with everything escaped that HTML would read as markup."""
    return html.escape(str(text), quote=True)


def number(value: float | None) -> str:
    """Return a number with about three significant digits and no exponent where it can be."""
    if value is None:
        return NOTHING
    if value == 0 or not 1e-5 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits = max(0, 3 - len(str(int(abs(value))))) if abs(value) >= 1 else 2
    if abs(value) < 1:
        digits = 2 - _exponent(value)
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """Return a share in percent, with one digit after the point below ten."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def signed(value: float) -> str:
    """Return a number with its sign, in three digits."""
    return ("+" if value >= 0 else "\N{MINUS SIGN}") + number(abs(value))


def table(heads: Sequence[str], rows: Rows) -> str:
    """Return a table; cells are HTML already, the first of each row is its heading."""
    return grouped_table(heads, {"": rows})


def grouped_table(heads: Sequence[str], groups: Mapping[str, Rows]) -> str:
    """Return a table whose rows stand in groups, each under its heading unless that is ''."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    bodies = "".join(_body(heading, rows, len(heads)) for heading, rows in groups.items())
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>{bodies}</table>'
        "</div>"
    )


def _body(heading: str, rows: Rows, n_columns: int) -> str:
    first = f'<th scope="rowgroup" colspan="{n_columns}">{escape(heading)}</th>'
    group = f'<tr class="group">{first}</tr>' if heading else ""
    lines = [
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for name, *rest in rows
    ]
    return f"<tbody>{group}{''.join(lines)}</tbody>"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])
