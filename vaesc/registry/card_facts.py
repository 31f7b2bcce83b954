"""What is known of a model beside itself: what the steps of its run wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaesc.records import Dataset, Evaluation, Record, Refined
from vaesc.store import MANIFEST, SUMMARY

_RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model beside itself; what is not, is empty."""

    dataset: Dataset | None
    summary: Mapping[str, Any]
    """Of the dataset: licence, range, SHA-256 of each split."""
    results: Mapping[str, Any]
    """The evaluation's ``results.json``."""
    seed: int | None
    refined: bool
    health: tuple[str, ...] = ()
    """What was not as it should be while the model was made: one sentence each."""

    @property
    def own(self) -> int | None:
        """Position of the model's own k among the compared levels."""
        levels = self.results.get("levels", [])
        k = self.results.get("n_nonzero_coefs")
        return levels.index(k) if k in levels else None


def facts_of(records: Mapping[str, Record]) -> Facts:
    """Read what the steps of a run wrote; artifacts that are not here are passed over."""
    dataset = next((r for r in records.values() if isinstance(r, Dataset)), None)
    evaluation = next((r for r in records.values() if isinstance(r, Evaluation)), None)
    made = evaluation or dataset
    return Facts(
        dataset=dataset,
        summary=_json(dataset, SUMMARY),
        results=_json(evaluation, _RESULTS),
        seed=_json(made, MANIFEST).get("config", {}).get("seed"),
        refined=any(isinstance(r, Refined) for r in records.values()),
        health=tuple(
            str(sentence)
            for record in records.values()
            for sentence in _json(record, SUMMARY).get("health", ())
        ),
    )


def _json(record: Record | None, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(record.uri, name).read_bytes()) if record else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
