"""New images through a registered model: scored, recorded in MLflow, shown in Prefect.

One MLflow run per batch, with the model's version and digest as tags, and the scores themselves
where nobody said into which folder: a pod's goes with it. If the batch has drifted,
Prefect hears of it as the event ``vaesc.drift`` of the resource ``vaesc.model.<name>``, labelled
with whether the version is the champion, whose payload holds the reason and the numbers; what
follows from it is an automation's business (:mod:`flows.drift_automation`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks import events
from tasks.logs import ProgressReporter
from tasks.publish import in_prefect
from tasks.tracking import StepRun, end_badly, flow_run_id
from tasks.workers import runtime_of
from tasks.workers import workers as at_work
from vaesc import shards
from vaesc.bucket import place
from vaesc.config import expanded, home
from vaesc.errors import ConfigError, RegistryError, machine_told
from vaesc.registry import Tracking, load_model, promotion
from vaesc.registry import connect as connect_tracking

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE
    from vaesc.origin import Origin

logger = logging.getLogger(__name__)

IS_CHAMPION = "vaesc.is-champion"
"""Label of the event: ``yes`` if the version that was scored with is the champion, ``no`` if not,
``unknown`` if the registry does not say now."""


@task(name="score", persist_result=False, cache_policy=NO_CACHE, timeout_seconds=24 * 3600)
def score_batch(
    path: str,
    model: str,
    name: str,
    out: str | None,
    block_size: int,
    workers: int | None,
    alpha: float,
    runner: str = "threads",
) -> dict[str, Any]:
    """Score images with the version that `model` means now, and record it in MLflow.

    Returns:
        The summary of :func:`vaesc.scoring.score_images`, and where, with what and how fast.
    """
    from vaesc.scoring import SUMMARY, check_paths, score_images

    runtime = runtime_of(runner, workers)
    folder = expanded(out) if out else home() / "scores" / flow_run_id()
    check_paths(place(path), folder)
    loaded = load_model(model, name=name)
    version = _version_of(loaded)
    tracking = connect_tracking()
    tracking.close_stale_runs()
    with _recorded(tracking, version, path, folder) as run_id:
        reporter = ProgressReporter("score", get_run_logger())
        started = time.perf_counter()
        with machine_told(), reporter.shown(), at_work(runtime):
            summary = score_images(
                loaded, place(path), folder, block_size=block_size, alpha=alpha,
                workers=workers if runner == "threads" else None, runner=shards.runner(),
                listener=StepRun(run_id, tracking, reporter),
            )  # fmt: skip
        seconds = time.perf_counter() - started
        tracking.log_metrics(run_id, {**metrics_of(summary), "batch/seconds": seconds})
        tracking.log_artifacts(run_id, folder / SUMMARY if out else folder)
    return {
        **summary,
        "run_id": run_id,
        "flow_run_id": flow_run_id(),
        "version": {"name": version.name, "version": version.version},
        "images": path,
        "out": str(folder),
        "seconds": round(seconds, 3),
        "images_per_second": round(summary["n_images"] / seconds, 1),
    }


def _version_of(model: SparseVAE) -> Origin:
    """Return which version a model is: as it was looked up, since an alias may move meanwhile."""
    if model.origin is None or not model.origin.name:
        raise ConfigError(
            "the flow scores with registered models only, which its records name; for a model in "
            "a folder there is `vaesc score --model FOLDER`"
        )
    return model.origin


@contextmanager
def _recorded(tracking: Tracking, version: Origin, path: str, folder: Path) -> Iterator[str]:
    """Open the MLflow run of a batch, and end it however the block ends."""
    run_id = tracking.start_run(
        f"score-{version.name}",
        tags={
            "vaesc.step": "score",
            "vaesc.scored_model": f"models:/{version.name}/{version.version}",
            "vaesc.scored_version": str(version.version),
            "vaesc.scored_digest": version.digest,
            "prefect.flow_run_id": flow_run_id(),
        },
        params={"images": path, "out": str(folder)},
    )
    try:
        yield run_id
    except BaseException as error:
        end_badly(tracking, run_id, error)
        raise
    tracking.finish(run_id)


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a batch under the names they have in MLflow."""
    drift = summary["drift"]
    own = {name: float(summary[name]) for name in ("n_images", "mse", "l0", "unusual_fraction")}
    found = {s["name"]: float(s["value"]) for s in drift["statistics"]}
    every = {**own, **found, "drifted": float(drift["drifted"])}
    return {f"batch/{name}": value for name, value in every.items()}


def show_drift(summary: Mapping[str, Any]) -> None:
    """Show the verdict and its numbers in Prefect's UI."""
    with in_prefect():
        create_markdown_artifact(
            markdown_of(summary), key="vaesc-drift", description="Has the batch drifted?"
        )


def markdown_of(summary: Mapping[str, Any]) -> str:
    """Return the verdict as a sentence and a table."""
    rows = [
        f"| {s['name']} | {s['value']:.4g} | {s['threshold']:.4g} | {s['floor']:.4g} "
        f"| {'**yes**' if s['exceeded'] else 'no'} |"
        for s in summary["drift"]["statistics"]
    ]
    version = summary["version"]
    return "\n".join(
        [
            summary["drift"]["reason"],
            "",
            f"Model {version['name']} version {version['version']}; {summary['n_images']:,} "
            f"images in {summary['seconds']:.1f} s; scores in `{summary['out']}`; MLflow's "
            f"run `{summary['run_id']}`.",
            "",
            "| statistic | value | threshold | floor | exceeded |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def announce(summary: Mapping[str, Any]) -> bool:
    """Tell Prefect that a batch has drifted, and wait until the event is on its way.

    Returns:
        Whether the event was sent; a warning says so if not: the scores are safe all the same.
    """
    version, drift = summary["version"], summary["drift"]
    return events.send(
        events.DRIFT,
        version["name"],
        {
            "reason": drift["reason"],
            "n_images": summary["n_images"],
            "statistics": drift["statistics"],
            "alpha": drift["alpha"],
            "model": {**version, "digest": summary["model"]["digest"]},
            "images": summary["images"],
            "scores": summary["out"],
        },
        {
            "vaesc.version": str(version["version"]),
            IS_CHAMPION: _is_champion(version),
        },
    )


def _is_champion(version: Mapping[str, Any]) -> str:
    """Return the label of a version; a drift that is no champion's calls for no other model."""
    name, number = version["name"], version["version"]
    try:
        champion = promotion.champion_of(connect_tracking(create=False), name)
    except RegistryError as error:
        logger.warning("whether version %s is the champion cannot be asked: %s", number, error)
        return "unknown"
    if champion != number:
        logger.warning(
            "version %s of %s is not its champion (%s): the event says so, and nothing is trained",
            number, name, champion or "it has none",
        )  # fmt: skip
    return "yes" if champion == number else "no"
