"""A grid over any settings: which runs it is made of, and what came of them, as one table.

``vae.latent_dim=8,16`` and ``seed=0,1`` make four *cells*, one for each combination. Every cell is
checked before the first one runs.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaesc.config import PipelineConfig, config_digest
from vaesc.config_files import load_config
from vaesc.errors import ConfigError

MOST_CELLS = 1000
_MSE = re.compile(r"test/mse_k(\d{1,9})")
_METRIC = re.compile(r"[a-z_]+/\S+", re.ASCII)
_WHICH_DATA = ("path", "labels", "folder")
"""Settings of the data set that no digest holds, since its content's does; here they tell cells
apart, before anything is read."""
_SHOWN = ("test/negative_elbo", "test/active_units")


@dataclass(frozen=True)
class Cell:
    """One combination of a grid."""

    assignments: tuple[str, ...]
    """What it sets, each ``section.name=value``, in the order of the grid."""
    config_digest: str

    @property
    def settings(self) -> dict[str, str]:
        """Setting -> its value as text."""
        return dict(a.split("=", 1) for a in self.assignments)


def cells_of(
    preset: str, file: Path | None, settings: Sequence[str], grid: Sequence[str]
) -> list[Cell]:
    """Return the cells of a grid, each of which is a config that holds.

    Args:
        preset: Where the settings start.
        file: A TOML file laid over it.
        settings: Settings of every cell, each ``section.name=value``.
        grid: Each ``section.name=value,value,...``.

    Raises:
        ConfigError: There is no grid, a line of it cannot be read, a cell breaks a rule, two cells
            are the same run, or there are more than :data:`MOST_CELLS`.
    """
    if not grid:
        raise ConfigError("a sweep needs a grid, such as --grid vae.latent_dim=8,16")
    axes = [_axis(line) for line in grid]
    names = [axis[0].split("=", 1)[0] for axis in axes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--grid names {min(twice)} twice; give all of its values in one")
    if (n := math.prod(map(len, axes))) > MOST_CELLS:
        raise ConfigError(f"the grid has {n:,} cells; at most {MOST_CELLS:,} are run at a time")
    cells: dict[tuple[str | None, ...], Cell] = {}
    for assignments in itertools.product(*axes):
        config = load_config(preset, file, [*settings, *assignments])
        cell = Cell(assignments, config_digest(config))
        data = (getattr(config.dataset, name) for name in _WHICH_DATA)
        same = cells.setdefault((cell.config_digest, *data), cell)
        if same is not cell:
            raise ConfigError(
                f"the grid holds the same run twice: {' '.join(same.assignments)} and "
                f"{' '.join(assignments)}; no result depends on what differs"
            )
    return list(cells.values())


def metric_of(metric: str | None, configs: Sequence[PipelineConfig]) -> str:
    """Return the metric that cells are compared by; default: the error at their sparsity level.

    Raises:
        ConfigError: It cannot be a metric's name, or is the error at a level that a cell is not
            evaluated at; or none is named, and the cells have no sparsity level in common.
    """
    shared = set.intersection(*(set(c.evaluation.sparsity_levels) for c in configs))
    if metric is None:
        if not shared:
            raise ConfigError(
                "the cells share no sparsity level to be compared at; name a metric (--metric)"
            )
        own = sorted({c.dictionary.n_nonzero_coefs for c in configs})
        if len(own) > 1:
            raise ConfigError(
                f"the cells differ in their sparsity level (dictionary.n_nonzero_coefs = "
                f"{', '.join(map(str, own))}): say at which one they are compared, such as "
                f"--metric test/mse_k{max(shared)}"
            )
        return f"test/mse_k{own[0] if own[0] in shared else max(shared)}"
    if not _METRIC.fullmatch(metric):
        raise ConfigError(
            f"--metric {metric}: a metric's name begins with its split, such as test/mse_k8 or "
            "validation/negative_elbo"
        )
    found = _MSE.fullmatch(metric)
    if found and int(found[1]) not in shared:
        raise ConfigError(
            f"--metric {metric}: not every cell is evaluated at k = {found[1]}, but at "
            f"{', '.join(map(str, sorted(shared))) or 'no level in common'}"
        )
    return metric


def ranked(rows: Sequence[Mapping[str, Any]], metric: str, largest: bool) -> list[dict[str, Any]]:
    """Return the cells' rows, the best first; those without the metric last, as they came."""

    def key(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = row["metrics"].get(metric)
        known = value is not None and math.isfinite(value)
        return not known, (-value if largest else value) if known else 0.0

    return [dict(row) for row in sorted(rows, key=key)]


def best_of(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """Return the first of ranked rows, if its metric is a number."""
    value = rows[0]["metrics"].get(metric) if rows else None
    return dict(rows[0]) if value is not None and math.isfinite(value) else None


def best_lacks(rows: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """Return a sentence on why none of the cells that finished is the best; None: none did."""
    finished = [row for row in rows if row["state"] == "finished"]
    known = sorted({name for row in finished for name in row["metrics"]})
    if metric in known:
        return f"no cell is the best: {metric} is no finite number in any of them"
    if not known:
        return None
    return (
        f"no cell has the metric {metric}; name another (--metric), for which all comes from the "
        f"cache: {', '.join(known)}"
    )


def columns_of(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Return the metrics that a table for people shows: the chosen one first."""
    known = {name for row in rows for name in row["metrics"]}
    return [metric, *(name for name in _SHOWN if name in known and name != metric)]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return every cell with its settings and all of its metrics, one a line."""
    settings = list(rows[0]["settings"])
    metrics = sorted({name for row in rows for name in row["metrics"]})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*settings, "state", "run_id", "config_digest", "seconds", "error", *metrics])
    for row in rows:
        writer.writerow(
            [
                *(row["settings"][name] for name in settings),
                *(row[k] for k in ("state", "run_id", "config_digest", "seconds", "error")),
                *(row["metrics"].get(name, "") for name in metrics),
            ]
        )
    return out.getvalue()


def as_markdown(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return the table for people, the best cell first."""
    settings, metrics = list(rows[0]["settings"]), columns_of(rows, metric)
    names = [*settings, *metrics, "seconds", "run"]
    lines = [_row(names), _row(["---"] * len(names))]
    for row in rows:
        values = [row["settings"][name] for name in settings]
        numbers = [shown(row["metrics"].get(name)) for name in metrics]
        end = row["run_id"][:8] if row["state"] == "finished" else f"failed: {row['error']}"
        lines.append(_row([*values, *numbers, shown(row["seconds"]), end]))
    return "\n".join(lines)


def shown(value: float | None) -> str:
    """Return a number as tables show it."""
    return "-" if value is None else f"{value:.5g}"


def _row(values: Sequence[str]) -> str:
    return "| " + " | ".join(v.replace("|", "\\|") for v in values) + " |"


def _axis(line: str) -> list[str]:
    """Return what one line of the grid sets, one assignment a value."""
    name, equals, text = line.partition("=")
    if not (equals and name.strip() and text.strip()):
        raise ConfigError(
            f"--grid takes section.name=value,value,... such as vae.latent_dim=8,16; got {line!r}"
        )
    try:
        values = [json.dumps(v) for v in tomllib.loads(f"v = [{text}]")["v"]]
    except (ValueError, TypeError, RecursionError):  # plain words: ols,omp
        values = [v.strip() for v in text.split(",")]
    if not all(values) or len(set(values)) < len(values):
        raise ConfigError(f"--grid {line}: every value must be there once, and none be empty")
    return [f"{name.strip()}={value}" for value in values]
