"""The page's sections on what the model was put to, each with its baselines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.applications.findings import read_findings
from vaesc.report.page import details, figure, section
from vaesc.report.text import NOTHING, Rows, escape, number, table

RESULT_HEADS = ("", "ours", "baseline", "published", "goal")


def applications_sections(folders: Sequence[Path]) -> list[str]:
    """Return one section for each application.

    Args:
        folders: Artifacts of the applications.

    Raises:
        DataError: One holds no findings.
    """
    return [_section(read_findings(folder), folder) for folder in folders]


def _section(found: Mapping[str, Any], folder: Path) -> str:
    pictures = "".join(
        figure(folder, picture["name"], picture["alt"], picture["caption"])
        for picture in found["pictures"]
    )
    notes = [*found["notes"], *(f["shortfall"] for f in found["figures"] if f["shortfall"])]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return section(
        found["title"],
        f"<p>{escape(found['sentence'])}</p>"
        + table(RESULT_HEADS, result_rows(found["figures"]))
        + pictures
        + (f'<ul class="notes">{listed}</ul>' if listed else "")
        + "".join(details(each["title"], _table(each)) for each in found["tables"]),
    )


def result_rows(figures: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the figures as rows of HTML cells, in the order of :data:`RESULT_HEADS`."""
    return [
        [
            f"{escape(f['what'])} <small>({escape(f['method'])})</small>",
            f"<b>{number(f['ours'])}</b>",
            f"{number(f['baseline'])} <small>{escape(f['baseline_name'])}</small>",
            "<br>".join(
                f"{number(p['value'])} <small>{escape(p['name'])}</small>" for p in f["published"]
            )
            or NOTHING,
            _goal(f),
        ]
        for f in figures
    ]


def _goal(found: Mapping[str, Any]) -> str:
    if found["goal"] is None:
        return NOTHING
    sign = "&ge;" if found["better"] == "higher" else "&le;"
    word, said = ("better", "met") if found["met"] else ("worse", "missed")
    return f'{sign} {number(found["goal"])} <b class="{word}">{said}</b>'


def _table(found: Mapping[str, Any]) -> str:
    rows = [[escape(c) if isinstance(c, str) else number(c) for c in row] for row in found["rows"]]
    return table([escape(head) for head in found["head"]], rows)
