"""The claim over seeds: one seed's pipeline in a process of its own, and what all of them say.

A seed is a process: its arithmetic is single-threaded and its memory its own, so that any number
of seeds run side by side and each gives the bytes it gives alone. It goes through Prefect, MLflow
and the caches as ``vaesc run`` does; a seed that has run before costs seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.publish import in_prefect
from tasks.tracking import PARENT_RUN, PipelineRun
from vaesc.config import PipelineConfig, config_digest, derive_seed, home, settings
from vaesc.errors import VaescError
from vaesc.registry.system import git_tags, system_tags
from vaesc.shared import this_store
from vaesc.source import source_digest
from vaesc.steps import STEPS
from vaesc.store import Artifact, Spec

_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Seed:
    """Which pipeline is run: the arguments of ``vaesc run``, and the seed."""

    preset: str
    config_file: str | None
    settings: tuple[str, ...]
    seed: int

    def arguments(self) -> list[str]:
        """Return the command line after ``vaesc``."""
        where = ["--config", self.config_file] if self.config_file else []
        laid_over = [part for a in (*self.settings, f"seed={self.seed}") for part in ("--set", a)]
        return ["run", "--json", "--preset", self.preset, *where, *laid_over]


_RUNNING: set[subprocess.Popen[str]] = set()
"""The processes of seeds that this process has started and that have not ended."""
_OVER = threading.Event()
"""Set once the claim is left: what still waits for its turn must not start."""


@contextmanager
def no_seed_outlives() -> Iterator[None]:
    """End the seeds that still run when the block is left, however it is left.

    They are waited for in threads, which an interruption of the main thread does not reach.
    """
    _OVER.clear()
    try:
        yield
    finally:
        _OVER.set()
        for process in list(_RUNNING):
            process.terminate()


@task(name="seed", task_run_name="seed-{seed.seed}", persist_result=False, cache_policy=NO_CACHE)
def run_seed(seed: Seed, claim_run: str) -> dict[str, Any]:
    """Run one seed's pipeline, passing on its log, and return its summary.

    Raises:
        VaescError: It failed; its last line says why.
    """
    logger = get_run_logger()
    if _OVER.is_set():
        raise VaescError(f"the run of seed {seed.seed} was not started: the claim was given up")
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), PARENT_RUN: claim_run}
    with tempfile.TemporaryFile("w+") as summary:
        process = subprocess.Popen(
            [sys.executable, "-m", "vaesc", *seed.arguments()],
            stdout=summary, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        _RUNNING.add(process)
        if _OVER.is_set():  # given up between the last look and now
            process.terminate()
        last = "it said nothing"
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.strip():
                    last = line.strip()
                    logger.info("seed %d: %s", seed.seed, last)
            code = process.wait()
        finally:
            process.terminate()  # of no effect on one that has ended
            _RUNNING.discard(process)
        if code < 0:
            name = signal.Signals(-code).name
            raise VaescError(
                f"the run of seed {seed.seed} was ended by {name}; its last word was: {last}"
            )
        if code:
            raise VaescError(f"the run of seed {seed.seed} failed: {last.removeprefix('vaesc: ')}")
        summary.seek(0)
        found: dict[str, Any] = json.load(summary)
    return found


def weigh_seeds_of(run: PipelineRun, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judge the claim on all seeds, write the report, and record both in MLflow and in Prefect.

    Returns:
        The object that ``vaesc claim --json`` prints.
    """
    from vaesc.evaluation.seeds import metrics_of, weigh_evaluations

    artifacts = [_artifacts(summary) for summary in summaries]
    folders = [each["evaluation"].path for each in artifacts]
    weighed = weigh_evaluations(folders, seed=derive_seed(run.config.seed, "claim/bootstrap"))
    found = {
        "run_id": run.run_id,
        "dataset": run.config.dataset.source,
        "preset": run.config.preset,
        "seeds": [run.config.seed + i for i in range(len(summaries))],
        **weighed,
        "encode_seconds": _encode_seconds(run.config, artifacts[0]),
        "runs": [summary["run_id"] for summary in summaries],
        "reports": [summary["report"] for summary in summaries],
        "seconds": round(time.perf_counter() - run.started, 3),
    }
    found["report"] = str(_publish(run, found, folders))
    run.tracking.log_metrics(run.run_id, metrics_of(weighed), step=0)
    with in_prefect():
        create_markdown_artifact(found["verdict"], key="vaesc-claim", description="All seeds")
    return found


def _artifacts(summary: Mapping[str, Any]) -> dict[str, Artifact]:
    """Return the artifacts of a run by kind, each verified."""
    kinds = {step.name: step.kind for step in STEPS}
    return {
        kinds[step["name"]]: this_store().open(kinds[step["name"]], step["digest"])
        for step in summary["steps"]
        if step["name"] in kinds
    }


def _encode_seconds(
    config: PipelineConfig, artifacts: Mapping[str, Artifact]
) -> dict[str, list[float]]:
    """Time the methods of one seed, once for each evaluation: method -> seconds at each level."""
    from vaesc.evaluation.timing import SECONDS, encode_seconds

    spec = Spec(
        kind="timing", config={}, inputs={"evaluation": artifacts["evaluation"].digest},
        source=source_digest("vaesc.evaluation.timing"),
    )  # fmt: skip
    paths = {kind: artifact.path for kind, artifact in artifacts.items()}
    made = this_store().make(
        spec, lambda folder: encode_seconds(config.evaluation, config.dictionary, paths, folder)
    )
    found: dict[str, list[float]] = json.loads((made.path / SECONDS).read_bytes())
    return found


def _publish(run: PipelineRun, found: Mapping[str, Any], folders: Sequence[Path]) -> Path:
    """Write ``claim.json`` and ``report.html`` beside those of single runs, and log both."""
    from vaesc.report.claim import render_claim

    folder = home() / "runs" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "run_id": run.run_id,
        "flow_run_id": run.flow_run_id,
        "config": settings(run.config),
        "config_digest": config_digest(run.config),
        "tags": {**system_tags(), **git_tags()},
    }
    report = folder / "report.html"
    report.write_text(render_claim(found, folders, run=facts), encoding="utf-8")
    text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False)
    (folder / "claim.json").write_text(text + "\n", encoding="utf-8")
    (folder / "verdict.txt").write_text(found["verdict"] + "\n", encoding="utf-8")
    run.tracking.log_artifacts(run.run_id, folder)
    return report
