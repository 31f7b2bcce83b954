"""Step 1 of the article: train a VAE by maximising the ELBO."""

from __future__ import annotations

from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import Dataset, TrainedVAE
from vaesc.steps import TRAIN, run_step
from vaesc.store import Artifact


@step_task(TRAIN, TrainedVAE, timeout_seconds=24 * 3600)
def train(config: PipelineConfig, dataset: Dataset) -> Artifact:
    """Train the VAE on `dataset`; every epoch's metrics go to MLflow as they come."""
    with current().nested("train") as run:
        return run_step(TRAIN, config, {"dataset": dataset}, run_id=run.id, listener=run)
