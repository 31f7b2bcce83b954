"""What an application found: figures beside baselines, published ones and goals.

``results.json`` in the application's artifact is what report, results table and CLI read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vaesc.errors import DataError
from vaesc.untrusted import read_json

RESULTS = "results.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that others have published."""

    value: float
    name: str
    """The method, such as ``Deep SVDD``."""
    source: str
    """Where it is published, and anything that makes it another measurement than ours."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of ours, with what it must be held against."""

    key: str
    """Metric key, such as ``test/anomaly_auroc``."""
    what: str
    """What was measured, in words, with its unit."""
    ours: float
    method: str
    """What of ours it is the figure of."""
    better: Literal["higher", "lower"]
    baseline: float | None = None
    """Measured in the same run."""
    baseline_name: str = ""
    published: Sequence[Published] = ()
    goal: float | None = None
    shortfall: str = ""
    """What was tried, where the goal is missed."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.ours >= self.goal if self.better == "higher" else self.ours <= self.goal


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the report; cells are words or numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure that was drawn into the artifact's folder, see :mod:`vaesc.report.style`."""

    name: str
    """File name without its ending."""
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that an application found."""

    title: str
    sentence: str
    """What came out, in one sentence with its numbers; when ours loses, it says so."""
    figures: Sequence[Figure]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    more: Sequence[tuple[str, float]] = ()
    """Metrics beside those of the figures: key and value."""

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Yield every metric: its key, and its value."""
        for figure in self.figures:
            yield figure.key, float(figure.ours)
        yield from ((key, float(value)) for key, value in self.more)


def write_findings(findings: Findings, folder: Path) -> None:
    """Write ``results.json``; equal findings, equal bytes."""
    facts: dict[str, Any] = {"format": _FORMAT, **asdict(findings)}
    for figure, plain in zip(findings.figures, facts["figures"], strict=True):
        plain["met"] = figure.met
    text = json.dumps(facts, indent=1, sort_keys=True, allow_nan=False)
    (folder / RESULTS).write_text(text + "\n")


def read_findings(folder: Path) -> dict[str, Any]:
    """Return what :func:`write_findings` wrote, as plain values.

    Raises:
        DataError: It is not there, or is none.
    """
    try:
        facts: dict[str, Any] = read_json(folder / RESULTS)
        if facts["format"] != _FORMAT:
            raise ValueError(f"its format is {facts['format']!r}, this vaesc reads {_FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / RESULTS} holds no findings ({error})") from error
    return facts
