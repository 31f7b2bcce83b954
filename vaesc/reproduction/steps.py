"""The steps of a recorded run, once more, in a store that is empty."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from vaesc import datasets
from vaesc.applications.requirements import outside
from vaesc.config import PipelineConfig, config_digest
from vaesc.errors import RegistryError, StoreError
from vaesc.progress import Listener
from vaesc.records import Applied, Dataset, Dictionary, Record, Refined, TrainedVAE
from vaesc.registry.bundling import save_bundle
from vaesc.registry.files import model_digest
from vaesc.registry.recorded import RecordedRun
from vaesc.reproduction.comparison import (
    Verdict,
    judged,
    judged_model,
    not_run,
    other_metrics,
)
from vaesc.shared import this_store
from vaesc.steps import APPLICATIONS, INGEST, REFINE, TRAIN, Step, run_step, steps_of
from vaesc.store import DamagedError, Store, read_artifact

REGISTER = "register"
_SOURCE = "inputs.source"
"""What goes into ingestion: the fingerprint of the source's files."""
Shown = Callable[[str], AbstractContextManager[Listener]]
"""From a step's name to what shows its progress."""


def reproduce(
    run: RecordedRun,
    config: PipelineConfig,
    folder: Path,
    *,
    shown: Shown,
    heard: Callable[[Verdict], None],
) -> dict[str, Any]:
    """Run every step of `run` again in `folder`, and compare.

    Args:
        run: The run.
        config: Its config, see :func:`vaesc.reproduction.restored_config`.
        folder: An empty folder; what is made stays there.
        shown: Shows the progress of a step.
        heard: Is told each step's verdict as soon as there is one.

    Returns:
        Plain JSON values: run_id, identical (bool), config_digest, steps (verdicts), metrics
        (compared, different), seconds.

    Raises:
        RegistryError: The run has no record of one of its steps.
        StoreError: The run started from a model whose artifacts are not here.
        DataError: The images are missing, or not fit to learn from.
    """
    started = time.perf_counter()
    again = _Again(run, config, folder, shown)
    verdicts: list[Verdict] = []
    for verdict in again.verdicts():
        verdicts.append(verdict)
        heard(verdict)
    stopped = any(verdict.outcome == "not run" for verdict in verdicts)
    compared = {} if stopped else again.metrics
    different = other_metrics(run.metrics, compared)
    return {
        "run_id": run.run_id,
        "identical": all(v.outcome == "identical" for v in verdicts) and not different,
        "config_digest": config_digest(config),
        "steps": [verdict.to_json() for verdict in verdicts],
        "metrics": {"compared": len(compared), "different": different},
        "seconds": round(time.perf_counter() - started, 3),
    }


class _Again:
    """The run that is made again, as far as it has come."""

    def __init__(
        self, run: RecordedRun, config: PipelineConfig, folder: Path, shown: Shown
    ) -> None:
        self.run, self.config, self.folder, self.shown = run, config, folder, shown
        self.metrics: dict[str, float] = {}
        self._steps = steps_of(config)
        self._made: dict[str, Record] = {}
        self._changed: dict[str, str] = {}  # kind of an artifact that is not identical -> step
        self._starts = starts_of(run)
        for name in (*(step.name for step in self._steps), REGISTER):
            if name not in run.steps:
                raise RegistryError(
                    f"run {run.run_id} has no record of its step {name} (was it deleted?), so "
                    "there is nothing to compare with"
                )

    def verdicts(self) -> Iterator[Verdict]:
        """Run step after step, and yield the verdict on each."""
        for step in self._steps:
            verdict = self._step(step)
            yield verdict
            if verdict.outcome != "identical" and _SOURCE in verdict.other_input:
                # Of other data comes another run: nothing after this could be compared.
                names = [s.name for s in self._steps if s is not INGEST] + [REGISTER]
                yield from (not_run(n, self.run.steps[n], INGEST.name) for n in names)
                return
        yield self._register()

    def _step(self, step: Step) -> Verdict:
        inputs: Mapping[str, Record | str] = {
            kind: self._made[kind] for kind in step.inputs if kind in self._made
        }
        cause = next((self._changed[k] for k in inputs if k in self._changed), None)
        started = time.perf_counter()
        with self.shown(step.name) as listener:
            if step is INGEST:
                inputs = {"source": _fingerprint(self.config)}
            elif seen := _outside(step, self.config):
                inputs = {**inputs, "outside": seen}
            made = run_step(
                step, self.config, {**inputs, **self._starts.get(step.name, {})},
                store=Store(self.folder / "store"), listener=listener,
                checkpoints=self.folder / "checkpoints",
            )  # fmt: skip
        seconds = time.perf_counter() - started
        verdict = judged(step.name, self.run.steps[step.name], made, cause, seconds)
        self._made[step.kind] = step.recorded(made)
        if verdict.outcome != "identical":
            self._changed[step.kind] = cause or step.name
        self.metrics |= {k: float(v) for k, v in made.summary.get("metrics", {}).items()}
        return verdict

    def _register(self) -> Verdict:
        """Put the model together as registering it would, and look at its digest only."""
        used = (
            ("dataset", "refined") if "refined" in self._made else ("dataset", "vae", "dictionary")
        )
        used = (*used, *self.config.applications)
        cause = next((self._changed[kind] for kind in used if kind in self._changed), None)
        started = time.perf_counter()
        with self.shown(REGISTER):
            save_bundle(
                self.folder / "model",
                cast("Dataset", self._made["dataset"]),
                cast("TrainedVAE", self._made["vae"]),
                cast("Dictionary", self._made["dictionary"]),
                cast("Refined | None", self._made.get("refined")),
                [made for made in self._made.values() if isinstance(made, Applied)],
                seed=self.config.seed,
            )
        digest = model_digest(self.folder / "model")
        seconds = time.perf_counter() - started
        return judged_model(self.run.steps[REGISTER], digest, cause, seconds)


def _outside(step: Step, config: PipelineConfig) -> str:
    """Return the fingerprint of what a step looks at beside the run's artifacts, if it does."""
    return next((outside(n, config) for n, each in APPLICATIONS.items() if each is step), "")


def _fingerprint(config: PipelineConfig) -> str:
    datasets.download(config.dataset)  # nothing, if the images are on this machine
    return datasets.fingerprint(config.dataset)


def starts_of(run: RecordedRun) -> dict[str, dict[str, Record]]:
    """Return what a warm start began from, which only a store has: by step, as its input.

    Raises:
        StoreError: It is not here any more.
    """
    kept = any(step.manifest for step in run.steps.values())
    if not kept and run.warm_start and not run.warm_start.endswith(": nothing"):
        raise StoreError(
            f"run {run.run_id} began from an earlier model ({run.warm_start}) and does not say "
            "which bytes those were"
        )
    found: dict[str, dict[str, Record]] = {}
    for step in (TRAIN, REFINE):
        recorded = run.steps.get(step.name)
        manifest = (recorded and recorded.manifest) or {"inputs": {}}
        if "start" not in manifest["inputs"]:
            continue
        store, address = this_store(), manifest["parents"]["start"]
        folder = store.path(step.kind, address)
        if not folder.is_dir():
            store.find(step.kind, address)  # in the bucket, if there is one
        try:
            artifact = read_artifact(folder)
        except DamagedError:
            artifact = None
        if artifact is None or artifact.content != manifest["inputs"]["start"]:
            raise StoreError(
                f"run {run.run_id} began from an earlier model ({run.warm_start}) whose "
                f"{step.kind} is not whole at {folder}; reproduce where that store is (VAESC_HOME)"
            )
        found[step.name] = {"start": step.recorded(artifact)}
    return found
