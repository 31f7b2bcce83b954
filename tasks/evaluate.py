"""Step 4 of the article: reconstruct from the codes, and compare with everything else."""

from __future__ import annotations

from tasks.inputs import model_inputs
from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import Dataset, Dictionary, Evaluation, Latents, Refined, TrainedVAE
from vaesc.steps import EVALUATE, run_step
from vaesc.store import Artifact


@step_task(EVALUATE, Evaluation, timeout_seconds=12 * 3600)
def evaluate(
    config: PipelineConfig,
    dataset: Dataset,
    vae: TrainedVAE,
    latents: Latents,
    dictionary: Dictionary,
    refined: Refined | None = None,
) -> Artifact:
    """Compare the article's method with pixel coding and the controls on the test split."""
    inputs = model_inputs(dataset, vae, latents, dictionary, refined)
    with current().nested("evaluate") as run:
        return run_step(EVALUATE, config, inputs, run_id=run.id, listener=run)
