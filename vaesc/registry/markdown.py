"""Small pieces of Markdown: escaped text, numbers with intervals, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vaesc.report.text import number

GAP = "&emsp;"
"""Ends each cell of a table but the last: MLflow's page puts no space between columns."""
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
_PATH = re.compile(r"(?<![^\s'\"(=])(?:[A-Za-z]:|~|\w+:/)?[\\/]\S*[\\/]")
"""All of an absolute path or an address but its last part."""
_MARKUP = re.compile(r"([\\`*_\[\]#|~])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: object, length: int = 200) -> str:
    """Return a user's text so that Markdown shows it as it is: one line, no path, no password."""
    line = _LOGIN.sub("", " ".join(str(text).split()))
    line = _PATH.sub("", line)[:length]
    line = "".join(_ENTITIES.get(c, c) for c in line if c.isprintable())
    return _MARKUP.sub(r"\\\1", line)


def rows(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    gapped = [[*(f"{cell}{GAP}" for cell in line[:-1]), line[-1]] for line in (heads, *lines)]
    every = [gapped[0], ["---"] * len(heads), *gapped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def between(value: float | None, low: float | None, high: float | None) -> str:
    """Return a number with its interval."""
    return number(value) if low is None else f"{number(value)} ({number(low)} to {number(high)})"
