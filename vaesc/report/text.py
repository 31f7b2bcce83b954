"""Small pieces of HTML: escaped text, numbers, tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any


def escape(text: Any) -> str:  # noqa: ANN401
    """Return `text` with everything escaped that HTML would read as markup."""
    return html.escape(str(text), quote=True)


def number(value: float | None) -> str:
    """Return a number with about three significant digits and no exponent where it can be.

    None, for what a method does not have, is a dash.
    """
    if value is None:
        return "\N{EN DASH}"
    if value == 0 or not 1e-5 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits = max(0, 3 - len(str(int(abs(value))))) if abs(value) >= 1 else 2
    if abs(value) < 1:
        digits = 2 - _exponent(value)
    return f"{value:,.{digits}f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML already, the first of each row is its heading."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    lines = [
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    ]
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])
