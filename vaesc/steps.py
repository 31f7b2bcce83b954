"""The steps that make artifacts: what goes into each, and the library call that makes it.

========= =========== ================================= ===================================
step      artifact    inputs                            library call
========= =========== ================================= ===================================
ingest    dataset     the source's files                :func:`vaesc.datasets.ingest`
train     vae         dataset (and a VAE to start from) :func:`vaesc.training.train`
extract   latents     dataset, vae                      :func:`vaesc.latents.extract`
learn     dictionary  latents                           :func:`vaesc.dictionary.learn`
refine    refined     dataset (and where to start)      :func:`vaesc.refinement.refine`
evaluate  evaluation  all of these                      :func:`vaesc.evaluation.evaluate`
========= =========== ================================= ===================================

Each application that a run names (:mod:`vaesc.applications`) is one more step, of the inputs of
*evaluate* and with the application's name. The last step, register, makes a model version and
lives in :mod:`vaesc.registry`.
A step is keyed by *contents*: if an input was made anew and came out the same, nothing after it
runs again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

from vaesc.config import Application, PipelineConfig, home, settings
from vaesc.progress import SILENT, Listener
from vaesc.records import (
    Applied,
    Dataset,
    Dictionary,
    Evaluation,
    Latents,
    Record,
    Refined,
    TrainedVAE,
)
from vaesc.room import require_room
from vaesc.shards import runner
from vaesc.shared import this_store
from vaesc.source import source_digest
from vaesc.store import Artifact, Spec, Store

Inputs = Mapping[str, Path]
Build = Callable[[PipelineConfig, Inputs, Path, Listener, Path], Mapping[str, Any]]
"""(config, folder of each input, folder to write, listener, folder for checkpoints) -> summary."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: what it depends on, and how it is made."""

    name: str
    kind: str
    record: type[Record]
    settings: tuple[str, ...]
    """Settings (sections, single ones as ``section.name``, or those of no section) that can change
    its artifact."""
    module: str
    """Entry module of the library code that makes it."""
    build: Build
    inputs: tuple[str, ...] = ()
    """Kinds of the run's artifacts that it works on; ``refined`` only if the run refines."""

    def spec(self, config: PipelineConfig, inputs: Mapping[str, str]) -> Spec:
        """Return what goes in, given the content digest of each input."""
        plain: dict[str, Any] = {}
        for name in self.settings:
            value = attrgetter(name)(config)
            plain[name] = settings(value, what_only=True) if is_dataclass(value) else value
        return Spec(
            kind=self.kind, config=plain, inputs=dict(inputs), source=source_digest(self.module)
        )

    def recorded(self, artifact: Artifact) -> Record:
        """Return the record that stands for `artifact`."""
        base = {f.name for f in fields(Record)}
        numbers = {
            f.name: _frozen(artifact.summary[f.name])
            for f in fields(self.record)
            if f.name not in base
        }
        return self.record(
            uri=str(artifact.path),
            digest=artifact.digest,
            content=artifact.content,
            run_id=str(artifact.provenance.get("run_id", "")),
            **numbers,
        )


def run_step(
    step: Step,
    config: PipelineConfig,
    inputs: Mapping[str, Record | str],
    *,
    store: Store | None = None,
    run_id: str = "",
    listener: Listener = SILENT,
    checkpoints: Path | None = None,
) -> Artifact:
    """Make the artifact of one step, or find it in the store.

    Args:
        step: Which step.
        config: The run's config.
        inputs: The records it works on by name; for ingest, the fingerprint of the source's files.
        store: Where artifacts lie; default: :func:`vaesc.shared.this_store`.
        run_id: The MLflow run on whose behalf this is done.
        listener: Hears of progress.
        checkpoints: Where a killed attempt leaves what its successor goes on from; default: in
            :func:`vaesc.config.home`.

    Returns:
        The artifact; ``computed`` says whether this call made it.

    Raises:
        MachineError: The disk is clearly too full.
    """
    contents = {k: v.content if isinstance(v, Record) else v for k, v in inputs.items()}
    records = {k: v for k, v in inputs.items() if isinstance(v, Record)}
    paths = {name: Path(record.uri) for name, record in records.items()}
    spec = step.spec(config, contents)
    # Outside the artifact, and under its address: a killed attempt's successor finds it.
    resumed = (checkpoints or home() / "checkpoints") / spec.digest
    there = store or this_store()
    for path in paths.values():
        there.note_use(path)
    dataset = next((r for r in records.values() if isinstance(r, Dataset)), None)

    def build(folder: Path) -> Mapping[str, Any]:
        require_room(step.name, config, dataset, there.root)
        return step.build(config, paths, folder, listener, resumed)

    made = there.make(
        spec,
        build,
        parents={name: record.digest for name, record in records.items()},
        provenance={"run_id": run_id},
    )
    # Not before: a disk that is full, or a kill, while it is published must not cost the training.
    shutil.rmtree(resumed, ignore_errors=True)
    return made


def _frozen(value: Any) -> Any:  # noqa: ANN401
    return tuple(value) if isinstance(value, list) else value


def _ingest(
    config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
) -> Mapping[str, Any]:
    from vaesc.datasets import ingest

    return ingest(
        config.dataset, folder, seed=config.seed, block_size=config.runtime.block_size,
        listener=listener,
    )  # fmt: skip


def _train(
    config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
) -> Mapping[str, Any]:
    from vaesc.training import train

    return train(
        config.vae, config.training, inputs["dataset"], folder, seed=config.seed,
        window_bytes=config.window_bytes, device=config.runtime.device,
        block_size=config.runtime.block_size, compile=config.runtime.compile,
        checkpoints=checkpoints, checkpoint_seconds=config.runtime.checkpoint_seconds,
        ranks=config.runtime.ranks, accumulate=config.runtime.accumulate,
        start=inputs.get("start"), listener=listener,
    )  # fmt: skip


def _extract(
    config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
) -> Mapping[str, Any]:
    from vaesc.latents import extract

    return extract(
        inputs["dataset"], inputs["vae"], folder, device=config.runtime.device,
        block_size=config.runtime.block_size, listener=listener, checkpoints=checkpoints,
        runner=runner(),
    )  # fmt: skip


def _learn(
    config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
) -> Mapping[str, Any]:
    from vaesc.dictionary import learn

    return learn(
        config.dictionary, inputs["latents"], folder, seed=config.seed, listener=listener,
        window_bytes=config.window_bytes, checkpoints=checkpoints, runner=runner(),
    )  # fmt: skip


def _refine(
    config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
) -> Mapping[str, Any]:
    from vaesc.refinement.step import refine

    return refine(
        config.refine, config.dictionary, config.evaluation.sparsity_levels, inputs["dataset"],
        folder, seed=config.seed, device=config.runtime.device,
        block_size=config.runtime.block_size, checkpoints=checkpoints, listener=listener,
        window_bytes=config.window_bytes, warm=inputs.get("start"),
    )  # fmt: skip


def _evaluate(
    config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
) -> Mapping[str, Any]:
    from vaesc.evaluation import evaluate

    return evaluate(
        config.evaluation, config.dictionary, inputs, folder, seed=config.seed,
        device=config.runtime.device, block_size=config.runtime.block_size, listener=listener,
        window_bytes=config.window_bytes, checkpoints=checkpoints, runner=runner(),
    )  # fmt: skip


INGEST = Step(
    name="ingest", kind="dataset", record=Dataset, settings=("seed", "dataset"),
    module="vaesc.datasets", build=_ingest,
)  # fmt: skip
TRAIN = Step(
    name="train", kind="vae", record=TrainedVAE,
    settings=("seed", "window_mib", "vae", "training"),
    module="vaesc.training", build=_train, inputs=("dataset",),
)  # fmt: skip
EXTRACT = Step(
    name="extract", kind="latents", record=Latents, settings=(),
    module="vaesc.latents", build=_extract, inputs=("dataset", "vae"),
)  # fmt: skip
LEARN = Step(
    name="learn", kind="dictionary", record=Dictionary,
    settings=("seed", "window_mib", "dictionary"),
    module="vaesc.dictionary", build=_learn, inputs=("latents",),
)  # fmt: skip
REFINE = Step(
    name="refine", kind="refined", record=Refined,
    settings=("seed", "window_mib", "dictionary", "refine", "evaluation.sparsity_levels"),
    module="vaesc.refinement.step", build=_refine, inputs=("dataset",),
)  # fmt: skip
EVALUATE = Step(
    name="evaluate", kind="evaluation", record=Evaluation,
    settings=("seed", "window_mib", "dictionary", "evaluation"), module="vaesc.evaluation",
    build=_evaluate, inputs=("dataset", "vae", "latents", "dictionary", "refined"),
)  # fmt: skip


def _application(name: Application) -> Step:
    def build(
        config: PipelineConfig, inputs: Inputs, folder: Path, listener: Listener, checkpoints: Path
    ) -> Mapping[str, Any]:
        from vaesc.applications import apply
        from vaesc.applications.requirements import section_of

        return apply(
            name, section_of(name, config), inputs, folder, seed=config.seed,
            n_nonzero_coefs=config.dictionary.n_nonzero_coefs, device=config.runtime.device,
            block_size=config.runtime.block_size, window_bytes=config.window_bytes,
            listener=listener,
        )  # fmt: skip

    trains = ("window_mib",) if name == "generation" else ()
    return Step(
        name=name, kind=name, record=Applied,
        settings=("seed", *trains, "dictionary.n_nonzero_coefs", name), build=build,
        module=f"vaesc.applications.{name}",
        inputs=("dataset", "vae", "latents", "dictionary", "refined"),
    )  # fmt: skip


APPLICATIONS: dict[Application, Step] = {
    name: _application(name) for name in get_args(Application)
}
STEPS = (INGEST, TRAIN, EXTRACT, LEARN, REFINE, EVALUATE)


def steps_of(config: PipelineConfig) -> tuple[Step, ...]:
    """Return the steps of a run in their order: refined or not, and the applications it names."""
    common = tuple(step for step in STEPS if step is not REFINE or config.refine.epochs)
    return common + tuple(APPLICATIONS[name] for name in config.applications)
