"""Step 2 of the article: encode every image to its latent."""

from __future__ import annotations

from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import Dataset, Latents, TrainedVAE
from vaesc.steps import EXTRACT, run_step
from vaesc.store import Artifact


@step_task(EXTRACT, Latents, timeout_seconds=6 * 3600)
def extract(config: PipelineConfig, dataset: Dataset, vae: TrainedVAE) -> Artifact:
    """Write the posterior mean and standard deviation of every image to Zarr."""
    inputs = {"dataset": dataset, "vae": vae}
    with current().nested("extract") as run:
        return run_step(EXTRACT, config, inputs, run_id=run.id, listener=run)
