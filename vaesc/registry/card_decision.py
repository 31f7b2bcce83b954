"""The gate's decision in a version's description: one section, replaced with each decision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vaesc.registry.card import LENGTH
from vaesc.registry.markdown import between, plain, rows
from vaesc.report.text import number

_SECTION = re.compile(r"\n*^## Decision\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_TITLES = {
    "mse": "mean squared error", "mse_p95": "its 95th percentile over images",
    "mse_worst_class": "mean squared error, worst class", "l0": "L0",
    "finite": "every number finite", "active_units": "active latents",
    "dead_fraction": "share of dead atoms", "mutual_coherence": "mutual coherence",
    "latency_ratio": "time to encode, over the champion's",
}  # fmt: skip


def with_decision(card: str, decision: Mapping[str, Any]) -> str:
    """Return a description with the gate's decision in it, in place of an earlier one.

    What somebody wrote there stays. If there is no room for the whole section, its tables are
    left out; if there is none for its sentences, the description stays as it was.

    Args:
        card: The description.
        decision: See :meth:`vaesc.registry.candidates.Weighed.to_json`.
    """
    rest = _SECTION.sub("\n\n", card).strip()
    told, tables = _words(decision), [_comparisons(decision), _health(decision)]
    for section in ([told, *tables], [told, tables[0]], [told]):
        whole = "\n\n".join(filter(None, [rest, *section]))
        if len(whole) <= LENGTH:
            return whole
    return card


def _words(decision: Mapping[str, Any]) -> str:
    champion = decision["champion"]
    rival = f"version {champion}, the champion" if champion else "nothing: there was no champion"
    return (
        f"## Decision\n\n**{plain(decision['outcome'])}**, compared with {rival}, on "
        f"{decision['n_images']:,} images of the frozen split: {plain(decision['reason'], 1000)}."
    )


def _comparisons(decision: Mapping[str, Any]) -> str:
    lines = [
        [
            _title(c["metric"]), number(c["candidate"]), number(c["champion"]),
            between(c["ratio"], c["low"], c["high"]), number(1 + c["margin"]), c["verdict"],
        ]
        for c in decision["comparisons"]
    ]  # fmt: skip
    heads = ["metric", "this version", "champion", "ratio (95 % interval)", "may reach", "shown"]
    return rows(heads, lines) if lines else ""


def _health(decision: Mapping[str, Any]) -> str:
    lines = [
        [_title(c["name"]), number(c["value"]), f"{c['limit']:.4g}",
         "passes" if c["passes"] else "fails"]
        for c in decision["checks"]
    ]  # fmt: skip
    return rows(["health", "this version", "limit", ""], lines) if lines else ""


def _title(name: str) -> str:
    return _TITLES.get(name, plain(name))
