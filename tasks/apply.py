"""What a VAE is for: each application that a run names is a step of its own."""

from __future__ import annotations

from tasks.inputs import model_inputs
from tasks.step import StepTask, step_task
from tasks.tracking import current
from vaesc.applications.requirements import outside
from vaesc.config import Application, PipelineConfig
from vaesc.records import Applied, Dataset, Dictionary, Latents, Refined, TrainedVAE
from vaesc.steps import APPLICATIONS, Step, run_step
from vaesc.store import Artifact


def apply(
    name: Application,
    config: PipelineConfig,
    dataset: Dataset,
    vae: TrainedVAE,
    latents: Latents,
    dictionary: Dictionary,
    refined: Refined | None = None,
) -> Applied:
    """Put the run's model to one use, and measure it beside its baselines."""
    seen = outside(name, config)
    return _TASKS[name](config, dataset, vae, latents, dictionary, refined, seen)


def _task(step: Step) -> StepTask[..., Applied]:
    @step_task(step, Applied, timeout_seconds=6 * 3600)
    def application(
        config: PipelineConfig,
        dataset: Dataset,
        vae: TrainedVAE,
        latents: Latents,
        dictionary: Dictionary,
        refined: Refined | None = None,
        outside: str = "",
    ) -> Artifact:
        inputs = model_inputs(dataset, vae, latents, dictionary, refined)
        if outside:
            inputs["outside"] = outside
        with current().nested(step.name) as run:
            return run_step(step, config, inputs, run_id=run.id, listener=run)

    return application


_TASKS = {name: _task(step) for name, step in APPLICATIONS.items()}
